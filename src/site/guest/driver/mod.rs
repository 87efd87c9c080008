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

mod accounting;
mod again;
mod effects;
mod figures;
mod keeping;
mod news;
mod operator;
mod repairing;
mod turning;
mod verifying;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use antipode_certs::Name;
use antipode_certs::tls::LiveCredentials;
use antipode_tiebreaker::Incarnation;
use antipode_tiebreaker::limits::SITE_SILENT_MS;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use self::figures::Figures;
use self::keeping::Keeping;
use self::repairing::Repairing;
use self::turning::Standing;
use self::verifying::Verifying;
use super::asker::Asker;
use super::begin::Begin;
use super::happening::Happening;
use super::orders::FromVcpu;
use super::pair::{LogEnd, Pair};
use super::refusals::{Fault, Refusals};
use super::vcpu::Handle;
use crate::base::clock::{HostClock, SystemClock};
use crate::base::units::ExitOrdinal;
use crate::channel::{Datagrams, Listener, Message, Writer};
use crate::machine::HeldOutput;
use crate::machine::launch::Birth;
use crate::machine::started::Exits;
use crate::machine::workers::DiskHandle;
use crate::protocol::detector::Waits;
use crate::protocol::mode::Account;
use crate::protocol::moment::Moment;
use crate::protocol::output_rule::OutputRule;
use crate::protocol::reprotect::Reprotect;
use crate::protocol::role::{Event, Gauges, Refused, Role};
use crate::site::config::SiteConfig;
use crate::site::store::{Intent, VmFolder};
use crate::transfer::{Go, MemorySent, Resync};

/// When a VM that went live says where it is now (P5).
const ANNOUNCEMENTS_MS: [u64; 4] = [0, 50, 200, 1000];
/// How often the tiebreaker hears of this site, with nothing to ask: an operator's override knows by it that the site is
/// there (T4), and the way to the tiebreaker is open when it matters.
const IN_TOUCH_EVERY: Duration = Duration::from_secs(3);
/// So much of what has happened is looked at before something is sent, and before the time is.
const AT_ONCE_MAX: usize = 64;
// Two words of a site may be lost, and it is still in touch.
const _: () = assert!(SITE_SILENT_MS > 3 * 1000 * IN_TOUCH_EVERY.as_secs());

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
    pub(super) intent: Intent,
    pub(super) credentials: Arc<LiveCredentials>,
    pub(super) role: Role,
    pub(super) begin: std::sync::mpsc::Sender<Begin>,
    pub(super) happenings: UnboundedSender<Happening>,
    pub(super) position: Arc<AtomicU64>,
    /// Told whether a machine on its way in stands as it was sent.
    pub(super) restored: std::sync::mpsc::Sender<Result<(), String>>,
    /// Nothing more is wanted of a machine on its way in.
    pub(super) is_given_up: Arc<AtomicBool>,
    /// Ports of the logging channel and heartbeats, and of a machine on its way in.
    pub(super) ports: (u16, u16),
}

pub(super) struct Driver {
    parts: Parts,
    asker: Asker,
    outputs: OutputRule<HeldOutput>,
    figures: Figures,
    /// What keeping the other copy the same has cost, since this site leads.
    account: Option<Account>,
    keeping: Keeping,
    refusals: Refusals,
    running: Option<Running>,
    birth: Option<Birth>,
    pair: Option<Pair>,
    writer: Option<Writer>,
    datagrams: Option<Datagrams>,
    listener: Option<Listener>,
    transfer: Option<std::sync::mpsc::Sender<Go>>,
    /// How many there were: what is told by one that was given up is told by its number from the present one.
    transfers: u64,
    /// Why the last one came to nothing, in words.
    trouble: Option<String>,
    reprotect: Reprotect,
    verifying: Verifying,
    repairing: Repairing,
    /// What is noted of what shall become of the VM after an outage.
    intent: Intent,
    /// What the last one's disk needs, or took.
    resync: Option<Resync>,
    memory_sent: Option<MemorySent>,
    /// What the other site's replica alone holds may be lost in the next one.
    discards: bool,
    stunned_at: Option<ExitOrdinal>,
    /// This copy was another machine than the one that it followed.
    has_diverged: bool,
    /// Where the guest has ended in order.
    ended_at: Option<ExitOrdinal>,
    /// The copy goes live, and its outside is not attached yet.
    awaits_outside: bool,
    standing: Standing,
    /// Why the last command was not done.
    not_done: Option<Refused>,
    incarnation: Incarnation,
    todo: VecDeque<Event>,
    announcements: Vec<Duration>,
    next_tick: Duration,
    next_touch: Duration,
    is_over: bool,
}

/// What woke the driver.
enum Woke {
    Happening(Happening),
    Vcpu(FromVcpu),
    Drained(Result<(), Fault>),
    Datagram(Vec<u8>),
    Time,
}

impl Driver {
    pub(super) fn new(parts: Parts, asker: Asker, listener: Listener) -> Self {
        let lease = parts.role.gap_max();
        let intent = parts.intent;
        let reprotect = Reprotect::new(parts.config.protects_again, intent.is_protected);
        Self {
            parts,
            asker,
            outputs: OutputRule::new(lease),
            figures: Figures::from(Duration::from_nanos(SystemClock.monotonic_ns())),
            account: None,
            keeping: Keeping::default(),
            refusals: Refusals::default(),
            running: None,
            birth: None,
            pair: None,
            writer: None,
            datagrams: None,
            listener: Some(listener),
            transfer: None,
            transfers: 0,
            trouble: None,
            reprotect,
            repairing: Repairing::default(),
            verifying: Verifying::new(Moment::from_nanos(SystemClock.monotonic_ns())),
            intent,
            resync: None,
            memory_sent: None,
            discards: false,
            stunned_at: None,
            has_diverged: false,
            ended_at: None,
            awaits_outside: false,
            standing: Standing::default(),
            not_done: None,
            incarnation: Incarnation(1),
            todo: VecDeque::new(),
            announcements: Vec::new(),
            next_tick: Duration::ZERO,
            next_touch: Duration::ZERO,
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
            // An acknowledgement is on its way before the replay is woken, which may take this CPU.
            self.send_what_can_go().await;
            if let Some(pair) = &mut self.pair {
                pair.feed_replay();
            }
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
            self.settle();
            self.take_what_waits(&mut happenings, &mut vcpu);
            self.tick_if_due();
            self.settle();
        }
        if let Some(running) = &self.running {
            running.handle.destroy();
        }
    }

    /// Looks at what has happened meanwhile: it leaves in one write, and one acknowledgement answers it.
    fn take_what_waits(
        &mut self,
        happenings: &mut UnboundedReceiver<Happening>,
        vcpu: &mut UnboundedReceiver<FromVcpu>,
    ) {
        for _ in 0..AT_ONCE_MAX {
            if let Ok(happening) = happenings.try_recv() {
                self.happened(happening);
            } else if let Ok(told) = vcpu.try_recv() {
                self.vcpu_told(told);
            } else {
                return;
            }
            self.settle();
        }
    }

    /// Sends what the host's network takes at once.
    async fn send_what_can_go(&mut self) {
        let sent = tokio::select! {
            biased;
            drained = drain(&mut self.writer), if self.writer.is_some() => drained,
            () = std::future::ready(()) => Ok(()),
        };
        if let Err(why) = sent {
            self.lose_connection(&why);
            self.settle();
        }
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
        if now >= self.next_touch {
            self.next_touch = now + IN_TOUCH_EVERY;
            self.asker.keep_in_touch();
        }
        self.ask_for_echo(now);
        self.beat(now);
        self.count_foreign_frames();
        self.figures.ticked(now);
        self.account_of_time();
        self.watch_protection();
        self.watch_verification(now);
        self.watch_repair();
        self.watch_mode();
        let gauges = self.gauges();
        self.todo.push_back(Event::Tick(gauges));
    }

    /// A primary measures what an acknowledgement takes at the least.
    fn ask_for_echo(&mut self, now: Duration) {
        if let (Some(LogEnd::Sending { .. }), Some(writer)) =
            (self.pair.as_ref().map(|pair| &pair.log), &mut self.writer)
            && let Some(stamp) = self.figures.echo_due(now)
        {
            writer.put(Message::Ping(stamp));
        }
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
        let flush_since = self.disk().and_then(|disk| disk.flushes().wait_since());
        let output_since = match self.pair.as_ref().map(|pair| &pair.log) {
            // They wait for the replay, which is judged by whether it moves.
            Some(LogEnd::Sending { sender, .. }) if self.repairing.verifies_outputs() => {
                sender.output_waits_since().map(|since| Moment::default() + since)
            }
            _ => self.outputs.waits_since(),
        };
        let waits = Waits {
            output_since,
            flush_since: flush_since.map(|since| Moment::default() + since),
        };
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
                waits,
                checkpoint: self.keeping.checkpoint_under_way(moment),
            },
            Some(LogEnd::Following {
                receiver, position, ..
            }) => Gauges {
                logged: receiver.reached().received,
                position: ExitOrdinal::new(position.load(Ordering::Relaxed)),
                waits,
                ..Gauges::default()
            },
            _ => Gauges {
                position: ExitOrdinal::new(self.parts.position.load(Ordering::Relaxed)),
                waits,
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
        if self.parts.role.phase().is_terminal() {
            self.parts.is_given_up.store(true, Ordering::Relaxed);
        }
        if has_acted {
            self.outputs.role_acted(self.moment(), self.parts.role.gap_max());
            self.tell_disk_of_doubt();
        }
        while !self.awaits_outside
            && let Some((output, written, held)) = self.outputs.take(self.moment())
        {
            self.figures.let_out(held);
            self.account_of_output(written, held);
            if let Some(running) = &self.running {
                running.exits.let_out(output);
            }
        }
    }
}

async fn drain(writer: &mut Option<Writer>) -> Result<(), Fault> {
    match writer {
        Some(writer) => writer.drain().await.map_err(|error| (&error).into()),
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
