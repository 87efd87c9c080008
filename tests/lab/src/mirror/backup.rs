//! The end that executes what it is told, at its own pace.

use super::wire::Message;
use super::{Files, LEAF, PAIRING};
use crate::switch::random::Random;
use antipode_disk_sync::LeafSet;
use antipode_disk_sync::image::{FileImage, Image};
use antipode_disk_sync::online::{Carried, Live, Order, Placer, Position, Unit, Use};
use antipode_disk_sync::replica::{FileStore, Lineage, Replica, ReplicaId, SyncKey};
use antipode_disk_sync::units::Run;
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Entries of the log that wait.
const QUEUE_MAX: usize = 1024;

/// Once in so many entries the backup falls behind, by at most so much.
const LAG_CHANCE_PPM: u32 = 20_000;
const LAG_MAX_MS: u64 = 60;

/// After so many entries the backup says how far it is.
const ENTRIES_PER_REPORT: u64 = 16;

/// What is asked of the backup.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    files: Files,
    /// The TCP port
    port: u16,
    /// All chance follows from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Serves one primary to its end.
///
/// # Errors
/// If the disk or the line fails.
pub fn run(args: &Args) -> Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", args.port))?;
    println!("listening");
    serve(&listener, &args.files, args.seed)
}

pub(super) fn serve(listener: &TcpListener, files: &Files, seed: u64) -> Result<()> {
    let (image, mut replica) = files.open()?;
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    let position = take_clone(&mut stream, &image, &mut replica)?;
    let line = Mutex::new(stream.try_clone()?);
    let execution = Execution {
        live: Live::new(image, replica, Position(position)),
        placer: Mutex::new(Placer::new(PAIRING, Position(position))),
        line: &line,
    };
    let (log, entries) = sync_channel(QUEUE_MAX);
    thread::scope(|scope| {
        let guest = &execution;
        let executing = scope.spawn(move || guest.execute(entries, seed));
        let mut hear = || -> Result<()> {
            loop {
                match Message::receive(&mut stream).context("the primary is gone")? {
                    Message::End => return Ok(()),
                    Message::Write {
                        position,
                        offset,
                        bytes,
                    } => {
                        log.send((position, offset, bytes))
                            .context("the log's executor has ended")?;
                    }
                    message => execution.order(message)?,
                }
            }
        };
        let heard = hear();
        drop(log);
        let executed = executing
            .join()
            .map_err(|_| anyhow!("the log's executor panicked"))?;
        heard.and(executed)
    })?;
    execution.live.close()?;
    Ok(Message::Ready.send(&mut stream)?)
}

/// Takes in passes until lockstep begins. The replica says `syncing` durably before anything is overwritten, and `clean`
/// only once all is durable.
fn take_clone(stream: &mut TcpStream, image: &FileImage, replica: &mut Replica<FileStore>) -> Result<u64> {
    let key = SyncKey {
        source: ReplicaId(PAIRING.0),
        generation: PAIRING,
    };
    replica.begin_sync(key, &LeafSet::all(image.length()))?;
    let mut missing = LeafSet::all(image.length());
    loop {
        match Message::receive(stream)? {
            Message::Leaf { leaf, bytes } => {
                image.write_at(leaf * LEAF as u64, &bytes)?;
                missing.remove(&Run::new(leaf, 1));
            }
            Message::Pass => Message::Ready.send(stream)?,
            Message::Lockstep { position } => {
                ensure!(missing.is_empty(), "leaves were never sent");
                image.flush()?;
                replica.finish_sync(Lineage::new(PAIRING))?;
                Message::Ready.send(stream)?;
                return Ok(position);
            }
            other => bail!("the primary said {other:?} before lockstep"),
        }
    }
}

struct Execution<'a> {
    live: Live<FileImage, FileStore>,
    /// Held while a leaf is used and while the guest writes: neither moves under the other.
    placer: Mutex<Placer>,
    line: &'a Mutex<TcpStream>,
}

impl Execution<'_> {
    fn placer(&self) -> MutexGuard<'_, Placer> {
        self.placer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, message: &Message) -> Result<()> {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(message.send(&mut *line)?)
    }

    /// Executes the log, now and then late.
    fn execute(&self, entries: Receiver<(u64, u64, Vec<u8>)>, seed: u64) -> Result<()> {
        let mut random = Random::new(seed, "backup");
        for (position, offset, bytes) in entries {
            if random.chance(LAG_CHANCE_PPM) {
                thread::sleep(Duration::from_millis(random.up_to(LAG_MAX_MS)));
            }
            let mut placer = self.placer();
            let before = placer.guest_writes(Unit(offset / LEAF as u64), Position(position));
            self.make(before)?;
            let written = self.live.write(offset, &bytes);
            let written = written.map_err(|error| anyhow!("the guest's write failed: {error}"))?;
            // Both sites number the writes of one log alike.
            ensure!(written == Position(position), "{written:?} should be {position}");
            let due = placer.reached(written);
            self.make(due)?;
            if position.is_multiple_of(ENTRIES_PER_REPORT) {
                self.answer(&Message::Reached { position })?;
            }
        }
        Ok(())
    }

    fn order(&self, message: Message) -> Result<()> {
        let (unit, read_at, horizon, carried) = match message {
            Message::Compare {
                unit,
                read_at,
                horizon,
                hash,
            } => {
                let hash = hash.try_into().map_err(|_| anyhow!("a hash of no 32 bytes"))?;
                (unit, read_at, horizon, Carried::Hash(hash))
            }
            Message::Place {
                unit,
                read_at,
                horizon,
                bytes,
            } => (unit, read_at, horizon, Carried::Data(bytes)),
            Message::Damage { leaf } => {
                let _held = self.placer();
                let mut bytes = self.read(leaf)?;
                bytes.iter_mut().for_each(|byte| *byte ^= 0xa5);
                self.live.image().write_at(leaf * LEAF as u64, &bytes)?;
                return self.answer(&Message::Ready);
            }
            other => bail!("the primary said {other:?} in lockstep"),
        };
        let mut placer = self.placer();
        let used = placer.arrived(Order {
            unit: Unit(unit),
            generation: PAIRING,
            read_at: Position(read_at),
            horizon: Position(horizon),
            carried,
        });
        self.make(used)
    }

    fn read(&self, leaf: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; LEAF];
        self.live.image().read_at(leaf * LEAF as u64, &mut bytes)?;
        Ok(bytes)
    }

    /// Does what the rule says, while its lock is held.
    fn make(&self, uses: impl IntoIterator<Item = Use>) -> Result<()> {
        for one in uses {
            let order = match one {
                Use::Again(unit) => {
                    self.answer(&Message::Again { unit: unit.0 })?;
                    continue;
                }
                Use::Now(order) => order,
            };
            let (unit, read_at) = (order.unit.0, order.read_at.0);
            let is_equal = match &order.carried {
                Carried::Hash(hash) => blake3::hash(&self.read(unit)?).as_bytes() == hash,
                Carried::Data(bytes) => {
                    self.live.image().write_at(unit * LEAF as u64, bytes)?;
                    self.live.image().flush()?;
                    true
                }
            };
            self.answer(&Message::Done {
                unit,
                read_at,
                is_equal,
            })?;
        }
        Ok(())
    }
}
