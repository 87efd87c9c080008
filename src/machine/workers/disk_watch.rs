//! What a slice of the disk held where the guest was at a position, told while the guest goes on (D5).

use std::time::Duration;

use antipode_disk_sync::image::Image;
use antipode_disk_sync::online::{LiveError, Slice};
use antipode_disk_sync::units::{EXTENT_LEAVES, Run};

use super::disk::DiskHandle;
use crate::base::units::ExitOrdinal;

/// How long a leaf's reading takes at the least: 32 MiB in a second, whatever the disk can do.
const LEAF_PACE: Duration = Duration::from_millis(2);

/// A slice, and the exit at which its content counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Round {
    /// The exit.
    pub at: ExitOrdinal,
    /// The slice.
    pub slice: Slice,
}

impl Round {
    /// The leaf at `place` in the extent, and its bit; none if it is not of the slice.
    #[must_use]
    pub fn leaf(self, place: u8) -> Option<(u64, u64)> {
        let bit = 1_u64.checked_shl(place.into())?;
        let leaf = self
            .slice
            .extent
            .checked_mul(EXTENT_LEAVES)?
            .checked_add(place.into())?;
        (self.slice.leaves & bit != 0).then_some((leaf, bit))
    }
}

/// What is known of a slice's content.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hashes {
    known: u64,
    hashes: Vec<[u8; 32]>,
}

impl Hashes {
    /// The hashes of the leaves of `known`, in their order; none if they are not as many.
    #[must_use]
    pub fn new(known: u64, hashes: Vec<[u8; 32]>) -> Option<Self> {
        (u32::try_from(hashes.len()) == Ok(known.count_ones())).then_some(Self { known, hashes })
    }

    /// The leaves that are known, as bits.
    #[must_use]
    pub const fn known(&self) -> u64 {
        self.known
    }

    /// All of them, in the order of their leaves.
    #[must_use]
    pub fn all(&self) -> &[[u8; 32]] {
        &self.hashes
    }

    /// That of the leaf of `bit`, if it is known.
    #[must_use]
    pub fn of(&self, bit: u64) -> Option<&[u8; 32]> {
        let place = (self.known & bit.wrapping_sub(1)).count_ones();
        let known = self.known & bit != 0;
        known
            .then(|| self.hashes.get(usize::try_from(place).ok()?))
            .flatten()
    }
}

impl DiskHandle {
    /// Watches `round`'s slice from here on, in the place of another. The guest is at the round's position, and all that it
    /// asked for by then has been handed in.
    pub(crate) fn watch(&self, round: Round) {
        let length = self.image().length();
        if round.slice.is_within(length) {
            self.queue().watch(round, length);
        } else {
            tracing::error!(?round, "a slice is to be compared that this disk does not have");
            self.unwatch();
        }
    }

    /// Watches nothing any more: whoever still reads a slice comes to an end.
    pub(crate) fn unwatch(&self) {
        self.queue().unwatch();
    }

    /// The leaves at `numbers` are about to be written by other hands than the guest's.
    pub(crate) fn touch(&self, numbers: impl IntoIterator<Item = u64>) {
        let length = self.image().length();
        let mut queue = self.queue();
        for number in numbers.into_iter().filter(|number| *number < length.leaves()) {
            queue.touch(&length.bytes_of(&Run::new(number, 1)));
        }
    }

    /// Reads the slice, and tells what it held where the round began: of all leaves that nobody has written to before they
    /// were read. Takes its time.
    pub(crate) fn hashes(&self, round: Round) -> Hashes {
        let mut found = Hashes::default();
        for (leaf, bit) in round.slice.numbers() {
            if !self.queue().watches(round) {
                return Hashes::default();
            }
            if let Some(bytes) = self.content(round, leaf, bit) {
                found.known |= bit;
                found.hashes.push(*blake3::hash(&bytes).as_bytes());
                std::thread::park_timeout(LEAF_PACE);
            }
        }
        found
    }

    /// What the leaf at `place` held where the round began, if nobody has written to it since.
    pub(crate) fn as_it_was(&self, round: Round, place: u8) -> Option<Vec<u8>> {
        let (leaf, bit) = round.leaf(place)?;
        self.content(round, leaf, bit)
    }

    fn content(&self, round: Round, leaf: u64, bit: u64) -> Option<Vec<u8>> {
        if !self.queue().is_as_it_was(round, bit) {
            return None;
        }
        let range = self.image().length().bytes_of(&Run::new(leaf, 1));
        let mut bytes = vec![0; usize::try_from(range.end - range.start).ok()?];
        if let Err(error) = self.image().read_at(range.start, &mut bytes) {
            tracing::error!(%error, leaf, "the disk cannot be read where it is to be compared");
            return None;
        }
        self.queue().is_as_it_was(round, bit).then_some(bytes)
    }

    /// Puts `content` where the leaf at `place` is, durably, if that is as it was where the round began. Answers whether it
    /// was. The guest's own writes there wait meanwhile.
    ///
    /// # Errors
    /// The disk's: what is there now, nobody knows.
    pub(crate) fn mend(&self, round: Round, place: u8, content: &[u8]) -> Result<bool, LiveError> {
        let length = self.image().length();
        let Some((leaf, bit)) = round.leaf(place).filter(|_| round.slice.is_within(length)) else {
            return Ok(false);
        };
        let range = length.bytes_of(&Run::new(leaf, 1));
        let is_whole = u64::try_from(content.len()) == Ok(range.end - range.start);
        if !is_whole || !self.queue().begin_mend(round, leaf, bit, length) {
            return Ok(false);
        }
        let _end = EndMend(self);
        self.write(range.start, content)?;
        self.flush()?;
        Ok(true)
    }
}

/// Lets others write again, however the mending ends.
struct EndMend<'a>(&'a DiskHandle);

impl Drop for EndMend<'_> {
    fn drop(&mut self) {
        self.0.queue().end_mend();
        self.0.mending_is_over();
    }
}

#[cfg(test)]
mod tests {
    use antipode_disk_sync::units::LEAF_BYTES;

    use super::*;
    use crate::base::buffer_pool::BufferPool;
    use crate::base::guest_memory::GuestMemory;
    use crate::devices::{DiskOperation, DiskRequest, DiskRequestId};
    use crate::machine::kvm::KvmHost;
    use crate::machine::workers::{DiskFile, DiskWorkers, Inbox};

    /// Three leaves, and half of one.
    const LENGTH: u64 = 3 * LEAF_BYTES + LEAF_BYTES / 2;

    fn write(workers: &DiskWorkers, leaf: u64) {
        let request = DiskRequest {
            id: DiskRequestId(1),
            operation: DiskOperation::Write {
                offset: leaf * LEAF_BYTES,
                data: BufferPool::default().take(512),
            },
        };
        workers.submit(ExitOrdinal::new(9), [request]);
        workers.drain();
    }

    #[test]
    fn hashes_are_named_by_their_leaves() {
        let hashes = Hashes::new(0b1010, vec![[1; 32], [3; 32]]).unwrap();
        assert_eq!(hashes.of(0b0010), Some(&[1; 32]));
        assert_eq!(hashes.of(0b1000), Some(&[3; 32]));
        assert_eq!(hashes.of(0b0001), None);
        assert_eq!(Hashes::new(0b1010, vec![[1; 32]]), None);
    }

    #[test]
    fn kvm_what_a_disk_held_is_told_and_mended_only_while_it_is_there() {
        let Ok(host) = KvmHost::open() else {
            return eprintln!("skipped: there is no KVM");
        };
        let vm = host
            .create_vm(GuestMemory::allocate(1 << 20).unwrap(), false)
            .unwrap();
        let inbox = Inbox::new(vm.create_vcpu().unwrap().kicker().waker());
        let file = tempfile::NamedTempFile::new().unwrap();
        let content: Vec<u8> = (0..LENGTH).map(|at| u8::try_from(at % 251).unwrap()).collect();
        std::fs::write(file.path(), &content).unwrap();
        let disk = DiskFile::open(file.path(), None, false).unwrap();
        let workers = DiskWorkers::start(disk.into_service().unwrap(), &inbox).unwrap();
        let handle = workers.handle().unwrap();
        let round = |at, leaves| Round {
            at: ExitOrdinal::new(at),
            slice: Slice { extent: 0, leaves },
        };
        let first = round(7, 0b1111);
        assert_eq!(handle.hashes(first), Hashes::default(), "nobody watches");
        handle.watch(first);
        write(&workers, 1);
        let hashes = handle.hashes(first);
        assert_eq!(hashes.known(), 0b1101);
        let short = &content[usize::try_from(3 * LEAF_BYTES).unwrap()..];
        assert_eq!(hashes.of(0b1000), Some(blake3::hash(short).as_bytes()));
        assert_eq!(handle.as_it_was(first, 1), None);
        assert_eq!(handle.as_it_was(first, 4), None, "it is not of the slice");
        let leaf = handle.as_it_was(first, 2).unwrap();
        let whole = vec![7; leaf.len()];
        assert!(!handle.mend(first, 1, &whole).unwrap(), "it was written to");
        assert!(
            !handle.mend(first, 3, &whole).unwrap(),
            "the last leaf is shorter"
        );
        assert!(handle.mend(first, 2, &whole).unwrap());
        let second = round(8, 0b0100);
        handle.watch(second);
        assert!(!handle.mend(first, 0, &whole).unwrap(), "that round is over");
        assert_eq!(handle.as_it_was(second, 2), Some(whole));
        write(&workers, 2);
        assert_eq!(handle.hashes(second), Hashes::default());
        // An extent that no image has.
        let beyond = Round {
            slice: Slice {
                extent: u64::MAX,
                leaves: u64::MAX,
            },
            ..second
        };
        handle.watch(beyond);
        drop(handle.hashes(beyond));
        assert!(!handle.mend(beyond, 63, &[]).unwrap());
    }
}
