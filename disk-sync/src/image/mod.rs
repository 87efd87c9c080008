//! What is compared and copied: bytes that can be read, written and made durable at an offset.
//!
//! The trait is the seam at which tests put faults; [`FileImage`] is a raw file or a block device.

mod file;
#[cfg(test)]
pub(crate) mod memory;

use std::io;
use std::ops::Range;

use crate::units::ImageLength;

pub use file::{Access, FileImage, OpenError};

/// A disk image. Its length does not change while it is open.
pub trait Image: Send + Sync {
    /// Its length.
    fn length(&self) -> ImageLength;

    /// Reads all of `buffer` from `offset` on.
    ///
    /// # Errors
    /// The host's, and [`io::ErrorKind::UnexpectedEof`] where the image has become shorter than it was.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Writes all of `bytes` from `offset` on. Durable only after [`Image::flush`].
    ///
    /// # Errors
    /// The host's.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes `range` read as zeros, without using room for them if that can be had.
    ///
    /// # Errors
    /// The host's.
    fn write_zeros(&self, range: Range<u64>) -> io::Result<()>;

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// The host's. What was written since the last success may be lost then.
    fn flush(&self) -> io::Result<()>;

    /// Has what was flushed of `range` be read from the disk the next time, and not from what the host holds of it in
    /// memory. A host that cannot do so goes on as it did: nothing fails by it.
    fn forget_cached(&self, range: Range<u64>);

    /// All of `range` will be read soon: the host may begin with it. Nothing depends on it.
    fn read_ahead(&self, _range: Range<u64>) {}

    /// The next stretch from `offset` on that may hold anything but zeros; none if all that follows are holes.
    ///
    /// # Errors
    /// The host's.
    fn data_from(&self, offset: u64) -> io::Result<Option<Range<u64>>>;
}
