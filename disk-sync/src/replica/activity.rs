//! Which zones are being written to: what a crash makes unsure (D1).
//!
//! ```text
//!            enters, durably, before its first write
//!     cold ───────────────────────────────────────────▶ hot: writes are only counted
//!       ▲                                                 │ not written to for long, no write under way, and
//!       └─────────────────────────────────────────────────┘ a flush began after the last one ended
//! ```
//!
//! Each durable update is waited for by a guest's write. Two rules make them few, however large the disk is:
//!
//! - Zones enter **ahead** of their first write too: together with the one that is written to, its neighbours. The first
//!   update takes in one zone alone; one that follows soon after another takes in four times as many as that one, up to a
//!   limit, and one that comes late a quarter: a guest that keeps to one place leaves little unsure, one that writes all
//!   over its disk waits seldom.
//! - A zone **stays** for so many writes that a guest which writes everywhere has come back to it. Those that none of them
//!   went to leave together, by one update.
//!
//! While nobody knows whether the other replica follows, none leaves: what it has not got must not be forgotten.
//!
//! Pure: it says what may enter and leave; [`super::Replica`] writes it down.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::limits::{
    AHEAD_SHARE, AHEAD_SHARE_MOST, HASTE_WRITES, HOT_WRITES_MIN, HOT_WRITES_PER_ZONE, LEAVINGS_PER_STAY,
    ZONES_AHEAD,
};

/// Counts flushes that have begun. A write that ends is covered by flushes that begin later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlushTicket(u64);

#[derive(Debug, Clone, Copy)]
struct Hot {
    writes_under_way: u32,
    /// When it entered or was last written to, on a clock that counts writes.
    touched: u64,
    /// The flushes that cover its last write; none if it has only entered ahead.
    written: Option<FlushTicket>,
}

#[derive(Debug)]
pub(crate) struct Activity {
    /// Zones of the image.
    zones: u32,
    hot: BTreeMap<u32, Hot>,
    writes: u64,
    /// How many zones the next update may take in, and when the last one was.
    batch: u32,
    entered: u64,
    /// When it is next looked for zones that may leave.
    leaving_due: u64,
    begun: FlushTicket,
    /// The latest of the flushes that have succeeded.
    flushed: FlushTicket,
    /// None leaves for now, however long nobody has written to it.
    keeps: bool,
}

impl Activity {
    /// Of an image of so many zones, none of which is hot.
    pub(crate) fn new(zones: u32) -> Self {
        let mut activity = Self {
            zones,
            hot: BTreeMap::new(),
            writes: 0,
            batch: 1,
            entered: 0,
            leaving_due: 0,
            begun: FlushTicket(0),
            flushed: FlushTicket(0),
            keeps: false,
        };
        activity.leaving_due = activity.stay() / LEAVINGS_PER_STAY;
        activity
    }

    /// How many writes a zone stays hot that none of them goes to.
    fn stay(&self) -> u64 {
        HOT_WRITES_MIN.max(u64::from(self.zones) * HOT_WRITES_PER_ZONE)
    }

    pub(crate) fn is_hot(&self, zone: u32) -> bool {
        self.hot.contains_key(&zone)
    }

    /// Those that are hot, in rising order.
    pub(crate) fn zones(&self) -> impl Iterator<Item = u32> {
        self.hot.keys().copied()
    }

    /// Those that were written to, in rising order.
    pub(crate) fn written(&self) -> impl Iterator<Item = u32> {
        let written = self.hot.iter().filter(|(_, hot)| hot.written.is_some());
        written.map(|(zone, _)| *zone)
    }

    /// Which zones are to enter ahead, together with `cold`.
    pub(crate) fn ahead(&self, cold: &[u32]) -> Vec<u32> {
        let Some(first) = cold.first() else {
            return Vec::new();
        };
        let start = first / self.batch * self.batch;
        (start..start.saturating_add(self.batch).min(self.zones))
            .filter(|zone| !self.is_hot(*zone) && !cold.contains(zone))
            .collect()
    }

    /// An update has taken in a zone that is about to be written to, and these ahead.
    pub(crate) fn enter(&mut self, ahead: &[u32]) {
        let untouched = Hot {
            writes_under_way: 0,
            touched: self.writes,
            written: None,
        };
        self.hot.extend(ahead.iter().map(|zone| (*zone, untouched)));
        let most = (self.zones / AHEAD_SHARE)
            .max(ZONES_AHEAD)
            .min(self.zones / AHEAD_SHARE_MOST)
            .max(1);
        // A power of two, as the batches before it are.
        let most = 1 << most.ilog2();
        let is_soon = self.writes - self.entered < HASTE_WRITES;
        self.batch = if is_soon {
            (self.batch * 4).min(most)
        } else {
            (self.batch / 4).max(1)
        };
        self.entered = self.writes;
    }

    /// A write to the zone begins. It is hot from now on.
    pub(crate) fn begin(&mut self, zone: u32) {
        self.writes += 1;
        let hot = self.hot.entry(zone).or_insert(Hot {
            writes_under_way: 0,
            touched: 0,
            written: None,
        });
        hot.writes_under_way += 1;
        hot.touched = self.writes;
        // Whatever comes of it: a flush that begins later covers it.
        hot.written = Some(FlushTicket(self.begun.0 + 1));
    }

    /// A write to the zone has ended, well or badly.
    ///
    /// # Panics
    /// If none was under way.
    pub(crate) fn end(&mut self, zone: u32) {
        let hot = self.hot.get_mut(&zone).filter(|hot| hot.writes_under_way > 0);
        let hot = hot.expect("each write that ends has begun");
        hot.writes_under_way -= 1;
        // The flush under way, if any, may have passed this write already.
        hot.written = Some(FlushTicket(self.begun.0 + 1));
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

    /// Those of which nothing is unsure: they may leave.
    pub(crate) fn sure(&self) -> Vec<u32> {
        self.leavers(|_| true)
    }

    /// Those that were only entered ahead, or were written to before the other replica was equal.
    pub(crate) fn untouched(&self) -> Vec<u32> {
        self.leavers(|hot| hot.written.is_none())
    }

    /// The other replica has everything that was written until now. What is durable here too was as good as never written.
    pub(crate) fn peer_is_equal(&mut self) {
        for zone in self.sure() {
            if let Some(hot) = self.hot.get_mut(&zone) {
                hot.written = None;
            }
        }
    }

    /// Whether none leaves from now on.
    pub(crate) fn keep(&mut self, keeps: bool) {
        self.keeps = keeps;
    }

    /// Those that are due to leave, now and then; `but` those that are about to be written to.
    pub(crate) fn due(&mut self, but: &Range<u32>) -> Vec<u32> {
        if self.keeps || self.writes < self.leaving_due {
            return Vec::new();
        }
        let stay = self.stay();
        self.leaving_due = self.writes + stay / LEAVINGS_PER_STAY;
        let mut leaving = self.leavers(|hot| hot.touched + stay <= self.writes);
        leaving.retain(|zone| !but.contains(zone));
        leaving
    }

    fn leavers(&self, wanted: impl Fn(&Hot) -> bool) -> Vec<u32> {
        let is_sure = |hot: &Hot| {
            hot.writes_under_way == 0 && hot.written.is_none_or(|written| written <= self.flushed)
        };
        let leaving = self.hot.iter().filter(|(_, hot)| is_sure(hot) && wanted(hot));
        leaving.map(|(zone, _)| *zone).collect()
    }

    /// These have left, durably.
    pub(crate) fn leave(&mut self, zones: &[u32]) {
        for zone in zones {
            self.hot.remove(zone);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Range<u32> = 0..0;

    fn flush(activity: &mut Activity) {
        let ticket = activity.begin_flush();
        activity.end_flush(ticket);
    }

    fn write(activity: &mut Activity, zone: u32) {
        activity.begin(zone);
        activity.end(zone);
    }

    #[test]
    fn a_zone_leaves_only_after_a_flush_that_began_after_its_last_write() {
        let mut activity = Activity::new(100);
        activity.begin(7);
        let during = activity.begin_flush();
        activity.end(7);
        activity.end_flush(during);
        assert_eq!(activity.sure(), [0; 0], "the flush may have passed the write");
        let after = activity.begin_flush();
        assert_eq!(activity.sure(), [0; 0], "a flush that has not ended");
        activity.end_flush(after);
        assert_eq!(activity.sure(), [7]);
        activity.begin(7);
        assert_eq!(activity.sure(), [0; 0], "a write is under way");
        activity.end(7);
        activity.end_flush(after);
        assert_eq!(activity.sure(), [0; 0], "an old flush told twice");
    }

    #[test]
    fn those_not_written_to_for_long_leave_together() {
        let mut activity = Activity::new(100);
        for zone in [5, 3, 9] {
            write(&mut activity, zone);
        }
        flush(&mut activity);
        activity.enter(&[20]);
        for _ in 0..HOT_WRITES_MIN {
            write(&mut activity, 9);
        }
        write(&mut activity, 50);
        // 50 is not flushed; 3 is about to be written to again.
        assert_eq!(activity.due(&(3..4)), [5, 20]);
        activity.leave(&[5, 20]);
        assert_eq!(activity.zones().collect::<Vec<_>>(), [3, 9, 50]);
        assert_eq!(activity.due(&NONE), [0; 0], "not each time");
        for _ in 0..HOT_WRITES_MIN {
            write(&mut activity, 9);
        }
        assert_eq!(
            activity.due(&NONE),
            [3],
            "without a flush, or just written to, it stays"
        );
    }

    #[test]
    fn while_the_peer_is_in_doubt_none_leaves() {
        let mut activity = Activity::new(100);
        write(&mut activity, 5);
        flush(&mut activity);
        activity.keep(true);
        for _ in 0..HOT_WRITES_MIN {
            write(&mut activity, 9);
        }
        assert_eq!(activity.due(&NONE), [0; 0]);
        activity.keep(false);
        assert_eq!(activity.due(&NONE), [5]);
    }

    #[test]
    fn what_a_peer_that_is_equal_has_was_never_written_if_it_is_durable_here() {
        let mut activity = Activity::new(100);
        write(&mut activity, 5);
        flush(&mut activity);
        write(&mut activity, 6);
        activity.begin(7);
        assert_eq!(activity.untouched(), [0; 0]);
        activity.peer_is_equal();
        assert_eq!(activity.untouched(), [5]);
        assert_eq!(activity.written().collect::<Vec<_>>(), [6, 7]);
    }

    /// Writes where `next` says, with a flush now and then; answers how many updates that took.
    fn updates(activity: &mut Activity, writes: u64, mut next: impl FnMut(u64) -> u32) -> u64 {
        let mut updates = 0;
        for count in 0..writes {
            let zone = next(count);
            let leaving = activity.due(&(zone..zone + 1));
            activity.leave(&leaving);
            if !activity.is_hot(zone) {
                let ahead = activity.ahead(&[zone]);
                activity.enter(&ahead);
                updates += 1;
            } else if !leaving.is_empty() {
                updates += 1;
            }
            write(activity, zone);
            if count % 64 == 0 {
                flush(activity);
            }
        }
        updates
    }

    fn random(seed: u64) -> u64 {
        let hash = blake3::hash(&seed.to_le_bytes());
        u64::from_le_bytes(*hash.as_bytes().first_chunk().unwrap())
    }

    #[test]
    fn who_writes_all_over_a_disk_waits_seldom_however_large_it_is() {
        for zones in [256, 4096, 16_384, 65_536_u32] {
            let mut activity = Activity::new(zones);
            let mut seed = 0;
            let mut anywhere = |_| {
                seed += 1;
                u32::try_from(random(seed) % u64::from(zones)).unwrap()
            };
            let first = updates(&mut activity, 20_000, &mut anywhere);
            assert!(first < 150, "{zones}: {first} updates");
            let later = updates(&mut activity, 1_500_000, &mut anywhere);
            assert!(later < 400, "{zones}: {later} updates later");
        }
    }

    #[test]
    fn who_keeps_to_a_place_leaves_little_unsure() {
        let mut activity = Activity::new(16_384);
        // A new place after every few thousand writes, and back to an old one between.
        updates(&mut activity, 400_000, |count| {
            u32::try_from(count / 5000 * 150 * (count % 2)).unwrap()
        });
        let hot = activity.zones().count();
        let written = activity.written().count();
        assert!((40..90).contains(&written), "{written}");
        assert!(
            hot <= written + 25,
            "{hot} are hot, of which {written} were written to"
        );
    }

    #[test]
    fn neighbours_enter_ahead_four_times_as_many_each_time() {
        let mut activity = Activity::new(3000);
        let mut update = |zone: u32| {
            let ahead = activity.ahead(&[zone]);
            activity.enter(&ahead);
            write(&mut activity, zone);
            (ahead, activity.written().count(), activity.zones().count())
        };
        assert_eq!(update(9), (vec![], 1, 1));
        assert_eq!(update(5), (vec![4, 6, 7], 2, 5));
        let (ahead, ..) = update(10);
        assert_eq!(ahead, [0, 1, 2, 3, 8, 11, 12, 13, 14, 15], "what is hot does not");
        let (ahead, ..) = update(2000);
        assert_eq!((ahead.first(), ahead.len()), (Some(&1984), 63));
        let (ahead, ..) = update(2999);
        assert_eq!(
            (ahead.first(), ahead.len()),
            (Some(&2944), 55),
            "none beyond the image"
        );
    }

    #[test]
    fn no_update_takes_in_more_than_an_eighth_of_a_small_disk() {
        for (zones, most) in [
            (1, 1),
            (7, 1),
            (24, 2),
            (64, 8),
            (72, 8),
            (500, 32),
            (4096, 64),
            (16_384, 256),
        ] {
            let mut activity = Activity::new(zones);
            for _ in 0..8 {
                activity.enter(&[]);
            }
            assert_eq!(activity.ahead(&[0]).len() + 1, most, "{zones}");
        }
    }
}
