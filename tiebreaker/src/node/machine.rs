//! What nodes agree on: the records of all VMs, and the seats. A pure function of the log.

use std::collections::BTreeMap;
use std::sync::Arc;

use antipode_certs::{Identity, Name};
use serde::{Deserialize, Serialize};

use super::seats::{NodeId, Seats};
use crate::limits::COMMAND_BYTES_MAX;
use crate::{Answer, Operation, Record, Request, decide};

/// What this program understands. A node that finds a newer command in the log stops: it would apply it otherwise than
/// the others. So all nodes are upgraded before any of them makes one.
pub const COMMAND_VERSION: u16 = 1;

/// An entry of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// A change of a VM's record.
    Change {
        /// Who asks, from the certificate of the connection.
        caller: Identity,
        /// Which VM.
        vm: Name,
        /// What for.
        request: Request,
    },
    /// A new id for the seat of a node that has lost its disk.
    Reseat {
        /// Which seat.
        name: Name,
        /// The id that it had.
        lost: NodeId,
        /// Drawn by the node, so that it gets one id alone.
        nonce: u64,
    },
}

#[derive(Serialize, Deserialize)]
struct Versioned<C> {
    v: u16,
    command: C,
}

/// A command of a later program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the log holds a command of a later version of antipode; upgrade this node")]
pub struct NewerCommand;

impl Command {
    /// As it stands in the log.
    ///
    /// # Panics
    /// Never: names and reasons are bounded by their types.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let versioned = Versioned {
            v: COMMAND_VERSION,
            command: self,
        };
        let bytes = serde_json::to_vec(&versioned).expect("a command has only keys that are text");
        assert!(bytes.len() <= COMMAND_BYTES_MAX, "a command has bounded parts");
        bytes
    }

    /// From the log.
    ///
    /// # Errors
    /// Where it is of a later version, or of none: entries of the log were encoded by a node.
    pub fn decode(bytes: &[u8]) -> Result<Self, NewerCommand> {
        match serde_json::from_slice::<Versioned<Self>>(bytes) {
            Ok(Versioned { v, command }) if v <= COMMAND_VERSION => Ok(command),
            _ => Err(NewerCommand),
        }
    }
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// Of a change.
    Answer(Answer),
    /// Of a new id: the seat's, or none if it is not the caller's.
    Seat(Option<NodeId>),
}

/// The state that all nodes share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Of every VM that was ever registered. Shared with the batch that writes them: a node that is filled anew would hold
    /// all of them twice.
    #[serde(with = "shared")]
    pub records: BTreeMap<Name, Arc<Record>>,
    /// Who has which seat.
    pub seats: Seats,
}

/// Records as if they were not shared.
mod shared {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use antipode_certs::Name;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::Record;

    pub(super) fn serialize<S: Serializer>(
        records: &BTreeMap<Name, Arc<Record>>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_map(records.iter().map(|(vm, record)| (vm, record.as_ref())))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<BTreeMap<Name, Arc<Record>>, D::Error> {
        let records = BTreeMap::<Name, Record>::deserialize(from)?;
        Ok(super::super::log::shared(records))
    }
}

/// What an operator decides by hand is in each node's log, which outlives the record.
pub(super) fn log_decision(vm: &Name, caller: &Identity, request: &Request, applied: &Applied) {
    let Applied::Answer(Answer {
        verdict: Ok(()),
        generation,
        ..
    }) = applied
    else {
        return;
    };
    match &request.operation {
        Operation::Force { site, reason } => tracing::warn!(
            "{caller} has forced VM {vm}: site {site} may start it, in generation {generation}: {reason}"
        ),
        Operation::Retire { reason } => {
            tracing::warn!("{caller} has retired VM {vm} in generation {generation}: {reason}");
        }
        _ => {}
    }
}

impl Machine {
    /// Before the first command.
    #[must_use]
    pub fn new(seats: Seats) -> Self {
        Self {
            records: BTreeMap::new(),
            seats,
        }
    }

    /// Takes the next command of the log.
    pub fn apply(&mut self, command: &Command) -> Applied {
        match command {
            Command::Change { caller, vm, request } => {
                let outcome = decide(self.records.remove(vm).map(Arc::unwrap_or_clone), request, caller);
                if let Some(record) = outcome.record {
                    self.records.insert(vm.clone(), Arc::new(record));
                }
                Applied::Answer(outcome.answer)
            }
            Command::Reseat { name, lost, nonce } => Applied::Seat(self.seats.renew(name, *lost, *nonce)),
        }
    }
}
