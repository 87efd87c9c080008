//! Who sits in the cluster: names, and the node id that each has at the moment.

use std::collections::BTreeMap;
use std::fmt;

use antipode_certs::Name;
use serde::{Deserialize, Serialize};

/// Names one life of a node's disk. Counted upwards by the cluster, never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The seats of a cluster and who has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seats {
    taken: BTreeMap<Name, Seat>,
    last: NodeId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Seat {
    id: NodeId,
    /// Drawn by whoever asked for this id; 0 of the first ones.
    nonce: u64,
}

impl Seats {
    /// Those of a new cluster: ids from 1, in the order of the names.
    #[must_use]
    pub fn first(names: impl IntoIterator<Item = Name>) -> Self {
        let mut names: Vec<Name> = names.into_iter().collect();
        names.sort();
        names.dedup();
        let last = NodeId(names.len() as u64);
        let ids = (1..).map(|id| Seat {
            id: NodeId(id),
            nonce: 0,
        });
        Self {
            taken: names.into_iter().zip(ids).collect(),
            last,
        }
    }

    /// The id of the seat `name`.
    #[must_use]
    pub fn id_of(&self, name: &Name) -> Option<NodeId> {
        self.taken.get(name).map(|seat| seat.id)
    }

    /// The seat that `id` has now.
    #[must_use]
    pub fn name_of(&self, id: NodeId) -> Option<&Name> {
        self.iter().find(|(_, taken)| *taken == id).map(|(name, _)| name)
    }

    /// Every seat with its id.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, NodeId)> {
        self.taken.iter().map(|(name, seat)| (name, seat.id))
    }

    /// Gives the seat `name` a new id in place of `lost`. Asked again with the same `nonce` it answers the same: a copy of
    /// the request must not put out whom the first one has let in. None if somebody else was faster.
    pub(super) fn renew(&mut self, name: &Name, lost: NodeId, nonce: u64) -> Option<NodeId> {
        let seat = self.taken.get_mut(name)?;
        if seat.id == lost {
            self.last = NodeId(self.last.0 + 1);
            *seat = Seat { id: self.last, nonce };
        }
        (seat.nonce == nonce && seat.id != lost).then_some(seat.id)
    }
}
