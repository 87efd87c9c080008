//! The disk's saved form: its requests. What the disk holds is not in it.

use serde::{Deserialize, Serialize};

use super::device::{DiskCounters, VirtioBlk};
use super::schedule::{InFlight, Schedule, Touch, Waiting};
use crate::base::limits::{DISK_REQUEST_BYTES_MAX, DISK_REQUESTS_IN_FLIGHT_MAX};
use crate::devices::virtio::{Chain, ChainState};
use crate::devices::{DiskCompletion, DiskOperation, DiskOutcome, DiskRequest, DiskRequestId};

/// A request that waits for one it conflicts with.
#[derive(Debug, Serialize, Deserialize)]
struct WaitingState {
    chain: ChainState,
    touch: Touch,
    /// Of a write.
    data: Vec<u8>,
}

/// All requests of a disk.
#[derive(Debug, Serialize, Deserialize)]
pub struct DiskState {
    next_id: u64,
    in_flight: Vec<(DiskRequestId, Touch, Option<ChainState>)>,
    waiting: Vec<WaitingState>,
    counters: DiskCounters,
}

/// What is to be done for a request that was in flight when its disk was saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unanswered {
    /// It reads, and shall read again: what it reads cannot have changed, since whatever conflicts with it waits.
    Again(DiskRequest),
    /// It wrote or flushed, and whoever saved has waited for it.
    Done(DiskCompletion),
}

impl DiskState {
    pub(super) fn of(disk: &VirtioBlk) -> Self {
        let in_flight = disk.schedule.in_flight.iter();
        let waiting = disk.schedule.waiting.iter();
        Self {
            next_id: disk.schedule.next_id,
            in_flight: in_flight
                .map(|(id, request)| (*id, request.touch, request.chain.as_ref().map(Chain::save)))
                .collect(),
            waiting: waiting
                .map(|request| WaitingState {
                    chain: request.chain.save(),
                    touch: Touch::of(&request.operation),
                    data: match &request.operation {
                        DiskOperation::Write { data, .. } => data.to_vec(),
                        DiskOperation::Read { .. } | DiskOperation::Flush => Vec::new(),
                    },
                })
                .collect(),
            counters: disk.counters,
        }
    }

    pub(super) fn restore(self, disk: &mut VirtioBlk) -> Result<(), String> {
        let disk_bytes = disk.config.byte_count;
        let touches = self.in_flight.iter().map(|(_, touch, _)| touch);
        let touches = touches.chain(self.waiting.iter().map(|request| &request.touch));
        if touches.clone().any(|touch| !is_inside(*touch, disk_bytes)) {
            return Err("a request is over-long or reaches past the disk's end".into());
        }
        if touches.clone().count() > DISK_REQUESTS_IN_FLIGHT_MAX {
            return Err("it has more requests than a disk takes".into());
        }
        if self.in_flight.iter().any(|(id, ..)| id.0 >= self.next_id) {
            return Err("a request has a name that was not given yet".into());
        }
        let mut schedule = Schedule {
            next_id: self.next_id,
            byte_count: touches.map(|touch| touch.byte_count()).sum(),
            ..Schedule::default()
        };
        for (id, touch, chain) in self.in_flight {
            let chain = chain.as_ref().map(Chain::restored).transpose()?;
            schedule.in_flight.insert(id, InFlight { touch, chain });
        }
        for WaitingState { chain, touch, data } in self.waiting {
            if matches!(touch, Touch::Write { .. }) && data.len() != touch.byte_count() {
                return Err("a write has other data than it says".into());
            }
            schedule.waiting.push_back(Waiting {
                chain: Chain::restored(&chain)?,
                operation: operation_of(touch, data),
            });
        }
        disk.schedule = schedule;
        disk.counters = self.counters;
        Ok(())
    }
}

fn is_inside(touch: Touch, disk_bytes: u64) -> bool {
    touch.extent().is_none_or(|(start, byte_count, _)| {
        let end = start.checked_add(byte_count as u64);
        byte_count <= DISK_REQUEST_BYTES_MAX && end.is_some_and(|end| end <= disk_bytes)
    })
}

fn operation_of(touch: Touch, data: Vec<u8>) -> DiskOperation {
    match touch {
        Touch::Read { start, byte_count } => DiskOperation::Read {
            offset: start,
            byte_count,
        },
        Touch::Write { start, .. } => DiskOperation::Write {
            offset: start,
            data: data.into(),
        },
        Touch::Flush => DiskOperation::Flush,
    }
}

impl VirtioBlk {
    /// What is to be done for the requests in flight, of a disk that was restored.
    pub fn unanswered(&self) -> impl Iterator<Item = Unanswered> {
        self.schedule
            .in_flight
            .iter()
            .map(|(id, request)| match request.touch {
                Touch::Read { .. } => Unanswered::Again(DiskRequest {
                    id: *id,
                    operation: operation_of(request.touch, Vec::new()),
                }),
                Touch::Write { .. } | Touch::Flush => Unanswered::Done(DiskCompletion {
                    id: *id,
                    outcome: DiskOutcome::Done,
                }),
            })
    }

    /// Writes and flushes that the host works on: whoever saves the disk waits for them first.
    pub fn unfinished_writes(&self) -> impl Iterator<Item = DiskRequestId> {
        let in_flight = self.schedule.in_flight.iter();
        in_flight
            .filter(|(_, request)| !matches!(request.touch, Touch::Read { .. }))
            .map(|(id, _)| *id)
    }
}
