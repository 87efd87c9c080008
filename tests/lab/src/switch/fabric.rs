//! The switch's core: ports, learning, forwarding and the queue of frames in flight. Pure.
//!
//! Every frame passes two links: `tx` of the sender, then `rx` of each receiver. A link that delays puts the frame
//! into one queue ordered by (arrival, order of sending); a link that does not delay hands it on within the same
//! step. Between steps nothing that is due remains queued, so the driver's only duty is to call
//! [`Fabric::step`] with [`Event::Tick`] no later than [`Fabric::next_due`].

use super::link::{Counters, Link, Nanos, Shape, ShapeChange, ShapeError};
use super::random::Random;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

/// An Ethernet frame without its checksum, shared by every queue it waits in.
pub type Frame = Arc<[u8]>;

/// Two addresses and a type: anything shorter is no frame.
pub const HEADER_BYTES: usize = 14;

/// Addresses remembered per switch. Beyond this, frames to a new address are flooded, as in a real switch.
pub const ADDRESSES_MAX: usize = 4_096;

/// How long a silent address is remembered.
pub const ADDRESS_AGE_NANOS_MAX: Nanos = 300_000_000_000;

/// Frames in flight over all links together; beyond this a frame counts as lost at its link's queue.
pub const IN_FLIGHT_MAX: usize = 1 << 18;

/// Names one port of one fabric, in the order of [`Fabric::add_port`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub usize);

/// A direction, seen from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// What the host sends.
    Tx,
    /// What the host receives.
    Rx,
}

/// What happens to the fabric.
#[derive(Debug, Clone)]
pub enum Event {
    /// A host sent a frame.
    Frame {
        /// Where it came in.
        port: PortId,
        /// What it sent.
        frame: Frame,
    },
    /// Time passed.
    Tick,
}

/// What the driver must do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Hand the frame to the host on this port.
    Deliver {
        /// Whose.
        port: PortId,
        /// The frame.
        frame: Frame,
    },
}

/// One port: a cable with two links, in a segment.
#[derive(Debug)]
pub struct Port {
    name: String,
    segment: SegmentId,
    tx: Link,
    rx: Link,
}

impl Port {
    /// The name it was added under.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The shape of one way.
    #[must_use]
    pub fn shape(&self, way: Way) -> Shape {
        self.link(way).shape()
    }

    /// What one way counted.
    #[must_use]
    pub fn counters(&self, way: Way) -> Counters {
        self.link(way).counters
    }

    fn link(&self, way: Way) -> &Link {
        match way {
            Way::Tx => &self.tx,
            Way::Rx => &self.rx,
        }
    }

    fn link_mut(&mut self, way: Way) -> &mut Link {
        match way {
            Way::Tx => &mut self.tx,
            Way::Rx => &mut self.rx,
        }
    }
}

/// A broadcast domain, by its place in the fabric's list of names.
type SegmentId = usize;

#[derive(Debug, Clone, Copy)]
struct Learnt {
    port: PortId,
    seen: Nanos,
}

/// A frame on a link. Ordered by arrival, then by the order of sending, so that equal times keep their order.
#[derive(Debug, PartialEq, Eq)]
struct InFlight {
    arrival: Nanos,
    order: u64,
    port: PortId,
    way: Way,
    cuts: u64,
    frame: Frame,
}

impl Ord for InFlight {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.arrival, self.order).cmp(&(other.arrival, other.order))
    }
}

impl PartialOrd for InFlight {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// The switch without its sockets.
#[derive(Debug)]
pub struct Fabric {
    seed: u64,
    ports: Vec<Port>,
    segments: Vec<String>,
    addresses: HashMap<(SegmentId, [u8; 6]), Learnt>,
    in_flight: BinaryHeap<Reverse<InFlight>>,
    order: u64,
    malformed: u64,
}

impl Fabric {
    /// A switch without ports whose choices all follow from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            ports: Vec::new(),
            segments: Vec::new(),
            addresses: HashMap::new(),
            in_flight: BinaryHeap::new(),
            order: 0,
            malformed: 0,
        }
    }

    /// Adds a port to a segment. Its random streams depend on the seed and its name, not on its number.
    pub fn add_port(&mut self, name: &str, segment: &str) -> PortId {
        let known = self.segments.iter().position(|known| known == segment);
        let segment = known.unwrap_or_else(|| {
            self.segments.push(segment.to_owned());
            self.segments.len() - 1
        });
        let link = |way: &str| Link::new(Random::new(self.seed, &format!("{name}/{way}")));
        self.ports.push(Port {
            name: name.to_owned(),
            segment,
            tx: link("tx"),
            rx: link("rx"),
        });
        PortId(self.ports.len() - 1)
    }

    /// All ports, in the order of their numbers.
    #[must_use]
    pub fn ports(&self) -> &[Port] {
        &self.ports
    }

    /// The name of the broadcast domain a port belongs to.
    #[must_use]
    pub fn segment_of(&self, port: &Port) -> &str {
        &self.segments[port.segment]
    }

    /// Finds a port by name.
    #[must_use]
    pub fn port(&self, name: &str) -> Option<PortId> {
        self.ports.iter().position(|port| port.name == name).map(PortId)
    }

    /// Frames shorter than an Ethernet header, dropped on arrival.
    #[must_use]
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    /// Frames now on some link.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Changes the shape of one way of a port.
    ///
    /// # Errors
    /// See [`Shape::changed`]; nothing changes then.
    pub fn reshape(&mut self, port: PortId, way: Way, change: ShapeChange) -> Result<(), ShapeError> {
        let link = self.ports[port.0].link_mut(way);
        link.reshape(link.shape().changed(change)?);
        Ok(())
    }

    /// Makes one way of a port a perfect cable again.
    pub fn clear(&mut self, port: PortId, way: Way) {
        self.ports[port.0].link_mut(way).reshape(Shape::default());
    }

    /// Records that a frame already delivered found no reader at the host.
    pub fn host_dropped(&mut self, port: PortId) {
        let counters = &mut self.ports[port.0].rx.counters;
        counters.delivered = counters.delivered.saturating_sub(1);
        counters.dropped_host += 1;
    }

    /// When the next frame in flight arrives.
    #[must_use]
    pub fn next_due(&self) -> Option<Nanos> {
        self.in_flight.peek().map(|Reverse(next)| next.arrival)
    }

    /// Takes one event at `now` and appends what must be done. `now` must not go backwards.
    pub fn step(&mut self, event: Event, now: Nanos, effects: &mut Vec<Effect>) {
        self.arrive_due(now, effects);
        if let Event::Frame { port, frame } = event {
            if frame.len() < HEADER_BYTES {
                self.malformed += 1;
            } else {
                self.offer(port, Way::Tx, &frame, now, now, effects);
            }
        }
    }

    fn arrive_due(&mut self, now: Nanos, effects: &mut Vec<Effect>) {
        while self.next_due().is_some_and(|due| due <= now) {
            let Some(Reverse(flight)) = self.in_flight.pop() else {
                return;
            };
            let link = self.ports[flight.port.0].link_mut(flight.way);
            if link.cuts() == flight.cuts {
                // Arrival times, not `now`, drive the next link: a late tick must not add latency.
                self.arrived(
                    flight.port,
                    flight.way,
                    flight.frame,
                    flight.arrival,
                    now,
                    effects,
                );
            } else {
                link.counters.dropped_cut += 1;
            }
        }
    }

    /// Offers a frame to a link at `at`; copies that arrive by `now` go on at once, others are queued.
    fn offer(
        &mut self,
        port: PortId,
        way: Way,
        frame: &Frame,
        at: Nanos,
        now: Nanos,
        effects: &mut Vec<Effect>,
    ) {
        let link = self.ports[port.0].link_mut(way);
        let arrivals = link.offer(frame.len(), at);
        let cuts = link.cuts();
        for arrival in [arrivals.first, arrivals.second].into_iter().flatten() {
            if arrival <= now && self.next_due().is_none_or(|due| due > arrival) {
                self.arrived(port, way, Arc::clone(frame), arrival, now, effects);
            } else if self.in_flight.len() < IN_FLIGHT_MAX {
                self.order += 1;
                let frame = Arc::clone(frame);
                let order = self.order;
                self.in_flight.push(Reverse(InFlight {
                    arrival,
                    order,
                    port,
                    way,
                    cuts,
                    frame,
                }));
            } else {
                self.ports[port.0].link_mut(way).counters.dropped_queue += 1;
            }
        }
    }

    fn arrived(
        &mut self,
        port: PortId,
        way: Way,
        frame: Frame,
        at: Nanos,
        now: Nanos,
        effects: &mut Vec<Effect>,
    ) {
        self.ports[port.0].link_mut(way).counters.delivered += 1;
        match way {
            Way::Tx => self.forward(port, &frame, at, now, effects),
            Way::Rx => effects.push(Effect::Deliver { port, frame }),
        }
    }

    fn forward(&mut self, from: PortId, frame: &Frame, at: Nanos, now: Nanos, effects: &mut Vec<Effect>) {
        let segment = self.ports[from.0].segment;
        let (destination, source) = addresses(frame);
        self.learn((segment, source), from, at);
        let known = self.addresses.get(&(segment, destination));
        let known = known.filter(|learnt| at <= learnt.seen + ADDRESS_AGE_NANOS_MAX);
        match known.map(|learnt| learnt.port) {
            // The receiver sits on the sender's own cable (a bridge behind one port): it has the frame already.
            Some(to) if to == from => {}
            Some(to) => self.offer(to, Way::Rx, frame, at, now, effects),
            None => {
                for to in (0..self.ports.len()).filter(|to| *to != from.0) {
                    if self.ports[to].segment == segment {
                        self.offer(PortId(to), Way::Rx, frame, at, now, effects);
                    }
                }
            }
        }
    }

    fn learn(&mut self, source: (SegmentId, [u8; 6]), port: PortId, seen: Nanos) {
        let is_group = source.1[0] & 1 == 1;
        if is_group {
            return;
        }
        if self.addresses.len() >= ADDRESSES_MAX && !self.addresses.contains_key(&source) {
            self.addresses
                .retain(|_, learnt| seen <= learnt.seen + ADDRESS_AGE_NANOS_MAX);
        }
        if self.addresses.len() < ADDRESSES_MAX || self.addresses.contains_key(&source) {
            self.addresses.insert(source, Learnt { port, seen });
        }
    }
}

/// Destination and source of a frame of at least [`HEADER_BYTES`].
fn addresses(frame: &Frame) -> ([u8; 6], [u8; 6]) {
    (
        std::array::from_fn(|i| frame[i]),
        std::array::from_fn(|i| frame[6 + i]),
    )
}

#[cfg(test)]
#[path = "fabric_tests.rs"]
mod tests;
