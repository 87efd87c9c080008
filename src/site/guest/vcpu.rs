//! The vCPU's thread: one VM through all that it is in its life.
//!
//! ```text
//!   boot ──▶ alone ◀── GoAlone ──┐
//!              │  ▲              │
//!         Stun │  │ GoAlone      │
//!              ▼  │              │
//!            stunned ── Lead ──▶ leading
//!
//!   arriving ── restored ──▶ following ── the log ends ──▶ alone
//!
//!   leading ── StandStill ──▶ stands ── Follow ──▶ following          GoOn: as it was; GoAlone
//!   following ── the log says so ──▶ stands ── Lead ──▶ leading       GoOn: as it was
//!
//!   following ── it differs ──▶ waits ── staged, BeRepaired ──▶ following
//!   following ── the log says so ──▶ rests ── a checkpoint ──▶ rests ── the log says so ──▶ following
//! ```
//!
//! The VM is held at a position for each order, and runs on when the order is done, but for [`Order::Stun`] and
//! [`Order::StandStill`].

mod checkpoints;
mod repairing;
mod standing;
mod watching;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use super::checks::Checks;
use super::kept_frames::KeepFrames;
use super::log_ends::{Feeder, Incoming, Outgoing, ToDriver};
use super::orders::{Ending, FromVcpu, Order};
use crate::base::guest_memory::GuestMemory;
use crate::base::parts::Parts;
use crate::base::units::ExitOrdinal;
use crate::machine::launch::{LaunchError, PreparedVm, StartedVm};
use crate::machine::workers::{Event, HostEntropy, Inbox};
use crate::machine::{Filling, Live, Outcome, RamSums, RestoreError, RunError, TimelineError};
use crate::replay::{MachineDigests, Recorder, Reserve, Standby};
use crate::transfer::{Arrived, Arriving, Stunned};

/// The way to a VM that runs on its thread.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    orders: std::sync::mpsc::Sender<Order>,
    inbox: Inbox,
    /// Where the thread tells.
    reports: UnboundedSender<FromVcpu>,
}

impl Handle {
    /// Has `order` done at the next position. False if the thread has ended.
    pub(crate) fn order(&self, order: Order) -> bool {
        let is_there = self.orders.send(order).is_ok();
        self.inbox.post([Event::Hold]);
        is_there
    }

    /// Has it follow, from exit `position`, where it stands still; answers with the near end of its log.
    pub(crate) fn follow(&self, position: ExitOrdinal) -> Feeder {
        let waker = self.inbox.waker().clone();
        let (log, feeder) = Incoming::beginning_at(position, waker, self.reports.clone());
        self.order(Order::Follow { log });
        feeder
    }

    /// Ends the VM as it stands.
    pub(crate) fn destroy(&self) {
        let _ = self.orders.send(Order::End);
        self.inbox.post([Event::Stop]);
    }

    /// Presses its power button.
    pub(crate) fn press_power_button(&self) {
        self.inbox
            .post([Event::Device(crate::devices::Input::PowerButton)]);
    }
}

/// What the thread needs besides its VM.
#[derive(Debug)]
pub(crate) struct Ways {
    /// What is wanted of it.
    pub(crate) orders: Receiver<Order>,
    /// The sending end, for the handle.
    pub(crate) order_here: std::sync::mpsc::Sender<Order>,
    /// Where it tells.
    pub(crate) reports: UnboundedSender<FromVcpu>,
    /// Where it says which exit it has reached, alone or as a backup.
    pub(crate) position: Arc<AtomicU64>,
    /// What is done for whoever takes nobody's word.
    pub(crate) checks: Checks,
}

/// What the VM is at present.
enum Course {
    Alone(Box<Live>),
    Leading(Box<Recorder<Outgoing>>),
    Following(Box<Standby<Incoming>>),
}

/// Makes a VM with the RAM and the other parts that it is given the way to.
pub(crate) type Fill<'a> = &'a mut dyn FnMut(&GuestMemory) -> Result<Parts, RestoreError>;

/// Serves the VM that `start` makes, on the calling thread, to its end.
pub(crate) fn boot(start: impl FnOnce() -> Result<StartedVm, LaunchError>, ways: Ways) {
    let exit_cost = PreparedVm::exit_cost();
    let begun = start().and_then(|mut vm| {
        let live = vm.live(open_entropy()?, exit_cost)?;
        let live = live.telling(Arc::clone(&ways.position));
        Thread::over(&mut vm, &ways);
        Ok((vm, Course::Alone(Box::new(live))))
    });
    serve_or_tell(begun, exit_cost, ways);
}

/// Serves the machine that arrives from `pieces`, made by `resume`, on the calling thread, to its end.
pub(crate) fn receive(
    resume: impl FnOnce(Fill<'_>) -> Result<StartedVm, LaunchError>,
    pieces: &Receiver<Arriving>,
    ways: Ways,
) {
    let exit_cost = PreparedVm::exit_cost();
    let begun = restore(resume, pieces).and_then(|mut vm| {
        let position = vm.totals().exit_count;
        let waker = vm.kicker().waker();
        let (incoming, feeder) = Incoming::beginning_at(position, waker, ways.reports.clone());
        let reserve = reserve_of(&vm, exit_cost, &ways)?;
        Thread::over(&mut vm, &ways);
        let _ = ways.reports.send(FromVcpu::Restored { position, feeder });
        let standby = Standby::following(incoming, reserve);
        Ok((vm, Course::Following(Box::new(standby))))
    });
    serve_or_tell(begun, exit_cost, ways);
}

fn open_entropy() -> Result<HostEntropy, LaunchError> {
    HostEntropy::open().map_err(|source| LaunchError::Host {
        what: "opening the host's random bytes",
        source,
    })
}

/// What `vm` goes live with.
fn reserve_of(vm: &StartedVm, exit_cost: Duration, ways: &Ways) -> Result<Reserve, LaunchError> {
    Ok(Reserve {
        kicker: vm.kicker(),
        inbox: vm.inbox().clone(),
        entropy: open_entropy()?,
        exit_cost,
        position: Arc::clone(&ways.position),
        lead_astray_every: ways.checks.lead_astray_every,
    })
}

fn serve_or_tell(begun: Result<(StartedVm, Course), LaunchError>, exit_cost: Duration, ways: Ways) {
    let reports = ways.reports.clone();
    let ended = begun.and_then(|(vm, course)| {
        let thread = Thread {
            vm,
            course,
            exit_cost,
            ways,
            differed: 0,
            checkpointed_at: ExitOrdinal::default(),
        };
        thread.serve()
    });
    // Without a driver nobody is left to tell.
    let _ = reports.send(FromVcpu::Ended(ended.map_err(|error| ending_by(&error))));
}

/// What `error` means to the driver: a copy that differs must be compared whole, one whose disk has failed lacks what its
/// marks tell of.
fn ending_by(error: &LaunchError) -> Ending {
    let told = error.to_string();
    match error {
        LaunchError::Run(RunError::Timeline(TimelineError::Diverged { .. })) => Ending::Diverged(told),
        LaunchError::Run(RunError::Timeline(TimelineError::Disk { .. })) => Ending::DiskFailed(told),
        _ => Ending::Failed(told),
    }
}

/// Makes a VM of what arrives, and sees whether it is the machine that was sent.
fn restore(
    resume: impl FnOnce(Fill<'_>) -> Result<StartedVm, LaunchError>,
    pieces: &Receiver<Arriving>,
) -> Result<StartedVm, LaunchError> {
    let mut expected = None;
    let mut digest = None;
    let mut vm = resume(&mut |memory| {
        let mut filling = Filling::of(memory);
        loop {
            match pieces.recv() {
                Ok(Arriving::Pages(pages)) => {
                    for (address, page) in pages {
                        let placed = filling.place(address, &page);
                        placed.map_err(|_| RestoreError::NoSuchPage(address))?;
                    }
                }
                Ok(Arriving::Machine(machine)) => {
                    let Arrived {
                        parts,
                        position,
                        ram,
                        vcpu,
                    } = *machine;
                    let found = filling.finish();
                    differs_in(&ram, &found.sums())?;
                    digest = Some(found);
                    expected = Some((position, vcpu));
                    return Ok(parts);
                }
                Err(_) => return Err(RestoreError::GivenUp),
            }
        }
    })?;
    if let Some(digest) = digest {
        vm.adopt(digest)?;
        vm.begin_lockstep();
    }
    let found = (vm.totals().exit_count, MachineDigests::vcpu_of(&mut vm)?);
    match expected {
        Some(expected) if expected == found => Ok(vm),
        _ => Err(RestoreError::Differs("its registers".to_owned()).into()),
    }
}

fn differs_in(sent: &RamSums, found: &RamSums) -> Result<(), RestoreError> {
    let places = sent.difference(found);
    if places.is_empty() {
        Ok(())
    } else {
        Err(RestoreError::Differs(places.join(", ")))
    }
}

struct Thread {
    vm: StartedVm,
    course: Course,
    exit_cost: Duration,
    ways: Ways,
    /// How often this copy was found to differ from the one that it follows.
    differed: u64,
    /// Where the last checkpoint was taken.
    checkpointed_at: ExitOrdinal,
}

impl Thread {
    /// Leads the outputs of `vm` to the driver, and tells it how to reach the VM.
    fn over(vm: &mut StartedVm, ways: &Ways) {
        let begun = ways.checks.keep_frames.as_ref().map(KeepFrames::begin);
        if let Some(Err(error)) = &begun {
            tracing::warn!(%error, "the guest's frames are not kept");
        }
        vm.keep_outputs_with(Box::new(ToDriver {
            reports: ways.reports.clone(),
            kept: begun.and_then(Result::ok),
        }));
        let handle = Handle {
            orders: ways.order_here.clone(),
            inbox: vm.inbox().clone(),
            reports: ways.reports.clone(),
        };
        let _ = ways.reports.send(FromVcpu::Ready {
            handle,
            exits: vm.exits(),
            disk: vm.disk(),
        });
    }

    fn serve(mut self) -> Result<(Outcome, ExitOrdinal), LaunchError> {
        loop {
            let ran = match &mut self.course {
                Course::Alone(live) => self.vm.run(&mut **live),
                Course::Leading(recorder) => self.vm.run(&mut **recorder),
                Course::Following(standby) => self.vm.run(&mut **standby),
            };
            let Some(report) = self.be_repaired_if_it_differs(ran)? else {
                if let Some(outcome) = self.rest_with_the_other()? {
                    return self.finish(outcome);
                }
                self = self.do_orders()?;
                continue;
            };
            if report.outcome != Outcome::Held {
                return self.finish(report.outcome);
            }
            self = self.take_over_if_live()?;
            if self.stands_with_the_other()? {
                self = self.stand_still()?;
            }
            self.verify_with_the_other();
            if let Some(outcome) = self.rest_with_the_other()? {
                return self.finish(outcome);
            }
            self = self.do_orders()?;
        }
    }

    /// What was held because it has gone live goes on alone.
    fn take_over_if_live(mut self) -> Result<Self, LaunchError> {
        self.course = match self.course {
            Course::Following(standby) => match standby.into_live() {
                Ok(live) => {
                    self.vm.attach_network()?;
                    let _ = self.ways.reports.send(FromVcpu::Live(self.vm.exits()));
                    Course::Alone(Box::new(live))
                }
                Err(standby) => Course::Following(Box::new(standby)),
            },
            course => course,
        };
        Ok(self)
    }

    fn do_orders(mut self) -> Result<Self, LaunchError> {
        loop {
            match self.ways.orders.try_recv() {
                Ok(order) => self = self.carry_out(order)?,
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return Ok(self),
            }
        }
    }

    fn carry_out(mut self, order: Order) -> Result<Self, LaunchError> {
        match order {
            // Who asked may have given up.
            Order::BeginCopy { reply } => drop(reply.send(self.vm.begin_copy()?)),
            Order::TakeWritten { reply } => drop(reply.send(self.vm.take_written()?)),
            Order::Rest { span } => {
                if let Ok(order) = self.ways.orders.recv_timeout(span) {
                    return self.carry_out(order);
                }
            }
            Order::Stun { reply } => {
                let machine = self.stun()?;
                let _ = reply.send(machine);
                return self.stand_still();
            }
            Order::Adopt { digest } => self.vm.adopt(*digest)?,
            Order::Lead {
                anchor,
                room,
                flushes_wait,
            } => self = self.lead(&anchor, room, flushes_wait)?,
            Order::GoAlone => self = self.go_alone()?,
            Order::StandStill => {
                if self.stand()? {
                    return self.stand_still();
                }
            }
            Order::Follow { log } => self = self.follow(log)?,
            Order::Verify { slice } => self.verify(slice)?,
            Order::Repair { number, theirs } => self.repair_the_other(number, &theirs)?,
            Order::Checkpoint(step) => self.checkpoint(step)?,
            Order::GoOn | Order::End | Order::BeRepaired => {}
        }
        Ok(self)
    }

    /// What the machine is besides its RAM. The disk has done all that it was asked for.
    fn stun(&mut self) -> Result<Stunned, LaunchError> {
        self.vm.drain_disk();
        // Saving completes the open instruction, which may write.
        let parts: Parts = self.vm.save()?;
        Ok(Stunned {
            written: self.vm.take_written()?,
            parts,
            position: self.vm.totals().exit_count,
            vcpu: MachineDigests::vcpu_of(&mut self.vm)?,
        })
    }

    fn lead(
        mut self,
        anchor: &[u8],
        room: Arc<super::log_ends::Room>,
        flushes_wait: bool,
    ) -> Result<Self, LaunchError> {
        let live = match self.course {
            Course::Alone(live) => *live,
            Course::Following(standby) => {
                let now = self.vm.totals().virtual_time;
                let live = standby.into_leading(now).map_err(RunError::from)?;
                self.vm.attach_network()?;
                let _ = self.ways.reports.send(FromVcpu::Leads(self.vm.exits()));
                live
            }
            course @ Course::Leading(_) => return Ok(Self { course, ..self }),
        };
        self.vm.begin_lockstep();
        let log = Outgoing::anchored_to(anchor, room, flushes_wait, self.ways.reports.clone());
        let recorder = Recorder::new(live, log, &self.vm.totals());
        self.course = Course::Leading(Box::new(
            recorder.preempting_after(self.ways.checks.preempt_after),
        ));
        Ok(self)
    }

    /// From where it stands still it takes in nothing any more but what `log` tells.
    fn follow(mut self, log: Incoming) -> Result<Self, LaunchError> {
        self.course = match self.course {
            Course::Leading(recorder) => {
                drop(recorder.leave_off().map_err(RunError::from)?);
                self.vm.detach_network();
                self.vm.begin_lockstep();
                let reserve = reserve_of(&self.vm, self.exit_cost, &self.ways)?;
                Course::Following(Box::new(Standby::following(log, reserve)))
            }
            course => course,
        };
        Ok(self)
    }

    /// Waits until the disk has done all that it was asked for, durably.
    fn settle_disk(&self, what: &'static str) -> Result<(), LaunchError> {
        let settled = self.vm.disk().map_or(Ok(()), |disk| disk.settle());
        settled.map_err(|error| LaunchError::Host {
            what,
            source: std::io::Error::other(error),
        })
    }

    fn go_alone(mut self) -> Result<Self, LaunchError> {
        self.course = match self.course {
            Course::Leading(recorder) => {
                Course::Alone(Box::new(recorder.leave_off().map_err(RunError::from)?))
            }
            course => course,
        };
        let _ = self.ways.reports.send(FromVcpu::Alone);
        Ok(self)
    }

    /// Tells the other site, if this one leads, how the VM ended. Whatever the guest has written is durable then.
    fn finish(mut self, outcome: Outcome) -> Result<(Outcome, ExitOrdinal), LaunchError> {
        let position = self.vm.totals().exit_count;
        self.bring_the_other_here()?;
        self.settle_disk("making the disk durable at the guest's end")?;
        if let Course::Leading(recorder) = self.course {
            let digests = MachineDigests::of(&mut self.vm)?;
            let time = self.vm.totals().virtual_time;
            recorder
                .finish(outcome.name(), time, digests)
                .map_err(|source| LaunchError::Host {
                    what: "ending the log",
                    source,
                })?;
        }
        Ok((outcome, position))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_fails_a_copy_is_no_divergence() {
        let ending = |error: TimelineError| ending_by(&RunError::from(error).into());
        let (exit, what) = (ExitOrdinal::new(7), "RAX".to_owned());
        let diverged = ending(TimelineError::Diverged {
            exit,
            what,
            state: None,
        });
        assert!(
            matches!(&diverged, Ending::Diverged(why) if why.contains("RAX")),
            "{diverged:?}"
        );
        let failed = ending(TimelineError::Disk { exit, request: 3 });
        assert!(
            matches!(&failed, Ending::DiskFailed(why) if why.contains("request 3")),
            "{failed:?}"
        );
        assert!(matches!(ending(TimelineError::Stopped), Ending::Failed(_)));
    }
}
