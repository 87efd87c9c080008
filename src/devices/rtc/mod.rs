//! MC146818 real-time clock.
