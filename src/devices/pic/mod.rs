//! 8259A interrupt controller pair.
