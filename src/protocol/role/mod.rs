//! The role of one site in the life of one VM: who is live, and who may be.
//!
//! One [`Role`] lives in each VM process. [`Role::step`] takes one [`Event`] and answers with [`Effect`]s, in an order
//! that is data. It reads no clock and does no I/O; whoever drives it does the effects one after the other.
//!
//! ```text
//!  the side that is live                                             the side that follows
//!
//!  Idle ──Start──▶ Starting                                          Idle ──Join──▶ Joining
//!                     │ register, cold_start granted                                   │ restored, digest agrees,
//!                     ▼                                                                │ replica clean and durable
//!   ┌────────────▶  Alone  ◀───────────────────────────────┐                           ▼
//!   │ cancelled,      │ Protect                            │                       Candidate ─────┐ renounced, or left
//!   │ failed          ▼                                    │                           │ Confirmed│ before it was
//!   ├──────────── Syncing (disk)                           │                           ▼          │ confirmed
//!   ├──────────── Cloning (RAM)                            │             ┌────────── Backup       ├──────▶ Stale
//!   │                 │ record read, not a second old      │   heard     │  ▲   Stopping │        │
//!   └──────────── Stunned ── outputs held from here on     │   again ┌───┘  │            ▼        │
//!                     │ peer ready: `pair` asked           │         ▼      │         Halting     │
//!                     ▼                                    │     Suspecting─┘            │        │
//!                  Pairing ──────cancel, peer lost──┐      │         │ silence ┌─────────▼        │
//!            granted  │      └─peer renounced──┐    ▼      │         ▼         │      Halted      │
//!                     ▼                        │ Cancelling┤      Closing ◀────┘         │ Parked │
//!     ┌──────────▶ Primary ◀──heard again──┐   │    │ it   │         │ replayed to end,  ▼        │
//!     │ Unprotect:    │ suspicion          │   ▼    │ was  │         │ durable        Stopped     │
//!     │  asks claim   ▼                    │ Settling granted         ▼                            │
//!     │            Suspecting ─────────────┘   │    ▼      │     Claiming ─── refused ─────────────┘
//!     │               │ still, after the       └─▶claim────┤         │
//!     └────────────▶ Claiming ◀─ head start                │         │ granted: GoLive
//!                     │    └───────── granted ─────────────┴◀────────┘
//!                     └─ refused: DestroyVm, MarkStale ──▶ Stale
//!
//!  Primary ── its disk fails, and the backup is heard ──▶ Stopped; the backup goes Closing at that word
//!
//!  Alone, Primary ── Stop, or the guest stops ──▶ Stopping ──(backup durable there)──▶ Parking ──▶ Stopped
//!
//!  Primary ── Switchover ──▶ Yielding ──(backup poised)──▶ Swapping ──granted──▶ Backup of the turned pairing
//!     ▲  not yet asked for:     │                             │ refused
//!     └── too long, Stay ◀──────┴─────────────────────────────┴─ taken over meanwhile: DestroyVm, MarkStale ──▶ Stale
//!
//!  Backup ──(primary stands)──▶ Taking ──(stands there too, durable)──▶ Poised ──(told, or read)──▶ Primary of it
//! ```
//!
//! Terminal: Stale and Stopped. A later start or join is a new process, with a new boot and the notes of the old one.
//! *Frozen* is no state of its own: in Pairing, Cancelling, Claiming, Swapping, Parking or Starting the outcome of what
//! was asked is unknown, and in Poised that of what the other site asks. Nothing leaves then, and the same request is sent again until it is answered; there is no guess.
//!
//! Who may cause what: commands are an operator's (Join: the other site's supervisor; Resume, a Start that makes nothing
//! of a record that is none or parked: this site's; Protect: also [`super::reprotect`]); a state that waits for the
//! tiebreaker is left by its answer alone, and Settling, Pairing, Cancelling besides by the durable word of the other
//! role that it has renounced, Swapping besides by that of a backup which leads; `switchover` tells who moves when; suspicion comes from the detector and nothing else.
//!
//! Whoever drives a role owes it this: effects are done in their order before the next event comes; a tick at the
//! latest after each heartbeat interval; each request and each reading ends in an event, be it without an answer;
//! heartbeats go out while the channel of the pairing is open and no longer; after the effects the output rule is told
//! that the role has acted, with [`Role::gap_max`] as its lease.
//!
//! What each rule prevents:
//!
//! - *The notes are durable before a request leaves.* Else a process that starts again would use its number for another.
//! - *Outputs are held from the stun until `pair` is granted.* Else what a client saw is unknown to a backup that a
//!   late `pair` lets claim.
//! - *`cancel_pair` is granted before outputs open again.* Else the same, for a pairing that was given up.
//! - *The channel is closed before a claim is asked for, and what came through it replayed and durable.* Else the backup
//!   acknowledges what it will not have.
//! - *With flushes at both sites, the guest is told of one when both disks have it, or this site is alone.* Else a backup
//!   starts, after both were down, from a disk that lacks what the guest took for durable.
//! - *Nothing goes live but by a grant.* Else two sites run.
//! - *`swap` is asked when the backup stands where the primary does, is the same machine, durable, and has acknowledged
//!   all; then nobody goes on before its outcome is known.* Else the one that goes on lacks what the other has shown.
//! - *A site that stood still holds its outputs until the record, or a fresh acknowledgement, shows that it is still
//!   the one.* Else it goes on where another has taken over.
//! - *Who loses, gives up or renounces marks its replica stale durably before it says so.* Else it would start later
//!   from a disk that lacks what clients were told.

mod ask;
mod backup;
mod cause;
mod claim;
mod effect;
mod event;
mod pairing;
mod phase;
mod primary;
mod start;
mod stop;
mod switchover;
mod view;
mod wake;

#[cfg(test)]
mod tests;

use std::time::Duration;

use antipode_certs::Name;
use antipode_tiebreaker::{Boot, Flush, Generation, PairingId, Record};

pub use cause::{Cause, Leaving, Refused};
pub use effect::{Ask, Effect, Notes};
pub use event::{Acknowledged, Command, Event, Gauges, Progress, ReadId, ReplayId, Replica, Word};
pub use phase::{Phase, PhaseName, Side};

use super::detector::Detector;
use super::lag::LagControl;
use super::moment::Moment;
use crate::base::units::{ExitOrdinal, LogSeq};
use ask::{Asked, Purpose, Reading, Standing};
use wake::Doubt;

/// What a role is told at its birth.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This site.
    pub own: Name,
    /// The other one.
    pub peer: Name,
    /// This start of the VM's process: never used before.
    pub boot: Boot,
    /// No silence below this is a failure.
    pub failure_timeout_floor: Duration,
}

/// Which outputs may leave, as the state has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    Closed,
    Acknowledged,
    Open,
}

/// The role of this site in the life of one VM.
#[derive(Debug)]
pub struct Role {
    settings: Settings,
    notes: Notes,
    now: Moment,
    phase: Phase,
    since: Moment,
    cause: Option<Cause>,
    generation: Generation,
    pairing: Option<PairingId>,
    /// Whether this site claims at once; the other one waits a little.
    preferred: bool,
    /// How flushes are made in the pairing, once that is known.
    flush: Flush,
    gate: Gate,
    doubt: Option<Doubt>,
    announces: bool,
    asked: Option<Asked>,
    reading: Option<Reading>,
    reads: ReadId,
    detector: Detector,
    lag: LagControl,
    gauges: Gauges,
    progress: Progress,
    acknowledged: Acknowledged,
    /// Outputs leave when the backup has made them too.
    verifies_outputs: bool,
    channel_open: bool,
    /// The guest waits for what its disk has failed.
    disk_fails: bool,
    /// The backup's copy is another machine, and is being made the same again.
    backup_differs: bool,
    backup: backup::Following,
    /// When the suspicion was strong enough to claim.
    suspected_at: Option<Moment>,
    /// Where the guest stopped, in order.
    stopped_at: Option<ExitOrdinal>,
    stop_wanted: bool,
    /// A switchover that is under way.
    turn: Option<switchover::Turn>,
    /// A switchover that begins when the backup has caught up.
    turn_waits: Option<switchover::Waiting>,
    replica: Replica,
    /// Nobody has asked for the start but the site itself.
    resumes: bool,
    pleaded_at: Option<Moment>,
    effects: Vec<Effect>,
}

impl Role {
    /// A process has begun; nothing runs yet. `notes` are those of the process before.
    #[must_use]
    pub fn new(now: Moment, settings: Settings, notes: Notes) -> Self {
        Self {
            detector: Detector::new(settings.failure_timeout_floor),
            settings,
            notes,
            now,
            phase: Phase::Idle,
            since: now,
            cause: None,
            generation: Generation::NONE,
            pairing: None,
            preferred: false,
            flush: Flush::Site,
            gate: Gate::Closed,
            doubt: None,
            announces: false,
            asked: None,
            reading: None,
            reads: ReadId::default(),
            lag: LagControl::default(),
            gauges: Gauges::default(),
            progress: Progress::default(),
            acknowledged: Acknowledged::default(),
            verifies_outputs: false,
            channel_open: false,
            disk_fails: false,
            backup_differs: false,
            backup: backup::Following::default(),
            suspected_at: None,
            stopped_at: None,
            stop_wanted: false,
            turn: None,
            turn_waits: None,
            replica: Replica::Clean,
            resumes: false,
            pleaded_at: None,
            effects: Vec::new(),
        }
    }

    /// What follows from `event` at `now`; to be done in this order, before the next event is handed in.
    pub fn step(&mut self, now: Moment, event: Event) -> Vec<Effect> {
        self.notice_gap(now);
        self.handle(event);
        std::mem::take(&mut self.effects)
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Command(command) => self.command(command),
            Event::Tick(gauges) => self.tick(gauges),
            Event::TransferProgress(progress) => self.progress = progress,
            Event::DiskInSync => self.disk_in_sync(),
            Event::RamInSync => self.ram_in_sync(),
            Event::TransferFailed => self.transfer_failed(),
            Event::PeerReady => self.peer_ready(),
            Event::Joined => self.joined(),
            Event::PeerHeard(heard) => self.detector.heartbeat(self.now, &heard),
            Event::ChannelHeard => self.detector.channel_heard(self.now),
            Event::Acked(acknowledged) => self.acked(acknowledged),
            Event::ChannelLost => self.channel_lost(),
            Event::ChannelResumed => self.channel_resumed(),
            Event::PeerSaid(word) => self.peer_said(word),
            Event::Answered { id, answer } => self.answered(id, answer),
            Event::RecordRead { read, record } => self.record_read(read, record),
            Event::ReplayReachedEnd {
                replay,
                position,
                agrees,
            } => self.replay_reached_end(replay, position, agrees),
            Event::ReplicaDurable { position } => self.replica_durable(position),
            Event::StoodStill { position, logged } => self.stood_still(position, logged),
            Event::ReplayDiverged => self.leave_backup(Leaving::Diverged),
            Event::OutputsVerified(are) => self.verify_outputs(are),
            Event::RepairBegins => self.backup_differs(true),
            Event::RepairEnds => self.backup_differs(false),
            Event::ReplicaFailed => self.leave_backup(Leaving::ReplicaFailed),
            Event::DiskFailed => self.disk_fails = self.phase.is_live(),
            Event::GuestStopped { position } => self.guest_stopped(position),
            Event::VmFailed => self.vm_failed(),
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Start { replica } => self.start(replica),
            Command::Resume { replica } => self.resume(replica),
            Command::Join { pairing, generation } => self.join(pairing, generation),
            Command::Protect { pairing } => self.protect(pairing),
            Command::Unprotect => self.unprotect(),
            Command::Stop => self.stop(),
            Command::SwitchOver { turned } => self.switch_over(turned),
            Command::Stay => self.stay(),
        }
    }

    fn tick(&mut self, gauges: Gauges) {
        self.gauges = gauges;
        self.set_fence();
        self.ask_again();
        self.begin_waiting_turn();
        match self.phase {
            Phase::Stunned => self.tick_stunned(),
            Phase::Pairing | Phase::Cancelling => self.tick_pairing(),
            Phase::Yielding => self.tick_yielding(),
            Phase::Primary | Phase::Stopping | Phase::Suspecting(Side::Primary) => self.tick_primary(),
            Phase::Joining
            | Phase::Candidate
            | Phase::Backup
            | Phase::Halting
            | Phase::Halted
            | Phase::Taking
            | Phase::Poised
            | Phase::Suspecting(Side::Backup) => self.tick_backup(),
            _ => {}
        }
    }

    fn peer_said(&mut self, word: Word) {
        if let Word::PleaseRenounce { pairing } = word {
            return self.asked_to_renounce(pairing);
        }
        if let Word::Confirmed {
            pairing, generation, ..
        } = word
        {
            self.peer_leads(pairing, generation);
        }
        if self.pairing != Some(word.pairing()) {
            return;
        }
        match word {
            Word::Renounced { .. } => self.peer_renounced(),
            Word::Confirmed {
                generation,
                sender_preferred,
                flush,
                ..
            } => self.confirmed(generation, !sender_preferred, flush),
            Word::Stopping { position, .. } => self.primary_stops(position),
            Word::StoppedAt { position, .. } => self.backup_stopped(position),
            Word::Parked { .. } => self.primary_parked(),
            Word::PleaseSwitch { turned, .. } => self.asked_to_switch(turned),
            Word::NotSwitched { why, .. } => self.not_switched(why),
            Word::Turning { turned, position, .. } => self.primary_turns(turned, position),
            Word::Poised { position, .. } => self.backup_poised(position),
            Word::GoesOn { .. } => self.primary_goes_on(),
            Word::Turned {
                generation,
                sender_preferred,
                ..
            } => self.told_turned(generation, sender_preferred),
            Word::Left { why, .. } => self.peer_left(why),
            Word::PleaseRenounce { .. } => unreachable!("handled above"),
        }
    }

    fn channel_lost(&mut self) {
        self.detector.channel(self.now, false);
        if matches!(self.phase, Phase::Claiming(_)) {
            self.close_channel();
        }
    }

    fn channel_resumed(&mut self) {
        self.detector.channel(self.now, true);
        self.detector.channel_heard(self.now);
        if self.phase == Phase::Primary {
            self.tell_confirmed();
        }
    }

    fn emit(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    fn enter(&mut self, phase: Phase, cause: Option<Cause>) {
        assert!(
            !self.phase.is_terminal(),
            "{:?} is left for {phase:?}",
            self.phase
        );
        self.phase = phase;
        self.cause = cause;
        self.since = self.now;
        self.suspected_at = None;
        self.pleaded_at = None;
        if phase.is_terminal() {
            self.asked = None;
            self.reading = None;
            self.doubt = None;
        }
        self.emit(Effect::Report);
    }

    fn take_settings(&mut self, record: &Record) {
        self.flush = record.settings.flush;
        self.preferred = record
            .settings
            .preferred
            .as_ref()
            .is_none_or(|preferred| *preferred == self.settings.own);
    }

    /// Another holds the VM: whatever runs here ends.
    fn lose(&mut self, cause: Cause) {
        self.discard();
        self.close_channel();
        self.emit(Effect::DestroyVm);
        self.emit(Effect::MarkStale);
        self.enter(Phase::Stale, Some(cause));
    }

    fn discard(&mut self) {
        self.gate = Gate::Closed;
        self.announces = false;
        self.emit(Effect::DiscardOutputs);
    }

    fn close_channel(&mut self) {
        if std::mem::take(&mut self.channel_open) {
            self.emit(Effect::CloseChannel);
        }
        if let Some(share) = self.lag.release() {
            self.emit(Effect::Throttle(share));
        }
    }

    /// Which outputs may leave from now on, unless this site is in doubt.
    fn set_gate(&mut self, gate: Gate) {
        self.gate = gate;
        if self.doubt.is_none() {
            self.apply_gate();
        }
    }

    fn apply_gate(&mut self) {
        match self.gate {
            Gate::Closed => self.emit(Effect::HoldOutputs),
            Gate::Acknowledged if self.releasable() == LogSeq::NONE => {}
            Gate::Acknowledged => self.emit(Effect::ReleaseThrough(self.releasable())),
            Gate::Open => {
                self.emit(Effect::OpenOutputs);
                if std::mem::take(&mut self.announces) {
                    self.emit(Effect::Announce);
                }
            }
        }
    }

    /// The state.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// The pairing that is being made or stands, or stood last.
    #[must_use]
    pub const fn pairing(&self) -> Option<PairingId> {
        self.pairing
    }

    /// The record's generation, as far as this site knows.
    #[must_use]
    pub const fn generation(&self) -> Generation {
        self.generation
    }

    /// How often to send heartbeats, and to tick.
    #[must_use]
    pub fn heartbeat_interval(&self) -> Duration {
        self.detector.heartbeat_interval()
    }

    /// What watches the other site.
    #[must_use]
    pub const fn detector(&self) -> &Detector {
        &self.detector
    }
}
