//! Hashing an image by threads of our own.
//!
//! ```text
//!   cursor (one lock): next span of work ── hole? ──▶ told as zeros, unread
//!        │ span of 4 regions
//!        ▼
//!   thread: read 128 KiB ─ each leaf: zeros? hash ─ fold ──▶ sink, in no particular order
//! ```
//!
//! Threads over spans beat threads within a span: each reads what it hashes while that is in its core's own cache, which
//! a whole region would push out of it. The image is read, never mapped: a mapped image that is written to or cut short tears hashes and raises signals.

use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::Value;
use super::value::{ZERO_LEAF, is_zero, plain_leaf, plain_over, plain_root_over, region_value};
use crate::image::Image;
use crate::leaf_set::LeafSet;
use crate::limits::{AHEAD_REGIONS, HASH_THREADS_MAX, HOLE_SPAN_REGIONS_MAX, SPAN_REGIONS};
use crate::units::{ImageLength, LEAF_BYTES, REGION_BYTES, REGION_LEAVES, Run, in_memory};

/// Leaves that are read at once: with what they are copied from they fit a core's own cache (1 MiB is common) with room for
/// what else goes through it, and the calls they take cost next to nothing.
const PIECE_LEAVES: u64 = 2;

/// Bytes of a buffer to read by.
const PIECE_BYTES: usize = in_memory(PIECE_LEAVES * LEAF_BYTES);

/// Which roots are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The content root. Holes and zeros cost nothing.
    Content,
    /// Also BLAKE3 of the image, for which zeros must be hashed.
    Both,
}

/// How many threads hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Threads(NonZeroUsize);

impl Threads {
    /// One for each processor that this process may use.
    #[must_use]
    pub fn all() -> Self {
        Self::new(thread::available_parallelism().unwrap_or(NonZeroUsize::MIN))
    }

    /// `count`, or as many as are allowed.
    #[must_use]
    pub fn new(count: NonZeroUsize) -> Self {
        let most = const { NonZeroUsize::new(HASH_THREADS_MAX).expect("the limit is above zero") };
        Self(count.min(most))
    }
}

/// Hashing ended early.
#[derive(Debug, thiserror::Error)]
#[error("the image cannot be read in the mebibyte at offset {offset}: {source}")]
pub struct HashError {
    /// Where, in bytes.
    pub offset: u64,
    /// The host's error.
    pub source: io::Error,
}

/// What is known of a region once it is hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionHash {
    /// Its node of the content tree.
    pub content: Value,
    /// BLAKE3's value of it, if it was wanted: its root if the image has no other region.
    pub plain: Option<[u8; 32]>,
    /// Its leaves.
    pub leaves: Vec<Value>,
}

/// What hashing found, span by span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// These regions are holes.
    Zeros(Run),
    /// Regions from `first` on.
    Hashed {
        /// The first.
        first: u64,
        /// One after the other.
        regions: Vec<RegionHash>,
    },
}

impl Found {
    /// The regions it is about.
    #[must_use]
    pub fn regions(&self) -> Run {
        match self {
            Self::Zeros(regions) => *regions,
            Self::Hashed { first, regions } => Run::new(*first, crate::units::on_disk(regions.len())),
        }
    }
}

const _: () = assert!(
    PIECE_LEAVES <= u8::BITS as u64,
    "`read` answers with a bit for each"
);

/// What a thread does next.
struct Span {
    regions: Run,
    /// Nothing in it needs to be read.
    is_hole: bool,
    /// All of it needs to be read.
    is_data: bool,
    /// What the host may begin to read, in bytes.
    ahead: Range<u64>,
}

/// Where the next span begins.
struct Cursor<'a> {
    length: ImageLength,
    work: Option<&'a LeafSet>,
    wanted: Wanted,
    next: u64,
    /// The stretch of data at or after `next`, once it was asked for; empty at the end if there is none.
    data: Option<Range<u64>>,
    /// Up to where the host was told what will be read.
    told: u64,
}

impl Cursor<'_> {
    fn claim(&mut self, image: &dyn Image) -> Result<Option<Span>, HashError> {
        let all = Run::new(self.next, self.length.regions().saturating_sub(self.next));
        let todo = match self.work {
            Some(work) => work.next_regions(self.next),
            None => (all.count > 0).then_some(all),
        };
        let Some(todo) = todo else { return Ok(None) };
        let start = todo.first * REGION_BYTES;
        let data = match self.data.take() {
            Some(data) if data.end > start => data,
            _ => {
                let end = self.length.bytes();
                let found = image.data_from(start);
                found
                    .map_err(|source| HashError {
                        offset: start,
                        source,
                    })?
                    .unwrap_or(end..end)
            }
        };
        let whole_holes = (data.start / REGION_BYTES).saturating_sub(todo.first);
        // After the last data there may be a last region that is short.
        let holes = if data.is_empty() { todo.count } else { whole_holes };
        let span = if holes > 0 {
            let most = match self.wanted {
                Wanted::Content => HOLE_SPAN_REGIONS_MAX,
                Wanted::Both => SPAN_REGIONS,
            };
            Span {
                regions: Run::new(todo.first, holes.min(todo.count).min(most)),
                is_hole: true,
                is_data: false,
                ahead: 0..0,
            }
        } else {
            let with_data = data.end.div_ceil(REGION_BYTES) - todo.first;
            let regions = Run::new(todo.first, with_data.min(todo.count).min(SPAN_REGIONS));
            let end = (regions.end() * REGION_BYTES).min(self.length.bytes());
            Span {
                regions,
                is_hole: false,
                is_data: data.start <= start && data.end >= end,
                ahead: self.tell_ahead(start, end, &data),
            }
        };
        self.data = Some(data);
        self.next = span.regions.end();
        Ok(Some(span))
    }

    /// What will be read of a stretch of data, of which `start..end` is next, and was not told yet.
    fn tell_ahead(&mut self, start: u64, end: u64, data: &Range<u64>) -> Range<u64> {
        // Of chosen leaves it is not known which will be read.
        if self.work.is_some() {
            return 0..0;
        }
        let from = self.told.max(start);
        self.told = (end + AHEAD_REGIONS * REGION_BYTES).min(data.end).max(from);
        from..self.told
    }
}

/// Hashes the regions in which leaves of `work` lie, or all of `image`. `sink` gets what was found, in no
/// particular order and from several threads; it answers whether to go on.
///
/// # Errors
/// [`HashError`]: the image cannot be read. What the sink got until then stands.
pub fn hash_regions(
    image: &dyn Image,
    work: Option<&LeafSet>,
    threads: Threads,
    wanted: Wanted,
    sink: &(dyn Fn(Found) -> bool + Sync),
) -> Result<(), HashError> {
    let cursor = Mutex::new(Cursor {
        length: image.length(),
        work,
        wanted,
        next: 0,
        data: None,
        told: 0,
    });
    let stopped = AtomicBool::new(false);
    let serve = || {
        let mut buffer = vec![0; PIECE_BYTES];
        while !stopped.load(Ordering::Relaxed) {
            let claimed = cursor.lock().unwrap_or_else(PoisonError::into_inner).claim(image);
            let found = match claimed {
                Ok(None) => return Ok(()),
                Ok(Some(span)) => find(image, &span, wanted, &mut buffer),
                Err(error) => Err(error),
            };
            if found.is_err() {
                stopped.store(true, Ordering::Relaxed);
            }
            if !sink(found?) {
                stopped.store(true, Ordering::Relaxed);
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads.0.get()).map(|_| scope.spawn(serve)).collect();
        let mut outcome = serve();
        for helper in helpers {
            let ended = helper
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            outcome = outcome.and(ended);
        }
        outcome
    })
}

fn find(image: &dyn Image, span: &Span, wanted: Wanted, buffer: &mut [u8]) -> Result<Found, HashError> {
    if span.is_hole && wanted == Wanted::Content {
        return Ok(Found::Zeros(span.regions));
    }
    if !span.ahead.is_empty() {
        image.read_ahead(span.ahead.clone());
    }
    let read = match (span.is_hole, span.is_data) {
        (true, _) => Reading::Nothing,
        (_, true) => Reading::Everything,
        _ => Reading::Data,
    };
    let regions = span.regions.indices();
    let hashes: Result<_, _> = regions
        .map(|region| hash_one(image, region, wanted, read, buffer))
        .collect();
    Ok(Found::Hashed {
        first: span.regions.first,
        regions: hashes?,
    })
}

/// Hashes one region, as it is now.
///
/// # Errors
/// [`HashError`]: the image cannot be read.
pub fn hash_region(
    image: &dyn Image,
    region: u64,
    wanted: Wanted,
    buffer: &mut Vec<u8>,
) -> Result<RegionHash, HashError> {
    buffer.resize(PIECE_BYTES, 0);
    hash_one(image, region, wanted, Reading::Everything, buffer)
}

/// What of a region is read.
#[derive(Debug, Clone, Copy)]
enum Reading {
    Nothing,
    /// Leaves in which there is data.
    Data,
    Everything,
}

fn hash_one(
    image: &dyn Image,
    region: u64,
    wanted: Wanted,
    reading: Reading,
    buffer: &mut [u8],
) -> Result<RegionHash, HashError> {
    let length = image.length();
    let all = length.leaves_of(region);
    let mut leaves = Vec::with_capacity(REGION_LEAVES);
    let mut plain = Vec::with_capacity(REGION_LEAVES);
    // An image of one leaf has no inner nodes: its root is plainly that of its bytes.
    let mut only = None;
    for first in all.indices().step_by(in_memory(PIECE_LEAVES)) {
        let piece = Run::new(first, (all.end() - first).min(PIECE_LEAVES));
        let bytes = length.bytes_of(&piece);
        let buffer = &mut buffer[..in_memory(bytes.end - bytes.start)];
        let with_data = read(image, &bytes, reading, buffer).map_err(|source| HashError {
            offset: region * REGION_BYTES,
            source,
        })?;
        for ((index, leaf), number) in buffer.chunks(in_memory(LEAF_BYTES)).enumerate().zip(first..) {
            let zeros = with_data >> index & 1 == 0 || is_zero(leaf);
            if zeros && wanted == Wanted::Content {
                leaves.push(Value::ZERO);
                continue;
            }
            let content = if zeros { &ZERO_LEAF[..leaf.len()] } else { leaf };
            let value = plain_leaf(number * LEAF_BYTES, content);
            plain.push(value);
            leaves.push(if zeros { Value::ZERO } else { Value(value) });
            only = (length.leaves() == 1).then(|| blake3::hash(content));
        }
    }
    Ok(RegionHash {
        content: region_value(&leaves),
        plain: (wanted == Wanted::Both).then(|| match only {
            Some(root) => root.into(),
            None if length.regions() > 1 => plain_over(&plain),
            None => plain_root_over(&plain).into(),
        }),
        leaves,
    })
}

/// Reads what of `bytes` is to be read and answers in which leaves there may be data, the first as the lowest bit.
/// The others are left in `buffer` as they were.
fn read(image: &dyn Image, bytes: &Range<u64>, reading: Reading, buffer: &mut [u8]) -> io::Result<u8> {
    match reading {
        Reading::Nothing => return Ok(0),
        Reading::Everything => {
            image.read_at(bytes.start, buffer)?;
            return Ok(u8::MAX);
        }
        Reading::Data => {}
    }
    let (mut with_data, mut at) = (0, bytes.start);
    while let Some(data) = image.data_from(at)?.filter(|data| data.start < bytes.end) {
        // A leaf is read whole, or it would be hashed with what another one left in the buffer.
        let start = data.start / LEAF_BYTES * LEAF_BYTES;
        let end = (data.end.div_ceil(LEAF_BYTES) * LEAF_BYTES).min(bytes.end);
        let part = in_memory(start - bytes.start)..in_memory(end - bytes.start);
        image.read_at(start, &mut buffer[part])?;
        for leaf in (start - bytes.start) / LEAF_BYTES..(end - bytes.start).div_ceil(LEAF_BYTES) {
            with_data |= 1 << leaf;
        }
        at = end;
    }
    Ok(with_data)
}
