//! The end whose guest decides what is written.

use super::wire::Message;
use super::writer::Guest;
use super::{Files, LEAF, PAIRING, WRITE};
use antipode_disk_sync::LeafSet;
use antipode_disk_sync::image::{FileImage, Image};
use antipode_disk_sync::online::{
    Carried, Live, Mover, Next, Order, Passes, Position, Reply, StunBudget, Unit,
};
use antipode_disk_sync::replica::FileStore;
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How long the guest may stand still for the rest.
const STUN_BUDGET: Duration = Duration::from_millis(500);

/// One leaf of so many is written to after it was read, and what was read arrives after that write was executed: as on a
/// second connection that lags behind the log's.
const UNITS_PER_OVERTAKEN: usize = 32;

/// A backup that says nothing for so long is gone.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// What is asked of the primary.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    files: Files,
    /// The backup, as ADDRESS:PORT
    backup: String,
    /// What the guest would write in a second, in bytes, if it were not slowed
    #[arg(long, default_value_t = 16 << 20)]
    wish: u64,
    /// All chance follows from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl Args {
    /// The primary of `files` towards `backup`.
    #[must_use]
    pub const fn new(files: Files, backup: String, wish: u64, seed: u64) -> Self {
        Self {
            files,
            backup,
            wish,
            seed,
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Passes before the stun, and whether the writer had to be slowed.
    pub passes: u32,
    /// Whether the writer had to be slowed.
    pub slowed: bool,
    /// Bytes of leaves that were sent while the guest stood still.
    pub stun_bytes: u64,
    /// The most that these might have been: what the budget allows at the last pass's rate, and what the guest may write
    /// at its own between the end of that pass and the stun.
    pub stun_bytes_max: u64,
    /// How long the guest stood still.
    pub stun_ms: u64,
    /// Writes of the guest, all in all and while comparing.
    pub writes: u64,
    /// Writes of the guest while leaves were compared.
    pub writes_while_comparing: u64,
    /// Leaves compared.
    pub compared: u64,
    /// Leaves that were written to meanwhile and moved again.
    pub again: u64,
    /// Leaves that were sent only once the backup had executed a newer write to them: each must be moved again.
    pub overtaken: u64,
    /// Leaves said to differ that did not.
    pub false_alarms: u64,
    /// Leaves that were damaged, found to differ, and equal after they were put right.
    pub found: u64,
    /// Of these, equal after they were placed anew.
    pub repaired: u64,
}

/// Runs the primary to its end.
///
/// # Errors
/// If the disk or the line fails, or a difference is not found.
pub fn run(args: &Args) -> Result<Outcome> {
    let (image, replica) = args.files.open()?;
    let leaves = image.length().leaves();
    let stream = TcpStream::connect(&args.backup).with_context(|| args.backup.clone())?;
    stream.set_nodelay(true)?;
    let mut from = stream.try_clone()?;
    let (heard, answers) = channel();
    thread::spawn(move || {
        while let Ok(message) = Message::receive(&mut from) {
            if heard.send(message).is_err() {
                break;
            }
        }
    });
    let guest = Guest::new(Live::new(image, replica, Position(0)), stream, args.wish);
    let mut outcome = Outcome::default();
    let watched = thread::scope(|scope| {
        let writer = scope.spawn(|| guest.write(args.seed));
        let mut primary = Primary {
            guest: &guest,
            answers: &answers,
            outcome: &mut outcome,
        };
        let watched = primary.watch(leaves);
        guest.end();
        match writer.join() {
            Ok(written) => written.and(watched),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
    watched?;
    guest.send(&Message::End)?;
    ready(&answers)?;
    outcome.writes = guest.writes.load(Ordering::Relaxed);
    guest.into_live().close()?;
    Ok(outcome)
}

fn answer(answers: &Receiver<Message>) -> Result<Message> {
    answers
        .recv_timeout(ANSWER_TIMEOUT)
        .context("the backup says nothing")
}

fn ready(answers: &Receiver<Message>) -> Result<()> {
    loop {
        match answer(answers)? {
            Message::Ready => return Ok(()),
            Message::Reached { .. } => {}
            other => bail!("the backup said {other:?}"),
        }
    }
}

/// Orders of a round that a newer write shall overtake.
#[derive(Default)]
struct Overtaken {
    /// Units of which the order is still to be written.
    units: BTreeSet<Unit>,
    /// Orders, by the position of the newer write to their unit.
    held: BTreeMap<Position, Message>,
}

impl Overtaken {
    /// Takes the orders out whose newer write the backup has executed.
    fn due(&mut self, reached: Position) -> impl Iterator<Item = Message> {
        let after = self.held.split_off(&Position(reached.0 + 1));
        std::mem::replace(&mut self.held, after).into_values()
    }
}

/// What the passes leave for the stun.
struct Rest {
    todo: LeafSet,
    /// When it was found to fit.
    judged: Instant,
    /// The most that fits.
    bytes_max: u64,
}

struct Primary<'a> {
    guest: &'a Guest,
    answers: &'a Receiver<Message>,
    outcome: &'a mut Outcome,
}

impl Primary<'_> {
    /// Everything that happens while the guest writes.
    fn watch(&mut self, leaves: u64) -> Result<()> {
        self.clone_disk()?;
        let before = self.guest.writes.load(Ordering::Relaxed);
        let all = || (0..leaves).map(Unit);
        self.outcome.false_alarms = count(&self.move_units(all(), false)?);
        // A comparison that finds nothing proves something only if it can find something.
        let damaged: BTreeSet<u64> = [leaves / 16, leaves / 2, leaves - 1].into();
        for leaf in &damaged {
            self.guest.send(&Message::Damage { leaf: *leaf })?;
            ready(self.answers)?;
        }
        let found = self.move_units(all(), false)?;
        self.outcome.false_alarms += count(&(&found - &damaged));
        self.outcome.found = count(&(&found & &damaged));
        self.move_units(damaged.iter().copied().map(Unit), true)?;
        let still = self.move_units(all(), false)?;
        self.outcome.repaired = count(&(&damaged - &still));
        self.outcome.writes_while_comparing = self.guest.writes.load(Ordering::Relaxed) - before;
        Ok(())
    }

    /// Passes until the rest fits the stun, then the stun.
    fn clone_disk(&mut self) -> Result<()> {
        let rest = self.make_passes()?;
        let live = &self.guest.live;
        let mut line = self.guest.line();
        let begun = Instant::now();
        self.outcome.stun_bytes_max = rest.bytes_max + self.written_within(rest.judged.elapsed())?;
        let mut todo = rest.todo;
        todo.unite(&live.take_written());
        for leaf in todo.runs().flat_map(|run| run.indices()) {
            let message = leaf_of(live, leaf)?;
            if let Message::Leaf { bytes, .. } = &message {
                self.outcome.stun_bytes += bytes.len() as u64;
            }
            message.send(&mut line.stream)?;
        }
        let position = live.position().0;
        Message::Lockstep { position }.send(&mut line.stream)?;
        ready(self.answers)?;
        line.is_lockstep = true;
        self.outcome.stun_ms = u64::try_from(begun.elapsed().as_millis())?;
        Ok(())
    }

    /// Sends what was written during the last pass, until that fits the stun.
    fn make_passes(&mut self) -> Result<Rest> {
        let live = &self.guest.live;
        let mut passes = Passes::new(StunBudget(STUN_BUDGET));
        let mut todo = LeafSet::all(live.image().length());
        loop {
            let begun = Instant::now();
            for leaf in todo.runs().flat_map(|run| run.indices()) {
                self.guest.send(&leaf_of(live, leaf)?)?;
            }
            self.guest.send(&Message::Pass)?;
            ready(self.answers)?;
            self.outcome.passes += 1;
            let (sent, took) = (todo.count() * LEAF as u64, begun.elapsed());
            let judged = Instant::now();
            todo = live.take_written();
            match passes.after(sent, took, todo.count() * LEAF as u64) {
                Next::Stun => {
                    let allowed = u128::from(sent) * STUN_BUDGET.as_nanos() / took.as_nanos().max(1);
                    return Ok(Rest {
                        todo,
                        judged,
                        bytes_max: u64::try_from(allowed)?,
                    });
                }
                Next::Pass {
                    writer_bytes_per_second,
                } => {
                    if let Some(limit) = writer_bytes_per_second {
                        self.outcome.slowed = true;
                        let wish = self.guest.bytes_per_second.load(Ordering::Relaxed);
                        self.guest
                            .bytes_per_second
                            .store(limit.min(wish), Ordering::Relaxed);
                    }
                }
            }
        }
    }

    /// Bytes of the leaves that the guest can touch in `span`: it writes to one leaf at a time, at its pace. One write may
    /// be under way as the span begins, and one as it ends.
    fn written_within(&self, span: Duration) -> Result<u64> {
        let rate = u128::from(self.guest.bytes_per_second.load(Ordering::Relaxed));
        let writes = rate * span.as_nanos() / 1_000_000_000 / WRITE as u128 + 2;
        Ok(u64::try_from(writes)? * LEAF as u64)
    }

    /// Compares units, or puts them in place; answers with those that differed. Some orders are overtaken by a newer write
    /// to their unit: the first and every [`UNITS_PER_OVERTAKEN`]th after it.
    fn move_units(&mut self, units: impl Iterator<Item = Unit>, is_repair: bool) -> Result<BTreeSet<u64>> {
        let units: Vec<Unit> = units.collect();
        let mut overtaken = Overtaken {
            units: units.iter().copied().step_by(UNITS_PER_OVERTAKEN).collect(),
            held: BTreeMap::new(),
        };
        self.outcome.overtaken += overtaken.units.len() as u64;
        let mut mover = Mover::new(PAIRING, units);
        let mut differing = BTreeSet::new();
        while !mover.is_done() {
            self.send_orders(&mut mover, &mut overtaken, is_repair)?;
            let reply = match answer(self.answers)? {
                Message::Reached { position } => {
                    for order in overtaken.due(Position(position)) {
                        self.guest.send(&order)?;
                    }
                    continue;
                }
                Message::Done {
                    unit,
                    read_at,
                    is_equal,
                } => {
                    self.outcome.compared += u64::from(!is_repair);
                    if !is_equal {
                        differing.insert(unit);
                    }
                    Reply::Done {
                        unit: Unit(unit),
                        read_at: Position(read_at),
                    }
                }
                Message::Again { unit } => {
                    self.outcome.again += 1;
                    Reply::Again(Unit(unit))
                }
                other => bail!("the backup said {other:?}"),
            };
            mover.answered(reply);
        }
        Ok(differing)
    }

    fn send_orders(&self, mover: &mut Mover, overtaken: &mut Overtaken, is_repair: bool) -> Result<()> {
        while let Some(unit) = mover.next() {
            let Some((position, bytes)) = self.guest.live.snapshot(unit)? else {
                thread::yield_now();
                continue;
            };
            let carried = if is_repair {
                Carried::Data(bytes)
            } else {
                Carried::Hash(*blake3::hash(&bytes).as_bytes())
            };
            let order = message_of(mover.read(unit, position, carried))?;
            if overtaken.units.remove(&unit) {
                overtaken.held.insert(self.guest.write_into(unit.0)?, order);
            } else {
                self.guest.send(&order)?;
            }
        }
        Ok(())
    }
}

fn message_of(order: Order) -> Result<Message> {
    ensure!(order.generation == PAIRING, "an order of another pairing");
    let (unit, read_at, horizon) = (order.unit.0, order.read_at.0, order.horizon.0);
    Ok(match order.carried {
        Carried::Data(bytes) => Message::Place {
            unit,
            read_at,
            horizon,
            bytes,
        },
        Carried::Hash(hash) => Message::Compare {
            unit,
            read_at,
            horizon,
            hash: hash.to_vec(),
        },
    })
}

/// A leaf as it is now: what is written meanwhile is noted and sent again.
fn leaf_of(live: &Live<FileImage, FileStore>, leaf: u64) -> Result<Message> {
    let mut bytes = vec![0; LEAF];
    live.image().read_at(leaf * LEAF as u64, &mut bytes)?;
    Ok(Message::Leaf { leaf, bytes })
}

fn count(set: &BTreeSet<u64>) -> u64 {
    set.len() as u64
}
