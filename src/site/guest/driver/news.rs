//! What happens to a driver, and what that means to the role.

use std::time::Duration;

use super::super::happening::{Happening, TransferNews};
use super::super::line;
use super::super::log_ends::Feeder;
use super::super::orders::{Ending, FromVcpu, Order};
use super::super::pair::{LogEnd, Pair};
use super::super::refusals::Fault;
use super::turning::Standing;
use super::{ANNOUNCEMENTS_MS, Driver, Running};
use crate::base::clock::wall_clock_unix_seconds;
use crate::base::units::{ExitOrdinal, LogSeq};
use crate::channel::{Heartbeats, Message, Misbehaviour, Opened, Tag};
use crate::devices::DiskOutcome;
use crate::machine::workers::Disk;
use crate::machine::{Outcome, config};
use crate::protocol::detector::Heard;
use crate::protocol::role::{Acknowledged, Event, Progress, ReplayId, Word};
use crate::transfer::News;

impl Driver {
    pub(super) fn happened(&mut self, happening: Happening) {
        match happening {
            Happening::Opened(opened) => self.opened(*opened),
            Happening::Message(number, tag, message) => self.message(number, tag, message),
            Happening::Lost(number, fault) => {
                if self.pair.as_ref().is_some_and(|pair| pair.connection == number) {
                    self.lose_connection(&fault);
                }
            }
            Happening::Refused(fault) => self.refused(&fault),
            Happening::InTouch => {
                let now = self.now();
                self.figures.tiebreaker_heard(now);
            }
            Happening::Answered(id, answer) => self.todo.push_back(Event::Answered { id, answer }),
            Happening::RecordRead(read, record) => {
                if let Some(Some(record)) = &record {
                    self.incarnation = record.incarnation;
                }
                self.todo.push_back(Event::RecordRead { read, record });
            }
            Happening::Transfer(number, news) if number == self.transfers => self.transfer_told(news),
            Happening::Transfer(_, TransferNews::StoodAt(_)) => self.let_stand_no_more(),
            Happening::Transfer(..) => {}
            Happening::TransferHeard => self.todo.push_back(Event::ChannelHeard),
            Happening::Received(Ok(())) => self.todo.push_back(Event::Joined),
            Happening::Received(Err(fault)) => {
                tracing::error!("the machine of the other site did not arrive: {}", fault.why);
                self.refused(&fault);
                self.trouble = Some(fault.why);
                self.todo.push_back(Event::TransferFailed);
            }
            Happening::Prepared(birth) => self.birth = Some(*birth),
            Happening::Durable(Ok(position)) => self.todo.push_back(Event::ReplicaDurable { position }),
            Happening::Durable(Err(why)) => {
                tracing::error!("this site's replica cannot be made durable: {why}");
                self.todo.push_back(Event::ReplicaFailed);
            }
            Happening::DiskFailed => self.todo.push_back(Event::DiskFailed),
            Happening::Flushed(position, outcome) => self.copy_flushed(position, &outcome),
            Happening::SliceRead(round, hashes) => self.slice_read(round, hashes),
            Happening::LeafRead(round, place, content) => self.leaf_read(round, place, content),
            Happening::LeafMended(round, place, outcome) => self.leaf_mended(round, place, outcome),
            Happening::Called(number, said) => self.called(number, said),
            Happening::Control(request, reply) => self.asked(request, reply),
            Happening::Terminate => self.is_over = true,
        }
    }

    /// The primary may wait for it. One that failed will never be passed, so nobody waits for that either (R4).
    fn copy_flushed(&mut self, position: ExitOrdinal, outcome: &DiskOutcome) {
        let now = self.now();
        match (outcome, &mut self.pair) {
            (DiskOutcome::Failed, _) => {
                tracing::error!(%position, "this site's replica cannot be made durable: a flush has failed");
                self.todo.push_back(Event::ReplicaFailed);
            }
            (_, Some(pair)) => pair.durable(now, position),
            (_, None) => {}
        }
    }

    pub(super) fn vcpu_told(&mut self, told: FromVcpu) {
        match told {
            FromVcpu::Ready { handle, exits, disk } => {
                self.ended_at = None;
                self.standing = Standing::default();
                self.repairing.begin_anew();
                self.account = None;
                let defined = config::load(&self.parts.folder.definition());
                self.choose_output(defined.is_ok_and(|config| config.verifies_output));
                self.running = Some(Running { handle, exits, disk });
            }
            FromVcpu::Born(birth) => self.birth = Some(*birth),
            FromVcpu::Output { seq, output } => {
                let now = self.moment();
                self.outputs.submit(now, output, seq);
                self.output_waits(seq);
            }
            FromVcpu::Logged {
                seq,
                through,
                is_urgent,
                epochs,
                carried,
                frame,
            } => {
                self.epochs_logged(seq, epochs);
                let sent = self.logged(seq, through, is_urgent, frame);
                self.account_of_log(seq, sent, &carried);
            }
            FromVcpu::Consumed { seq } => {
                let now = self.now();
                let over = self.pair.as_mut().and_then(|pair| pair.consumed(now, seq));
                self.replay_over(over);
            }
            FromVcpu::Restored { position, feeder } => {
                self.restored(position, feeder);
                self.tell_transfer(Ok(()));
            }
            FromVcpu::Live(exits) => {
                if let Some(running) = &mut self.running {
                    running.exits = exits;
                    lose_peer(running.disk.as_deref());
                    if let Some(disk) = &running.disk {
                        disk.flushes().tell_to(None);
                    }
                }
                self.announce_from_now_on();
            }
            FromVcpu::Stands { position } => self.stands(position),
            FromVcpu::Differs(differs) => self.copy_differs(&differs),
            FromVcpu::Unrepaired { first_output } => self.copy_unrepaired(first_output),
            FromVcpu::Staged { number } => self.repair_staged(number),
            FromVcpu::Repaired(done) => self.copy_repaired(done),
            FromVcpu::Captured { number, outcome } => self.repair_captured(number, outcome),
            FromVcpu::Checkpointed { step, outcome } => self.checkpointed(step, outcome),
            FromVcpu::Rests { position } => self.copy_rests(position),
            FromVcpu::Follows => self.copy_follows(),
            FromVcpu::Watches(round) => self.watches(round),
            FromVcpu::Leads(exits) => self.leads(exits),
            FromVcpu::Alone => {
                if let Some(running) = &self.running {
                    lose_peer(running.disk.as_deref());
                }
            }
            FromVcpu::Ended(how) => self.vm_ended(how),
        }
    }

    /// The VM's outside is attached here.
    pub(super) fn announce_from_now_on(&mut self) {
        let now = self.now();
        self.awaits_outside = false;
        self.figures.live(now);
        self.announcements = ANNOUNCEMENTS_MS
            .map(|after| now + Duration::from_millis(after))
            .into();
    }

    pub(super) fn vm_ended(&mut self, how: Result<(Outcome, ExitOrdinal), Ending>) {
        if let Ok((outcome, position)) = &how {
            tracing::info!(%position, "the VM has ended: {}", outcome.describe());
        }
        if let Some(disk) = self.disk() {
            disk.unwatch();
        }
        self.running = None;
        self.awaits_outside = false;
        self.todo.push_back(match how {
            Ok((Outcome::PowerOff, position)) => {
                self.ended_at = Some(position);
                Event::GuestStopped { position }
            }
            Ok(_) => Event::VmFailed,
            Err(Ending::Diverged(why)) => {
                tracing::error!("this copy is not the same machine any more: {why}");
                self.has_diverged = true;
                Event::ReplayDiverged
            }
            Err(Ending::DiskFailed(why)) => {
                tracing::error!("this site's replica lacks what the other one has: {why}");
                Event::ReplicaFailed
            }
            Err(Ending::Failed(why)) => {
                tracing::error!("the VM has failed: {why}");
                self.tell_transfer(Err(why));
                Event::VmFailed
            }
        });
        self.follow_an_ended_guest();
    }

    /// Whether the machine stands as it was sent. Only one that is on its way in is waited for.
    fn tell_transfer(&self, stands: Result<(), String>) {
        let _ = self.parts.restored.send(stands);
    }

    /// The thread that would execute the log has ended with its guest; the log may not have.
    fn follow_an_ended_guest(&mut self) {
        let Some(position) = self.ended_at else { return };
        let now = self.now();
        let Some(pair) = &mut self.pair else { return };
        match pair.guest_ended(now, position) {
            Ok(over) => self.replay_over(over),
            Err(through) => {
                tracing::error!(
                    %position,
                    %through,
                    "this copy is not the same machine any more: its guest has ended, and the other one goes on"
                );
                self.has_diverged = true;
                self.todo.push_back(Event::ReplayDiverged);
            }
        }
    }

    /// Hands a frame of the log to the connection; answers with its bytes, 0 if nobody takes it.
    pub(super) fn logged(
        &mut self,
        seq: LogSeq,
        through: ExitOrdinal,
        is_urgent: bool,
        frame: Vec<u8>,
    ) -> u64 {
        let moment = self.moment();
        let open = self.pair.as_mut().filter(|pair| !pair.is_closed);
        let Some(frame) = open.and_then(|pair| pair.push(moment, through, is_urgent, frame)) else {
            return 0;
        };
        assert_eq!(frame.seq, seq, "the recorder and the channel count alike");
        let sent = frame.byte_count();
        self.figures.logged(sent);
        if let Some(writer) = &mut self.writer {
            writer.put(Message::Log(frame));
        }
        sent
    }

    pub(super) fn replay_over(&mut self, over: Option<(ReplayId, ExitOrdinal)>) {
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
    pub(super) fn restored(&mut self, position: ExitOrdinal, feeder: Feeder) {
        let Some(pair) = &mut self.pair else { return };
        let anchor = pair.hello.borrow().session.tag_bytes();
        pair.log = LogEnd::following_from(position, &anchor, feeder, &self.parts.position);
        self.hear_flushes();
    }

    /// What its disk fails is not told to the guest while the other site's disk may do it.
    pub(super) fn keep_failures_back(&self) {
        if let Some(disk) = self.disk() {
            let happenings = self.parts.happenings.clone();
            disk.keep_failures_back(move || {
                // Without a driver nobody waits.
                let _ = happenings.send(Happening::DiskFailed);
            });
        }
    }

    /// What this copy's flushes come to is told to the other site.
    pub(super) fn hear_flushes(&self) {
        if let Some(disk) = self.disk() {
            let happenings = self.parts.happenings.clone();
            disk.flushes().tell_to(Some(Box::new(move |position, outcome| {
                // Without a driver nobody waits.
                let _ = happenings.send(Happening::Flushed(position, outcome));
            })));
        }
    }

    pub(super) fn opened(&mut self, opened: Opened) {
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
        if let Err(fault) = pair.resume(now, &theirs, &mut writer) {
            tracing::error!("the logging channel cannot be resumed: {}", fault.why);
            return self.refused(&fault);
        }
        pair.connection += 1;
        pair.foreign = (reader.foreign(), 0);
        if let Some(reading) = pair.reader.take() {
            reading.abort();
        }
        pair.turning = Some(reader.turning());
        pair.reader = Some(line::read(pair.connection, reader, self.parts.happenings.clone()));
        match &mut pair.heartbeats {
            Some(heartbeats) => heartbeats.rekey(keys),
            None => {
                let session = pair.hello.borrow().session.clone();
                pair.heartbeats = Some(Heartbeats::new(&session, pair.side, keys));
            }
        }
        self.writer = Some(writer);
        self.verifying.tell_anew();
        self.tell_of_repair_anew();
        self.expect_turned_again();
        self.todo.push_back(Event::ChannelResumed);
    }

    /// Counts what was refused, for the status.
    pub(super) fn refused(&mut self, fault: &Fault) {
        self.refusals.note(wall_clock_unix_seconds(), fault);
    }

    /// What a connection drops it drops without a word.
    pub(super) fn count_foreign_frames(&mut self) {
        let count = self.pair.as_mut().map_or(0, Pair::newly_foreign);
        let because = "frames of another pairing were dropped";
        self.refusals
            .count(wall_clock_unix_seconds(), "foreign-frame", because, count);
    }

    pub(super) fn lose_connection(&mut self, fault: &Fault) {
        if self.writer.take().is_none() {
            return;
        }
        tracing::warn!("the logging channel is down: {}", fault.why);
        self.refused(fault);
        if let Some(pair) = &mut self.pair {
            pair.update_hello();
            if let Some(reading) = pair.reader.take() {
                reading.abort();
            }
            pair.wanted.notify_one();
        }
        self.lose_verification();
        self.todo.push_back(Event::ChannelLost);
    }

    pub(super) fn message(&mut self, number: u64, tag: Tag, message: Message) {
        let now = self.now();
        let Some(pair) = &mut self.pair else { return };
        if pair.connection != number || pair.is_closed {
            return;
        }
        self.figures.peer_heard(now);
        self.todo.push_back(Event::ChannelHeard);
        // A word names its pairing. What else is of another session is of one that is over, or of one that this end does not
        // know to have begun: then what comes next does not fit, and a new connection begins where it must.
        if tag != pair.tag() && !matches!(message, Message::Word(_)) {
            return;
        }
        let fault = match message {
            Message::Log(frame) => {
                let taken = pair.take(now, &frame);
                self.go_on_with_the_log();
                self.follow_an_ended_guest();
                taken.err()
            }
            Message::Ack(ack) => match pair.acknowledge(ack) {
                Ok(false) => None,
                Ok(true) => {
                    self.copy_executed(ack.executed);
                    self.todo.push_back(Event::Acked(Acknowledged {
                        received: ack.received,
                        executed: ack.executed,
                        replayed: ack.replayed,
                        durable: ack.durable,
                    }));
                    None
                }
                Err(fault) => Some(fault.into()),
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
                Err(error) => Some(Fault::refused("no-word", format!("a word that is none: {error}"))),
            },
            Message::Check(check) => self.checked(check).err(),
            Message::Repair(word) => self.told_of_repair(&word).err(),
            Message::Pong(stamp) => {
                self.figures.echoed(now, stamp);
                None
            }
            Message::Bye(_) => None,
            Message::Hello(_) => Some(Misbehaviour::OutOfPlace("Hello").into()),
        };
        if let Some(fault) = fault {
            self.lose_connection(&fault);
        }
    }

    pub(super) fn heard(&mut self, datagram: &[u8]) {
        let now = self.now();
        let heartbeats = self.pair.as_mut().and_then(|pair| pair.heartbeats.as_mut());
        let Some(heartbeats) = heartbeats else { return };
        let before = heartbeats.dropped();
        let Some(heard) = heartbeats.receive(now, datagram) else {
            let dropped = heartbeats.dropped();
            return self.refusals.dropped(wall_clock_unix_seconds(), before, dropped);
        };
        self.figures.peer_heard(now);
        self.todo.push_back(Event::PeerHeard(Heard {
            round_trip: heard.round_trip,
            deaf_for: Duration::ZERO,
            replayed: heard.vitals.map(|vitals| vitals.replayed).unwrap_or_default(),
        }));
    }

    /// The guest stands still for a transfer that was given up meanwhile.
    fn let_stand_no_more(&self) {
        let leads = matches!(
            self.pair.as_ref().map(|pair| &pair.log),
            Some(LogEnd::Sending { .. })
        );
        if let Some(running) = self.running.as_ref().filter(|_| !leads) {
            running.handle.order(Order::GoAlone);
        }
    }

    pub(super) fn transfer_told(&mut self, news: TransferNews) {
        match news {
            TransferNews::Ports { log } => self.dial(log),
            TransferNews::StoodAt(position) if self.transfer.is_some() => self.stunned_at = Some(position),
            TransferNews::StoodAt(_) => self.let_stand_no_more(),
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
            TransferNews::News(News::Resync(resync)) => self.resync = Some(resync),
            TransferNews::News(News::Memory(sent)) => self.memory_sent = Some(sent),
            TransferNews::News(News::DiskInSync) => self.todo.push_back(Event::DiskInSync),
            TransferNews::News(News::RamInSync) => self.todo.push_back(Event::RamInSync),
            TransferNews::News(News::Stunned) => {}
            TransferNews::News(News::PeerReady) => self.todo.push_back(Event::PeerReady),
            TransferNews::Failed(fault) => {
                tracing::warn!("the transfer to the other site: {}", fault.why);
                self.refused(&fault);
                self.trouble = Some(fault.why);
                self.transfer = None;
                self.todo.push_back(Event::TransferFailed);
            }
        }
    }
}

fn lose_peer(disk: Option<&Disk>) {
    if let Some(Err(error)) = disk.map(Disk::lose_peer) {
        tracing::error!(%error, "the replica's new content could not be named");
    }
}
