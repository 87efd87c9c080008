//! Which extents are being written to: what a crash makes unsure (D1).
//!
//! ```text
//!            enters, durably, before its first write
//!     cold ───────────────────────────────────────────▶ hot: writes are only counted
//!       ▲                                                 │ no write under way, and a flush
//!       └─────────────────────────────────────────────────┘ began after the last one ended
//! ```
//!
//! Pure: it says what may leave; [`super::Replica`] writes it down.

use std::collections::BTreeMap;

/// Counts flushes that have begun. A write that ends is covered by flushes that begin later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlushTicket(u64);

#[derive(Debug, Clone, Copy)]
struct Hot {
    writes_under_way: u32,
    /// When it was last written to, on a clock that counts writes.
    touched: u64,
    /// The flushes that had begun when its last write ended.
    written: FlushTicket,
}

#[derive(Debug)]
pub(crate) struct Activity {
    hot: BTreeMap<u32, Hot>,
    writes: u64,
    begun: FlushTicket,
    /// The latest of the flushes that have succeeded.
    flushed: FlushTicket,
}

impl Activity {
    pub(crate) fn new() -> Self {
        Self {
            hot: BTreeMap::new(),
            writes: 0,
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

    /// A write to the extent begins. It is hot from now on.
    pub(crate) fn begin(&mut self, extent: u32) {
        self.writes += 1;
        let hot = self.hot.entry(extent).or_insert(Hot {
            writes_under_way: 0,
            touched: 0,
            written: FlushTicket(0),
        });
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
}
