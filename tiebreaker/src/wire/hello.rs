//! The first frame of a session.

use antipode_certs::{Identity, Name, Role};
use serde::{Deserialize, Serialize};

use crate::node::{NodeId, Seats};
use crate::store::Owner;

/// The version of the frames and of what is in them that this program speaks.
pub const PROTOCOL_VERSION: u16 = 1;

/// Who speaks, besides what its certificate says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The latest version that it knows.
    pub version: u16,
    /// The cluster that it means to speak to.
    pub cluster: Name,
    /// Of a node: which life of the cluster it belongs to, and its id.
    pub node: Option<(u64, NodeId)>,
}

/// A Hello that is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// No Hello at all.
    #[error("it does not begin with a Hello")]
    Malformed,
    /// Of a version that is older than any that we know.
    #[error("it speaks version {0}")]
    Version(u16),
    /// For another cluster.
    #[error("it is for cluster {0}")]
    Cluster(Name),
    /// A node of another life of this cluster.
    #[error("it belongs to another life of the cluster, {0}")]
    Era(u64),
    /// It says that it is a node, and its certificate does not; or its name has no seat; or its id is another's.
    #[error("{0} is not node {1}")]
    NotTheNode(Identity, NodeId),
}

impl HelloError {
    /// What a client is told by the node `own`.
    #[must_use]
    pub fn told(&self, own: &Owner) -> String {
        let Owner { name, cluster, .. } = own;
        match self {
            Self::Cluster(other) => format!("node {name} is of cluster {cluster}, not of {other}"),
            other => format!("node {name} refuses the session: {other}"),
        }
    }
}

impl Hello {
    /// As the node that has `owner`'s store.
    #[must_use]
    pub fn of_node(owner: &Owner) -> Self {
        Self {
            version: PROTOCOL_VERSION,
            cluster: owner.cluster.clone(),
            node: Some((owner.era, owner.id)),
        }
    }

    /// As a client of `cluster`.
    #[must_use]
    pub const fn of_client(cluster: Name) -> Self {
        Self {
            version: PROTOCOL_VERSION,
            cluster,
            node: None,
        }
    }

    /// Whether it is one that the node `own`, which knows `seats`, talks to; `from` is who its certificate says it is.
    /// Answers with the id of a node, and with none of a client.
    ///
    /// # Errors
    /// Where it is not.
    pub fn admit(&self, from: &Identity, own: &Owner, seats: &Seats) -> Result<Option<NodeId>, HelloError> {
        if self.version == 0 {
            return Err(HelloError::Version(self.version));
        }
        if self.cluster != own.cluster {
            return Err(HelloError::Cluster(self.cluster.clone()));
        }
        let Some((era, id)) = self.node else {
            return Ok(None);
        };
        if era != own.era {
            return Err(HelloError::Era(era));
        }
        // An id that is not known here yet may be a seat's new one, given while this node was away; an old one may be
        // the leader's, who will tell. No other seat's.
        let known = seats.name_of(id).is_none_or(|name| *name == from.name);
        if from.role == Role::Tiebreaker && known && seats.id_of(&from.name).is_some() {
            Ok(Some(id))
        } else {
            Err(HelloError::NotTheNode(from.clone(), id))
        }
    }
}
