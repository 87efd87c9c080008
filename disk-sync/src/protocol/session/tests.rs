//! Both cores on simulated disks: the whole way, and cut off after every effect of either end.

mod hostile;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use super::*;
use crate::image::Image;
use crate::image::memory::MemoryImage;
use crate::replica::sim_store::SimStore;
use crate::replica::{Creation, GenerationId, Loaded, Replica, ReplicaError, ReplicaId, State};
use crate::tree::{Threads, Wanted, hash_region, hash_regions};
use crate::units::{LEAF_BYTES, in_memory};

const LEAF: usize = in_memory(LEAF_BYTES);

/// Bytes of which leaf `n` is filled with a pattern that `kind(n)` names; 0 is zeros.
pub(crate) fn content(leaves: usize, kind: impl Fn(usize) -> u64) -> Vec<u8> {
    let mut bytes = vec![0; leaves * LEAF];
    for (leaf, chunk) in bytes.chunks_mut(LEAF).enumerate() {
        let kind = kind(leaf);
        if kind != 0 {
            let mut seed = blake3::Hasher::new();
            seed.update(&kind.to_le_bytes()).update(&leaf.to_le_bytes());
            seed.finalize_xof().fill(chunk);
        }
    }
    bytes
}

/// One end's disks.
pub(crate) struct Site {
    pub(crate) image: MemoryImage,
    pub(crate) store: SimStore,
    /// Leaves after which the target makes durable what it has.
    checkpoint_leaves: u64,
    consent: Consent,
}

impl Site {
    pub(crate) fn new(id: u8, bytes: Vec<u8>, content: Option<u8>) -> Self {
        let image = MemoryImage::of(bytes);
        let creation = Creation {
            vm: "vm".parse().unwrap(),
            replica: ReplicaId([id; 16]),
            length: image.length(),
            content: content.map(|byte| GenerationId([byte; 16])),
            stamp: None,
        };
        Self {
            image,
            store: SimStore::of(creation.encode()),
            checkpoint_leaves: 64,
            consent: Consent::default(),
        }
    }

    pub(crate) fn open(&self) -> Replica<SimStore> {
        Replica::open(self.store.clone()).unwrap().0
    }

    fn opening(&self, role: Role, replica: &Replica<SimStore>, dry_run: bool) -> Opening {
        Opening {
            role,
            summary: Some(Summary::of(replica, false)),
            length: self.image.length(),
            marks: replica.dirty().clone(),
            consent: self.consent,
            dry_run,
            checkpoint_bytes: self.checkpoint_leaves * LEAF_BYTES,
        }
    }

    /// What its metadata may be after a power cut now: of those that read alike, one.
    fn left_by_cut(&self) -> Vec<Vec<u8>> {
        let left = self.store.after_cut(self.store.operations());
        let read = |content: &Vec<u8>| format!("{:?}", Loaded::read(&SimStore::of(content.clone())));
        let told_apart: BTreeMap<String, Vec<u8>> = left
            .into_iter()
            .map(|content| (read(&content), content))
            .collect();
        told_apart.into_values().collect()
    }

    /// Loses its power, and finds this of its metadata afterwards.
    fn power_cut(&mut self, found: Vec<u8>) {
        self.image.power_cut();
        self.store = SimStore::of(found);
    }
}

enum Core {
    Source(Source),
    Target(Target),
}

struct End<'a> {
    core: Core,
    site: &'a Site,
    replica: Replica<SimStore>,
    inbox: VecDeque<Event>,
    finish: Option<Finish>,
}

/// What happened in a simulated session.
#[derive(Debug, Default)]
struct Trace {
    effects: usize,
    frames: BTreeMap<&'static str, usize>,
    leaves_transferred: u64,
    finishes: Option<(Finish, Finish)>,
    error: Option<String>,
}

impl<'a> End<'a> {
    fn new(role: Role, site: &'a Site, dry_run: bool) -> Self {
        let replica = site.open();
        let opening = site.opening(role, &replica, dry_run);
        Self {
            core: match role {
                Role::Source => Core::Source(Source::new(opening)),
                Role::Target => Core::Target(Target::new(opening)),
            },
            site,
            replica,
            inbox: VecDeque::from([Event::Start]),
            finish: None,
        }
    }

    fn step(&mut self, event: Event) -> Result<Vec<Effect>, SessionError> {
        let mut effects = Vec::new();
        match &mut self.core {
            Core::Source(core) => core.step(event, &mut effects)?,
            Core::Target(core) => core.step(event, &mut effects)?,
        }
        Ok(effects)
    }

    /// Carries out one effect; what is to be said is handed back.
    ///
    /// # Errors
    /// The metadata's: its host has lost its power.
    fn carry_out(&mut self, effect: Effect, dry_run: bool) -> Result<Option<Frame>, ReplicaError> {
        let image = &self.site.image;
        match effect {
            Effect::Send(frame) => return Ok(Some(frame)),
            Effect::Hash(work) => {
                let found = Mutex::new(Vec::new());
                let one = Threads::new(std::num::NonZeroUsize::MIN);
                hash_regions(image, work.as_ref(), one, Wanted::Content, &|span| {
                    found.lock().unwrap().push(span);
                    true
                })
                .unwrap();
                self.inbox
                    .extend(found.into_inner().unwrap().into_iter().map(Event::Hashed));
                self.inbox.push_back(Event::HashingEnded);
            }
            Effect::OwnLeaves(region) => {
                let values = hash_region(image, region, Wanted::Content, &mut Vec::new())
                    .unwrap()
                    .leaves;
                self.inbox.push_back(Event::OwnLeaves { region, values });
            }
            Effect::Transfer(leaves) => {
                let range: Range<u64> = image.length().bytes_of(&leaves);
                let mut bytes = vec![0; in_memory(range.end - range.start)];
                image.read_at(range.start, &mut bytes).unwrap();
                let frame = Frame::Data {
                    leaves,
                    compressed: false,
                    bytes,
                };
                return Ok((!dry_run).then_some(frame));
            }
            Effect::BeginSync(key, work) => self.replica.begin_sync(key, &work)?,
            Effect::Write { leaves, bytes, .. } => {
                assert!(
                    matches!(self.replica.state(), State::Syncing(_)),
                    "a write while it says it is usable"
                );
                // The engine ends a session in which it is anything else.
                let range = image.length().bytes_of(&leaves);
                if range.end - range.start == bytes.len() as u64 {
                    image.write_at(range.start, &bytes).unwrap();
                }
            }
            Effect::Clear(leaves) => {
                assert!(
                    matches!(self.replica.state(), State::Syncing(_)),
                    "a write while it says it is usable"
                );
                image.write_zeros(image.length().bytes_of(&leaves)).unwrap();
            }
            Effect::Flush => image.flush().unwrap(),
            Effect::Forget(leaves) => {
                for run in leaves.runs() {
                    image.forget_cached(image.length().bytes_of(&run));
                }
            }
            Effect::Settle(leaves) => self.replica.settle(&leaves)?,
            Effect::Compared(_) => {}
            Effect::FinishSync(lineage) => self.replica.finish_sync(lineage)?,
            Effect::PeerIsEqual => {
                let nothing = LeafSet::none(self.replica.length());
                self.replica.peer_is_equal(&nothing)?;
            }
            Effect::Finished(finish) => self.finish = Some(finish),
        }
        Ok(None)
    }
}

/// Which of the ends, source and target, dies where a session is cut off. The other one closes in good order.
type Dies = [bool; 2];

fn session(source: &Site, target: &Site, dry_run: bool, most: usize) -> Trace {
    session_between(source, target, dry_run, most, [true; 2], &mut |frame| frame)
}

/// Runs a session until it has ended or `most` effects were carried out. The ends take turns, an event each. What is
/// said passes through `line`.
fn session_between(
    source: &Site,
    target: &Site,
    dry_run: bool,
    most: usize,
    dies: Dies,
    line: &mut dyn FnMut(Frame) -> Frame,
) -> Trace {
    let mut ends = [
        End::new(Role::Source, source, dry_run),
        End::new(Role::Target, target, dry_run),
    ];
    let mut run = Trace::default();
    let mut idle = 0;
    let mut turn = 0;
    while ends.iter().any(|end| end.finish.is_none()) && idle < 2 {
        turn = 1 - turn;
        let Some(event) = ends[turn].inbox.pop_front() else {
            idle += 1;
            continue;
        };
        idle = 0;
        let effects = match ends[turn].step(event) {
            Ok(effects) => effects,
            Err(error) => {
                run.error = Some(error.to_string());
                return run;
            }
        };
        for effect in effects {
            let said = match run.effects == most {
                true => None,
                false => ends[turn].carry_out(effect, dry_run).ok(),
            };
            let Some(said) = said else {
                close(ends, dies);
                return run;
            };
            run.effects += 1;
            if let Some(frame) = said {
                *run.frames.entry(frame.name()).or_default() += 1;
                if let Frame::Data { leaves, .. } = &frame {
                    run.leaves_transferred += leaves.count;
                }
                // What is said is heard only if it can be read.
                let heard = line(Frame::decode(&frame.encode()).unwrap());
                ends[1 - turn].inbox.push_back(Event::Peer(heard));
            }
        }
    }
    let finishes = ends[0].finish.zip(ends[1].finish);
    if close(ends, [false; 2]) {
        run.finishes = finishes;
    }
    run
}

/// Closes the ends that do not die, and answers whether they could be.
fn close(ends: [End<'_>; 2], dies: Dies) -> bool {
    let mut are_closed = true;
    for (end, _) in ends.into_iter().zip(dies).filter(|(_, dies)| !dies) {
        are_closed &= end.replica.close(None).is_ok();
    }
    are_closed
}

const ALL: usize = usize::MAX;

fn is_equal(source: &Site, target: &Site) -> bool {
    source.image.bytes() == target.image.bytes()
}

#[test]
fn a_blank_target_becomes_equal() {
    let source = Site::new(1, content(100, |leaf| u64::from(leaf % 3 > 0)), Some(1));
    let target = Site::new(2, vec![0; 100 * LEAF], None);
    let run = session(&source, &target, false, ALL);
    let (ours, theirs) = run.finishes.unwrap();
    assert!(is_equal(&source, &target));
    assert_eq!(
        (ours.root, ours.decision.unwrap().outcome),
        (theirs.root, Outcome::Full)
    );
    assert_eq!(run.leaves_transferred, 66);
    assert_eq!(run.frames.get("Ask"), None, "nothing needs to be asked of zeros");
    let replica = target.open();
    assert_eq!(
        (replica.state(), replica.lineage()),
        (State::Clean, source.open().lineage())
    );
    drop(replica);
    // Once more: there is nothing to do, and nothing is read.
    let before = source.image.bytes_read();
    let (ours, _) = session(&source, &target, false, ALL).finishes.unwrap();
    assert_eq!(
        (ours.decision.unwrap().outcome, ours.root),
        (Outcome::Nothing, None)
    );
    assert_eq!(source.image.bytes_read(), before);
}

/// A pair that was equal, after which each end was written to: the source alone as a new generation.
fn diverged(leaves: usize, changed: &[(u64, u64)]) -> (Site, Site) {
    let source = Site::new(1, content(leaves, |leaf| u64::from(leaf % 4 > 0)), Some(1));
    let target = Site::new(2, vec![0; leaves * LEAF], None);
    assert!(session(&source, &target, false, ALL).finishes.is_some());
    let mut replica = source.open();
    replica.lose_peer(GenerationId([2; 16]));
    for &(leaf, kind) in changed {
        let range = leaf * LEAF_BYTES..(leaf + 1) * LEAF_BYTES;
        replica.begin_write(&range).unwrap();
        let bytes = content(leaves, |_| kind)[..LEAF].to_vec();
        source.image.write_at(range.start, &bytes).unwrap();
        replica.end_write(&range);
    }
    let ticket = replica.begin_flush();
    source.image.flush().unwrap();
    replica.end_flush(ticket);
    replica.close(None).unwrap();
    (source, target)
}

#[test]
fn only_what_is_marked_is_compared_and_only_what_differs_is_sent() {
    let (source, target) = diverged(400, &[(3, 7), (130, 8), (131, 0), (399, 9)]);
    // It was marked, and then written back to what it was.
    source
        .image
        .write_at(131 * LEAF_BYTES, &target.image.bytes()[131 * LEAF..132 * LEAF])
        .unwrap();
    source.image.flush().unwrap();
    let before = target.image.bytes_read();
    let run = session(&source, &target, false, ALL);
    let (ours, _) = run.finishes.unwrap();
    assert!(is_equal(&source, &target));
    assert_eq!(
        (
            ours.decision.unwrap().outcome,
            ours.tally.regions,
            run.leaves_transferred
        ),
        (Outcome::Partial, 3, 3)
    );
    // Three regions before, and three after.
    assert!(target.image.bytes_read() - before <= 6 << 20);
    assert_eq!(target.open().lineage().unwrap().current, GenerationId([2; 16]));
    assert!(source.open().dirty().is_empty());
}

#[test]
fn a_dry_run_changes_nothing_and_says_what_would_be() {
    let (source, target) = diverged(100, &[(3, 7), (50, 8), (51, 0)]);
    let (bytes, state) = (target.image.bytes(), target.open().state());
    let run = session(&source, &target, true, ALL);
    let (ours, theirs) = run.finishes.unwrap();
    assert_eq!(
        (
            ours.tally.leaves_sent,
            ours.tally.leaves_cleared,
            theirs.tally.leaves_sent
        ),
        (2, 1, 0)
    );
    assert_eq!((target.image.bytes(), target.open().state()), (bytes, state));
    assert!(!source.open().dirty().is_empty());
    assert_eq!(run.leaves_transferred, 0);
}

/// What a target is after a cut, and that the next session goes on and ends well.
fn resumes(source: &Site, target: &Site, old: &[u8], place: &str) {
    let state = target.open().state();
    let content = target.image.bytes();
    match state {
        State::Clean => assert!(
            content == old || is_equal(source, target),
            "{place}: clean, but neither old nor new"
        ),
        State::Stale => assert!(content == old, "{place}: overwritten before it said so"),
        State::Syncing(_) => {}
    }
    let again = session(source, target, false, ALL);
    assert!(again.finishes.is_some(), "{place}: {:?}", again.error);
    assert!(is_equal(source, target), "{place}");
    assert_eq!(target.open().state(), State::Clean, "{place}");
    assert!(source.open().dirty().is_empty(), "{place}");
}

/// Pairs whose session settles something before it ends: all of it compared, and only what is marked.
fn pairs() -> [fn() -> (Site, Site); 2] {
    let full = || {
        let mut source = Site::new(1, content(20, |leaf| u64::from(leaf % 3 > 0)), Some(1));
        source.checkpoint_leaves = 2;
        let target = Site::new(2, content(20, |leaf| if leaf % 5 == 0 { 9 } else { 1 }), None);
        (source, target)
    };
    let partial = || {
        let (mut source, target) = diverged(20, &[(3, 7), (16, 8), (17, 0), (18, 3), (19, 9)]);
        source.checkpoint_leaves = 2;
        (source, target)
    };
    [full, partial]
}

#[test]
fn a_session_cut_off_after_any_effect_goes_on_and_ends_well() {
    for make in pairs() {
        let (source, target) = make();
        let whole = session(&source, &target, false, ALL);
        assert!(
            whole.frames.contains_key("Settled"),
            "the journal is not cut anywhere"
        );
        for dies in [[true, true], [true, false], [false, true]] {
            for cut in 0..whole.effects {
                let (mut source, mut target) = make();
                let old = target.image.bytes();
                let run = session_between(&source, &target, false, cut, dies, &mut |frame| frame);
                assert!(run.finishes.is_none() && run.error.is_none(), "{:?}", run.error);
                for (site, _) in [&mut source, &mut target]
                    .into_iter()
                    .zip(dies)
                    .filter(|(_, dies)| *dies)
                {
                    // Each effect ends durably.
                    let left = site.left_by_cut();
                    assert_eq!(left.len(), 1);
                    left.into_iter().for_each(|found| site.power_cut(found));
                }
                resumes(
                    &source,
                    &target,
                    &old,
                    &format!("after {cut} of {}", whole.effects),
                );
            }
        }
    }
}

/// Within an update of the metadata too: after each of its writes and syncs, with all that may be left of those.
#[test]
fn a_session_cut_off_within_an_update_goes_on_and_ends_well() {
    let (mut cuts, mut outcomes) = (0, 0);
    for (make, role) in pairs()
        .into_iter()
        .flat_map(|make| [(make, Role::Source), (make, Role::Target)])
    {
        // What opening takes is no part of the session.
        let opening = {
            let (source, target) = make();
            let site = if role == Role::Source { source } else { target };
            let before = site.store.operations();
            drop(site.open());
            site.store.operations() - before
        };
        // The other end hears nothing any more, and closes.
        let dies = [role == Role::Source, role == Role::Target];
        let cut_after = |allowed: u64| {
            let (mut source, mut target) = make();
            let old = target.image.bytes();
            let site = if role == Role::Source {
                &mut source
            } else {
                &mut target
            };
            site.store.left = Some(Arc::new(Mutex::new(opening as u64 + allowed)));
            let run = session_between(&source, &target, false, ALL, dies, &mut |frame| frame);
            assert_eq!(run.error, None);
            (source, target, old, run.finishes.is_some())
        };
        for allowed in 0.. {
            let (source, target, _, is_whole) = cut_after(allowed);
            if is_whole {
                break;
            }
            cuts += 1;
            let left = if role == Role::Source { source } else { target }.left_by_cut();
            for (index, found) in left.into_iter().enumerate() {
                outcomes += 1;
                let (mut source, mut target, old, _) = cut_after(allowed);
                let site = if role == Role::Source {
                    &mut source
                } else {
                    &mut target
                };
                site.power_cut(found);
                resumes(
                    &source,
                    &target,
                    &old,
                    &format!("{role:?}, after {allowed} operations: {index}"),
                );
            }
        }
    }
    assert!(
        cuts > 30 && outcomes > cuts + 10,
        "{cuts} cuts, {outcomes} outcomes"
    );
}

#[test]
fn what_had_arrived_durably_is_not_sent_again() {
    let leaves = 300;
    let make = || {
        (
            Site::new(1, content(leaves, |_| 1), Some(1)),
            Site::new(2, vec![0; leaves * LEAF], None),
        )
    };
    let (source, mut target) = make();
    let whole = session(&source, &target, false, ALL);
    assert_eq!(whole.leaves_transferred, leaves as u64);
    assert_eq!(whole.frames["Settled"], 4);
    // The same, but with a power cut just before the end: before the last flush.
    target = make().1;
    assert!(
        session(&source, &target, false, whole.effects - 9)
            .finishes
            .is_none()
    );
    let found = target.left_by_cut().remove(0);
    target.power_cut(found);
    let before = source.image.bytes_read();
    let again = session(&source, &target, false, ALL);
    assert!(is_equal(&source, &target) && again.finishes.is_some());
    let unsettled = leaves as u64 - 4 * 64;
    assert_eq!(again.leaves_transferred, unsettled);
    // Once to hash, once to send: what is settled is not read again.
    assert_eq!(source.image.bytes_read() - before, 2 * unsettled * LEAF_BYTES);
}

#[test]
fn a_disk_that_does_not_keep_what_is_written_is_noticed() {
    struct Liar(MemoryImage);
    impl Image for Liar {
        fn length(&self) -> ImageLength {
            self.0.length()
        }
        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
            self.0.read_at(offset, buffer)
        }
        fn write_at(&self, _: u64, _: &[u8]) -> std::io::Result<()> {
            Ok(())
        }
        fn write_zeros(&self, range: Range<u64>) -> std::io::Result<()> {
            self.0.write_zeros(range)
        }
        fn flush(&self) -> std::io::Result<()> {
            Ok(())
        }
        fn forget_cached(&self, range: Range<u64>) {
            self.0.forget_cached(range);
        }
        fn data_from(&self, offset: u64) -> std::io::Result<Option<Range<u64>>> {
            self.0.data_from(offset)
        }
    }
    let liar = Liar(MemoryImage::of(vec![0; 20 * LEAF]));
    let source = Site::new(1, content(20, |_| 1), Some(1));
    let target = Site::new(2, vec![0; 20 * LEAF], None);
    let (here, there) = crate::protocol::Link::pair().unwrap();
    let (mut ours, mut theirs) = (source.open(), target.open());
    let outcomes = crate::protocol::tests::both(
        (&source.image, &mut ours, here),
        (&liar, &mut theirs, there),
        &crate::protocol::tests::options(),
    );
    assert!(matches!(
        outcomes.1,
        Err(crate::protocol::RunError::Session(SessionError::Unequal))
    ));
    assert!(matches!(
        outcomes.0,
        Err(crate::protocol::RunError::Session(SessionError::Aborted(_)))
    ));
    assert!(matches!(theirs.state(), State::Syncing(_)));
}
