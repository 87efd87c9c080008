//! What a role wants, done.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use antipode_disk_sync::disk;
use antipode_tiebreaker::{Flush, PairingId};

use super::super::begin::Begin;
use super::super::happening::Happening;
use super::super::line::{Ends, Line};
use super::super::log_ends::Room;
use super::super::orders::Order;
use super::super::outbound::Outbound;
use super::super::pair::{LogEnd, Pair};
use super::Driver;
use crate::base::units::ExitOrdinal;
use crate::channel::{ByeReason, Common, Datagrams, Message, Session, Side};
use crate::devices::Frame;
use crate::machine::cpu::TABLE_NAME;
use crate::machine::workers::DiskHandle;
use crate::machine::{HeldOutput, config};
use crate::protocol::role::{Command, Effect, Event, Notes, Refused, Word};
use crate::site::definition;
use crate::site::peer::Prepare;
use crate::transfer::{DiskOffer, Go, LineageOffer, Offer};

impl Driver {
    pub(super) fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Persist(notes) => self.persist(&notes),
            Effect::AskTiebreaker(ask) => {
                let now = self.now();
                self.figures.asked(now, &ask.operation);
                self.asker.change(ask);
            }
            Effect::ReadRecord(read) => self.asker.read(read),
            Effect::HoldOutputs => self.outputs.hold(),
            Effect::ReleaseThrough(seq) => self.outputs.release_through(seq),
            Effect::ReleaseFlushes(position) => self.release_flushes(position),
            Effect::OpenOutputs => self.open_outputs(),
            Effect::DiscardOutputs => self.outputs.discard(),
            Effect::BeginDiskSync(pairing) => self.begin_transfer(pairing),
            Effect::BeginRamCopy => self.let_transfer(Go::Ram),
            Effect::Stun => {
                let now = self.now();
                self.figures.stun_begins(now);
                self.let_transfer(Go::Stun);
            }
            Effect::BeginLockstep(flush) => self.begin_lockstep(flush == Flush::Both),
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
            Effect::GoLive => self.go_live(),
            Effect::Announce => {}
            Effect::StartGuest => {
                let _ = self.parts.begin.send(Begin::Boot);
            }
            Effect::StopGuest => {
                self.end_checkpoints();
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
            Effect::StandStill => self.stand_still(),
            Effect::GoOn => self.go_on(),
            Effect::ExpectTurned(pairing) => self.expect_turned(pairing),
            Effect::Lead(pairing, flush) => self.lead(pairing, flush == Flush::Both),
            Effect::Follow(pairing) => self.follow(pairing),
            Effect::Refuse(why) => self.refuse(why),
            Effect::Report => {
                let status = self.status();
                tracing::info!(role = ?status.role, generation = %status.generation, cause = ?status.cause, "the role is");
            }
        }
    }

    fn persist(&mut self, notes: &Notes) {
        if let Err(error) = self.parts.folder.note(notes) {
            // Without its notes a request could be sent twice under one number.
            tracing::error!(%error, "the VM's notes cannot be written; this process ends");
            self.is_over = true;
        }
    }

    fn refuse(&mut self, why: Refused) {
        tracing::warn!("not done: {why}");
        self.not_done = Some(why);
    }

    /// The disk of the VM that runs here.
    pub(super) fn disk(&self) -> Option<&DiskHandle> {
        self.running.as_ref().and_then(|running| running.disk.as_ref())
    }

    fn release_flushes(&self, position: ExitOrdinal) {
        if let Some(disk) = self.disk() {
            disk.flushes().durable(position);
        }
    }

    fn go_live(&mut self) {
        let now = self.now();
        self.figures.granted(now);
        self.outputs.go_live();
        self.awaits_outside = true;
        if let Some(LogEnd::Following { feeder, .. }) = self.pair.as_ref().map(|pair| &pair.log) {
            feeder.end();
        }
        // It may stand where its primary did.
        self.go_on();
    }

    pub(super) fn open_outputs(&mut self) {
        self.outputs.open();
        if let Some(disk) = self.disk() {
            disk.flushes().open();
            disk.let_failures_go();
        }
        let now = self.now();
        self.figures.granted(now);
        if !self.awaits_outside {
            self.figures.live(now);
        }
        let sending = self.pair.as_ref().map(|pair| &pair.log);
        if let (Some(running), Some(LogEnd::Sending { room, .. })) = (&self.running, sending) {
            // Nobody takes the log any more.
            room.open();
            running.handle.order(Order::GoAlone);
            self.pair = None;
        }
    }

    pub(super) fn session(&self, pairing: PairingId) -> Session {
        Session {
            vm: self.parts.name.clone(),
            incarnation: self.incarnation,
            generation: self.parts.role.generation(),
            pairing,
        }
    }

    pub(super) fn begin_transfer(&mut self, pairing: PairingId) {
        if let Err(why) = self.try_begin_transfer(pairing) {
            tracing::error!("protection cannot begin: {why}");
            self.trouble = Some(why);
            self.todo.push_back(Event::TransferFailed);
        }
    }

    fn try_begin_transfer(&mut self, pairing: PairingId) -> Result<(), String> {
        let session = self.session(pairing);
        let running = self.running.as_ref().ok_or("the VM does not run")?;
        let birth = self.birth.clone().ok_or("the VM has not begun")?;
        let config = config::load(&self.parts.folder.definition()).map_err(|error| error.to_string())?;
        let offer = definition::offer_of(&self.parts.folder, &config)?;
        if let Some(disk) = &running.disk {
            // From here on at the latest its writes are marked.
            disk.lose_peer().map_err(definition::no_random_bytes)?;
        }
        let replica = running.disk.as_ref().and_then(|disk| disk.replica_id());
        let lineage = running.disk.as_ref().and_then(|disk| disk.lineage());
        let disk = match (offer.disk, replica) {
            (Some(disk), Some(replica)) => Some(DiskOffer {
                replica,
                lineage: lineage.as_ref().map(LineageOffer::from),
                discard: self.discards,
                ..disk
            }),
            (Some(_), None) => {
                return Err("its disk is no replica; `antipode disk create` makes it one".to_owned());
            }
            (None, _) => None,
        };
        let offer = Offer { birth, disk, ..offer };
        let recipe = definition::recipe_of(&offer);
        let common = Common {
            cpu_profile: TABLE_NAME.to_owned(),
            recipe,
        };
        let prepare = Prepare {
            vm: self.parts.name.clone(),
            incarnation: session.incarnation,
            pairing,
            generation: session.generation,
            heartbeat_port: self.parts.ports.0,
            recipe,
        };
        self.pair = Some(Pair::new(session, Side::Primary, common));
        self.transfers += 1;
        let outbound = Outbound {
            number: self.transfers,
            handle: running.handle.clone(),
            offer,
            kernel: self.parts.folder.file("kernel"),
            initrd: Some(self.parts.folder.file("initrd")).filter(|path| path.exists()),
            disk: running.disk.clone(),
            prepare,
            caller: self.caller(),
            happenings: self.parts.happenings.clone(),
        };
        self.transfer = Some(outbound.start().map_err(|error| error.to_string())?);
        Ok(())
    }

    /// The other site's process is ready: the channel is opened while the machine is still on its way.
    pub(super) fn dial(&mut self, log_port: u16) {
        let host = self.parts.config.peer_host().to_owned();
        let address = format!("{host}:{log_port}");
        let ends = self.ends();
        if let (Some(pair), Some(ends)) = (&mut self.pair, ends) {
            pair.line = Some(Line::dialled(ends, address.clone()));
        }
        self.bind_datagrams(&address);
    }

    pub(super) fn ends(&self) -> Option<Ends> {
        let pair = self.pair.as_ref()?;
        Some(Ends {
            credentials: Arc::clone(&self.parts.credentials),
            peer: self.parts.config.peer.clone(),
            happenings: self.parts.happenings.clone(),
            hello: pair.hello.subscribe(),
            wanted: Arc::clone(&pair.wanted),
        })
    }

    pub(super) fn bind_datagrams(&mut self, peer: &str) {
        use std::net::ToSocketAddrs;
        let here = SocketAddr::new(self.parts.config.listen.ip(), self.parts.ports.0);
        let peer = peer.to_socket_addrs().ok().and_then(|mut all| all.next());
        // Those of a pairing that came to nothing hold the port.
        self.datagrams = None;
        match peer.map(|peer| Datagrams::bind(here, peer)) {
            Some(Ok(datagrams)) => return self.datagrams = Some(datagrams),
            Some(Err(error)) => tracing::error!(%error, "heartbeats cannot be heard on port {}", here.port()),
            None => tracing::error!("the other site's address stands for no host"),
        }
        self.todo.push_back(Event::TransferFailed);
    }

    /// This site becomes the copy of the other site's VM.
    pub(in crate::site::guest) fn join(&mut self, prepare: &Prepare) {
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
        self.incarnation = prepare.incarnation;
        self.pair = Some(Pair::new(session, Side::Backup, common));
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

    pub(super) fn let_transfer(&mut self, go: Go) {
        let is_there = self
            .transfer
            .as_ref()
            .is_some_and(|transfer| transfer.send(go).is_ok());
        if !is_there {
            self.todo.push_back(Event::TransferFailed);
        }
    }

    pub(super) fn begin_lockstep(&mut self, flushes_wait: bool) {
        self.keep_failures_back();
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
        if let Some(disk) = running.disk.as_ref().filter(|_| flushes_wait) {
            // The guest stands still, and its disk has done all that it was asked for.
            disk.flushes().close(position);
        }
        let room = Arc::<Room>::default();
        pair.log = LogEnd::sending_from(position, &room);
        let anchor = pair.hello.borrow().session.tag_bytes().to_vec();
        running.handle.order(Order::Lead {
            anchor,
            room,
            flushes_wait,
        });
        let now = self.now();
        self.figures.lockstep_begins(now);
        self.account_begins();
    }

    pub(super) fn abort_transfer(&mut self) {
        self.transfer = None;
        self.pair = None;
        self.writer = None;
        self.datagrams = None;
        if self.stunned_at.take().is_some()
            && let Some(running) = &self.running
        {
            running.handle.order(Order::GoAlone);
        }
    }

    pub(super) fn make_durable(&mut self) {
        let position = ExitOrdinal::new(self.parts.position.load(Ordering::Relaxed));
        let disk = self.disk().cloned();
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

    pub(super) fn mark_stale(&mut self) {
        match self.disk().map(|disk| disk.mark_stale()) {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::error!(%error, "the replica could not be marked as stale; this process ends");
                self.is_over = true;
            }
            None if self.has_taken_nothing() => {}
            None => {
                let is_doubtful = self.has_diverged;
                self.on_idle_replica(|paths| disk::mark_stale(paths, is_doubtful));
            }
        }
    }

    /// It was to become the other site's copy, and has not taken that on: what lies here is as it was.
    fn has_taken_nothing(&self) -> bool {
        let joins = self.pair.as_ref().is_some_and(|pair| pair.side == Side::Backup);
        joins && self.birth.is_none()
    }

    pub(super) fn close_channel(&mut self) {
        if let Some(writer) = self.writer.take() {
            tokio::spawn(writer.leave(ByeReason::Ended));
        }
        self.datagrams = None;
        self.give_up_repair();
        if let Some(pair) = &mut self.pair {
            pair.is_closed = true;
            pair.line = None;
            if let Some(reading) = pair.reader.take() {
                reading.abort();
            }
        }
    }

    pub(super) fn tell(&mut self, word: &Word) {
        if let (Some(writer), Ok(bytes)) = (&mut self.writer, serde_json::to_vec(word)) {
            writer.put(Message::Word(bytes));
        }
    }

    /// The guest's address on its network, if it has one.
    fn mac(&self) -> Option<[u8; 6]> {
        let config = config::load(&self.parts.folder.definition()).ok()?;
        config.network.map(|network| network.mac.octets())
    }

    /// Says on the network where the VM is now: a RARP request, by which switches learn (P5).
    pub(super) fn announce(&self) {
        let (Some(running), Some(mac)) = (&self.running, self.mac()) else {
            return;
        };
        running.exits.let_out(HeldOutput::Frame(Frame(reverse_arp(mac))));
    }
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
