//! virtio-rng: random bytes for the guest, from the machine's injected entropy.
//!
//! Models virtio 1.2 § 5.4. Buffers wait until the machine answers [`Effect::EntropyWanted`](super::Effect) with an
//! `Input::Entropy`, which replay logs (R1). At most one question is open, at most
//! `limits::ENTROPY_BYTES_MAX` long. A buffer may come back partly filled, as § 5.4.6 allows, but never empty.
//!
//! A question survives a reset of the device: the answer serves whoever waits by then, and bytes that nobody waits
//! for are thrown away, never kept for a later reader.

pub mod device;
#[cfg(test)]
mod tests;

pub use device::VirtioRng;
