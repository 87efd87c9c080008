//! Carries out what a session wants: one thread owns it, the others read, write and hash for it.

use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::thread::Scope;

use super::frame::{Frame, Role};
use super::link::{Link, SILENCE_MAX};
use super::pace::{Clock, Pacer};
use super::pack::Packer;
use super::queue::{Inbox, Outbox, Told};
use super::session::{Comparison, Effect, Event, Finish, Opening, SessionError, Source, Tally, Target};
use super::wire::{Traffic, receive, send};
use crate::decision::{Consent, Summary};
use crate::image::Image;
use crate::leaf_set::LeafSet;
use crate::limits::CHECKPOINT_BYTES;
use crate::replica::{Lineage, Replica, ReplicaError, Store, SyncKey};
use crate::tree::{HashError, Threads, Wanted, hash_region, hash_regions};
use crate::units::{LEAF_BYTES, REGION_BYTES, Run, in_memory, on_disk};

/// Where a session writes down how far it is.
pub trait Ledger {
    /// As [`Replica::begin_sync`].
    ///
    /// # Errors
    /// [`ReplicaError`].
    fn begin_sync(&mut self, key: SyncKey, work: &LeafSet) -> Result<(), ReplicaError>;

    /// As [`Replica::settle`].
    ///
    /// # Errors
    /// [`ReplicaError`].
    fn settle(&mut self, leaves: &LeafSet) -> Result<(), ReplicaError>;

    /// As [`Replica::finish_sync`].
    ///
    /// # Errors
    /// [`ReplicaError`].
    fn finish_sync(&mut self, lineage: Lineage) -> Result<(), ReplicaError>;

    /// As [`Replica::peer_is_equal`], with nothing written meanwhile.
    ///
    /// # Errors
    /// [`ReplicaError`].
    fn peer_is_equal(&mut self) -> Result<(), ReplicaError>;
}

impl<S: Store> Ledger for Replica<S> {
    fn begin_sync(&mut self, key: SyncKey, work: &LeafSet) -> Result<(), ReplicaError> {
        Self::begin_sync(self, key, work)
    }

    fn settle(&mut self, leaves: &LeafSet) -> Result<(), ReplicaError> {
        Self::settle(self, leaves)
    }

    fn finish_sync(&mut self, lineage: Lineage) -> Result<(), ReplicaError> {
        Self::finish_sync(self, lineage)
    }

    fn peer_is_equal(&mut self) -> Result<(), ReplicaError> {
        let nothing = LeafSet::none(self.length());
        Self::peer_is_equal(self, &nothing)
    }
}

/// What one end brings.
pub struct Side<'a> {
    /// Which end it is.
    pub role: Role,
    /// Its image.
    pub image: &'a dyn Image,
    /// Where its state is kept.
    pub ledger: &'a mut dyn Ledger,
    /// What is known of it; none where any two images are compared.
    pub summary: Option<Summary>,
    /// What may differ.
    pub marks: LeafSet,
}

/// How to go about it.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// What is agreed to beforehand.
    pub consent: Consent,
    /// Change nothing; find out what would be.
    pub dry_run: bool,
    /// Whether data is compressed where that pays.
    pub compress: bool,
    /// The most bytes that are sent in a second.
    pub bytes_per_second: Option<u64>,
    /// Threads that hash.
    pub threads: Threads,
}

/// How far a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Status {
    /// What was compared and found.
    pub tally: Tally,
    /// Bytes sent, as frames.
    pub bytes_sent: u64,
    /// Bytes received, as frames.
    pub bytes_received: u64,
    /// Bytes of data before compression and after; of a dry run, what they would be.
    pub data_bytes: (u64, u64),
}

impl Status {
    /// Bytes to compare.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.tally.regions * REGION_BYTES
    }

    /// Of these, done with: equal, or all that differs in them has been sent, or has arrived.
    #[must_use]
    pub const fn bytes_done(&self) -> u64 {
        let to_send = (self.tally.leaves_sent * LEAF_BYTES).saturating_sub(self.data_bytes.0);
        (self.tally.regions_settled * REGION_BYTES).saturating_sub(to_send)
    }
}

/// What came of a session that ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// How it ended.
    pub finish: Finish,
    /// What it took.
    pub status: Status,
}

/// Why a session ended badly.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// One of the ends would not or could not go on.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The image could not be read, written or made durable.
    #[error("the image cannot be {what} at offset {offset}: {source}")]
    Image {
        /// What was tried.
        what: &'static str,
        /// Where, in bytes.
        offset: u64,
        /// The host's error.
        source: io::Error,
    },
    /// The image could not be read for hashing.
    #[error(transparent)]
    Hash(HashError),
    /// The state could not be kept.
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    /// The connection broke.
    #[error("the connection to the other end broke: {0}")]
    Link(io::Error),
    /// A thread or the compressor could not be had.
    #[error("the host refuses: {0}")]
    Host(io::Error),
}

/// Runs one end of a session to its end. `watch` is told how far it is after every step.
///
/// # Errors
/// [`RunError`]. The peer is told why, if the line still stands.
pub fn run(
    side: Side<'_>,
    link: Link,
    options: &Options,
    clock: &dyn Clock,
    watch: &mut dyn FnMut(&Status),
) -> Result<Report, RunError> {
    Ok(session(side, link, options, clock, watch)?.0)
}

/// Compares any image with the one at the other end, replicas or not; neither is changed. This is the end that finds out
/// where they differ: `side` is the source, and has no summary.
///
/// # Errors
/// [`RunError`].
pub fn compare(
    side: Side<'_>,
    link: Link,
    options: &Options,
    clock: &dyn Clock,
    watch: &mut dyn FnMut(&Status),
) -> Result<Comparison, RunError> {
    match session(side, link, options, clock, watch)?.1 {
        Core::Source(core) => Ok(core.comparison()),
        Core::Target(_) => Err(SessionError::SameRole.into()),
    }
}

fn session(
    side: Side<'_>,
    link: Link,
    options: &Options,
    clock: &dyn Clock,
    watch: &mut dyn FnMut(&Status),
) -> Result<(Report, Core), RunError> {
    let line = Line::default();
    let is_target = side.role == Role::Target;
    let pacer = Pacer::new(options.bytes_per_second);
    let outcome = line.carry(link, is_target, pacer, clock, |scope| {
        let mut end = End {
            core: Core::new(&side, options),
            image: side.image,
            ledger: side.ledger,
            options,
            line: &line,
            packer: Packer::new(options.compress),
            data_bytes: (0, 0),
        };
        let report = end.serve(scope, watch)?;
        Ok((report, end.core))
    });
    // What a target says last must have left. A source has had an answer to all that it said.
    match outcome? {
        (_, Err(error)) if is_target => Err(RunError::Link(error)),
        (ended, _) => Ok(ended),
    }
}

/// What waits at a connection, either way.
#[derive(Debug, Default)]
pub(super) struct Line {
    inbox: Inbox,
    outbox: Outbox,
    traffic: Traffic,
}

impl Line {
    /// Does `work` while threads of their own carry frames; the reading one waits where there is no room if it `may_wait`.
    /// The peer is told why if `work` fails and the line still stands. Answers also whether all has left.
    pub(super) fn carry<'env, T>(
        &'env self,
        link: Link,
        may_wait: bool,
        pacer: Pacer,
        clock: &'env dyn Clock,
        work: impl for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> Result<T, RunError>,
    ) -> Result<(T, io::Result<()>), RunError> {
        link.limit_silence(SILENCE_MAX).map_err(RunError::Link)?;
        let Link {
            reader,
            writer,
            close,
            ..
        } = link;
        let (inbox, outbox, traffic) = (&self.inbox, &self.outbox, &self.traffic);
        std::thread::scope(|scope| {
            let reading = scope.spawn(move || receive(reader, inbox, &traffic.received, may_wait));
            let writing = scope.spawn(move || send(writer, outbox, inbox, pacer, clock, &traffic.sent));
            let outcome = work(scope);
            if let Err(error) = &outcome
                && !matches!(
                    error,
                    RunError::Link(_) | RunError::Session(SessionError::Aborted(_))
                )
            {
                outbox.put(Frame::Abort(error.to_string()).encode());
            }
            outbox.close();
            let sent = writing
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            inbox.close();
            close();
            reading
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok((outcome?, sent))
        })
    }

    /// Has this be said to the peer.
    pub(super) fn say(&self, frame: &Frame) -> Result<(), RunError> {
        if self.outbox.put(frame.encode()) {
            Ok(())
        } else {
            Err(RunError::Link(io::ErrorKind::BrokenPipe.into()))
        }
    }

    /// What has come first.
    pub(super) fn take(&self) -> Told {
        self.inbox.take()
    }
}

/// What happened, if nothing has failed.
pub(super) fn heard(told: Told) -> Result<Event, RunError> {
    match told {
        Told::Event(event) => Ok(event),
        Told::HashFailed(error) => Err(RunError::Hash(error)),
        Told::LinkFailed(error) => Err(RunError::Link(error)),
        Told::NoFrame(what) => Err(SessionError::Breach(what).into()),
    }
}

enum Core {
    Source(Source),
    Target(Target),
}

impl Core {
    fn new(side: &Side<'_>, options: &Options) -> Self {
        let opening = Opening {
            role: side.role,
            summary: side.summary.clone(),
            length: side.image.length(),
            marks: side.marks.clone(),
            consent: options.consent,
            dry_run: options.dry_run,
            checkpoint_bytes: CHECKPOINT_BYTES,
        };
        match side.role {
            Role::Source => Self::Source(Source::new(opening)),
            Role::Target => Self::Target(Target::new(opening)),
        }
    }

    fn step(&mut self, event: Event, effects: &mut Vec<Effect>) -> Result<(), SessionError> {
        match self {
            Self::Source(core) => core.step(event, effects),
            Self::Target(core) => core.step(event, effects),
        }
    }

    const fn tally(&self) -> Tally {
        match self {
            Self::Source(core) => core.tally(),
            Self::Target(core) => core.tally(),
        }
    }
}

/// What the session's thread holds.
struct End<'a> {
    core: Core,
    image: &'a dyn Image,
    ledger: &'a mut dyn Ledger,
    options: &'a Options,
    line: &'a Line,
    packer: Packer,
    data_bytes: (u64, u64),
}

impl<'a> End<'a> {
    fn serve<'scope>(
        &mut self,
        scope: &'scope Scope<'scope, '_>,
        watch: &mut dyn FnMut(&Status),
    ) -> Result<Report, RunError>
    where
        'a: 'scope,
    {
        let mut effects = Vec::new();
        let mut event = Event::Start;
        loop {
            self.core.step(event, &mut effects)?;
            for effect in effects.drain(..) {
                if let Effect::Finished(finish) = effect {
                    let status = self.status();
                    watch(&status);
                    return Ok(Report { finish, status });
                }
                self.carry_out(effect, scope)?;
                watch(&self.status());
            }
            event = heard(self.line.take())?;
        }
    }

    fn status(&self) -> Status {
        Status {
            tally: self.core.tally(),
            bytes_sent: self.line.traffic.sent.load(Ordering::Relaxed),
            bytes_received: self.line.traffic.received.load(Ordering::Relaxed),
            data_bytes: self.data_bytes,
        }
    }

    fn carry_out<'scope>(&mut self, effect: Effect, scope: &'scope Scope<'scope, '_>) -> Result<(), RunError>
    where
        'a: 'scope,
    {
        match effect {
            Effect::Send(frame) => self.line.say(&frame)?,
            Effect::Hash(work) => self.hash(work, scope)?,
            Effect::OwnLeaves(region) => {
                let found = hash_region(self.image, region, Wanted::Content, &mut Vec::new());
                let values = found.map_err(RunError::Hash)?.leaves;
                self.line
                    .inbox
                    .put(Told::Event(Event::OwnLeaves { region, values }));
            }
            Effect::Transfer(leaves) => self.transfer(leaves)?,
            Effect::BeginSync(key, work) => self.ledger.begin_sync(key, &work)?,
            Effect::Write {
                leaves,
                compressed,
                bytes,
            } => self.write(leaves, compressed, bytes)?,
            Effect::Clear(leaves) => {
                let range = self.image.length().bytes_of(&leaves);
                let done = self.image.write_zeros(range.clone());
                done.map_err(|source| failed("cleared", &range, source))?;
            }
            Effect::Flush => {
                let all = 0..self.image.length().bytes();
                let done = self.image.flush();
                done.map_err(|source| failed("made durable", &all, source))?;
            }
            Effect::Forget(leaves) => {
                for run in leaves.runs() {
                    self.image.forget_cached(self.image.length().bytes_of(&run));
                }
            }
            Effect::Settle(leaves) => self.ledger.settle(&leaves)?,
            Effect::Compared(regions) => self.line.inbox.peer_compared(regions),
            Effect::FinishSync(lineage) => self.ledger.finish_sync(lineage)?,
            Effect::PeerIsEqual => self.ledger.peer_is_equal()?,
            Effect::Finished(_) => {}
        }
        Ok(())
    }

    fn hash<'scope>(&self, work: Option<LeafSet>, scope: &'scope Scope<'scope, '_>) -> Result<(), RunError>
    where
        'a: 'scope,
    {
        let (image, inbox, threads) = (self.image, &self.line.inbox, self.options.threads);
        // What a target hashes is told to the source; what a source hashes, and what is verified, is not.
        let is_told = matches!(self.core, Core::Target(_)) && self.core.tally().regions_hashed == 0;
        let hash = move || {
            let sink = |found| inbox.put_found(found, is_told);
            let told = match hash_regions(image, work.as_ref(), threads, Wanted::Content, &sink) {
                Ok(()) => Told::Event(Event::HashingEnded),
                Err(error) => Told::HashFailed(error),
            };
            inbox.put(told);
        };
        let spawned = std::thread::Builder::new()
            .name("hash".into())
            .spawn_scoped(scope, hash);
        spawned.map(drop).map_err(RunError::Host)
    }

    fn transfer(&mut self, leaves: Run) -> Result<(), RunError> {
        let range = self.image.length().bytes_of(&leaves);
        let mut bytes = vec![0; in_memory(range.end - range.start)];
        let read = self.image.read_at(range.start, &mut bytes);
        read.map_err(|source| failed("read", &range, source))?;
        let raw = on_disk(bytes.len());
        let packed = self.packer.pack(&bytes).map_err(RunError::Host)?;
        let compressed = packed.is_some();
        let bytes = packed.unwrap_or(bytes);
        self.data_bytes.0 += raw;
        self.data_bytes.1 += on_disk(bytes.len());
        if self.options.dry_run {
            return Ok(());
        }
        self.line.say(&Frame::Data {
            leaves,
            compressed,
            bytes,
        })
    }

    fn write(&mut self, leaves: Run, compressed: bool, bytes: Vec<u8>) -> Result<(), RunError> {
        let range = self.image.length().bytes_of(&leaves);
        let length = in_memory(range.end - range.start);
        self.data_bytes.1 += on_disk(bytes.len());
        let bytes = if compressed {
            self.packer
                .unpack(&bytes, length)
                .map_err(|_| SessionError::Breach("data that cannot be decompressed"))?
        } else {
            bytes
        };
        if bytes.len() != length {
            return Err(SessionError::Breach("data of another length than its leaves").into());
        }
        self.data_bytes.0 += on_disk(length);
        let written = self.image.write_at(range.start, &bytes);
        written.map_err(|source| failed("written", &range, source))
    }
}

fn failed(what: &'static str, range: &Range<u64>, source: io::Error) -> RunError {
    RunError::Image {
        what,
        offset: range.start,
        source,
    }
}
