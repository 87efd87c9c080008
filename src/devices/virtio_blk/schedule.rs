//! Which requests may be with the host at once (R4).
//!
//! Invariants: no two requests in flight conflict; a request never overtakes one it conflicts with; every request
//! waiting conflicts with one in flight or one waiting before it, so when nothing is in flight nothing waits.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::base::limits::{DISK_BYTES_IN_FLIGHT_MAX, DISK_REQUESTS_IN_FLIGHT_MAX};
use crate::devices::virtio::Chain;
use crate::devices::{DiskOperation, DiskRequest, DiskRequestId};

/// What a request touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Touch {
    Read { start: u64, byte_count: usize },
    Write { start: u64, byte_count: usize },
    Flush,
}

impl Touch {
    pub(super) fn of(operation: &DiskOperation) -> Self {
        match operation {
            DiskOperation::Read { offset, byte_count } => Self::Read {
                start: *offset,
                byte_count: *byte_count,
            },
            DiskOperation::Write { offset, data } => Self::Write {
                start: *offset,
                byte_count: data.len(),
            },
            DiskOperation::Flush => Self::Flush,
        }
    }

    /// Start, length, whether it writes.
    pub(super) fn extent(self) -> Option<(u64, usize, bool)> {
        match self {
            Self::Read { start, byte_count } => Some((start, byte_count, false)),
            Self::Write { start, byte_count } => Some((start, byte_count, true)),
            Self::Flush => None,
        }
    }

    pub(super) fn byte_count(self) -> usize {
        self.extent().map_or(0, |(_, byte_count, _)| byte_count)
    }

    pub(super) fn conflicts(self, other: Self) -> bool {
        let (Some((start, length, writes)), Some((other_start, other_length, other_writes))) =
            (self.extent(), other.extent())
        else {
            return false;
        };
        let overlap = start < other_start.saturating_add(other_length as u64)
            && other_start < start.saturating_add(length as u64);
        overlap && (writes || other_writes)
    }
}

/// A request with the host.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) touch: Touch,
    /// Where its answer goes; `None` once abandoned.
    pub(super) chain: Option<Chain>,
}

#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) chain: Chain,
    pub(super) operation: DiskOperation,
}

/// Requests with the device, in flight or waiting.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    pub(super) next_id: u64,
    pub(super) in_flight: BTreeMap<DiskRequestId, InFlight>,
    pub(super) waiting: VecDeque<Waiting>,
    pub(super) byte_count: usize,
}

impl Schedule {
    /// Whether one more request may be taken.
    pub(super) fn has_room(&self) -> bool {
        self.in_flight.len() + self.waiting.len() < DISK_REQUESTS_IN_FLIGHT_MAX
            && self.byte_count < DISK_BYTES_IN_FLIGHT_MAX
    }

    pub(super) fn in_flight_count(&self) -> usize {
        self.in_flight.len()
    }

    /// Takes a request, behind all others.
    pub(super) fn take(&mut self, chain: Chain, operation: DiskOperation) {
        self.byte_count += Touch::of(&operation).byte_count();
        self.waiting.push_back(Waiting { chain, operation });
    }

    /// Puts in flight, oldest first, what conflicts with nothing before it.
    pub(super) fn release(&mut self) -> Vec<DiskRequest> {
        let mut released = Vec::new();
        let mut still_waiting: VecDeque<Waiting> = VecDeque::new();
        for Waiting { chain, operation } in std::mem::take(&mut self.waiting) {
            let touch = Touch::of(&operation);
            let blocked = self.in_flight.values().any(|other| other.touch.conflicts(touch))
                || still_waiting
                    .iter()
                    .any(|other| Touch::of(&other.operation).conflicts(touch));
            if blocked {
                still_waiting.push_back(Waiting { chain, operation });
                continue;
            }
            let id = DiskRequestId(self.next_id);
            self.next_id += 1;
            let chain = Some(chain);
            self.in_flight.insert(id, InFlight { touch, chain });
            released.push(DiskRequest { id, operation });
        }
        self.waiting = still_waiting;
        released
    }

    /// The host is done with `id`; `None` if it never had it, or was done already.
    pub(super) fn finish(&mut self, id: DiskRequestId) -> Option<InFlight> {
        let request = self.in_flight.remove(&id)?;
        self.byte_count -= request.touch.byte_count();
        Some(request)
    }

    /// The driver is gone: what waits is dropped, what is in flight loses its chain.
    pub(super) fn abandon(&mut self) {
        for dropped in self.waiting.drain(..) {
            self.byte_count -= Touch::of(&dropped.operation).byte_count();
        }
        for request in self.in_flight.values_mut() {
            request.chain = None;
        }
    }
}
