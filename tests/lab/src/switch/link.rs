//! One way of one cable: what may happen to a frame between a host and the switch. Pure.
//!
//! A frame meets, in this order: the cut, loss, duplication, the bandwidth queue, then the flight time (latency ±
//! jitter, and a longer hold for a frame chosen to be reordered). Jitter alone never reorders: arrivals on a link
//! are kept in order, as on a real cable, and only `reorder` lets a later frame overtake. Changing the shape
//! affects frames sent from then on; a cut also loses what is in flight.
//!
//! The bandwidth queue stores nothing: the time at which the wire falls idle says how many bytes wait.

use super::random::Random;
use serde::{Deserialize, Serialize};

/// A moment on the switch's clock, in nanoseconds from an arbitrary origin.
pub type Nanos = u64;

const NANOS_PER_MICRO: u64 = 1_000;
const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Bytes a frame costs on a real wire beyond those we carry: preamble 8, checksum 4, inter-frame gap 12.
pub const WIRE_OVERHEAD_BYTES: u64 = 24;

/// A packet per ten million bytes is the finest loss anyone scripts; a million parts is a certainty.
pub const PARTS_PER_MILLION: u32 = 1_000_000;

/// The longest latency, jitter or hold accepted: one minute. Beyond it a script meant another unit.
pub const DELAY_MICROS_MAX: u64 = 60_000_000;

/// What a link does to frames. The default is a perfect cable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shape {
    /// Nothing passes.
    pub cut: bool,
    /// Time of flight.
    pub latency_us: u64,
    /// Uniform variation around the latency, in both directions.
    pub jitter_us: u64,
    /// Frames lost, in parts per million.
    pub loss_ppm: u32,
    /// Frames sent twice, in parts per million.
    pub duplicate_ppm: u32,
    /// Frames held back by `reorder_hold_us` so that later ones overtake, in parts per million.
    pub reorder_ppm: u32,
    /// How long a reordered frame is held beyond its flight time.
    pub reorder_hold_us: u64,
    /// Bits per second, 0 for no limit.
    pub bandwidth_bps: u64,
    /// Bytes that may wait for the wire when `bandwidth_bps` is set; a frame beyond is dropped.
    pub queue_bytes: u64,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            cut: false,
            latency_us: 0,
            jitter_us: 0,
            loss_ppm: 0,
            duplicate_ppm: 0,
            reorder_ppm: 0,
            reorder_hold_us: 5_000,
            bandwidth_bps: 0,
            queue_bytes: 256 * 1024,
        }
    }
}

/// Changes to a shape: what is absent stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShapeChange {
    /// See [`Shape::cut`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cut: Option<bool>,
    /// See [`Shape::latency_us`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_us: Option<u64>,
    /// See [`Shape::jitter_us`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter_us: Option<u64>,
    /// See [`Shape::loss_ppm`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_ppm: Option<u32>,
    /// See [`Shape::duplicate_ppm`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duplicate_ppm: Option<u32>,
    /// See [`Shape::reorder_ppm`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reorder_ppm: Option<u32>,
    /// See [`Shape::reorder_hold_us`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reorder_hold_us: Option<u64>,
    /// See [`Shape::bandwidth_bps`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth_bps: Option<u64>,
    /// See [`Shape::queue_bytes`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_bytes: Option<u64>,
}

/// A shape that cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// A probability above one.
    #[error("{field} is {value}, but a probability is at most {PARTS_PER_MILLION} parts per million")]
    Probability {
        /// The field at fault.
        field: &'static str,
        /// What was given.
        value: u32,
    },
    /// A delay longer than [`DELAY_MICROS_MAX`].
    #[error("{field} is {value} µs, but at most {DELAY_MICROS_MAX} µs (one minute) is accepted")]
    Delay {
        /// The field at fault.
        field: &'static str,
        /// What was given.
        value: u64,
    },
}

impl Shape {
    /// This shape with `change` applied.
    ///
    /// # Errors
    /// A probability above one or a delay above a minute; the shape is then unchanged.
    pub fn changed(self, change: ShapeChange) -> Result<Self, ShapeError> {
        let shape = Self {
            cut: change.cut.unwrap_or(self.cut),
            latency_us: change.latency_us.unwrap_or(self.latency_us),
            jitter_us: change.jitter_us.unwrap_or(self.jitter_us),
            loss_ppm: change.loss_ppm.unwrap_or(self.loss_ppm),
            duplicate_ppm: change.duplicate_ppm.unwrap_or(self.duplicate_ppm),
            reorder_ppm: change.reorder_ppm.unwrap_or(self.reorder_ppm),
            reorder_hold_us: change.reorder_hold_us.unwrap_or(self.reorder_hold_us),
            bandwidth_bps: change.bandwidth_bps.unwrap_or(self.bandwidth_bps),
            queue_bytes: change.queue_bytes.unwrap_or(self.queue_bytes),
        };
        for (field, value) in [
            ("loss_ppm", shape.loss_ppm),
            ("duplicate_ppm", shape.duplicate_ppm),
            ("reorder_ppm", shape.reorder_ppm),
        ] {
            if value > PARTS_PER_MILLION {
                return Err(ShapeError::Probability { field, value });
            }
        }
        for (field, value) in [
            ("latency_us", shape.latency_us),
            ("jitter_us", shape.jitter_us),
            ("reorder_hold_us", shape.reorder_hold_us),
        ] {
            if value > DELAY_MICROS_MAX {
                return Err(ShapeError::Delay { field, value });
            }
        }
        Ok(shape)
    }
}

/// What a link did with the frames it was given. `frames` and `bytes` count what went in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Frames offered to the link.
    pub frames: u64,
    /// Bytes of those frames.
    pub bytes: u64,
    /// Frames that came out at the far end, duplicates included.
    pub delivered: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Lost because the link was cut, before or during their flight.
    pub dropped_cut: u64,
    /// Lost because the bandwidth queue was full.
    pub dropped_queue: u64,
    /// Lost because the host did not read (frozen, or not connected).
    pub dropped_host: u64,
    /// Extra copies made.
    pub duplicated: u64,
    /// Frames held back so that others overtake.
    pub reordered: u64,
}

/// When the copies of a frame arrive: none, one or two moments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Arrivals {
    /// The frame itself.
    pub first: Option<Nanos>,
    /// Its duplicate.
    pub second: Option<Nanos>,
}

/// One way of one cable.
#[derive(Debug)]
pub struct Link {
    shape: Shape,
    random: Random,
    wire_idle_at: Nanos,
    last_arrival: Nanos,
    cuts: u64,
    /// What happened so far.
    pub counters: Counters,
}

impl Link {
    /// A perfect cable whose later choices come from `random`.
    #[must_use]
    pub fn new(random: Random) -> Self {
        Self {
            shape: Shape::default(),
            random,
            wire_idle_at: 0,
            last_arrival: 0,
            cuts: 0,
            counters: Counters::default(),
        }
    }

    /// The present shape.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Takes a new shape; frames in flight keep their times, except that a cut loses them.
    pub fn reshape(&mut self, shape: Shape) {
        if shape.cut && !self.shape.cut {
            self.cuts += 1;
        }
        if shape.bandwidth_bps != self.shape.bandwidth_bps {
            // What waited at the old rate is already in flight with its time: the new rate starts with an idle wire.
            self.wire_idle_at = 0;
        }
        self.shape = shape;
    }

    /// How often the link was cut: a frame sent before the last cut must not arrive after it.
    #[must_use]
    pub fn cuts(&self) -> u64 {
        self.cuts
    }

    /// Offers a frame of `length` bytes at `now`; says when its copies arrive.
    pub fn offer(&mut self, length: usize, now: Nanos) -> Arrivals {
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        self.counters.frames += 1;
        self.counters.bytes += length;
        if self.shape.cut {
            self.counters.dropped_cut += 1;
            return Arrivals::default();
        }
        // Every chance of a frame is drawn before any is acted on: the choices for frame n do not depend on
        // whether an earlier frame found the queue full.
        let lost = self.random.chance(self.shape.loss_ppm);
        let doubled = self.random.chance(self.shape.duplicate_ppm);
        let first_flight = self.flight();
        let second_flight = if doubled { Some(self.flight()) } else { None };
        if lost {
            self.counters.lost += 1;
            return Arrivals::default();
        }
        let first = self.send(length, first_flight, now);
        let second = second_flight.and_then(|flight| {
            self.counters.duplicated += 1;
            self.send(length, flight, now)
        });
        Arrivals { first, second }
    }

    fn flight(&mut self) -> Flight {
        let latency = self.shape.latency_us * NANOS_PER_MICRO;
        let jitter = self.shape.jitter_us * NANOS_PER_MICRO;
        let nanos = (latency + self.random.up_to(2 * jitter)).saturating_sub(jitter);
        Flight {
            nanos,
            held: self.random.chance(self.shape.reorder_ppm),
        }
    }

    fn send(&mut self, length: u64, flight: Flight, now: Nanos) -> Option<Nanos> {
        let departure = self.departure(length, now)?;
        let arrival = departure + flight.nanos;
        if flight.held {
            self.counters.reordered += 1;
            return Some(arrival + self.shape.reorder_hold_us * NANOS_PER_MICRO);
        }
        self.last_arrival = self.last_arrival.max(arrival);
        Some(self.last_arrival)
    }

    fn departure(&mut self, length: u64, now: Nanos) -> Option<Nanos> {
        let rate = self.shape.bandwidth_bps;
        if rate == 0 {
            return Some(now);
        }
        let start = self.wire_idle_at.max(now);
        let waiting_bytes = u128::from(start - now) * u128::from(rate) / (8 * u128::from(NANOS_PER_SECOND));
        if waiting_bytes + u128::from(length) > u128::from(self.shape.queue_bytes) && start > now {
            self.counters.dropped_queue += 1;
            return None;
        }
        let bits = u128::from(length + WIRE_OVERHEAD_BYTES) * 8;
        let nanos = (bits * u128::from(NANOS_PER_SECOND)).div_ceil(u128::from(rate));
        self.wire_idle_at = start.saturating_add(u64::try_from(nanos).unwrap_or(u64::MAX));
        Some(self.wire_idle_at)
    }
}

struct Flight {
    nanos: Nanos,
    held: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn link(shape: Shape) -> Link {
        let mut link = Link::new(Random::new(1, "t"));
        link.reshape(shape);
        link
    }

    fn first(link: &mut Link, length: usize, now: Nanos) -> Option<Nanos> {
        link.offer(length, now).first
    }

    #[test]
    fn a_perfect_cable_is_instant() {
        assert_eq!(first(&mut link(Shape::default()), 100, 5), Some(5));
    }

    #[test]
    fn bandwidth_spaces_frames_and_bounds_the_queue() {
        // 8 Mbit/s: one byte per microsecond; 76 + 24 bytes take 100 µs.
        let mut link = link(Shape {
            bandwidth_bps: 8_000_000,
            queue_bytes: 250,
            ..Shape::default()
        });
        assert_eq!(first(&mut link, 76, 0), Some(100_000));
        assert_eq!(first(&mut link, 76, 0), Some(200_000));
        assert_eq!(
            first(&mut link, 76, 0),
            None,
            "200 waiting bytes and 76 more exceed 250"
        );
        assert_eq!(link.counters.dropped_queue, 1);
        assert_eq!(
            first(&mut link, 76, 150_000),
            Some(300_000),
            "the queue has drained meanwhile"
        );
    }

    #[test]
    fn an_idle_wire_takes_a_frame_larger_than_its_queue() {
        let mut link = link(Shape {
            bandwidth_bps: 8_000_000,
            queue_bytes: 10,
            ..Shape::default()
        });
        assert_eq!(first(&mut link, 1_000, 0), Some(1_024_000));
    }

    #[test]
    fn a_reordered_frame_is_overtaken() {
        let mut link = link(Shape {
            latency_us: 10,
            reorder_ppm: PARTS_PER_MILLION,
            ..Shape::default()
        });
        let held = first(&mut link, 60, 0);
        link.reshape(Shape {
            latency_us: 10,
            ..Shape::default()
        });
        let next = first(&mut link, 60, 1_000);
        assert!(next < held, "{next:?} should come before {held:?}");
    }

    #[test]
    fn a_cut_is_counted_and_passes_nothing() {
        let mut link = link(Shape {
            cut: true,
            ..Shape::default()
        });
        assert_eq!(link.offer(60, 0), Arrivals::default());
        assert_eq!((link.counters.dropped_cut, link.cuts()), (1, 1));
    }

    #[test]
    fn shapes_that_cannot_be_meant_are_refused() {
        let change = ShapeChange {
            loss_ppm: Some(1_000_001),
            ..ShapeChange::default()
        };
        assert!(matches!(
            Shape::default().changed(change),
            Err(ShapeError::Probability { .. })
        ));
        let change = ShapeChange {
            latency_us: Some(u64::MAX),
            ..ShapeChange::default()
        };
        assert!(matches!(
            Shape::default().changed(change),
            Err(ShapeError::Delay { .. })
        ));
    }

    proptest! {
        #[test]
        fn without_reordering_arrivals_keep_their_order(
            latency_us in 0..10_000_u64, jitter_us in 0..20_000_u64, bandwidth_bps in 0..1_000_000_000_u64,
            steps in prop::collection::vec((0..5_000_000_u64, 14..1514_usize), 1..100),
        ) {
            let mut link = link(Shape { latency_us, jitter_us, bandwidth_bps, ..Shape::default() });
            let (mut now, mut last) = (0, 0);
            for (gap, length) in steps {
                now += gap;
                if let Some(arrival) = first(&mut link, length, now) {
                    prop_assert!(arrival >= now && arrival >= last);
                    last = arrival;
                }
            }
        }

        #[test]
        fn every_frame_is_accounted_for(
            loss_ppm in 0..=PARTS_PER_MILLION, duplicate_ppm in 0..=PARTS_PER_MILLION,
            bandwidth_bps in 0..50_000_000_u64, count in 1..300_u64,
        ) {
            let mut link = link(Shape { loss_ppm, duplicate_ppm, bandwidth_bps, queue_bytes: 9_000, ..Shape::default() });
            let mut arrived = 0;
            for at in 0..count {
                let arrivals = link.offer(1_000, at * 100_000);
                arrived += u64::from(arrivals.first.is_some()) + u64::from(arrivals.second.is_some());
            }
            let c = link.counters;
            prop_assert_eq!(c.frames + c.duplicated, arrived + c.lost + c.dropped_queue);
        }

        #[test]
        fn the_rate_is_never_exceeded(count in 2..200_u64, length in 60..1_500_u64) {
            let mut link = link(Shape { bandwidth_bps: 10_000_000, queue_bytes: 1 << 30, ..Shape::default() });
            let mut last = None;
            for _ in 0..count {
                last = first(&mut link, usize::try_from(length).unwrap(), 0);
            }
            let bits = count * (length + WIRE_OVERHEAD_BYTES) * 8;
            prop_assert!(last.unwrap() >= bits * 100, "{bits} bits took {last:?} ns");
        }
    }
}
