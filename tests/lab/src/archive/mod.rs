//! Formats that a kernel boots from, written so that the same entries give the same bytes.

pub mod cpio;
