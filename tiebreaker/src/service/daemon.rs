//! The process: the node's desk, the tasks around it, and their end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use antipode_certs::tls::LiveCredentials;
use antipode_certs::{Identity, Name, PeerRule, Role};
use raft::eraftpb::Message;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::driver::{Driver, Outbox, Stop};
use super::inbox::{self, Inbox, View, Work};
use super::outbound::Outbound;
use super::{ServiceError, ServiceSettings, Surroundings, session};
use crate::limits::{HEARTBEAT_TICKS, OUTBOX_MESSAGES_MAX, REOPEN_TICKS, SESSIONS_MAX, site_silent_ticks};
use crate::node::{Demand, Event, Impossible, Node, NodeId, NodeSettings, NodeStatus, Reply, Ticket};
use crate::store::{DiskStore, Owner, StoreError};
use crate::wire::{Hello, Listener};

/// Events that the node takes in one step, and so with one wait for the disk.
const EVENTS_PER_STEP: usize = 256;

/// Milliseconds between two looks at the certificates' files, for a node that makes few connections.
const CERTIFICATES_MS: u64 = 60_000;

/// Runs a node until `end` comes; `ready` is told where it listens. Whatever runs this waits for the node's disk: it should
/// be a thread of its own.
///
/// # Errors
/// Where it cannot start.
pub async fn serve(
    settings: ServiceSettings,
    surroundings: Surroundings,
    ready: oneshot::Sender<std::net::SocketAddr>,
    end: impl Future<Output = ()>,
) -> Result<(), ServiceError> {
    let own = PeerRule::Exactly(Identity {
        role: Role::Tiebreaker,
        name: settings.name.clone(),
    });
    let credentials = LiveCredentials::open(
        settings.credentials.clone(),
        &own,
        Arc::clone(&surroundings.clock),
    )?;
    let (store, owner, content) = DiskStore::open(&settings.data, &settings.cluster, &settings.name)?;
    let view = Arc::new(View::new(owner.clone(), content.applied.seats.clone()));
    let everyone = PeerRule::AnyOf(Role::ALL.to_vec());
    let listen_failed = |source| ServiceError::Listen {
        address: settings.listen,
        source,
    };
    let listener = Listener::bind(settings.listen, Arc::clone(&credentials), everyone)
        .await
        .map_err(listen_failed)?;
    let address = listener.address().map_err(listen_failed)?;
    let (inbox, work) = inbox::pair();
    let mut tasks = JoinSet::new();
    let mut queues = BTreeMap::new();
    for (name, seat) in settings.seats.iter().filter(|(name, _)| **name != settings.name) {
        let (queue, messages) = mpsc::channel(OUTBOX_MESSAGES_MAX);
        queues.insert(name.clone(), queue);
        let outbound = Outbound {
            name: name.clone(),
            address: seat.address.clone(),
            credentials: Arc::clone(&credentials),
            hello: Hello::of_node(&owner),
            inbox: inbox.clone(),
        };
        tasks.spawn(outbound.run(messages));
    }
    tasks.spawn(tick(inbox.clone(), settings.heartbeat_ms));
    tasks.spawn(look_after(credentials));
    tasks.spawn(accept(Arc::new(listener), inbox.clone(), Arc::clone(&view)));
    let desk = Desk {
        settings,
        surroundings,
        view,
        queues,
        waiting: BTreeMap::new(),
        tickets: 0,
        unsent: Vec::new(),
        speaking: BTreeMap::new(),
        leader: None,
    };
    let node = desk.node(&owner, content, 0);
    // Whoever wants to know has gone: nothing to do.
    let _ = ready.send(address);
    tokio::select! {
        // A write is never cut short: nothing is awaited in its middle.
        () = end => {}
        () = desk.run(Driver::new(node, store), work) => {}
    }
    tasks.shutdown().await;
    Ok(())
}

async fn tick(inbox: Inbox, heartbeat_ms: u64) {
    let mut ticks = interval(Duration::from_micros(
        heartbeat_ms * 1000 / HEARTBEAT_TICKS as u64,
    ));
    // Not later and later under load, and not many at once after a stall: what came meanwhile is read first.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        inbox.post(Work::Event(Event::Tick));
    }
}

async fn look_after(credentials: Arc<LiveCredentials>) {
    loop {
        sleep(Duration::from_millis(CERTIFICATES_MS)).await;
        credentials.refresh();
    }
}

/// Sessions end with this task, and with them the last that keeps the address.
async fn accept(listener: Arc<Listener>, inbox: Inbox, view: Arc<View>) {
    let places = Arc::new(Semaphore::new(SESSIONS_MAX));
    let mut sessions = JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        while sessions.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((tcp, _)) => {
                let session = session::serve(Arc::clone(&listener), tcp, inbox.clone(), Arc::clone(&view));
                sessions.spawn(async move {
                    session.await;
                    drop(place);
                });
            }
            Err(error) => {
                // The host is out of descriptors, or the other end left at once.
                tracing::warn!("a connection could not be taken: {error}");
                sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

/// What the node has on its desk, besides itself.
struct Desk {
    settings: ServiceSettings,
    surroundings: Surroundings,
    view: Arc<View>,
    queues: BTreeMap<Name, mpsc::Sender<Message>>,
    waiting: BTreeMap<Ticket, oneshot::Sender<Reply>>,
    tickets: u64,
    /// Messages that found no room, or nobody: consensus is told.
    unsent: Vec<Message>,
    /// How to end the session that each node speaks through.
    speaking: BTreeMap<NodeId, mpsc::Sender<Impossible>>,
    /// Who leads, as was last logged.
    leader: Option<NodeId>,
}

impl Desk {
    fn node(&self, owner: &Owner, content: crate::node::Recovered, restarts: u64) -> Node {
        let settings = NodeSettings {
            name: owner.name.clone(),
            id: owner.id,
            era: owner.era,
            priorities: self
                .settings
                .seats
                .iter()
                .map(|(name, seat)| (name.clone(), seat.priority))
                .collect(),
            site_silent_ticks: site_silent_ticks(self.settings.heartbeat_ms),
            seed: self.surroundings.seed.wrapping_add(restarts),
        };
        Node::new(settings, content)
    }

    /// As long as work comes. A node that cannot go on is stalled until its store can be opened anew.
    async fn run(mut self, driver: Driver<DiskStore>, mut work: mpsc::Receiver<Work>) {
        let mut restarts = 0;
        let mut driver = driver;
        loop {
            let last = driver.node().status();
            let Some(stop) = self.drive(driver, &mut work).await else {
                return;
            };
            self.waiting.clear();
            self.leader = None;
            tracing::error!("this node takes no part any more: {stop}");
            let reopen = |desk: &Self| {
                restarts += 1;
                desk.reopen(restarts)
            };
            match self.stall(&stop, last, &mut work, reopen).await {
                Some(reopened) => driver = reopened,
                None => return,
            }
            tracing::info!("this node takes part again");
        }
    }

    fn reopen(&self, restarts: u64) -> Result<Driver<DiskStore>, StoreError> {
        let Self { settings, .. } = self;
        let (store, owner, content) = DiskStore::open(&settings.data, &settings.cluster, &settings.name)?;
        Ok(Driver::new(self.node(&owner, content, restarts), store))
    }

    /// Until no work comes any more, or until the node stops.
    async fn drive(
        &mut self,
        mut driver: Driver<DiskStore>,
        work: &mut mpsc::Receiver<Work>,
    ) -> Option<Stop> {
        let mut taken = Vec::new();
        while work.recv_many(&mut taken, EVENTS_PER_STEP).await > 0 {
            let mut events: Vec<Event> = taken.drain(..).map(|work| self.event(work)).collect();
            while !events.is_empty() {
                if let Err(stop) = driver.take(std::mem::take(&mut events), self).await {
                    return Some(stop);
                }
                events.extend(self.unsent.drain(..).map(|message| {
                    let to = NodeId(message.to);
                    match message.get_msg_type() {
                        raft::eraftpb::MessageType::MsgSnapshot => Event::SnapshotSent { to, whole: false },
                        _ => Event::Unreachable(to),
                    }
                }));
            }
            self.view.set_seats(driver.node().seats());
            self.log_leadership(driver.node());
        }
        None
    }

    fn log_leadership(&mut self, node: &Node) {
        let (term, leader) = node.leadership();
        if leader == self.leader {
            return;
        }
        self.leader = leader;
        match leader {
            None => tracing::warn!("nobody leads, as far as this node knows, since term {term}"),
            Some(id) => match node.seats().name_of(id) {
                Some(name) => tracing::info!("node {name} leads in term {term}"),
                None => tracing::info!("node {id} leads in term {term}"),
            },
        }
    }

    fn event(&mut self, work: Work) -> Event {
        match work {
            Work::Event(event) => event,
            Work::Message { message, end } => {
                self.speaking.insert(NodeId(message.from), end);
                Event::Message(message)
            }
            Work::Request { from, demand, reply } => self.request(from, demand, reply),
        }
    }

    fn request(&mut self, from: Identity, demand: Demand, reply: oneshot::Sender<Reply>) -> Event {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.waiting.insert(ticket, reply);
        Event::Request {
            ticket,
            from,
            at_unix_seconds: self.surroundings.clock.now().seconds(),
            demand,
        }
    }

    /// Answers that this node is stalled, and tries `again` from time to time. None when no work comes any more.
    async fn stall<T>(
        &self,
        stop: &Stop,
        mut last: NodeStatus,
        work: &mut mpsc::Receiver<Work>,
        mut again: impl FnMut(&Self) -> Result<T, StoreError>,
    ) -> Option<T> {
        let mut why = stop.to_string();
        let mut ticks = 0;
        while let Some(work) = work.recv().await {
            match work {
                Work::Request { demand, reply, .. } => {
                    last.role = "stalled".to_owned();
                    last.leader = None;
                    last.stalled = Some(why.clone());
                    last.faulty_sessions = self.view.faulty_sessions();
                    // A client that has gone needs no answer.
                    let _ = reply.send(match demand {
                        Demand::Status => Reply::Status(Box::new(last.clone())),
                        _ => Reply::Stalled(why.clone()),
                    });
                }
                Work::Event(Event::Tick) => ticks += 1,
                Work::Event(_) | Work::Message { .. } => {}
            }
            if ticks >= REOPEN_TICKS && matches!(stop, Stop::Store(_)) {
                ticks = 0;
                match again(self) {
                    Ok(opened) => return Some(opened),
                    Err(error) => why = error.to_string(),
                }
            }
        }
        None
    }
}

impl Outbox for Desk {
    fn send(&mut self, message: Message) {
        let name = self.view.name_of(NodeId(message.to));
        match name.and_then(|name| self.queues.get(&name)) {
            Some(queue) => {
                if let Err(refused) = queue.try_send(message) {
                    self.unsent.push(refused.into_inner());
                }
            }
            None => self.unsent.push(message),
        }
    }

    /// The tasks that write to the sockets run on this thread, as soon as this one lets them.
    async fn depart(&mut self) {
        yield_now().await;
    }

    fn answer(&mut self, ticket: Ticket, mut reply: Reply) {
        if let Reply::Status(status) = &mut reply {
            status.faulty_sessions = self.view.faulty_sessions();
            status.stalled = self.view.superseded();
        }
        if let Some(waiting) = self.waiting.remove(&ticket) {
            // A client that has gone needs no answer.
            let _ = waiting.send(reply);
        }
    }

    fn refuse(&mut self, from: NodeId, why: Impossible) {
        if let Some(end) = self.speaking.remove(&from) {
            // It has ended by itself, or is told already.
            let _ = end.try_send(why);
        }
    }
}
