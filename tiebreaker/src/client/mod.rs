//! Asks a cluster: finds who leads, follows hints, and asks again with the same number until a deadline.
//!
//! ```text
//!   ask ──▶ the node that led last, else the next one
//!             ├─ a reply ─────────────────────────────────▶ done
//!             ├─ not the leader, that one is ─────────────▶ ask that one, unless it is passed over
//!             ├─ busy, no leader yet ─── a moment later ──▶ ask the next one
//!             └─ silence, no connection, unknown ─────────▶ ask the next one, the same again
//!           the deadline ─▶ Unreachable: was any try sent that may yet be granted?
//! ```
//!
//! - **Refused is an answer, unreachable is none.** A refusal is in [`Answer::verdict`]: the record says no, for good. An
//!   [`ClientError::Unreachable`] with `maybe_done` means: frozen, ask again with the same number (T2).
//! - A repeated change is harmless: its number makes it one.
//! - **Whoever keeps the client waiting is passed over for as long again**, while others answer. A leader that hangs costs
//!   its silence once, not once in every round of the nodes until they have elected another.
//! - Whom a connection reaches is proven: the node that is called, by name, with the role of a tiebreaker.

mod turns;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use antipode_certs::tls::LiveCredentials;
use antipode_certs::{Identity, Name, PeerRule, Role};
use tokio::time::{Instant, sleep};

use turns::Turns;

use crate::limits::{REPLY_MS_MAX, RETRY_MS};
use crate::node::{Demand, NodeStatus, Query, Reply, Summary};
use crate::wire::{Hello, Kind, Stream, StreamError, dial};
use crate::{Answer, Record, Request};

/// Whom to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Its name.
    pub name: Name,
    /// Its nodes and where they are reached, as `host:port`.
    pub nodes: BTreeMap<Name, String>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No node that could answer did so in time.
    #[error("no node of cluster {cluster} has answered in time: {}", told(tried))]
    Unreachable {
        /// Which cluster.
        cluster: Name,
        /// What came of the last try with each node.
        tried: BTreeMap<Name, String>,
        /// Whether a node may have taken the change, so that it may have been granted or may yet be.
        maybe_done: bool,
    },
    /// The certificate's holder may not ask for this.
    #[error("{0}")]
    Forbidden(String),
    /// An override is refused: this site is in touch with the tiebreaker, or was a moment ago.
    #[error("site {0} is in touch with the tiebreaker, or was a moment ago")]
    PeerReachable(Name),
    /// A seat is not given anew: its node answers, or did a moment ago.
    #[error("the node of this seat runs, or did a moment ago")]
    SeatTaken,
    /// A node answered something else than was asked: it is of another version.
    #[error("node {0} answered something else than was asked")]
    Odd(Name),
    /// There is no such node in the configuration.
    #[error("there is no node {0}")]
    NoSuchNode(Name),
}

fn told(tried: &BTreeMap<Name, String>) -> String {
    let each: Vec<String> = tried
        .iter()
        .map(|(name, what)| format!("{name}: {what}"))
        .collect();
    each.join("; ")
}

/// Asks a cluster.
#[derive(Debug)]
pub struct Client {
    cluster: Cluster,
    credentials: Arc<LiveCredentials>,
    /// The node that answered last, and the connection to it.
    connection: Option<(Name, Stream)>,
    /// Whom to ask first.
    favourite: Option<Name>,
    /// How long it waits for one node's reply before it asks another.
    patience: Duration,
}

/// What came of one try.
enum Try {
    Done(Reply),
    /// Ask the next one: the leader, if it is known; at once, if so.
    Elsewhere(Option<Name>, String),
    /// The node may have taken it.
    Silence(String),
}

impl Client {
    /// For `cluster`, with `credentials`.
    #[must_use]
    pub const fn new(cluster: Cluster, credentials: Arc<LiveCredentials>) -> Self {
        Self {
            cluster,
            credentials,
            connection: None,
            favourite: None,
            patience: Duration::from_millis(REPLY_MS_MAX),
        }
    }

    /// The same, but it waits so long for one node's reply before it asks another.
    #[must_use]
    pub fn patient_for(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Asks for a change of `vm`'s record.
    ///
    /// # Errors
    /// Where nobody answers in time, or the caller may not ask.
    pub async fn change(
        &mut self,
        vm: &Name,
        request: &Request,
        within: Duration,
    ) -> Result<Answer, ClientError> {
        let demand = Demand::Change {
            vm: vm.clone(),
            request: request.clone(),
        };
        match self.ask(&demand, within).await? {
            Reply::Answer(answer) => Ok(answer),
            other => Err(self.odd(&other)),
        }
    }

    /// The record of `vm` as of now; none if the name was never registered.
    ///
    /// # Errors
    /// As [`Client::change`].
    pub async fn show(&mut self, vm: &Name, within: Duration) -> Result<Option<Record>, ClientError> {
        let query = Query::Show { vm: vm.clone() };
        match self.ask(&Demand::Read(query), within).await? {
            Reply::Record(record) => Ok(record.map(|record| *record)),
            other => Err(self.odd(&other)),
        }
    }

    /// Who holds which VM. `within` is for each page.
    ///
    /// # Errors
    /// As [`Client::change`].
    pub async fn list(&mut self, within: Duration) -> Result<Vec<Summary>, ClientError> {
        let mut all: Vec<Summary> = Vec::new();
        loop {
            let after = all.last().map(|last| last.vm.clone());
            match self.ask(&Demand::Read(Query::List { after }), within).await? {
                Reply::Summaries { page, more } => {
                    let more = more && !page.is_empty();
                    all.extend(page);
                    if !more {
                        return Ok(all);
                    }
                }
                other => return Err(self.odd(&other)),
            }
        }
    }

    /// Every record. `within` is for each page.
    ///
    /// # Errors
    /// As [`Client::change`].
    pub async fn export(&mut self, within: Duration) -> Result<BTreeMap<Name, Record>, ClientError> {
        let mut all = BTreeMap::new();
        loop {
            let after = all.keys().next_back().cloned();
            match self.ask(&Demand::Read(Query::Export { after }), within).await? {
                Reply::Records { page, more } => {
                    let more = more && !page.is_empty();
                    all.extend(page);
                    if !more {
                        return Ok(all);
                    }
                }
                other => return Err(self.odd(&other)),
            }
        }
    }

    /// What the node `name` says of itself.
    ///
    /// # Errors
    /// Where it does not answer in time, or there is no such node.
    pub async fn status(&mut self, name: &Name, within: Duration) -> Result<NodeStatus, ClientError> {
        if !self.cluster.nodes.contains_key(name) {
            return Err(ClientError::NoSuchNode(name.clone()));
        }
        match self.try_node(name, &Demand::Status, within).await {
            Try::Done(Reply::Status(status)) => Ok(*status),
            Try::Done(Reply::Forbidden(why)) => Err(ClientError::Forbidden(why)),
            Try::Done(_) => Err(ClientError::Odd(name.clone())),
            Try::Elsewhere(_, what) | Try::Silence(what) => {
                Err(self.unreachable([(name.clone(), what)].into(), false))
            }
        }
    }

    /// Asks whoever leads.
    ///
    /// # Errors
    /// Where nobody answers in time, or the caller may not ask.
    pub async fn ask(&mut self, demand: &Demand, within: Duration) -> Result<Reply, ClientError> {
        let deadline = Instant::now() + within;
        let changes = matches!(demand, Demand::Change { .. } | Demand::Reseat { .. });
        let (mut tried, mut maybe_done, mut taken) = (BTreeMap::new(), false, false);
        let mut next = self.favourite.clone();
        let mut hops = 0;
        let mut turns = Turns::default();
        loop {
            let begun = Instant::now();
            let left = deadline.saturating_duration_since(begun);
            let in_turn = || turns.next(self.cluster.nodes.keys(), self.favourite.as_ref(), begun);
            let Some(name) = next.take().or_else(|| in_turn().cloned()) else {
                return Err(self.unreachable(tried, maybe_done));
            };
            if left.is_zero() {
                return Err(match taken && !maybe_done {
                    true => ClientError::SeatTaken,
                    false => self.unreachable(tried, maybe_done),
                });
            }
            self.favourite = Some(name.clone());
            let patience = left.min(self.patience);
            let came = self.try_node(&name, demand, patience).await;
            let now = Instant::now();
            turns.note(&name, now, now - begun);
            match came {
                Try::Done(Reply::Forbidden(why)) if !maybe_done => return Err(ClientError::Forbidden(why)),
                Try::Done(Reply::PeerReachable { site }) if !maybe_done => {
                    return Err(ClientError::PeerReachable(site));
                }
                // A guard refuses this copy. An earlier one may be granted all the same: the record will tell.
                Try::Done(Reply::Forbidden(why)) => drop(tried.insert(name, why)),
                Try::Done(Reply::PeerReachable { site }) => {
                    tried.insert(name, format!("site {site} is in touch with it"));
                }
                // It may have ended just now: as long as there is time, it is asked again.
                Try::Done(Reply::SeatTaken) => {
                    taken = true;
                    tried.insert(name, ClientError::SeatTaken.to_string());
                }
                Try::Done(reply) => return Ok(reply),
                Try::Elsewhere(leader, what) => {
                    tried.insert(name.clone(), what);
                    // Not to one that has just been silent: who names it has not noticed yet. Its turn comes.
                    next = leader.filter(|leader| {
                        *leader != name
                            && !turns.passes_over(leader, now)
                            && self.cluster.nodes.contains_key(leader)
                    });
                    hops += 1;
                }
                Try::Silence(what) => {
                    tried.insert(name, what);
                    maybe_done |= changes;
                }
            }
            // A hint is followed at once, but two nodes may each believe that the other leads.
            if next.is_none() || hops % self.cluster.nodes.len().max(1) == 0 {
                sleep(left.min(Duration::from_millis(RETRY_MS))).await;
            }
        }
    }

    async fn try_node(&mut self, name: &Name, demand: &Demand, patience: Duration) -> Try {
        let ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX).max(1);
        let connected = tokio::time::timeout(patience, self.connect(name)).await;
        let mut stream = match connected.unwrap_or(Err(StreamError::Late(ms))) {
            Ok(stream) => stream,
            Err(error) => return Try::Elsewhere(None, error.to_string()),
        };
        let asked = async {
            stream.send_json(Kind::Demand, demand).await?;
            stream.receive_json::<Reply>(Kind::Reply, ms).await
        };
        // Sending may block as well, when the other end takes nothing in.
        match tokio::time::timeout(patience, asked)
            .await
            .unwrap_or(Err(StreamError::Late(ms)))
        {
            Err(error) => Try::Silence(error.to_string()),
            Ok(reply) => {
                self.connection = Some((name.clone(), stream));
                match reply {
                    Reply::NotLeader(None) => Try::Elsewhere(None, "it does not lead".to_owned()),
                    Reply::NotLeader(Some(leader)) => {
                        let what = format!("it does not lead, node {leader} does");
                        Try::Elsewhere(Some(leader), what)
                    }
                    Reply::Busy => Try::Elsewhere(None, "it is busy".to_owned()),
                    Reply::Stalled(why) => Try::Elsewhere(None, why),
                    Reply::Unknown => Try::Silence("it stopped leading".to_owned()),
                    reply => Try::Done(reply),
                }
            }
        }
    }

    /// The connection to `name`; taken out, so that one that fails in use is gone.
    async fn connect(&mut self, name: &Name) -> Result<Stream, StreamError> {
        if let Some((to, stream)) = self.connection.take()
            && to == *name
        {
            return Ok(stream);
        }
        let exactly = PeerRule::Exactly(Identity {
            role: Role::Tiebreaker,
            name: name.clone(),
        });
        let mut stream = dial(&self.cluster.nodes[name], &self.credentials, exactly).await?;
        let hello = Hello::of_client(self.cluster.name.clone());
        stream.send_json(Kind::Hello, &hello).await?;
        Ok(stream)
    }

    fn unreachable(&self, tried: BTreeMap<Name, String>, maybe_done: bool) -> ClientError {
        ClientError::Unreachable {
            cluster: self.cluster.name.clone(),
            tried,
            maybe_done,
        }
    }

    fn odd(&self, _reply: &Reply) -> ClientError {
        let node = self.favourite.clone();
        ClientError::Odd(node.unwrap_or_else(|| self.cluster.name.clone()))
    }
}
