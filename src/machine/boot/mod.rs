//! Loads a stock Debian kernel by direct 64-bit boot.
