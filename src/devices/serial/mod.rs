//! 16550 serial port.
