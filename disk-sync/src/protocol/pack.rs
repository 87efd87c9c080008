//! Compression of data, where it pays.

use std::io;

use zstd::bulk::{Compressor, Decompressor};

use crate::units::{REGION_BYTES, in_memory};

/// Fast enough for any line; levels above cost more time than they save bytes.
const COMPRESSION_LEVEL: i32 = 1;

/// Compression that saves less than a sixteenth is not worth undoing.
const WORTH_IN_SIXTEENTHS: usize = 15;

/// After a run that did not compress, as many are sent as they are before it is tried again.
const UNTRIED_AFTER_FAILURE: u32 = 15;

/// Compresses what is worth it.
pub(super) struct Packer {
    is_on: bool,
    compressor: Option<Compressor<'static>>,
    decompressor: Option<Decompressor<'static>>,
    untried: u32,
}

impl Packer {
    pub(super) const fn new(is_on: bool) -> Self {
        Self {
            is_on,
            compressor: None,
            decompressor: None,
            untried: 0,
        }
    }

    /// `bytes` compressed, if that pays.
    pub(super) fn pack(&mut self, bytes: &[u8]) -> io::Result<Option<Vec<u8>>> {
        if !self.is_on {
            return Ok(None);
        }
        if self.untried > 0 {
            self.untried -= 1;
            return Ok(None);
        }
        let compressor = match &mut self.compressor {
            Some(compressor) => compressor,
            none => none.insert(Compressor::new(COMPRESSION_LEVEL)?),
        };
        let packed = compressor.compress(bytes)?;
        if packed.len() * 16 > bytes.len() * WORTH_IN_SIXTEENTHS {
            self.untried = UNTRIED_AFTER_FAILURE;
            return Ok(None);
        }
        Ok(Some(packed))
    }

    /// What was packed, at most `length` bytes of it.
    pub(super) fn unpack(&mut self, bytes: &[u8], length: usize) -> io::Result<Vec<u8>> {
        let decompressor = match &mut self.decompressor {
            Some(decompressor) => decompressor,
            none => none.insert(Decompressor::new()?),
        };
        decompressor.decompress(bytes, length.min(in_memory(REGION_BYTES)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_compress_is_not_tried_for_a_while() {
        let noise = {
            let mut bytes = vec![0; 65_536];
            blake3::Hasher::new().finalize_xof().fill(&mut bytes);
            bytes
        };
        let text = b"words ".repeat(10_000);
        let mut packer = Packer::new(true);
        let packed = packer.pack(&text).unwrap().unwrap();
        assert_eq!(packer.unpack(&packed, text.len()).unwrap(), text);
        assert!(
            packer.unpack(&packed, text.len() - 1).is_err(),
            "it holds more than its leaves"
        );
        assert_eq!(packer.pack(&noise).unwrap(), None);
        for _ in 0..UNTRIED_AFTER_FAILURE {
            assert_eq!(packer.pack(&text).unwrap(), None);
        }
        assert!(packer.pack(&text).unwrap().is_some());
        assert_eq!(Packer::new(false).pack(&text).unwrap(), None);
    }
}
