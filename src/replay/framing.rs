//! Batches as frames: one format for a log in a file and for the channel between two sites (R1, P2).
//!
//! ```text
//!   frame   length (u32), length before compression (u32), link (16), batch compressed by zstd
//! ```
//!
//! Integers are little-endian. A link is the beginning of the BLAKE3 of the link before it (of what the chain is anchored
//! to, in the first frame) and the compressed batch, so that a frame that was changed, moved or lost is noticed.

use super::batch::Batch;
use super::catalogue::Entry;
use crate::base::limits::LOG_BATCH_BYTES_MAX;
use crate::base::units::ExitOrdinal;

/// Fast, and what it is given is small already.
const COMPRESSION_LEVEL: i32 = 1;
/// For a batch with pages, which the guest waits for: a fifth more bytes in a third of the time.
const COMPRESSION_LEVEL_OF_PAGES: i32 = -3;
/// How much larger than the bytes themselves zstd may make what it cannot compress.
const COMPRESSION_SLACK: usize = 1024;

/// Bytes of a frame before its content.
pub(super) const HEAD_BYTES: usize = 24;

/// Bytes of the longest frame.
pub const FRAME_OF_LOG_BYTES_MAX: usize = HEAD_BYTES + LOG_BATCH_BYTES_MAX + COMPRESSION_SLACK;

type Link = [u8; 16];

/// Why bytes are no frame that could come next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FrameError(String);

fn link_after(link: &[u8], compressed: &[u8]) -> Link {
    let digest = blake3::Hasher::new().update(link).update(compressed).finalize();
    let mut link = Link::default();
    link.copy_from_slice(&digest.as_bytes()[..size_of::<Link>()]);
    link
}

/// `length` as the formats of this folder write it.
pub(super) fn length_field(length: usize) -> std::io::Result<[u8; 4]> {
    let length =
        u32::try_from(length).map_err(|_| std::io::Error::other("a part of the log is over-long"))?;
    Ok(length.to_le_bytes())
}

/// The number in the first four of `bytes`.
pub(super) fn word(bytes: &[u8]) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[..4]);
    u32::from_le_bytes(word)
}

/// Makes batches frames of one chain.
pub struct Framer {
    link: Link,
    /// Kept from one batch to the next: most are so small that to make one would cost more than to use it.
    compressor: zstd::bulk::Compressor<'static>,
}

impl std::fmt::Debug for Framer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Framer").finish_non_exhaustive()
    }
}

impl Framer {
    /// A chain that begins with `anchor`: what both ends must agree on before the first frame.
    #[must_use]
    pub fn anchored_to(anchor: &[u8]) -> Self {
        Self {
            link: link_after(anchor, &[]),
            compressor: zstd::bulk::Compressor::default(),
        }
    }

    /// `batch` as the next frame.
    ///
    /// # Errors
    /// When the compressor fails.
    pub fn frame(&mut self, batch: &Batch) -> std::io::Result<Vec<u8>> {
        let bytes = batch.encode();
        let has_pages = batch
            .entries
            .iter()
            .any(|(_, entry)| matches!(entry, Entry::Page { .. }));
        let level = if has_pages {
            COMPRESSION_LEVEL_OF_PAGES
        } else {
            COMPRESSION_LEVEL
        };
        self.compressor.set_compression_level(level)?;
        let compressed = self.compressor.compress(&bytes)?;
        self.link = link_after(&self.link, &compressed);
        let mut frame = Vec::with_capacity(HEAD_BYTES + compressed.len());
        frame.extend_from_slice(&length_field(compressed.len())?);
        frame.extend_from_slice(&length_field(bytes.len())?);
        frame.extend_from_slice(&self.link);
        frame.extend_from_slice(&compressed);
        Ok(frame)
    }
}

/// The head of a frame, its lengths within bounds.
#[derive(Debug, Clone, Copy)]
pub(super) struct FrameHead {
    /// Bytes that follow.
    pub(super) length: usize,
    raw_length: usize,
    link: Link,
}

impl FrameHead {
    pub(super) fn parse(head: &[u8; HEAD_BYTES]) -> Result<Self, FrameError> {
        let length = usize::try_from(word(&head[0..4])).unwrap_or(usize::MAX);
        let raw_length = usize::try_from(word(&head[4..8])).unwrap_or(usize::MAX);
        if raw_length > LOG_BATCH_BYTES_MAX || length > LOG_BATCH_BYTES_MAX + COMPRESSION_SLACK {
            return Err(FrameError(format!(
                "a batch of {length} bytes, {raw_length} before compression, is over-long"
            )));
        }
        let mut link = Link::default();
        link.copy_from_slice(&head[8..24]);
        Ok(Self {
            length,
            raw_length,
            link,
        })
    }
}

/// Makes frames of one chain batches again.
pub struct Deframer {
    link: Link,
    /// Kept for the same reason as the framer's.
    decompressor: zstd::bulk::Decompressor<'static>,
    /// The last watermark.
    reached: ExitOrdinal,
}

impl std::fmt::Debug for Deframer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let reached = &self.reached;
        formatter
            .debug_struct("Deframer")
            .field("reached", reached)
            .finish_non_exhaustive()
    }
}

impl Deframer {
    /// The other end of [`Framer::anchored_to`], of a log that goes on from exit `reached`.
    #[must_use]
    pub fn anchored_to(anchor: &[u8], reached: ExitOrdinal) -> Self {
        Self {
            link: link_after(anchor, &[]),
            decompressor: zstd::bulk::Decompressor::default(),
            reached,
        }
    }

    /// The batch of the next frame, all of whose bytes are there.
    ///
    /// # Errors
    /// [`FrameError`]; the frame is not the next of this chain.
    pub fn batch(&mut self, frame: &[u8]) -> Result<Batch, FrameError> {
        let (head, content) = frame
            .split_first_chunk()
            .ok_or_else(|| FrameError("a frame ends within its head".into()))?;
        let head = FrameHead::parse(head)?;
        if head.length != content.len() {
            return Err(FrameError(format!(
                "a frame has {} bytes of content and says {}",
                content.len(),
                head.length
            )));
        }
        self.batch_of(&head, content)
    }

    pub(super) fn batch_of(&mut self, head: &FrameHead, compressed: &[u8]) -> Result<Batch, FrameError> {
        if link_after(&self.link, compressed) != head.link {
            return Err(FrameError(
                "a batch does not have the digest written before it".into(),
            ));
        }
        let bytes = self
            .decompressor
            .decompress(compressed, head.raw_length)
            .map_err(|error| FrameError(format!("a batch cannot be decompressed ({error})")))?;
        if bytes.len() != head.raw_length {
            return Err(FrameError(
                "a batch has another length than written before it".into(),
            ));
        }
        let batch = Batch::decode(&bytes).map_err(|error| FrameError(error.to_string()))?;
        self.check_order(&batch)?;
        self.link = head.link;
        self.reached = batch.through;
        Ok(batch)
    }

    /// Batches join without a gap, and entries come in order.
    fn check_order(&self, batch: &Batch) -> Result<(), FrameError> {
        let reached = self.reached.get();
        let checked_to = batch.first.get().checked_add(batch.checks.len() as u64);
        let joins = Some(batch.first.get()) == reached.checked_add(1)
            && checked_to.is_some_and(|end| end == batch.through.get().wrapping_add(1));
        let positions = || batch.entries.iter().map(|(exit, _)| exit.get());
        let is_sorted = positions().is_sorted();
        let is_inside = positions().all(|exit| exit >= reached && exit <= batch.through.get());
        if joins && is_sorted && is_inside {
            return Ok(());
        }
        Err(FrameError("a batch does not join the one before it".into()))
    }
}
