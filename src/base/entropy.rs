//! Injected chance: the only door through which randomness reaches a guest.

/// A source of random bytes.
pub trait EntropySource {
    /// Fills `buffer` with random bytes.
    ///
    /// # Errors
    /// When the source cannot deliver; the caller reports it and stops, it never falls back to weaker bytes.
    fn fill(&mut self, buffer: &mut [u8]) -> std::io::Result<()>;
}
