//! The requests of one disk, and what they touch of a slice that is watched (D5).
//!
//! ```text
//!   submitted ──▶ waiting ──▶ under way ──▶ ended
//!       │            └── a write to the leaf that is being mended waits on
//!       └── the leaves of a write are no more as they were where the watch began: nor are those that a repair writes
//! ```

use std::collections::VecDeque;
use std::ops::Range;

use antipode_disk_sync::online::Watch;
use antipode_disk_sync::units::{ImageLength, Run};

use super::disk_watch::Round;
use crate::base::units::ExitOrdinal;
use crate::devices::DiskRequest;

/// What waits and what is under way.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Each with the exit at which it was asked for.
    waiting: VecDeque<(ExitOrdinal, DiskRequest)>,
    /// Requests that a thread has taken and not ended.
    under_way: usize,
    /// Those of them that write.
    writing: Vec<Range<u64>>,
    watch: Option<(Round, Watch)>,
    /// The leaf that is being mended: nobody else writes to it meanwhile.
    mending: Option<Range<u64>>,
    /// No more will come.
    is_closed: bool,
}

impl Queue {
    pub(super) fn submit(&mut self, at: ExitOrdinal, request: DiskRequest) {
        if let Some(bytes) = request.operation.written() {
            self.touch(&bytes);
        }
        self.waiting.push_back((at, request));
    }

    /// `bytes` are about to be written: they are not as they were where a watch began.
    pub(super) fn touch(&mut self, bytes: &Range<u64>) {
        if let Some((_, watch)) = &mut self.watch {
            watch.touch(bytes);
        }
    }

    /// The next request that a thread may carry out; it tells when that is done.
    pub(super) fn take(&mut self) -> Option<(ExitOrdinal, DiskRequest)> {
        let is_free =
            |(_, request): &(ExitOrdinal, DiskRequest)| match (&self.mending, request.operation.written()) {
                (Some(leaf), Some(bytes)) => bytes.end <= leaf.start || leaf.end <= bytes.start,
                _ => true,
            };
        let index = self.waiting.iter().position(is_free)?;
        let taken = self.waiting.remove(index)?;
        self.under_way += 1;
        self.writing.extend(taken.1.operation.written());
        Some(taken)
    }

    /// A request that was taken, and wrote those bytes if any, is done.
    pub(super) fn ended(&mut self, written: Option<&Range<u64>>) {
        self.under_way -= 1;
        if let Some(index) = self.writing.iter().position(|bytes| Some(bytes) == written) {
            self.writing.swap_remove(index);
        }
    }

    /// No more will come.
    pub(super) fn close(&mut self) {
        self.is_closed = true;
    }

    /// Whether none waits, and no more will come.
    pub(super) fn is_over(&self) -> bool {
        self.is_closed && self.waiting.is_empty()
    }

    /// Whether no request waits or is under way, and no leaf is being mended.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.under_way == 0 && self.mending.is_none()
    }

    /// Watches what is written to a round's slice from here on, in place of the slice that was watched before.
    pub(super) fn watch(&mut self, round: Round, length: ImageLength) {
        let waiting: Vec<_> = self
            .waiting
            .iter()
            .filter_map(|(_, request)| request.operation.written())
            .collect();
        let under_way = waiting.iter().chain(&self.writing);
        self.watch = Some((round, Watch::begin(round.slice, length, under_way)));
    }

    /// Watches nothing any more.
    pub(super) fn unwatch(&mut self) {
        self.watch = None;
    }

    /// Whether `round` is still watched.
    pub(super) fn watches(&self, round: Round) -> bool {
        self.watch.is_some_and(|(watched, _)| watched == round)
    }

    /// Whether the leaf of `bit` is as it was where `round` began.
    pub(super) fn is_as_it_was(&self, round: Round, bit: u64) -> bool {
        self.watch
            .is_some_and(|(watched, watch)| watched == round && watch.is_as_it_was(bit))
    }

    /// Keeps others from writing to the leaf of `bit`, if it is as it was where `round` began. Answers whether that is so.
    pub(super) fn begin_mend(&mut self, round: Round, leaf: u64, bit: u64, length: ImageLength) -> bool {
        if self.mending.is_some() || !self.is_as_it_was(round, bit) {
            return false;
        }
        self.mending = Some(length.bytes_of(&Run::new(leaf, 1)));
        true
    }

    /// Others may write there again.
    pub(super) fn end_mend(&mut self) {
        self.mending = None;
    }
}

#[cfg(test)]
mod tests {
    use antipode_disk_sync::online::Slice;
    use antipode_disk_sync::units::LEAF_BYTES;

    use super::*;
    use crate::base::buffer_pool::BufferPool;
    use crate::devices::{DiskOperation, DiskRequestId};

    const LENGTH: u64 = 8 * LEAF_BYTES;

    fn length() -> ImageLength {
        ImageLength::new(LENGTH).unwrap()
    }

    fn round(at: u64, leaves: u64) -> Round {
        Round {
            at: ExitOrdinal::new(at),
            slice: Slice { extent: 0, leaves },
        }
    }

    fn write(queue: &mut Queue, leaf: u64) {
        let request = DiskRequest {
            id: DiskRequestId(leaf),
            operation: DiskOperation::Write {
                offset: leaf * LEAF_BYTES,
                data: BufferPool::default().take(512),
            },
        };
        queue.submit(ExitOrdinal::new(1), request);
    }

    /// The leaf of the write that a thread takes next.
    fn take(queue: &mut Queue) -> Option<u64> {
        queue.take().map(|(_, request)| request.id.0)
    }

    fn end(queue: &mut Queue, leaf: u64) {
        queue.ended(Some(&(leaf * LEAF_BYTES..leaf * LEAF_BYTES + 512)));
    }

    #[test]
    fn a_write_that_waits_or_is_under_way_or_comes_later_touches_its_leaf() {
        let mut queue = Queue::default();
        for leaf in [0, 1, 2] {
            write(&mut queue, leaf);
        }
        assert_eq!((take(&mut queue), take(&mut queue)), (Some(0), Some(1)));
        end(&mut queue, 0);
        let first = round(5, 0xFF);
        queue.watch(first, length());
        write(&mut queue, 4);
        let untouched: Vec<u32> = (0..8)
            .filter(|place| queue.is_as_it_was(first, 1 << place))
            .collect();
        assert_eq!(untouched, [0, 3, 5, 6, 7]);
        // What is written before the next watch begins, and is done, counts there no more.
        assert_eq!((take(&mut queue), take(&mut queue)), (Some(2), Some(4)));
        for leaf in [1, 2, 4] {
            end(&mut queue, leaf);
        }
        assert!(queue.is_idle());
        let second = round(6, 0xFF);
        queue.watch(second, length());
        assert!((0..8).all(|place| queue.is_as_it_was(second, 1 << place)));
        assert!(!queue.is_as_it_was(first, 1), "that one is over");
        queue.unwatch();
        assert!(!queue.watches(second));
    }

    #[test]
    fn a_write_to_a_leaf_that_is_mended_waits_and_others_go_on() {
        let mut queue = Queue::default();
        let round = round(5, 0b11);
        queue.watch(round, length());
        write(&mut queue, 1);
        assert!(!queue.begin_mend(round, 1, 0b10, length()), "it was written to");
        assert!(queue.begin_mend(round, 0, 0b01, length()));
        assert!(!queue.begin_mend(round, 0, 0b01, length()), "one at a time");
        write(&mut queue, 0);
        write(&mut queue, 3);
        assert_eq!(
            (take(&mut queue), take(&mut queue), take(&mut queue)),
            (Some(1), Some(3), None)
        );
        queue.close();
        assert!(!queue.is_over(), "what waits is still to be done");
        queue.end_mend();
        assert_eq!(take(&mut queue), Some(0));
        assert!(queue.is_over() && !queue.is_idle());
    }

    #[test]
    fn a_mending_is_waited_for_and_none_begins_where_nothing_is_watched() {
        let mut queue = Queue::default();
        let round = round(5, 0b11);
        queue.watch(round, length());
        assert!(queue.begin_mend(round, 0, 0b01, length()));
        queue.unwatch();
        assert!(!queue.is_idle());
        queue.end_mend();
        assert!(queue.is_idle());
        assert!(!queue.begin_mend(round, 1, 0b10, length()));
    }
}
