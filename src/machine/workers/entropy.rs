//! The host's random bytes.

use std::fs::File;
use std::io::Read;

use crate::base::entropy::EntropySource;

/// The host kernel's generator.
#[derive(Debug)]
pub struct HostEntropy(File);

impl HostEntropy {
    /// Opens the generator.
    ///
    /// # Errors
    /// When the host has none.
    pub fn open() -> std::io::Result<Self> {
        File::open("/dev/urandom").map(Self)
    }

    /// So many bytes, as a name that nobody has drawn before.
    ///
    /// # Errors
    /// When the host has none.
    pub fn draw<const COUNT: usize>() -> std::io::Result<[u8; COUNT]> {
        let mut bytes = [0; COUNT];
        Self::open()?.fill(&mut bytes)?;
        Ok(bytes)
    }
}

impl EntropySource for HostEntropy {
    fn fill(&mut self, buffer: &mut [u8]) -> std::io::Result<()> {
        self.0.read_exact(buffer)
    }
}
