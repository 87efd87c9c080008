//! How a node begins: in a new cluster, in place of itself after its disk was lost, or from a backup.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use antipode_certs::tls::LiveCredentials;
use antipode_certs::{FileError, Identity, Name, PeerRule, Role};
use serde::{Deserialize, Serialize};

use super::{ServiceSettings, Surroundings};
use crate::client::{Client, ClientError, Cluster};
use crate::limits::{RECORD_BYTES_MAX, RECORDS_MAX, REPLY_MS_MAX};
use crate::node::{Demand, NodeId, Recovered, Reply, Seats};
use crate::store::{DiskStore, Owner, StoreError};
use crate::{Generation, Record, RecordError};

/// Generations by which a restored record is ahead of its backup: no request that names one from before is granted.
const RESTORED_GENERATIONS: u64 = 1 << 32;

/// Why a node did not begin. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Its data.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its certificate, key or CA.
    #[error(transparent)]
    Credentials(#[from] FileError),
    /// The cluster runs already: a node that begins as if it were new may have voted and forgotten it.
    #[error("cluster {cluster} runs already: node {node} has {commit} entries")]
    Runs {
        /// Which cluster.
        cluster: Name,
        /// Which node answered.
        node: Name,
        /// How much it has agreed on.
        commit: u64,
    },
    /// The cluster did not give the seat anew.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A backup that cannot be used.
    #[error(transparent)]
    Backup(#[from] BackupError),
}

/// Makes the data of a node of a new cluster.
///
/// # Errors
/// Where there is data already, another node says that the cluster runs, or the host fails.
pub async fn init(settings: &ServiceSettings, surroundings: &Surroundings) -> Result<Owner, SetupError> {
    DiskStore::require_room(&settings.data)?;
    let mut client = client(settings, surroundings)?;
    for name in settings.seats.keys().filter(|name| **name != settings.name) {
        // Those that do not answer are not there yet, or cannot be asked.
        let answer = client.status(name, Duration::from_millis(REPLY_MS_MAX)).await;
        if let Some(status) = answer.ok().filter(|status| status.commit > 1) {
            return Err(SetupError::Runs {
                cluster: settings.cluster.clone(),
                node: name.clone(),
                commit: status.commit,
            });
        }
    }
    begin(settings, 0, BTreeMap::new())
}

/// Gets a new id for this node's seat and makes its data, empty: the leader fills it.
///
/// # Errors
/// Where there is data already, the node runs, the cluster does not answer in time, or the host fails.
pub async fn rejoin(
    settings: &ServiceSettings,
    surroundings: &Surroundings,
    within: Duration,
) -> Result<Owner, SetupError> {
    DiskStore::require_room(&settings.data)?;
    let mut client = client(settings, surroundings)?;
    let lost = lost_id(settings, &mut client).await?;
    let demand = Demand::Reseat {
        lost,
        nonce: surroundings.seed,
    };
    let reply = match client.ask(&demand, within).await {
        Err(ClientError::Unreachable {
            maybe_done: false, ..
        }) if is_followed(settings, &mut client).await => Err(ClientError::SeatTaken),
        other => other,
    };
    match reply? {
        Reply::Seat { id, era, seats } => {
            let owner = owner(settings, era, id);
            DiskStore::create(&settings.data, &owner, &Recovered::joining(seats))?;
            Ok(owner)
        }
        _ => Err(ClientError::Odd(settings.name.clone()).into()),
    }
}

/// Whether another node takes this seat's own one for the leader: it runs, then, and is the one that would have to be asked.
async fn is_followed(settings: &ServiceSettings, client: &mut Client) -> bool {
    for name in settings.seats.keys().filter(|name| **name != settings.name) {
        let status = client.status(name, Duration::from_millis(REPLY_MS_MAX)).await;
        if status.is_ok_and(|status| status.leader.as_ref() == Some(&settings.name)) {
            return true;
        }
    }
    false
}

/// The id that this node's seat has, by what the others say. One that is behind says an old id, which is refused then.
async fn lost_id(settings: &ServiceSettings, client: &mut Client) -> Result<NodeId, ClientError> {
    let mut newest = None;
    let mut last_error = None;
    for name in settings.seats.keys().filter(|name| **name != settings.name) {
        match client.status(name, Duration::from_millis(REPLY_MS_MAX)).await {
            Ok(status) => {
                let own = status.peers.into_iter().find(|peer| peer.name == settings.name);
                newest = newest.max(own.map(|peer| peer.id));
            }
            Err(error) => last_error = Some(error),
        }
    }
    match (newest, last_error) {
        (Some(id), _) => Ok(id),
        (None, Some(error)) => Err(error),
        (None, None) => Err(ClientError::NoSuchNode(settings.name.clone())),
    }
}

/// Makes the data of a node of a cluster that begins anew from `backup`, which all its nodes must be given.
///
/// The tiebreaker forgets what happened since the backup was taken. So every generation is raised far above what any site
/// knows, and no site may run a VM meanwhile: nobody can check that from here.
///
/// # Errors
/// Where there is data already, the backup is of another cluster, or the host fails.
pub fn restore(settings: &ServiceSettings, backup: Backup) -> Result<Owner, SetupError> {
    if backup.cluster != settings.cluster {
        return Err(BackupError::Foreign(backup.cluster).into());
    }
    let mut records = backup.records;
    for record in records.values_mut() {
        // A record that was read counts far less.
        record.generation = Generation(record.generation.0 + RESTORED_GENERATIONS);
        record.remembered.clear();
    }
    begin(settings, backup.taken_unix_micros, records)
}

fn begin(settings: &ServiceSettings, era: u64, records: BTreeMap<Name, Record>) -> Result<Owner, SetupError> {
    let seats = Seats::first(settings.seats.keys().cloned());
    let id = seats
        .id_of(&settings.name)
        .expect("a configuration names its own seat");
    let owner = owner(settings, era, id);
    DiskStore::create(&settings.data, &owner, &Recovered::first(seats, records))?;
    Ok(owner)
}

fn owner(settings: &ServiceSettings, era: u64, id: NodeId) -> Owner {
    Owner {
        cluster: settings.cluster.clone(),
        era,
        name: settings.name.clone(),
        id,
    }
}

fn client(settings: &ServiceSettings, surroundings: &Surroundings) -> Result<Client, FileError> {
    let own = PeerRule::Exactly(Identity {
        role: Role::Tiebreaker,
        name: settings.name.clone(),
    });
    let clock = Arc::clone(&surroundings.clock);
    let credentials = LiveCredentials::open(settings.credentials.clone(), &own, clock)?;
    let others = settings.seats.iter().filter(|(name, _)| **name != settings.name);
    let cluster = Cluster {
        name: settings.cluster.clone(),
        nodes: others
            .map(|(name, seat)| (name.clone(), seat.address.clone()))
            .collect(),
    };
    Ok(Client::new(cluster, credentials))
}

/// All records of a cluster at one time, as a file of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// The version of this form.
    format: u16,
    /// Of which cluster.
    pub cluster: Name,
    /// When, on the operator's clock. Names the cluster's next life.
    pub taken_unix_micros: u64,
    /// The records.
    pub records: BTreeMap<Name, Record>,
}

/// A file that is no backup, or not the right one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackupError {
    /// Not in our form.
    #[error("it is no backup of a tiebreaker: {0}")]
    Malformed(String),
    /// Of a later version.
    #[error("it was made by a later version of antipode")]
    Newer,
    /// Of another cluster.
    #[error("it is a backup of cluster {0}")]
    Foreign(Name),
    /// Longer than any.
    #[error("it is longer than any backup")]
    TooLong,
    /// More records than a cluster has.
    #[error("it has {0} records, and a cluster has at most {RECORDS_MAX}")]
    TooMany(usize),
    /// A record that no node has made.
    #[error("its record of VM {vm} is damaged: {why}")]
    Record {
        /// Of which VM.
        vm: Name,
        /// What is wrong with it.
        why: RecordError,
    },
}

impl Backup {
    const FORMAT: u16 = 1;

    /// Bytes of the longest one.
    pub const BYTES_MAX: usize = RECORDS_MAX * RECORD_BYTES_MAX;

    /// Of `cluster`'s records, at a moment.
    #[must_use]
    pub const fn new(cluster: Name, taken_unix_micros: u64, records: BTreeMap<Name, Record>) -> Self {
        Self {
            format: Self::FORMAT,
            cluster,
            taken_unix_micros,
            records,
        }
    }

    /// As a file.
    ///
    /// # Panics
    /// Never: its keys are text.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("the keys of a backup are text")
    }

    /// From a file.
    ///
    /// # Errors
    /// Where it is none.
    pub fn from_json(text: &str) -> Result<Self, BackupError> {
        #[derive(Deserialize)]
        struct Version {
            format: u16,
        }
        if text.len() > Self::BYTES_MAX {
            return Err(BackupError::TooLong);
        }
        let malformed = |error: serde_json::Error| BackupError::Malformed(error.to_string());
        let Version { format } = serde_json::from_str(text).map_err(malformed)?;
        if format != Self::FORMAT {
            return Err(BackupError::Newer);
        }
        let backup: Self = serde_json::from_str(text).map_err(malformed)?;
        if backup.records.len() > RECORDS_MAX {
            return Err(BackupError::TooMany(backup.records.len()));
        }
        for (vm, record) in &backup.records {
            record
                .check()
                .map_err(|why| BackupError::Record { vm: vm.clone(), why })?;
        }
        Ok(backup)
    }
}
