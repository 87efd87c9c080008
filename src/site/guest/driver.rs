//! The driver of a VM process: it owns the role, and everything that the role decides about.
//!
//! ```text
//!   vCPU thread ─┐                                        ┌─▶ vCPU thread: orders
//!   channel ─────┤                                        ├─▶ channel, heartbeats
//!   heartbeats ──┼─▶ one happening at a time ─▶ Role ─▶ effects, in their order ─▶ tiebreaker, transfer, notes
//!   tiebreaker ──┤                                        └─▶ output rule ─▶ network, console
//!   operator ────┘
//! ```
//!
//! Outputs leave after the effects of what happened are done, and in no other place (P1).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use antipode_certs::Name;
use antipode_certs::tls::LiveCredentials;
use antipode_disk_sync::disk;
use antipode_disk_sync::replica::State;
use antipode_tiebreaker::{Incarnation, PairingId};
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::{Notify, oneshot, watch};

use super::asker::Asker;
use super::begin::Begin;
use super::happening::{Happening, Request, TransferNews};
use super::line::{self, Ends, Line};
use super::log_ends::Room;
use super::orders::{Ending, FromVcpu, Order};
use super::outbound::Outbound;
use super::pair::{LogEnd, Pair};
use super::vcpu::Handle;
use crate::base::clock::{HostClock, SystemClock, wall_clock_unix_seconds};
use crate::base::units::{ExitOrdinal, LogSeq};
use crate::channel::{
    ByeReason, Common, Datagrams, Heartbeats, Hello, Listener, Message, Opened, Receiver, RoundTrips, Sender,
    Session, Side, Writer,
};
use crate::devices::Frame;
use crate::machine::config;
use crate::machine::cpu::TABLE_NAME;
use crate::machine::launch::Birth;
use crate::machine::started::Exits;
use crate::machine::workers::{Disk, DiskHandle};
use crate::machine::{HeldOutput, Outcome};
use crate::protocol::detector::Heard;
use crate::protocol::lag::LagMeter;
use crate::protocol::moment::Moment;
use crate::protocol::output_rule::OutputRule;
use crate::protocol::role::{Acknowledged, Command, Effect, Event, Gauges, Progress, Replica, Role, Word};
use crate::protocol::status::{Status, Surroundings};
use crate::replay::Deframer;
use crate::site::config::SiteConfig;
use crate::site::peer::Prepare;
use crate::site::store::VmFolder;
use crate::transfer::{Go, News, Offer};

/// When a VM that went live says where it is now (P5).
const ANNOUNCEMENTS_MS: [u64; 4] = [0, 50, 200, 1000];
/// Outputs whose hold is remembered.
const HOLDS_MAX: usize = 512;

/// The VM on its thread.
#[derive(Debug)]
struct Running {
    handle: Handle,
    exits: Exits,
    disk: Option<DiskHandle>,
}

/// What a driver is made with.
pub(super) struct Parts {
    pub(super) name: Name,
    pub(super) config: SiteConfig,
    pub(super) folder: VmFolder,
    pub(super) credentials: Arc<LiveCredentials>,
    pub(super) role: Role,
    pub(super) begin: std::sync::mpsc::Sender<Begin>,
    pub(super) offer: Option<Offer>,
    pub(super) mac: Option<[u8; 6]>,
    pub(super) happenings: UnboundedSender<Happening>,
    pub(super) position: Arc<AtomicU64>,
    /// Ports of the logging channel and heartbeats, and of a machine on its way in.
    pub(super) ports: (u16, u16),
}

pub(super) struct Driver {
    parts: Parts,
    asker: Asker,
    outputs: OutputRule<HeldOutput>,
    holds: VecDeque<Duration>,
    running: Option<Running>,
    birth: Option<Birth>,
    pair: Option<Pair>,
    writer: Option<Writer>,
    datagrams: Option<Datagrams>,
    listener: Option<Listener>,
    transfer: Option<std::sync::mpsc::Sender<Go>>,
    stunned_at: Option<ExitOrdinal>,
    /// The copy goes live, and its outside is not attached yet.
    awaits_outside: bool,
    incarnation: Incarnation,
    todo: VecDeque<Event>,
    announcements: Vec<Duration>,
    next_tick: Duration,
    is_over: bool,
}

/// What woke the driver.
enum Woke {
    Happening(Happening),
    Vcpu(FromVcpu),
    Drained(Result<(), String>),
    Datagram(Vec<u8>),
    Time,
}

impl Driver {
    pub(super) fn new(
        parts: Parts,
        asker: Asker,
        listener: Option<Listener>,
        incarnation: Incarnation,
    ) -> Self {
        let lease = parts.role.gap_max();
        Self {
            parts,
            asker,
            outputs: OutputRule::new(lease),
            holds: VecDeque::new(),
            running: None,
            birth: None,
            pair: None,
            writer: None,
            datagrams: None,
            listener,
            transfer: None,
            stunned_at: None,
            awaits_outside: false,
            incarnation,
            todo: VecDeque::new(),
            announcements: Vec::new(),
            next_tick: Duration::ZERO,
            is_over: false,
        }
    }

    fn now(&self) -> Duration {
        Duration::from_nanos(SystemClock.monotonic_ns())
    }

    fn moment(&self) -> Moment {
        Moment::from_nanos(SystemClock.monotonic_ns())
    }

    /// Serves until the process is to end.
    pub(super) async fn serve(
        mut self,
        mut happenings: UnboundedReceiver<Happening>,
        mut vcpu: UnboundedReceiver<FromVcpu>,
    ) {
        while !self.is_over {
            let wait = self.next_wake().saturating_sub(self.now());
            let is_drained = self.writer.as_ref().is_none_or(Writer::is_drained);
            let woke = tokio::select! {
                Some(happening) = happenings.recv() => Woke::Happening(happening),
                Some(told) = vcpu.recv() => Woke::Vcpu(told),
                drained = drain(&mut self.writer), if !is_drained => Woke::Drained(drained),
                datagram = hear(&self.datagrams), if self.datagrams.is_some() => Woke::Datagram(datagram),
                () = tokio::time::sleep(wait) => Woke::Time,
            };
            match woke {
                Woke::Happening(happening) => self.happened(happening),
                Woke::Vcpu(told) => self.vcpu_told(told),
                Woke::Drained(Ok(())) => {}
                Woke::Drained(Err(why)) => self.lose_connection(&why),
                Woke::Datagram(bytes) => self.heard(&bytes),
                Woke::Time => {}
            }
            self.tick_if_due();
            self.settle();
        }
        if let Some(running) = &self.running {
            running.handle.destroy();
        }
        let _ = self.parts.begin.send(Begin::End);
    }

    fn next_wake(&self) -> Duration {
        let ack = self.pair.as_ref().and_then(Pair::ack_due);
        let announcement = self.announcements.first().copied();
        [Some(self.next_tick), ack, announcement]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(self.next_tick)
    }

    fn tick_if_due(&mut self) {
        let now = self.now();
        if let (Some(pair), Some(writer)) = (&mut self.pair, &mut self.writer)
            && !pair.is_closed
            && let Some(ack) = pair.ack(now)
        {
            writer.put(Message::Ack(ack));
        }
        while self.announcements.first().is_some_and(|due| *due <= now) {
            self.announcements.remove(0);
            self.announce();
        }
        if now < self.next_tick {
            return;
        }
        self.next_tick = now + self.parts.role.heartbeat_interval();
        self.beat(now);
        let gauges = self.gauges();
        self.todo.push_back(Event::Tick(gauges));
    }

    fn beat(&mut self, now: Duration) {
        if let (Some(pair), Some(datagrams)) = (&mut self.pair, &mut self.datagrams)
            && !pair.is_closed
        {
            let vitals = pair.vitals();
            if let Some(heartbeats) = &mut pair.heartbeats {
                datagrams.send(&heartbeats.next(now, vitals));
            }
        }
    }

    fn gauges(&self) -> Gauges {
        let moment = self.moment();
        let output_waits_since = self.outputs.waits_since();
        match self.pair.as_ref().map(|pair| &pair.log) {
            Some(LogEnd::Sending {
                sender,
                meter,
                through,
                ..
            }) => Gauges {
                logged: sender.last(),
                position: *through,
                lag: meter.lag(moment),
                output_waits_since,
            },
            Some(LogEnd::Following {
                receiver, position, ..
            }) => Gauges {
                logged: receiver.reached().received,
                position: ExitOrdinal::new(position.load(Ordering::Relaxed)),
                output_waits_since,
                ..Gauges::default()
            },
            _ => Gauges {
                output_waits_since,
                ..Gauges::default()
            },
        }
    }

    /// Hands what happened to the role, does what follows, and lets out what may leave.
    fn settle(&mut self) {
        let mut has_acted = false;
        while let Some(event) = self.todo.pop_front() {
            let effects = self.parts.role.step(self.moment(), event);
            for effect in effects {
                tracing::debug!(?effect);
                self.carry_out(effect);
            }
            has_acted = true;
        }
        if has_acted {
            self.outputs.role_acted(self.moment(), self.parts.role.gap_max());
        }
        while !self.awaits_outside
            && let Some((output, held)) = self.outputs.take(self.moment())
        {
            if self.holds.len() == HOLDS_MAX {
                self.holds.pop_front();
            }
            self.holds.push_back(held);
            if let Some(running) = &self.running {
                running.exits.let_out(output);
            }
        }
    }

    fn happened(&mut self, happening: Happening) {
        match happening {
            Happening::Opened(opened) => self.opened(*opened),
            Happening::Message(number, message) => self.message(number, message),
            Happening::Lost(number, why) => {
                if self.pair.as_ref().is_some_and(|pair| pair.connection == number) {
                    self.lose_connection(&why);
                }
            }
            Happening::Answered(id, answer) => self.todo.push_back(Event::Answered { id, answer }),
            Happening::RecordRead(read, record) => {
                if let Some(Some(record)) = &record {
                    self.incarnation = record.incarnation;
                }
                self.todo.push_back(Event::RecordRead { read, record });
            }
            Happening::Transfer(news) => self.transfer_told(news),
            Happening::Received(Ok(())) => self.todo.push_back(Event::Joined),
            Happening::Received(Err(why)) => {
                tracing::error!("the machine of the other site did not arrive: {why}");
                self.todo.push_back(Event::TransferFailed);
            }
            Happening::Prepared(birth) => self.birth = Some(*birth),
            Happening::Durable(Ok(position)) => self.todo.push_back(Event::ReplicaDurable { position }),
            Happening::Durable(Err(why)) => {
                tracing::error!("this site's replica cannot be made durable: {why}");
                self.todo.push_back(Event::ReplicaFailed);
            }
            Happening::Control(request, reply) => self.asked(request, reply),
            Happening::Terminate => self.is_over = true,
        }
    }

    fn vcpu_told(&mut self, told: FromVcpu) {
        match told {
            FromVcpu::Ready { handle, exits, disk } => self.running = Some(Running { handle, exits, disk }),
            FromVcpu::Born(birth) => self.birth = Some(*birth),
            FromVcpu::Output { seq, output } => {
                let now = self.moment();
                self.outputs.submit(now, output, seq);
            }
            FromVcpu::Logged {
                seq,
                through,
                is_urgent,
                frame,
            } => self.logged(seq, through, is_urgent, frame),
            FromVcpu::Consumed { seq } => {
                let now = self.now();
                let over = self.pair.as_mut().and_then(|pair| pair.consumed(now, seq));
                self.replay_over(over);
            }
            FromVcpu::Restored { position, feeder } => self.restored(position, feeder),
            FromVcpu::Live(exits) => {
                self.awaits_outside = false;
                if let Some(running) = &mut self.running {
                    running.exits = exits;
                    lose_peer(running.disk.as_deref());
                }
                let now = self.now();
                self.announcements = ANNOUNCEMENTS_MS
                    .map(|after| now + Duration::from_millis(after))
                    .into();
            }
            FromVcpu::Alone => {
                if let Some(running) = &self.running {
                    lose_peer(running.disk.as_deref());
                }
            }
            FromVcpu::Ended(how) => self.vm_ended(how),
        }
    }

    fn vm_ended(&mut self, how: Result<(Outcome, ExitOrdinal), Ending>) {
        if let Ok((outcome, position)) = &how {
            tracing::info!(%position, "the VM has ended: {}", outcome.describe());
        }
        self.running = None;
        self.awaits_outside = false;
        self.todo.push_back(match how {
            Ok((Outcome::PowerOff, position)) => Event::GuestStopped { position },
            Ok(_) => Event::VmFailed,
            Err(Ending::Diverged(why)) => {
                tracing::error!("this copy is not the same machine any more: {why}");
                Event::ReplayDiverged
            }
            Err(Ending::Failed(why)) => {
                tracing::error!("the VM has failed: {why}");
                Event::VmFailed
            }
        });
    }

    fn logged(&mut self, seq: LogSeq, through: ExitOrdinal, is_urgent: bool, frame: Vec<u8>) {
        let moment = self.moment();
        let Some(pair) = &mut self.pair else { return };
        if pair.is_closed {
            return;
        }
        if let Some(frame) = pair.push(moment, through, is_urgent, frame) {
            assert_eq!(frame.seq, seq, "the recorder and the channel count alike");
            if let Some(writer) = &mut self.writer {
                writer.put(Message::Log(frame));
            }
        }
    }

    fn replay_over(&mut self, over: Option<(crate::protocol::role::ReplayId, ExitOrdinal)>) {
        if let Some((replay, position)) = over {
            // A copy whose digests differ has ended.
            let agrees = true;
            self.todo.push_back(Event::ReplayReachedEnd {
                replay,
                position,
                agrees,
            });
        }
    }

    /// The machine that arrived stands here, at `position`.
    fn restored(&mut self, position: ExitOrdinal, feeder: super::log_ends::Feeder) {
        let Some(pair) = &mut self.pair else { return };
        let anchor = pair.hello.borrow().session.tag_bytes();
        pair.log = LogEnd::Following {
            receiver: Box::new(Receiver::new(position)),
            deframer: Box::new(Deframer::anchored_to(&anchor, position)),
            feeder,
            position: Arc::clone(&self.parts.position),
            ends: std::collections::BTreeMap::new(),
            consumed: (LogSeq::NONE, position),
            wanted: None,
        };
        self.parts.position.store(position.get(), Ordering::Relaxed);
    }

    fn opened(&mut self, opened: Opened) {
        let now = self.now();
        let Some(pair) = &mut self.pair else { return };
        if pair.is_closed {
            return;
        }
        let Opened {
            reader,
            mut writer,
            theirs,
            keys,
        } = opened;
        if let Err(why) = pair.resume(now, &theirs, &mut writer) {
            tracing::error!("the logging channel cannot be resumed: {why}");
            return;
        }
        pair.connection += 1;
        if let Some(reading) = pair.reader.take() {
            reading.abort();
        }
        pair.reader = Some(line::read(pair.connection, reader, self.parts.happenings.clone()));
        match &mut pair.heartbeats {
            Some(heartbeats) => heartbeats.rekey(keys),
            None => {
                let session = pair.hello.borrow().session.clone();
                pair.heartbeats = Some(Heartbeats::new(&session, pair.side, keys));
            }
        }
        self.writer = Some(writer);
        self.todo.push_back(Event::ChannelResumed);
    }

    fn lose_connection(&mut self, why: &str) {
        if self.writer.take().is_none() {
            return;
        }
        tracing::warn!("the logging channel is down: {why}");
        if let Some(pair) = &mut self.pair {
            pair.update_hello();
            if let Some(reading) = pair.reader.take() {
                reading.abort();
            }
            pair.wanted.notify_one();
        }
        self.todo.push_back(Event::ChannelLost);
    }

    fn message(&mut self, number: u64, message: Message) {
        let now = self.now();
        let Some(pair) = &mut self.pair else { return };
        if pair.connection != number || pair.is_closed {
            return;
        }
        self.todo.push_back(Event::ChannelHeard);
        let fault = match message {
            Message::Log(frame) => match pair.take(now, &frame) {
                Ok(_) => None,
                Err(why) => Some(why),
            },
            Message::Ack(ack) => match pair.acknowledge(ack) {
                Ok(()) => {
                    self.todo.push_back(Event::Acked(Acknowledged {
                        received: ack.received,
                        replayed: ack.replayed,
                    }));
                    None
                }
                Err(fault) => Some(fault.to_string()),
            },
            Message::Ping(stamp) => {
                if let Some(writer) = &mut self.writer {
                    writer.put(Message::Pong(stamp));
                }
                None
            }
            Message::Word(bytes) => match serde_json::from_slice::<Word>(&bytes) {
                Ok(word) => {
                    self.todo.push_back(Event::PeerSaid(word));
                    None
                }
                Err(error) => Some(format!("a word that is none: {error}")),
            },
            Message::Pong(_) | Message::Bye(_) => None,
            Message::Hello(_) => Some("a second Hello".to_owned()),
        };
        if let Some(why) = fault {
            self.lose_connection(&why);
        }
    }

    fn heard(&mut self, datagram: &[u8]) {
        let now = self.now();
        let Some(pair) = &mut self.pair else { return };
        let Some(heard) = pair
            .heartbeats
            .as_mut()
            .and_then(|heartbeats| heartbeats.receive(now, datagram))
        else {
            return;
        };
        if let Some(round_trip) = heard.round_trip {
            pair.round_trips.add(now, round_trip);
        }
        self.todo.push_back(Event::PeerHeard(Heard {
            round_trip: heard.round_trip,
            deaf_for: Duration::ZERO,
            replayed: heard.vitals.map(|vitals| vitals.replayed).unwrap_or_default(),
        }));
    }

    fn transfer_told(&mut self, news: TransferNews) {
        match news {
            TransferNews::Ports { log } => self.dial(log),
            TransferNews::StoodAt(position) => self.stunned_at = Some(position),
            TransferNews::News(News::Progress {
                done_bytes,
                total_bytes,
            }) => {
                self.todo.push_back(Event::TransferProgress(Progress {
                    done_bytes,
                    total_bytes,
                    left: None,
                }));
            }
            TransferNews::News(News::DiskInSync) => self.todo.push_back(Event::DiskInSync),
            TransferNews::News(News::RamInSync) => self.todo.push_back(Event::RamInSync),
            TransferNews::News(News::Stunned) => {}
            TransferNews::News(News::PeerReady) => self.todo.push_back(Event::PeerReady),
            TransferNews::Failed(why) => {
                tracing::warn!("the transfer to the other site: {why}");
                self.transfer = None;
                self.todo.push_back(Event::TransferFailed);
            }
        }
    }

    fn asked(&mut self, request: Request, reply: oneshot::Sender<Value>) {
        let answer = match request {
            Request::Ports => {
                json!({ "ok": true, "log_port": self.parts.ports.0, "transfer_port": self.parts.ports.1 })
            }
            Request::Status => json!(self.status()),
            Request::Start => match self.replica() {
                Ok(replica) => self.command(Command::Start { replica }),
                Err(why) => json!({ "ok": false, "error": why }),
            },
            Request::Protect => {
                let pairing = PairingId(rand_number());
                self.command(Command::Protect { pairing })
            }
            Request::Unprotect => self.command(Command::Unprotect),
            Request::Stop => self.command(Command::Stop),
            Request::End => {
                self.is_over = true;
                json!({ "ok": true })
            }
        };
        // Who asked may have gone.
        let _ = reply.send(answer);
    }

    fn command(&mut self, command: Command) -> Value {
        let effects = self.parts.role.step(self.moment(), Event::Command(command));
        let refused = effects.iter().find_map(|effect| match effect {
            Effect::Refuse(why) => Some(why.to_string()),
            _ => None,
        });
        for effect in effects {
            self.carry_out(effect);
        }
        match refused {
            Some(why) => json!({ "ok": false, "error": why }),
            None => json!({ "ok": true }),
        }
    }

    fn status(&mut self) -> Status {
        let mut holds: Vec<Duration> = self.holds.iter().copied().collect();
        holds.sort_unstable();
        let around = Surroundings {
            vm: &self.parts.name,
            peer: &self.parts.config.peer,
            now: self.moment(),
            now_unix_seconds: wall_clock_unix_seconds(),
            output_hold_p50: holds.get(holds.len() / 2).copied(),
        };
        Status::new(&self.parts.role.view(), &around)
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Persist(notes) => {
                if let Err(error) = self.parts.folder.note(&notes) {
                    // Without its notes a request could be sent twice under one number.
                    tracing::error!(%error, "the VM's notes cannot be written; this process ends");
                    self.is_over = true;
                }
            }
            Effect::AskTiebreaker(ask) => self.asker.change(ask),
            Effect::ReadRecord(read) => self.asker.read(read),
            Effect::HoldOutputs => self.outputs.hold(),
            Effect::ReleaseThrough(seq) => self.outputs.release_through(seq),
            Effect::OpenOutputs => self.open_outputs(),
            Effect::DiscardOutputs => self.outputs.discard(),
            Effect::BeginDiskSync(pairing) => self.begin_transfer(pairing),
            Effect::BeginRamCopy => self.let_transfer(Go::Ram),
            Effect::Stun => self.let_transfer(Go::Stun),
            Effect::BeginLockstep => self.begin_lockstep(),
            Effect::AbortTransfer => self.abort_transfer(),
            Effect::ReplayToEnd(replay) => {
                let over = self.pair.as_mut().and_then(|pair| {
                    if let LogEnd::Following { receiver, wanted, .. } = &mut pair.log {
                        *wanted = Some((replay, receiver.reached().received));
                    }
                    pair.replay_over()
                });
                self.replay_over(over);
            }
            Effect::MakeDurable => self.make_durable(),
            Effect::GoLive => {
                self.outputs.go_live();
                self.awaits_outside = true;
                if let Some(LogEnd::Following { feeder, .. }) = self.pair.as_ref().map(|pair| &pair.log) {
                    feeder.end();
                }
            }
            Effect::Announce => {}
            Effect::StartGuest => {
                let _ = self.parts.begin.send(Begin::Boot);
            }
            Effect::StopGuest => {
                if let Some(running) = &self.running {
                    running.handle.press_power_button();
                }
            }
            Effect::DestroyVm => {
                if let Some(running) = &self.running {
                    running.handle.destroy();
                }
            }
            Effect::AdoptReplica => self.on_idle_replica(disk::adopt),
            Effect::MarkStale => self.mark_stale(),
            Effect::CloseChannel => self.close_channel(),
            Effect::Tell(word) => self.tell(&word),
            Effect::Throttle(share) => {
                if let Some(LogEnd::Sending { room, .. }) = self.pair.as_ref().map(|pair| &pair.log) {
                    room.set_share(share.percent());
                }
            }
            Effect::Refuse(why) => tracing::warn!("not done: {why}"),
            Effect::Report => {
                let status = self.status();
                tracing::info!(role = ?status.role, generation = %status.generation, cause = ?status.cause, "the role is");
            }
        }
    }

    fn open_outputs(&mut self) {
        self.outputs.open();
        let sending = self.pair.as_ref().map(|pair| &pair.log);
        if let (Some(running), Some(LogEnd::Sending { room, .. })) = (&self.running, sending) {
            // Nobody takes the log any more.
            room.open();
            running.handle.order(Order::GoAlone);
            self.pair = None;
        }
    }

    fn session(&self, pairing: PairingId) -> Session {
        Session {
            vm: self.parts.name.clone(),
            incarnation: self.incarnation,
            generation: self.parts.role.generation(),
            pairing,
        }
    }

    fn begin_transfer(&mut self, pairing: PairingId) {
        if let Err(why) = self.try_begin_transfer(pairing) {
            tracing::error!("protection cannot begin: {why}");
            self.todo.push_back(Event::TransferFailed);
        }
    }

    fn try_begin_transfer(&mut self, pairing: PairingId) -> Result<(), String> {
        let session = self.session(pairing);
        let running = self.running.as_ref().ok_or("the VM does not run")?;
        let birth = self.birth.clone().ok_or("the VM has not begun")?;
        let offer = self
            .parts
            .offer
            .clone()
            .ok_or("the VM's files are missing here")?;
        let replica = running.disk.as_ref().and_then(|disk| disk.replica_id());
        let disk = match (offer.disk, replica) {
            (Some(disk), Some(replica)) => Some(crate::transfer::DiskOffer { replica, ..disk }),
            (Some(_), None) => {
                return Err("its disk is no replica; `antipode disk create` makes it one".to_owned());
            }
            (None, _) => None,
        };
        let offer = Offer { birth, disk, ..offer };
        let recipe = recipe_of(&offer);
        let common = Common {
            cpu_profile: TABLE_NAME.to_owned(),
            recipe,
        };
        let prepare = Prepare {
            vm: self.parts.name.to_string(),
            incarnation: session.incarnation,
            pairing,
            generation: session.generation,
            heartbeat_port: self.parts.ports.0,
            recipe,
        };
        self.pair = Some(new_pair(session, Side::Primary, common));
        let outbound = Outbound {
            handle: running.handle.clone(),
            offer,
            kernel: self.parts.folder.file("kernel"),
            initrd: Some(self.parts.folder.file("initrd")).filter(|path| path.exists()),
            disk: running.disk.clone(),
            prepare,
            peer: self.parts.config.peer.clone(),
            address: self.parts.config.peer_address.clone(),
            credentials: Arc::clone(&self.parts.credentials),
            happenings: self.parts.happenings.clone(),
        };
        self.transfer = Some(outbound.start().map_err(|error| error.to_string())?);
        Ok(())
    }

    /// The other site's process is ready: the channel is opened while the machine is still on its way.
    fn dial(&mut self, log_port: u16) {
        let host = self.parts.config.peer_host().to_owned();
        let address = format!("{host}:{log_port}");
        let ends = self.ends();
        if let (Some(pair), Some(ends)) = (&mut self.pair, ends) {
            pair.line = Some(Line::dialled(ends, address.clone()));
        }
        self.bind_datagrams(&address);
    }

    fn ends(&self) -> Option<Ends> {
        let pair = self.pair.as_ref()?;
        Some(Ends {
            credentials: Arc::clone(&self.parts.credentials),
            peer: self.parts.config.peer.clone(),
            happenings: self.parts.happenings.clone(),
            hello: pair.hello.subscribe(),
            wanted: Arc::clone(&pair.wanted),
        })
    }

    fn bind_datagrams(&mut self, peer: &str) {
        use std::net::ToSocketAddrs;
        let here = SocketAddr::new(self.parts.config.listen.ip(), self.parts.ports.0);
        let peer = peer.to_socket_addrs().ok().and_then(|mut all| all.next());
        let bound = peer.map(|peer| Datagrams::bind(here, peer));
        match bound {
            Some(Ok(datagrams)) => self.datagrams = Some(datagrams),
            Some(Err(error)) => tracing::error!(%error, "heartbeats cannot be heard on port {}", here.port()),
            None => tracing::error!("the other site's address stands for no host"),
        }
    }

    /// This site becomes the copy of the other site's VM.
    pub(super) fn join(&mut self, prepare: &Prepare) {
        let session = Session {
            vm: self.parts.name.clone(),
            incarnation: prepare.incarnation,
            generation: prepare.generation,
            pairing: prepare.pairing,
        };
        let common = Common {
            cpu_profile: TABLE_NAME.to_owned(),
            recipe: prepare.recipe,
        };
        self.pair = Some(new_pair(session, Side::Backup, common));
        let ends = self.ends();
        if let (Some(pair), Some(ends), Some(listener)) = (&mut self.pair, ends, self.listener.take()) {
            pair.line = Some(Line::accepted(ends, listener));
        }
        let address = format!("{}:{}", self.parts.config.peer_host(), prepare.heartbeat_port);
        self.bind_datagrams(&address);
        self.todo.push_back(Event::Command(Command::Join {
            pairing: prepare.pairing,
            generation: prepare.generation,
        }));
    }

    fn let_transfer(&mut self, go: Go) {
        let is_there = self
            .transfer
            .as_ref()
            .is_some_and(|transfer| transfer.send(go).is_ok());
        if !is_there {
            self.todo.push_back(Event::TransferFailed);
        }
    }

    fn begin_lockstep(&mut self) {
        let (Some(pair), Some(running), Some(position)) =
            (&mut self.pair, &self.running, self.stunned_at.take())
        else {
            self.todo.push_back(Event::TransferFailed);
            return;
        };
        self.transfer = None;
        if let Some(Err(error)) = running.disk.as_ref().map(|disk| disk.peer_is_equal()) {
            tracing::warn!(%error, "the replica's marks could not be cleared; the next sync compares more than it had to");
        }
        let room = Arc::<Room>::default();
        pair.log = LogEnd::Sending {
            sender: Box::new(Sender::new(position)),
            room: Arc::clone(&room),
            meter: LagMeter::default(),
            bytes: 0,
            through: position,
        };
        let anchor = pair.hello.borrow().session.tag_bytes().to_vec();
        running.handle.order(Order::Lead { anchor, room });
    }

    fn abort_transfer(&mut self) {
        self.transfer = None;
        self.pair = None;
        self.writer = None;
        if self.stunned_at.take().is_some()
            && let Some(running) = &self.running
        {
            running.handle.order(Order::GoAlone);
        }
    }

    fn make_durable(&mut self) {
        let position = ExitOrdinal::new(self.parts.position.load(Ordering::Relaxed));
        let disk = self.running.as_ref().and_then(|running| running.disk.clone());
        let happenings = self.parts.happenings.clone();
        tokio::task::spawn_blocking(move || {
            let flushed = match disk {
                Some(disk) => disk.settle().map_err(|error| error.to_string()),
                None => Ok(()),
            };
            // Without a driver nobody waits.
            let _ = happenings.send(Happening::Durable(flushed.map(|()| position)));
        });
    }

    fn mark_stale(&mut self) {
        let in_use = self.running.as_ref().and_then(|running| running.disk.as_ref());
        match in_use.map(|disk| disk.mark_stale()) {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::error!(%error, "the replica could not be marked as stale; this process ends");
                self.is_over = true;
            }
            None => self.on_idle_replica(disk::mark_stale),
        }
    }

    /// Changes what this site's replica is while no VM uses it.
    fn on_idle_replica(&mut self, change: impl FnOnce(&disk::Paths) -> Result<(), disk::DiskError>) {
        let Some(paths) = self.replica_paths() else { return };
        if let Err(error) = change(&paths) {
            tracing::error!(%error, "the replica's state could not be changed; this process ends");
            self.is_over = true;
        }
    }

    fn replica_paths(&self) -> Option<disk::Paths> {
        let config = config::load(&self.parts.folder.definition()).ok()?;
        let disk = config.disk?;
        Some(disk::Paths::new(disk.path, disk.metadata)).filter(|paths| paths.metadata.exists())
    }

    /// What this site's replica is. A VM without a disk has all that it needs.
    fn replica(&self) -> Result<Replica, String> {
        let Some(paths) = self.replica_paths() else {
            return Ok(Replica::Clean);
        };
        match disk::state_of(&paths).map_err(|error| error.to_string())? {
            State::Clean => Ok(Replica::Clean),
            State::Stale => Ok(Replica::Stale),
            State::Syncing(_) => Ok(Replica::Syncing),
        }
    }

    fn close_channel(&mut self) {
        if let Some(writer) = self.writer.take() {
            tokio::spawn(writer.leave(ByeReason::Ended));
        }
        self.datagrams = None;
        if let Some(pair) = &mut self.pair {
            pair.is_closed = true;
            pair.line = None;
            if let Some(reading) = pair.reader.take() {
                reading.abort();
            }
        }
    }

    fn tell(&mut self, word: &Word) {
        if let (Some(writer), Ok(bytes)) = (&mut self.writer, serde_json::to_vec(word)) {
            writer.put(Message::Word(bytes));
        }
    }

    /// Says on the network where the VM is now: a RARP request, by which switches learn (P5).
    fn announce(&self) {
        let (Some(running), Some(mac)) = (&self.running, self.parts.mac) else {
            return;
        };
        running.exits.let_out(HeldOutput::Frame(Frame(reverse_arp(mac))));
    }
}

fn new_pair(session: Session, side: Side, common: Common) -> Pair {
    let hello = Hello {
        session,
        side,
        common,
        reached: LogSeq::NONE,
        claimed: false,
    };
    Pair {
        side,
        hello: watch::Sender::new(hello),
        wanted: Arc::new(Notify::new()),
        line: None,
        connection: 0,
        reader: None,
        heartbeats: None,
        round_trips: RoundTrips::default(),
        log: LogEnd::None,
        is_closed: false,
    }
}

fn lose_peer(disk: Option<&Disk>) {
    if let Some(Err(error)) = disk.map(Disk::lose_peer) {
        tracing::error!(%error, "the replica's new content could not be named");
    }
}

/// BLAKE3 of what the machine is made of.
fn recipe_of(offer: &Offer) -> [u8; 32] {
    // Only a `Serialize` that fails by itself can fail here, and this one is derived.
    *blake3::hash(&serde_json::to_vec(offer).unwrap_or_default()).as_bytes()
}

/// A reverse ARP request of `mac` about itself (RFC 903), after an empty virtio-net header.
fn reverse_arp(mac: [u8; 6]) -> Vec<u8> {
    const NET_HEADER_BYTES: usize = 12;
    let mut frame = vec![0; NET_HEADER_BYTES];
    frame.extend_from_slice(&[0xFF; 6]);
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&[0x80, 0x35, 0, 1, 0x08, 0, 6, 4, 0, 3]);
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&[0; 4]);
    // The least that Ethernet carries.
    frame.resize(NET_HEADER_BYTES + 60, 0);
    frame
}

fn rand_number() -> u64 {
    use crate::base::entropy::EntropySource;
    let mut bytes = [0; 8];
    let drawn = crate::machine::workers::HostEntropy::open().and_then(|mut entropy| entropy.fill(&mut bytes));
    if let Err(error) = drawn {
        tracing::error!(%error, "the host has no random bytes; the clock names the pairing");
        return SystemClock.monotonic_ns();
    }
    u64::from_le_bytes(bytes)
}

async fn drain(writer: &mut Option<Writer>) -> Result<(), String> {
    match writer {
        Some(writer) => writer.drain().await.map_err(|error| error.to_string()),
        None => std::future::pending().await,
    }
}

async fn hear(datagrams: &Option<Datagrams>) -> Vec<u8> {
    match datagrams {
        Some(datagrams) => match datagrams.receive().await {
            Ok(received) => received.bytes().to_vec(),
            Err(error) => {
                tracing::debug!(%error, "a heartbeat could not be heard");
                tokio::time::sleep(Duration::from_millis(10)).await;
                Vec::new()
            }
        },
        None => std::future::pending().await,
    }
}
