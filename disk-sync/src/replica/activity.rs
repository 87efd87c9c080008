//! Which extents are being written to: what a crash makes unsure (D1).
//!
//! ```text
//!            enters, durably, before its first write
//!     cold ───────────────────────────────────────────▶ hot: writes are only counted
//!       ▲                                                 │ no write under way, and a flush
//!       └─────────────────────────────────────────────────┘ began after the last one ended
//! ```
//!
//! Each durable update is waited for by a guest's write, so extents enter **ahead** of their first write too: together
//! with the one that is written to, its neighbours. The first update takes in one extent alone, each later one four times
//! as many as the one before, up to a limit: a guest that keeps to one place leaves little unsure, one that writes all over
//! its disk waits seldom. What enters ahead takes free room only, the lower half of the log, and leaves before all else.
//!
//! Pure: it says what may enter and leave; [`super::Replica`] writes it down.

use std::collections::BTreeMap;

use crate::limits::{EXTENTS_AHEAD_MAX, HOT_EXTENTS_MAX};

/// Counts flushes that have begun. A write that ends is covered by flushes that begin later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlushTicket(u64);

#[derive(Debug, Clone, Copy)]
struct Hot {
    writes_under_way: u32,
    /// When it was last written to, on a clock that counts writes; 0 if it has only entered ahead.
    touched: u64,
    /// The flushes that had begun when its last write ended.
    written: FlushTicket,
}

impl Hot {
    const UNTOUCHED: Self = Self {
        writes_under_way: 0,
        touched: 0,
        written: FlushTicket(0),
    };
}

#[derive(Debug)]
pub(crate) struct Activity {
    hot: BTreeMap<u32, Hot>,
    writes: u64,
    /// How many extents the next update may take in.
    batch: u32,
    begun: FlushTicket,
    /// The latest of the flushes that have succeeded.
    flushed: FlushTicket,
}

impl Activity {
    pub(crate) fn new() -> Self {
        Self {
            hot: BTreeMap::new(),
            writes: 0,
            batch: 1,
            begun: FlushTicket(0),
            flushed: FlushTicket(0),
        }
    }

    /// How many are hot.
    pub(crate) fn count(&self) -> usize {
        self.hot.len()
    }

    pub(crate) fn is_hot(&self, extent: u32) -> bool {
        self.hot.contains_key(&extent)
    }

    /// Those that are hot, in rising order.
    pub(crate) fn extents(&self) -> impl Iterator<Item = u32> {
        self.hot.keys().copied()
    }

    /// Those that were written to, in rising order.
    pub(crate) fn written(&self) -> impl Iterator<Item = u32> {
        let written = self.hot.iter().filter(|(_, hot)| hot.touched > 0);
        written.map(|(extent, _)| *extent)
    }

    /// Which extents are to enter ahead, together with `cold`, of an image of so many extents.
    pub(crate) fn ahead(&self, cold: &[u32], extents: u32) -> Vec<u32> {
        let room = (HOT_EXTENTS_MAX / 2).saturating_sub(self.hot.len() + cold.len());
        let Some(first) = cold.first() else {
            return Vec::new();
        };
        let start = first / self.batch * self.batch;
        (start..start.saturating_add(self.batch).min(extents))
            .filter(|extent| !self.is_hot(*extent) && !cold.contains(extent))
            .take(room)
            .collect()
    }

    /// These have entered ahead, durably; later updates take in more.
    pub(crate) fn enter(&mut self, ahead: &[u32]) {
        for extent in ahead {
            self.hot.insert(*extent, Hot::UNTOUCHED);
        }
        self.batch = (self.batch * 4).min(EXTENTS_AHEAD_MAX);
    }

    /// A write to the extent begins. It is hot from now on.
    pub(crate) fn begin(&mut self, extent: u32) {
        self.writes += 1;
        let hot = self.hot.entry(extent).or_insert(Hot::UNTOUCHED);
        hot.writes_under_way += 1;
        hot.touched = self.writes;
    }

    /// A write to the extent has ended, well or badly.
    ///
    /// # Panics
    /// If none was under way.
    pub(crate) fn end(&mut self, extent: u32) {
        let hot = self.hot.get_mut(&extent).filter(|hot| hot.writes_under_way > 0);
        let hot = hot.expect("each write that ends has begun");
        hot.writes_under_way -= 1;
        // The flush under way, if any, may have passed this write already.
        hot.written = FlushTicket(self.begun.0 + 1);
    }

    /// A flush begins.
    pub(crate) fn begin_flush(&mut self) -> FlushTicket {
        self.begun.0 += 1;
        self.begun
    }

    /// That flush has succeeded.
    pub(crate) fn end_flush(&mut self, ticket: FlushTicket) {
        self.flushed = self.flushed.max(ticket);
    }

    /// At most `count` extents that may leave, those not written to for longest.
    pub(crate) fn coldest(&self, count: usize) -> Vec<u32> {
        let may_leave = |hot: &Hot| hot.writes_under_way == 0 && hot.written <= self.flushed;
        let mut leaving: Vec<(u64, u32)> = self
            .hot
            .iter()
            .filter(|(_, hot)| may_leave(hot))
            .map(|(extent, hot)| (hot.touched, *extent))
            .collect();
        leaving.sort_unstable();
        leaving
            .into_iter()
            .take(count)
            .map(|(_, extent)| extent)
            .collect()
    }

    /// These have left, durably.
    pub(crate) fn leave(&mut self, extents: &[u32]) {
        for extent in extents {
            self.hot.remove(extent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extent_leaves_only_after_a_flush_that_began_after_its_last_write() {
        let mut activity = Activity::new();
        activity.begin(7);
        let during = activity.begin_flush();
        activity.end(7);
        activity.end_flush(during);
        assert_eq!(activity.coldest(9), [0; 0], "the flush may have passed the write");
        let after = activity.begin_flush();
        assert_eq!(activity.coldest(9), [0; 0], "a flush that has not ended");
        activity.end_flush(after);
        assert_eq!(activity.coldest(9), [7]);
        activity.begin(7);
        assert_eq!(activity.coldest(9), [0; 0], "a write is under way");
        activity.end(7);
        activity.end_flush(after);
        assert_eq!(activity.coldest(9), [0; 0], "an old flush told twice");
    }

    #[test]
    fn those_not_written_to_for_longest_leave_first() {
        let mut activity = Activity::new();
        for extent in [5, 3, 9, 5] {
            activity.begin(extent);
            activity.end(extent);
        }
        let ticket = activity.begin_flush();
        activity.end_flush(ticket);
        assert_eq!(activity.coldest(2), [3, 9]);
        activity.leave(&[3, 9]);
        assert_eq!(activity.extents().collect::<Vec<_>>(), [5]);
    }

    #[test]
    fn neighbours_enter_ahead_four_times_as_many_each_time_and_take_free_room_only() {
        let mut activity = Activity::new();
        let mut update = |extent: u32, extents: u32| {
            let ahead = activity.ahead(&[extent], extents);
            activity.enter(&ahead);
            activity.begin(extent);
            activity.end(extent);
            (ahead, activity.written().count(), activity.count())
        };
        assert_eq!(update(9, 3000), (vec![], 1, 1));
        assert_eq!(update(5, 3000), (vec![4, 6, 7], 2, 5));
        let (ahead, ..) = update(10, 12);
        assert_eq!(
            ahead,
            [0, 1, 2, 3, 8, 11],
            "what is hot, or beyond the image, does not"
        );
        let (ahead, ..) = update(2000, 3000);
        assert_eq!((ahead.first(), ahead.len()), (Some(&1984), 63));
        let entered: usize = (0..40).map(|batch| update(64 * batch + 20, 3000).0.len()).sum();
        assert!(entered > 800, "{entered}");
        assert_eq!(update(2999, 3000).0, [0; 0], "there is no room left");
        assert!(activity.count() <= HOT_EXTENTS_MAX / 2 + 41);
        // What was never written to leaves first, without a flush.
        let leaving = activity.coldest(900);
        assert!(
            leaving
                .iter()
                .all(|extent| !activity.written().any(|written| written == *extent))
        );
    }
}
