//! The node itself: raft-rs, driven in the order that it asks for.

use std::collections::{BTreeMap, BTreeSet};

use antipode_certs::{Identity, Name, Role};
use raft::eraftpb::{ConfChange, Entry, EntryType, Message, Snapshot};
use raft::{Config, INVALID_ID, RawNode, Ready, SnapshotStatus, StateRole};
use slog::{Discard, Logger, o};

use super::event::{Batch, Demand, Effect, Event, Reply, Ticket};
use super::log::{Log, Recovered, decode_snapshot};
use super::machine::{Applied, Command, Machine, log_decision};
use super::patience::Patience;
use super::reads::Reads;
use super::seats::{NodeId, Seats};
use super::status::{self, NodeStatus};
use super::vet::vet;
use crate::limits::{
    APPEND_BYTES_MAX, APPENDS_IN_FLIGHT_MAX, APPLIED_PER_MARK, ELECTION_TICKS, HEARTBEAT_TICKS,
    UNCOMMITTED_BYTES_MAX, WAITING_REQUESTS_MAX,
};

/// What a node is told at its start.
#[derive(Debug, Clone)]
pub struct NodeSettings {
    /// Its seat.
    pub name: Name,
    /// Its id.
    pub id: NodeId,
    /// Which life of the cluster it belongs to.
    pub era: u64,
    /// The priority of each seat: the higher, the rather it leads.
    pub priorities: BTreeMap<Name, u32>,
    /// Ticks without a word from a site after which an operator may override it: [`crate::limits::site_silent_ticks`].
    pub site_silent_ticks: u64,
    /// Drawn anew at each start: moves its patience, and tells its tickets from those of an earlier run.
    pub seed: u64,
}

/// One node of the tiebreaker.
pub struct Node {
    pub(super) raw: RawNode<Log>,
    pub(super) settings: NodeSettings,
    /// What rides in the next batch.
    unwritten: Batch,
    /// Records that have changed since the applied state was written.
    changed: BTreeSet<Name>,
    /// How far the applied state was written.
    marked: u64,
    /// Whether the applied state rides in the next batch.
    mark_due: bool,
    /// Changes that were proposed here and wait to be applied.
    pub(super) proposed: BTreeSet<Ticket>,
    reads: Reads,
    pub(super) ticks: u64,
    /// When each site was last heard from.
    pub(super) heard: BTreeMap<Name, u64>,
    /// When each node of a seat was last heard from.
    pub(super) spoke: BTreeMap<NodeId, u64>,
    /// Since when this node leads.
    pub(super) leading_since: Option<u64>,
    halted: Option<&'static str>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { settings, ticks, .. } = self;
        write!(f, "Node({} as {}, tick {ticks})", settings.name, settings.id)
    }
}

impl Node {
    /// A node that goes on from what its store holds.
    ///
    /// # Panics
    /// Where `recovered` was not checked ([`Recovered::check`]).
    #[must_use]
    pub fn new(settings: NodeSettings, recovered: Recovered) -> Self {
        assert!(recovered.check().is_ok(), "a store is checked when it is opened");
        let patience = Patience::draw(
            &settings.name,
            settings
                .priorities
                .iter()
                .map(|(name, priority)| (name, *priority)),
            settings.seed,
        );
        let config = Config {
            id: settings.id.0,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            min_election_tick: patience.ticks(),
            max_election_tick: patience.ticks() + 1,
            applied: recovered.applied.index,
            max_size_per_msg: APPEND_BYTES_MAX,
            max_inflight_msgs: APPENDS_IN_FLIGHT_MAX,
            max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
            check_quorum: true,
            pre_vote: true,
            // Only a leader answers, so nobody waits for followers to learn of a commit: the next entry or heartbeat tells
            // them. Half of all messages are saved, and they would compete with the next change.
            skip_bcast_commit: true,
            // Not `priority`: docs/decisions/0010-tiebreaker-consensus-and-store.md.
            ..Config::default()
        };
        let marked = recovered.applied.index;
        let log = Log::new(recovered);
        let raw = RawNode::new(&config, log, &Logger::root(Discard, o!()))
            .expect("the settings are constants that raft-rs accepts, and the log was checked");
        Self {
            raw,
            settings,
            unwritten: Batch::default(),
            changed: BTreeSet::new(),
            marked,
            mark_due: false,
            proposed: BTreeSet::new(),
            reads: Reads::default(),
            ticks: 0,
            heard: BTreeMap::new(),
            spoke: BTreeMap::new(),
            leading_since: None,
            halted: None,
        }
    }

    /// Who sits where, as far as this node knows.
    #[must_use]
    pub fn seats(&self) -> &Seats {
        &self.raw.store().machine.seats
    }

    /// What is agreed on, as far as this node knows.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.raw.store().machine
    }

    /// What it has to say of itself and of the others.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        status::of(&self.raw, &self.settings.name)
    }

    /// Whether it leads, as far as it knows.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// The election that it knows of last, and who won it, as far as it knows.
    #[must_use]
    pub fn leadership(&self) -> (u64, Option<NodeId>) {
        let Self { raw, .. } = self;
        let leader = (raw.raft.leader_id != INVALID_ID).then_some(NodeId(raw.raft.leader_id));
        (raw.raft.term, leader)
    }

    /// Entries that the log holds in memory.
    #[must_use]
    pub fn log_length(&self) -> u64 {
        let log = self.raw.store();
        log.last() - log.mark().base.index
    }

    /// What `events` make the node want. See the module's head for how to carry it out. What comes together is written
    /// together: so many requests share one wait for the disk.
    pub fn step(&mut self, events: impl IntoIterator<Item = Event>) -> Vec<Effect> {
        let mut effects = Vec::new();
        for event in events {
            self.take(event, &mut effects);
        }
        if self.halted.is_none() {
            self.settle(&mut effects);
        }
        effects
    }

    fn take(&mut self, event: Event, effects: &mut Vec<Effect>) {
        if let Some(why) = self.halted {
            if let Event::Request { ticket, .. } = event {
                effects.push(Effect::Answer(ticket, Reply::Stalled(why.to_owned())));
            }
            return;
        }
        match event {
            Event::Tick => self.tick(),
            Event::Message(message) => self.take_message(*message, effects),
            Event::Request {
                ticket,
                from,
                at_unix_seconds,
                demand,
            } => {
                if from.role == Role::Site {
                    self.heard.insert(from.name.clone(), self.ticks);
                }
                if let Some(reply) = self.take_demand(ticket, from, at_unix_seconds, demand) {
                    effects.push(Effect::Answer(ticket, reply));
                }
            }
            Event::SnapshotSent { to, whole } => {
                let status = if whole {
                    SnapshotStatus::Finish
                } else {
                    SnapshotStatus::Failure
                };
                self.raw.report_snapshot(to.0, status);
            }
            Event::Unreachable(to) => self.raw.report_unreachable(to.0),
        }
    }

    fn tick(&mut self) {
        self.ticks += 1;
        self.raw.tick();
        if !self.leads() || !self.ticks.is_multiple_of(HEARTBEAT_TICKS as u64) {
            return;
        }
        self.reads.close_round();
        self.tend_membership();
        if self.ticks.is_multiple_of(ELECTION_TICKS as u64) {
            self.hand_over();
        }
    }

    fn take_message(&mut self, message: Message, effects: &mut Vec<Effect>) {
        let from = NodeId(message.from);
        if let Err(why) = vet(&self.raw.raft, &message) {
            effects.push(Effect::Refuse(from, why));
            return;
        }
        if self.seats().name_of(from).is_some() {
            self.spoke.insert(from, self.ticks);
            let seats = &self.raw.store().machine.seats;
            self.spoke.retain(|id, _| seats.name_of(*id).is_some());
        }
        // Errors are of messages that are late or from nobody: both are as if lost.
        let _ = self.raw.step(message);
    }

    /// The reply, where there is one at once.
    fn take_demand(
        &mut self,
        ticket: Ticket,
        from: Identity,
        at_unix_seconds: i64,
        demand: Demand,
    ) -> Option<Reply> {
        if !self.leads() && demand != Demand::Status {
            let leader = self.seats().name_of(NodeId(self.raw.raft.leader_id)).cloned();
            return Some(Reply::NotLeader(leader));
        }
        if self.proposed.len() + self.reads.count() >= WAITING_REQUESTS_MAX && demand != Demand::Status {
            return Some(Reply::Busy);
        }
        let command = match demand {
            Demand::Change { vm, mut request } => {
                if let Some(reply) = self.guard(&vm, &request) {
                    return Some(reply);
                }
                request.at_unix_seconds = at_unix_seconds;
                Command::Change {
                    caller: from,
                    vm,
                    request,
                }
            }
            Demand::Reseat { lost, nonce } => match self.guard_seat(&from) {
                Some(reply) => return Some(reply),
                None => Command::Reseat {
                    name: from.name,
                    lost,
                    nonce,
                },
            },
            Demand::Read(query) => {
                self.reads.ask(ticket, query);
                return None;
            }
            Demand::Status => return Some(Reply::Status(Box::new(self.status()))),
        };
        let context = [self.settings.seed.to_be_bytes(), ticket.0.to_be_bytes()].concat();
        match self.raw.propose(context, command.encode()) {
            Ok(()) => {
                self.proposed.insert(ticket);
                None
            }
            Err(_) => Some(Reply::Busy),
        }
    }

    /// Takes everything out of raft-rs that it has to say, in its order.
    fn settle(&mut self, effects: &mut Vec<Effect>) {
        loop {
            // A leader that has committed nothing in its term does not know yet what is committed, and raft-rs would
            // drop the question.
            if self.leads()
                && self.raw.raft.commit_to_current_term()
                && let Some(round) = self.reads.open_round()
            {
                self.raw.read_index(round);
            }
            if self.halted.is_some() || !self.raw.has_ready() {
                break;
            }
            let ready = self.raw.ready();
            self.take_ready(ready, effects);
        }
        self.watch_leadership(effects);
        let applied = self.raw.store().applied;
        for (ticket, query) in self.reads.take_ready(applied) {
            effects.push(Effect::Answer(ticket, status::answer(self.raw.store(), &query)));
        }
    }

    fn take_ready(&mut self, mut ready: Ready, effects: &mut Vec<Effect>) {
        send(ready.take_messages(), effects);
        if !ready.snapshot().is_empty() {
            self.install(ready.snapshot());
        }
        let entries = ready.take_entries();
        let log = self.raw.mut_store();
        self.unwritten.removed.extend(log.append(&entries));
        self.unwritten.entries.extend(entries);
        if let Some(hard_state) = ready.hs() {
            log.hard_state = hard_state.clone();
            self.unwritten.hard_state = Some(hard_state.clone());
        }
        if ready.must_sync() {
            effects.push(Effect::Persist(Box::new(self.take_batch())));
        }
        send(ready.take_persisted_messages(), effects);
        for round in ready.take_read_states() {
            self.reads.confirm(&round.request_ctx, round.index);
        }
        let committed = ready.take_committed_entries();
        self.apply(&committed, effects);
        let mut light = self.raw.advance_append(ready);
        if let Some(commit) = light.commit_index() {
            let log = self.raw.mut_store();
            log.hard_state.commit = commit;
            self.unwritten.hard_state = Some(log.hard_state.clone());
        }
        send(light.take_messages(), effects);
        let committed = light.take_committed_entries();
        self.apply(&committed, effects);
        self.raw.advance_apply();
    }

    /// What waits to be written, now and then with the applied state: between, it follows from the log. Records belong to
    /// their mark: applied to newer ones, the log from there on would come to something else.
    fn take_batch(&mut self) -> Batch {
        if !self.mark_due {
            return std::mem::take(&mut self.unwritten);
        }
        let log = self.raw.mut_store();
        for vm in std::mem::take(&mut self.changed) {
            if let Some(record) = log.machine.records.get(&vm) {
                self.unwritten.records.insert(vm, record.clone());
            }
        }
        self.unwritten.removed.extend(log.cut());
        self.unwritten.applied = Some(log.mark());
        self.unwritten.hard_state = Some(log.hard_state.clone());
        self.marked = log.applied;
        self.mark_due = false;
        std::mem::take(&mut self.unwritten)
    }

    fn install(&mut self, snapshot: &Snapshot) {
        let machine = decode_snapshot(snapshot).expect("a snapshot is decoded before raft-rs sees it");
        let log = self.raw.mut_store();
        log.install(snapshot, machine);
        self.unwritten = Batch {
            replaces_all: true,
            hard_state: Some(log.hard_state.clone()),
            records: log.machine.records.clone(),
            ..Batch::default()
        };
        self.changed.clear();
        self.mark_due = true;
    }

    fn apply(&mut self, entries: &[Entry], effects: &mut Vec<Effect>) {
        for entry in entries {
            if self.halted.is_some() {
                return;
            }
            match entry.get_entry_type() {
                // A leader's first entry in its term is empty.
                EntryType::EntryNormal if entry.data.is_empty() => {}
                EntryType::EntryNormal => self.apply_command(entry, effects),
                EntryType::EntryConfChange => self.apply_membership(entry),
                EntryType::EntryConfChangeV2 => {
                    self.halt("the log holds a change that this version never makes", effects)
                }
            }
            self.raw.mut_store().applied = entry.index;
            self.mark_due |= entry.index >= self.marked + APPLIED_PER_MARK;
        }
    }

    fn apply_command(&mut self, entry: &Entry, effects: &mut Vec<Effect>) {
        let Ok(command) = Command::decode(&entry.data) else {
            return self.halt(
                "the log holds a command of a later version; upgrade this node",
                effects,
            );
        };
        let machine = &mut self.raw.mut_store().machine;
        let applied = machine.apply(&command);
        self.mark_due |= matches!(applied, Applied::Seat(_));
        if let Command::Change { vm, caller, request } = command {
            log_decision(&vm, &caller, &request, &applied);
            self.changed.insert(vm);
        }
        let ticket = own_ticket(&entry.context, self.settings.seed);
        if let Some(ticket) = ticket.filter(|ticket| self.proposed.remove(ticket)) {
            let reply = match applied {
                Applied::Answer(answer) => Reply::Answer(answer),
                Applied::Seat(Some(id)) => Reply::Seat {
                    id,
                    era: self.settings.era,
                    seats: self.seats().clone(),
                },
                Applied::Seat(None) => Reply::Forbidden("this seat was given anew meanwhile".to_owned()),
            };
            effects.push(Effect::Answer(ticket, reply));
        }
    }

    fn apply_membership(&mut self, entry: &Entry) {
        // An entry that another change overtook was emptied by raft-rs; an empty one changes nothing.
        let mut change = ConfChange::default();
        if protobuf::Message::merge_from_bytes(&mut change, &entry.data).is_ok()
            && let Ok(conf_state) = self.raw.apply_conf_change(&change)
        {
            self.raw.mut_store().conf_state = conf_state;
        }
        // Who votes is known at a start without a look into the log.
        self.mark_due = true;
    }

    fn halt(&mut self, why: &'static str, effects: &mut Vec<Effect>) {
        self.halted = Some(why);
        effects.push(Effect::Halt(why));
        self.give_up_waiting(effects);
    }

    /// Whoever waits for a node that does not lead any more is told so.
    fn watch_leadership(&mut self, effects: &mut Vec<Effect>) {
        if self.leads() {
            self.leading_since.get_or_insert(self.ticks);
        } else {
            self.leading_since = None;
            self.give_up_waiting(effects);
        }
    }

    fn give_up_waiting(&mut self, effects: &mut Vec<Effect>) {
        let proposed = std::mem::take(&mut self.proposed);
        effects.extend(
            proposed
                .into_iter()
                .map(|ticket| Effect::Answer(ticket, Reply::Unknown)),
        );
        let leader = match self.raw.raft.leader_id {
            INVALID_ID => None,
            id => self.seats().name_of(NodeId(id)).cloned(),
        };
        for ticket in self.reads.take_all() {
            effects.push(Effect::Answer(ticket, Reply::NotLeader(leader.clone())));
        }
    }
}

/// Consensus sends many small messages at once: one effect carries them.
fn send(messages: Vec<Message>, effects: &mut Vec<Effect>) {
    if !messages.is_empty() {
        effects.push(Effect::Send(messages));
    }
}

/// The ticket in an entry's context, if this run of the node has put it there.
fn own_ticket(context: &[u8], seed: u64) -> Option<Ticket> {
    let (run, ticket) = context.split_first_chunk::<8>()?;
    let ticket: [u8; 8] = ticket.try_into().ok()?;
    (u64::from_be_bytes(*run) == seed).then(|| Ticket(u64::from_be_bytes(ticket)))
}
