//! Three nodes, their disks, the network between them, and everything that goes wrong. All of it follows from a seed.

use std::collections::BTreeMap;

use antipode_certs::{Identity, Name, Role};
use antipode_tiebreaker::node::{
    Demand, Effect, Event, Node, NodeId, NodeSettings, Recovered, Reply, Seats, Standing, Ticket,
};
use antipode_tiebreaker::store::Owner;
use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType};

use super::clients::{Client, Sending};
use super::disk::Disk;
use super::history::Deed;
use super::random::Random;

/// Moments of trouble.
pub(crate) const TROUBLE: u64 = 1500;
/// Moments of peace within which all must be well again.
const PEACE_MAX: u64 = 4000;
/// Who speaks when a node asks for a new seat.
const REJOINING: usize = usize::MAX;

/// A rule that is left out, so that the checkers have something to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    None,
    /// Batches are not synced.
    NoSync,
    /// Messages and answers leave before the batch before them is written.
    SpeakFirst,
    /// Reads are answered from whatever a node has.
    ReadAnywhere,
    /// A node that lost its disk comes back under its old id.
    SameIdAgain,
}

struct Slot {
    name: Name,
    id: NodeId,
    disk: Disk,
    node: Option<Node>,
    /// Until when it is down, or frozen.
    back_at: u64,
    boots: u64,
    asking: BTreeMap<Ticket, (usize, u64)>,
    /// Its disk is gone; it wants a new seat.
    homeless: bool,
}

enum Parcel {
    Message(usize, usize, Box<Message>),
    SnapshotSent(usize, NodeId, bool),
    Demand(usize, u64, usize, Demand),
    Reply(usize, u64, Reply),
}

pub(crate) struct World {
    now: u64,
    random: Random,
    flaw: Flaw,
    seed: u64,
    slots: Vec<Slot>,
    clients: Vec<Client>,
    vms: Vec<Name>,
    pub(crate) deeds: Vec<Deed>,
    parcels: BTreeMap<(u64, u64), Parcel>,
    sent: u64,
    cut: [[bool; 3]; 3],
    tickets: u64,
    /// How hostile this world is, in permille per message or moment.
    loss: u64,
    crash: u64,
    pub(crate) trace: Vec<u8>,
    pub(crate) seen: Seen,
}

/// What has happened, so that a simulation in which nothing does is noticed.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) crashes: u64,
    pub(crate) torn: u64,
    pub(crate) snapshots: u64,
    pub(crate) reseats: u64,
    pub(crate) elections: u64,
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

impl World {
    pub(crate) fn new(seed: u64, flaw: Flaw) -> Self {
        let mut random = Random::new(seed);
        let names = ["a", "b", "c"].map(name);
        let seats = Seats::first(names.iter().cloned());
        let slots = names.into_iter().map(|name| {
            let id = seats.id_of(&name).unwrap();
            let owner = owner(&name, id);
            let content = Recovered::first(seats.clone(), BTreeMap::new());
            Slot {
                disk: Disk::create(&owner, &content),
                name,
                id,
                node: None,
                back_at: 0,
                boots: 0,
                asking: BTreeMap::new(),
                homeless: false,
            }
        });
        Self {
            now: 0,
            flaw,
            seed,
            slots: slots.collect(),
            clients: ["site/a", "site/b", "operator/o"]
                .map(|path| Client::new(&format!("antipode://{path}")))
                .into(),
            vms: vec![name("x"), name("y")],
            deeds: Vec::new(),
            parcels: BTreeMap::new(),
            sent: 0,
            cut: [[false; 3]; 3],
            tickets: 0,
            loss: random.below(150),
            crash: random.below(6),
            random,
            trace: Vec::new(),
            seen: Seen::default(),
        }
    }

    /// Trouble, then peace in which everything must come right; at last each VM is read.
    pub(crate) fn run(&mut self) -> Result<(), String> {
        while self.now < TROUBLE {
            self.trouble();
            self.moment(true);
        }
        self.cut = [[false; 3]; 3];
        (self.loss, self.crash) = (0, 0);
        for slot in &mut self.slots {
            slot.back_at = slot.back_at.min(self.now + 1);
        }
        let end = self.now + PEACE_MAX;
        while !self.is_well() {
            if self.now > end {
                let states: Vec<_> = self
                    .slots
                    .iter()
                    .map(|slot| slot.node.as_ref().map(Node::status))
                    .collect();
                return Err(format!(
                    "nothing is well {PEACE_MAX} moments after the last trouble: {states:#?}"
                ));
            }
            self.moment(false);
        }
        for vm in self.vms.clone() {
            let (to, demand) = self.clients[0].begin(self.now, &vm, None, &mut self.deeds);
            self.post_demand(0, to, demand);
            while !self.clients[0].is_idle() {
                if self.now > end + PEACE_MAX {
                    return Err("a last read is not answered".to_owned());
                }
                self.moment(false);
            }
        }
        Ok(())
    }

    /// All nodes are up, vote, and agree; no client waits.
    fn is_well(&self) -> bool {
        let Some(nodes) = self
            .slots
            .iter()
            .map(|slot| slot.node.as_ref())
            .collect::<Option<Vec<_>>>()
        else {
            return false;
        };
        let leaders = nodes.iter().filter(|node| node.leads()).count();
        let agree = nodes
            .windows(2)
            .all(|pair| pair[0].machine() == pair[1].machine());
        let vote = nodes.iter().all(|node| {
            let status = node.status();
            status.peers.iter().all(|peer| peer.standing == Standing::Voter)
        });
        leaders == 1 && agree && vote && self.clients.iter().all(Client::is_idle)
    }

    fn trouble(&mut self) {
        if self.random.permille(8) {
            self.cut = [[false; 3]; 3];
            let (one, kind) = (self.random.index(3), self.random.below(4));
            for other in (0..3).filter(|other| *other != one) {
                self.cut[one][other] = kind == 1 || kind == 2;
                self.cut[other][one] = kind == 1 || kind == 3;
            }
        }
        for index in 0..3 {
            if self.random.permille(self.crash) {
                self.crash_node(index);
            } else if self.random.permille(2) {
                // Frozen, as by SIGSTOP: it knows nothing of it.
                self.slots[index].back_at = self.now + self.random.below(200);
            }
        }
        // One disk is lost, in every second world.
        if self.now == TROUBLE / 2 && self.seed.is_multiple_of(2) {
            let index = self.random.index(3);
            self.crash_node(index);
            let slot = &mut self.slots[index];
            if self.flaw == Flaw::SameIdAgain {
                let seats = Seats::first(["a", "b", "c"].map(name));
                let content = Recovered::first(seats, BTreeMap::new());
                slot.disk = Disk::create(&owner(&slot.name, slot.id), &content);
            } else {
                slot.homeless = true;
            }
        }
    }

    fn crash_node(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        slot.node = None;
        slot.asking.clear();
        slot.disk.crash(&mut self.random);
        slot.back_at = self.now + 1 + self.random.below(150);
        self.seen.crashes += 1;
    }

    fn moment(&mut self, clients_act: bool) {
        self.now += 1;
        while let Some(entry) = self.parcels.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let parcel = entry.remove();
            self.deliver(parcel);
        }
        for index in 0..self.slots.len() {
            self.live(index);
        }
        for index in 0..self.clients.len() {
            let client = &mut self.clients[index];
            if clients_act || !client.is_idle() {
                let sending = client.act(self.now, &self.vms, &mut self.deeds, &mut self.random);
                self.post(index, sending);
            }
        }
    }

    /// A node's moment: it comes up, or its timer runs.
    fn live(&mut self, index: usize) {
        if self.slots[index].back_at > self.now {
            return;
        }
        if self.slots[index].homeless {
            if self.now.is_multiple_of(100) {
                let (to, lost) = (self.random.index(3), self.slots[index].id);
                self.post_demand(REJOINING, to, Demand::Reseat { lost, nonce: 7 });
            }
            return;
        }
        if self.slots[index].node.is_none() {
            self.boot(index);
        }
        self.step(index, Event::Tick);
    }

    fn boot(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        slot.boots += 1;
        let (owner, content) = slot
            .disk
            .recover()
            .unwrap_or_else(|error| panic!("node {}: {error}", slot.name));
        slot.id = owner.id;
        let settings = NodeSettings {
            name: slot.name.clone(),
            id: owner.id,
            era: 0,
            priorities: [(name("a"), 1), (name("b"), 1), (name("c"), 2)].into(),
            site_silent_ticks: 500,
            seed: self
                .seed
                .wrapping_mul(31)
                .wrapping_add(slot.boots * 8 + index as u64),
        };
        slot.node = Some(Node::new(settings, content));
    }

    fn step(&mut self, index: usize, event: Event) {
        let Some(node) = &mut self.slots[index].node else {
            return;
        };
        let led = node.leads();
        let mut effects = node.step([event]);
        self.seen.elections += u64::from(node.leads() && !led);
        if self.flaw == Flaw::SpeakFirst {
            effects.sort_by_key(|effect| matches!(effect, Effect::Persist(_)));
        }
        for effect in effects {
            match effect {
                Effect::Persist(batch) => {
                    let slot = &mut self.slots[index];
                    slot.disk.append(&batch);
                    if self.random.permille(8 * self.crash) {
                        self.seen.torn += 1;
                        return self.crash_node(index);
                    }
                    if self.flaw != Flaw::NoSync {
                        slot.disk.sync();
                    }
                }
                Effect::Send(messages) => messages.into_iter().for_each(|message| self.send(index, message)),
                Effect::Answer(ticket, reply) => {
                    if let Some((client, attempt)) = self.slots[index].asking.remove(&ticket) {
                        self.put(Parcel::Reply(client, attempt, reply));
                    }
                }
                Effect::Refuse(from, why) => panic!("node {index} refuses a sound node, {from}: {why}"),
                Effect::Halt(why) => panic!("node {index} halts: {why}"),
            }
        }
    }

    fn send(&mut self, from: usize, message: Message) {
        let to = self.slots.iter().position(|slot| slot.id.0 == message.to);
        let lost = self.random.permille(self.loss) || to.is_none_or(|to| self.cut[from][to]);
        if message.get_msg_type() == MessageType::MsgSnapshot {
            self.seen.snapshots += 1;
            self.put(Parcel::SnapshotSent(from, NodeId(message.to), !lost));
        }
        if let Some(to) = to.filter(|_| !lost) {
            if self.random.permille(30) {
                self.put(Parcel::Message(from, to, Box::new(message.clone())));
            }
            self.put(Parcel::Message(from, to, Box::new(message)));
        }
    }

    fn put(&mut self, parcel: Parcel) {
        let slow = if self.random.permille(50) { 80 } else { 6 };
        let due = self.now + 1 + self.random.below(slow);
        self.sent += 1;
        self.parcels.insert((due, self.sent), parcel);
    }

    fn post(&mut self, client: usize, sending: Option<Sending>) {
        if let Some((to, demand)) = sending {
            self.post_demand(client, to, demand);
        }
    }

    fn post_demand(&mut self, client: usize, to: usize, demand: Demand) {
        let attempt = self.clients.get(client).map_or(0, |client| client.attempt);
        if !self.random.permille(self.loss) {
            self.put(Parcel::Demand(client, attempt, to, demand));
        }
    }

    fn deliver(&mut self, parcel: Parcel) {
        self.trace.extend(self.now.to_be_bytes());
        match parcel {
            Parcel::Message(from, to, message) => {
                self.trace.extend(message.write_to_bytes().unwrap());
                if self.slots[to].back_at > self.now {
                    // In the buffer of a frozen node, or gone with one that is down.
                    if self.slots[to].node.is_some() {
                        self.put(Parcel::Message(from, to, message));
                    }
                } else if self.slots[to].id.0 == message.to {
                    self.step(to, Event::Message(message));
                }
            }
            Parcel::SnapshotSent(at, to, whole) => self.step(at, Event::SnapshotSent { to, whole }),
            Parcel::Demand(client, attempt, to, demand) => self.deliver_demand(client, attempt, to, demand),
            Parcel::Reply(REJOINING, _, Reply::Seat { id, seats, .. }) => {
                if let Some(slot) = self.slots.iter_mut().find(|slot| slot.homeless)
                    && seats.id_of(&slot.name) == Some(id)
                {
                    slot.disk = Disk::create(&owner(&slot.name, id), &Recovered::joining(seats));
                    slot.id = id;
                    slot.homeless = false;
                    self.seen.reseats += 1;
                }
            }
            Parcel::Reply(REJOINING, ..) => {}
            Parcel::Reply(client, attempt, reply) => {
                self.trace.extend(serde_json::to_vec(&reply).unwrap());
                let asking = &mut self.clients[client];
                if asking.attempt == attempt {
                    let slots = &self.slots;
                    let slot_of = |name: &Name| slots.iter().position(|slot| slot.name == *name).unwrap();
                    let sending = asking.hear(self.now, reply, slot_of, &mut self.deeds, &mut self.random);
                    self.post(client, sending);
                }
            }
        }
    }

    fn deliver_demand(&mut self, client: usize, attempt: u64, to: usize, demand: Demand) {
        let from = match self.clients.get(client) {
            Some(client) => client.identity.clone(),
            None => Identity {
                role: Role::Tiebreaker,
                name: match self.slots.iter().find(|slot| slot.homeless) {
                    Some(slot) => slot.name.clone(),
                    None => return,
                },
            },
        };
        let slot = &mut self.slots[to];
        let Some(node) = slot.node.as_ref().filter(|_| slot.back_at <= self.now) else {
            return;
        };
        if let (Flaw::ReadAnywhere, Demand::Read(antipode_tiebreaker::node::Query::Show { vm })) =
            (self.flaw, &demand)
        {
            let record = node
                .machine()
                .records
                .get(vm)
                .map(|record| Box::new(antipode_tiebreaker::Record::clone(record)));
            return self.put(Parcel::Reply(client, attempt, Reply::Record(record)));
        }
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        slot.asking.insert(ticket, (client, attempt));
        let request = Event::Request {
            ticket,
            from,
            at_unix_seconds: 0,
            demand,
        };
        self.step(to, request);
    }
}

fn owner(seat: &Name, id: NodeId) -> Owner {
    Owner {
        cluster: name("test"),
        era: 0,
        name: seat.clone(),
        id,
    }
}
