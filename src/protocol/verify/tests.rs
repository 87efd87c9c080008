//! The race of a comparison with a guest that never stops writing, by seeds: two sites execute one log at their own pace,
//! their disks do what they were asked for when they like, and a slice is read, compared and mended meanwhile.

use std::collections::{BTreeMap, VecDeque};

use antipode_disk_sync::online::Watch;
use antipode_disk_sync::units::LEAF_BYTES;

use super::*;
use crate::channel::Check;

const LEAVES: u64 = 70;
/// The guest writes to these, and to no others.
const BUSY: [u64; 8] = [0, 1, 2, 5, 40, 63, 64, 69];
/// A write changes one part of a leaf.
const PARTS: usize = 2;

type Content = [u8; PARTS];

/// A seeded source of chance (SplitMix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((mixed ^ mixed >> 31) % u64::try_from(end).unwrap()).unwrap()
    }
}

/// What a planted site leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Planted {
    Nothing,
    /// What was written to since is told as if it were known.
    TellsWhatWasTouched,
    /// What is under way where the watch begins does not count.
    ForgetsWhatIsUnderWay,
    /// A mend goes over what the guest has written since.
    MendsWhatWasTouched,
    /// The guest's writes go on while a leaf is being mended.
    LetsWritesIntoMend,
}

#[derive(Debug, Clone, Copy)]
enum Logged {
    Submit { leaf: u64, part: usize, value: u8 },
    Completed { leaf: u64 },
    Verify(Slice),
}

/// A slice that is being read, a leaf at a time: first its content, then whether it counts.
struct Reading {
    round: Round,
    left: VecDeque<(u64, u64)>,
    read: Option<(u64, Content)>,
    known: u64,
    hashes: Vec<[u8; 32]>,
}

struct Site {
    disk: Vec<Content>,
    /// Submitted, and not performed.
    pending: Vec<(u64, usize, u8)>,
    watch: Option<(Round, Watch)>,
    reading: Option<Reading>,
    mending: Option<(Round, u8, u64, Content)>,
    planted: Planted,
}

fn length() -> ImageLength {
    ImageLength::new(LEAVES * LEAF_BYTES).unwrap()
}

fn index(leaf: u64) -> usize {
    usize::try_from(leaf).unwrap()
}

fn bytes_written(leaf: u64) -> std::ops::Range<u64> {
    leaf * LEAF_BYTES + 512..leaf * LEAF_BYTES + 1024
}

impl Site {
    fn new(planted: Planted) -> Self {
        Self {
            disk: vec![[1; PARTS]; index(LEAVES)],
            pending: Vec::new(),
            watch: None,
            reading: None,
            mending: None,
            planted,
        }
    }

    fn submit(&mut self, leaf: u64, part: usize, value: u8) {
        if let Some((_, watch)) = &mut self.watch {
            watch.touch(&bytes_written(leaf));
        }
        self.pending.push((leaf, part, value));
    }

    fn perform(&mut self, chance: &mut Chance) {
        if self.pending.is_empty() {
            return;
        }
        let which = chance.below(self.pending.len());
        let (leaf, part, value) = self.pending[which];
        let waits = self.mending.is_some_and(|(_, _, mended, _)| mended == leaf);
        if !waits || self.planted == Planted::LetsWritesIntoMend {
            self.pending.swap_remove(which);
            self.disk[index(leaf)][part] = value;
        }
    }

    fn watch(&mut self, round: Round) {
        let under_way: Vec<_> = match self.planted {
            Planted::ForgetsWhatIsUnderWay => Vec::new(),
            _ => self
                .pending
                .iter()
                .map(|(leaf, ..)| bytes_written(*leaf))
                .collect(),
        };
        self.watch = Some((round, Watch::begin(round.slice, length(), &under_way)));
        self.reading = Some(Reading {
            round,
            left: round.slice.numbers().collect(),
            read: None,
            known: 0,
            hashes: Vec::new(),
        });
    }

    fn is_as_it_was(&self, round: Round, bit: u64) -> bool {
        self.watch
            .is_some_and(|(watched, watch)| watched == round && watch.is_as_it_was(bit))
    }

    /// One step of the reading; what is known of the slice once all of it was read.
    fn read(&mut self) -> Option<(Round, Hashes)> {
        let mut reading = self.reading.take()?;
        let Some(&(leaf, bit)) = reading.left.front() else {
            let hashes = Hashes::new(reading.known, reading.hashes).unwrap();
            return Some((reading.round, hashes));
        };
        match reading.read.take() {
            None => reading.read = Some((bit, self.disk[index(leaf)])),
            Some((_, content)) => {
                reading.left.pop_front();
                let tells = self.planted == Planted::TellsWhatWasTouched;
                if tells || self.is_as_it_was(reading.round, bit) {
                    reading.known |= bit;
                    reading.hashes.push(*blake3::hash(&content).as_bytes());
                }
            }
        }
        self.reading = Some(reading);
        None
    }

    /// A mend has come: whether it begins.
    fn begin_mend(&mut self, round: Round, place: u8, content: Content) -> bool {
        let Some((leaf, bit)) = round.leaf(place) else {
            return false;
        };
        let may = self.is_as_it_was(round, bit) || self.planted == Planted::MendsWhatWasTouched;
        if may {
            self.mending = Some((round, place, leaf, content));
        }
        may
    }

    fn end_mend(&mut self, part: usize) -> Option<(Round, u8)> {
        let (round, place, leaf, content) = self.mending?;
        // One part after the other, as a disk does.
        self.disk[index(leaf)][part] = content[part];
        if part + 1 < PARTS {
            return None;
        }
        self.mending = None;
        Some((round, place))
    }
}

struct World {
    chance: Chance,
    now: Moment,
    verifier: Verifier,
    primary: Site,
    backup: Site,
    log: Vec<Logged>,
    executed: usize,
    /// Values that the guest has written: each is another.
    outstanding: BTreeMap<u64, ()>,
    to_backup: VecDeque<Check>,
    to_primary: VecDeque<Check>,
    mended_parts: usize,
    writes: bool,
    /// What the backup's guest would read if its disk had done all that it was asked for.
    expected: Vec<Content>,
    /// Leaves that were mended.
    healed: Vec<u64>,
    /// A healed leaf held something else than that.
    alarms: u64,
}

impl World {
    fn new(seed: u64, planted: Planted) -> Self {
        Self {
            chance: Chance(seed),
            now: Moment::from_nanos(1),
            verifier: Verifier::default(),
            primary: Site::new(planted),
            backup: Site::new(planted),
            log: Vec::new(),
            executed: 0,
            outstanding: BTreeMap::new(),
            to_backup: VecDeque::new(),
            to_primary: VecDeque::new(),
            mended_parts: 0,
            writes: true,
            expected: vec![[1; PARTS]; index(LEAVES)],
            healed: Vec::new(),
            alarms: 0,
        }
    }

    fn tell(&mut self, event: Event) {
        match self.verifier.step(self.now, event) {
            None => {}
            Some(Effect::Watch(slice)) => {
                self.log.push(Logged::Verify(slice));
                let round = Round {
                    at: ExitOrdinal::new(self.log.len() as u64),
                    slice,
                };
                self.primary.watch(round);
                self.tell(Event::Watched(round));
            }
            Some(Effect::Mend(round, place)) => {
                let (leaf, bit) = round.leaf(place).unwrap();
                let content = self.primary.disk[index(leaf)];
                let knows = self.primary.is_as_it_was(round, bit)
                    || self.primary.planted == Planted::MendsWhatWasTouched;
                if knows {
                    self.to_backup
                        .push_back(Check::Mend(round, place, content.to_vec()));
                } else {
                    self.tell(Event::Mended(round, place, false));
                }
            }
        }
    }

    fn step(&mut self) {
        self.now = self.now + Duration::from_millis(1);
        match self.chance.below(16) {
            0 if self.writes && self.is_busy_now() => self.guest_writes(),
            1 => self.primary.perform(&mut self.chance),
            2 => self.guest_sees_a_completion(),
            3 | 4 => self.backup_executes(),
            5 => self.backup.perform(&mut self.chance),
            6..=8 => {
                if let Some((round, hashes)) = self.primary.read() {
                    self.tell(Event::Hashed(round, hashes));
                }
            }
            9..=11 => {
                if let Some((round, hashes)) = self.backup.read() {
                    self.to_primary.push_back(Check::Hashes(round, hashes));
                }
            }
            12 => self.primary_hears(),
            13 => self.backup_hears(),
            // A disk takes its time, in which the guest writes.
            14 if self.backup.mending.is_some() && self.chance.below(6) == 0 => {
                let over = self.backup.end_mend(self.mended_parts);
                self.mended_parts = (self.mended_parts + 1) % PARTS;
                if let Some((round, place)) = over {
                    self.healed.extend(round.leaf(place).map(|(leaf, _)| leaf));
                    self.to_primary.push_back(Check::Mended(round, place, true));
                }
            }
            _ => self.tell(Event::Tick),
        }
        self.look();
    }

    fn look(&mut self) {
        let is_wrong = |leaf: &&u64| {
            let is_still = self.backup.pending.iter().all(|(pending, ..)| pending != *leaf)
                && self
                    .backup
                    .mending
                    .is_none_or(|(_, _, mended, _)| mended != **leaf);
            is_still && self.backup.disk[index(**leaf)] != self.expected[index(**leaf)]
        };
        self.alarms += u64::from(self.healed.iter().any(|leaf| is_wrong(&leaf)));
    }

    /// The guest works and rests by turns: what is read while it rests may be mended when it works again.
    fn is_busy_now(&self) -> bool {
        (self.now.saturating_since(Moment::default()).as_millis() / 300).is_multiple_of(2)
    }

    fn guest_writes(&mut self) {
        let leaf = BUSY[self.chance.below(BUSY.len())];
        if self.outstanding.insert(leaf, ()).is_some() {
            return;
        }
        let part = self.chance.below(PARTS);
        let value = u8::try_from(self.chance.below(256)).unwrap();
        self.log.push(Logged::Submit { leaf, part, value });
        self.primary.submit(leaf, part, value);
    }

    fn guest_sees_a_completion(&mut self) {
        let done = self
            .outstanding
            .keys()
            .find(|leaf| self.primary.pending.iter().all(|(pending, ..)| pending != *leaf));
        if let Some(leaf) = done.copied() {
            self.outstanding.remove(&leaf);
            self.log.push(Logged::Completed { leaf });
        }
    }

    fn backup_executes(&mut self) {
        let Some(next) = self.log.get(self.executed).copied() else {
            return;
        };
        match next {
            Logged::Submit { leaf, part, value } => {
                self.expected[index(leaf)][part] = value;
                self.backup.submit(leaf, part, value);
            }
            Logged::Completed { leaf } => {
                if self.backup.pending.iter().any(|(pending, ..)| *pending == leaf) {
                    return;
                }
            }
            Logged::Verify(slice) => self.backup.watch(Round {
                at: ExitOrdinal::new(self.executed as u64 + 1),
                slice,
            }),
        }
        self.executed += 1;
    }

    fn primary_hears(&mut self) {
        match self.to_primary.pop_front() {
            Some(Check::Hashes(round, hashes)) => self.tell(Event::PeerHashed(round, hashes)),
            Some(Check::Mended(round, place, done)) => self.tell(Event::Mended(round, place, done)),
            _ => {}
        }
    }

    fn backup_hears(&mut self) {
        if let Some(Check::Mend(round, place, content)) = self.to_backup.pop_front()
            && !self
                .backup
                .begin_mend(round, place, content.as_slice().try_into().unwrap())
        {
            self.to_primary.push_back(Check::Mended(round, place, false));
        }
    }

    fn report(&self) -> Report {
        self.verifier.report(0).unwrap()
    }

    /// Compares everything while the guest goes on, then lets it stop.
    fn run(&mut self) -> Report {
        self.tell(Event::Begin(length()));
        for _ in 0..200_000 {
            if !self.verifier.is_running() {
                break;
            }
            self.step();
        }
        let report = self.report();
        self.writes = false;
        for _ in 0..20_000 {
            self.step();
        }
        assert_eq!(self.executed, self.log.len());
        report
    }

    fn equal(&self) -> bool {
        self.primary.disk == self.backup.disk
    }
}

/// Leaves that differ from the beginning: some that the guest writes to, some that it does not.
fn plant(world: &mut World) -> Vec<u64> {
    let planted = [&[3, 66], &BUSY[world.chance.below(BUSY.len())..]].concat();
    for leaf in &planted {
        world.backup.disk[index(*leaf)] = [200, 201];
    }
    planted
}

#[test]
fn a_busy_disk_raises_no_false_alarm() {
    let mut compared = 0;
    for seed in 0..100 {
        let mut world = World::new(seed, Planted::Nothing);
        let report = world.run();
        assert_eq!(
            (report.state, report.differed),
            (State::Complete, 0),
            "seed {seed}"
        );
        assert!(world.equal(), "seed {seed}");
        assert_eq!(
            report.compared_bytes + report.unknown_bytes,
            report.total_bytes,
            "seed {seed}"
        );
        compared += u64::from(report.unknown_bytes == 0);
    }
    assert!(compared > 90, "{compared} of 100 have come to all of the disk");
}

#[test]
fn what_differs_is_named_and_mended_while_the_guest_writes() {
    for seed in 0..100 {
        let mut world = World::new(seed, Planted::Nothing);
        let planted = plant(&mut world);
        let report = world.run();
        assert_eq!(report.state, State::Complete, "seed {seed}");
        let named: Vec<u64> = report
            .differences
            .iter()
            .map(|difference| difference.offset / LEAF_BYTES)
            .collect();
        assert!(
            named.iter().all(|leaf| planted.contains(leaf)),
            "seed {seed}: {named:?} of {planted:?}"
        );
        for leaf in [3, 66] {
            assert!(named.contains(&leaf), "seed {seed}: leaf {leaf} was not found");
        }
        assert_eq!(world.alarms, 0, "seed {seed}: a mend went over what was newer");
        assert!(world.equal() || report.unknown_bytes > 0, "seed {seed}");
        assert!(!report.differs() || report.unknown_bytes > 0, "seed {seed}");
    }
}

#[test]
fn each_part_of_the_rule_is_needed() {
    for planted in [
        Planted::TellsWhatWasTouched,
        Planted::ForgetsWhatIsUnderWay,
        Planted::MendsWhatWasTouched,
        Planted::LetsWritesIntoMend,
    ] {
        let caught = (0..200).filter(|&seed| {
            let mut world = World::new(seed, planted);
            let different = plant(&mut world);
            let report = world.run();
            let false_alarm = report
                .differences
                .iter()
                .any(|difference| !different.contains(&(difference.offset / LEAF_BYTES)));
            false_alarm || world.alarms > 0 || (!world.equal() && report.unknown_bytes == 0)
        });
        let caught = caught.count();
        assert!(caught > 10, "{planted:?}: {caught} of 200 seeds notice it");
    }
}

#[test]
fn what_ends_it_is_told_and_late_words_change_nothing() {
    let mut world = World::new(1, Planted::Nothing);
    world.tell(Event::Begin(length()));
    let round = world.primary.watch.unwrap().0;
    world.tell(Event::End(Ended::ChannelLost));
    world.tell(Event::Hashed(round, Hashes::default()));
    world.tell(Event::PeerHashed(round, Hashes::default()));
    world.tell(Event::Mended(round, 3, true));
    world.tell(Event::End(Ended::Cancelled));
    let report = world.report();
    assert_eq!(
        (report.state, report.because),
        (State::Ended, Some(Ended::ChannelLost))
    );
    assert_eq!((report.compared_bytes, report.differs()), (0, false));
    // One that is not answered ends by itself, and the next one begins anew.
    world.tell(Event::Begin(length()));
    assert!(world.verifier.is_running());
    world.now = world.now + VERIFY_PATIENCE + Duration::from_millis(1);
    world.tell(Event::Tick);
    assert_eq!(world.report().because, Some(Ended::NoAnswer));
    world.tell(Event::Begin(length()));
    assert_eq!(world.report().state, State::Running);
}

#[test]
fn what_could_not_be_mended_is_told_until_it_is_equal() {
    let mut verifier = Verifier::default();
    let one = ImageLength::new(LEAF_BYTES).unwrap();
    let hashes = |byte| Hashes::new(1, vec![[byte; 32]]).unwrap();
    let mut now = Moment::from_nanos(1);
    // Compares the leaf until it ends, with what is there at the other site.
    let mut compare = |verifier: &mut Verifier, there: u8| {
        let mut next = verifier.step(now, Event::Begin(one));
        let mut mends = 0;
        while verifier.is_running() {
            now = now + VERIFY_PASS_PAUSE;
            next = match next {
                Some(Effect::Watch(slice)) => {
                    let at = ExitOrdinal::new(7);
                    let round = Round { at, slice };
                    verifier.step(now, Event::Watched(round));
                    verifier.step(now, Event::Hashed(round, hashes(1)));
                    verifier.step(now, Event::PeerHashed(round, hashes(there)))
                }
                Some(Effect::Mend(round, place)) => {
                    mends += 1;
                    verifier.step(now, Event::Mended(round, place, true))
                }
                None => verifier.step(now, Event::Tick),
            };
        }
        (mends, verifier.report(0).unwrap())
    };
    let (mends, report) = compare(&mut verifier, 2);
    assert_eq!((mends, report.state), (VERIFY_MENDS_MAX, State::Complete));
    assert!(report.differs());
    assert_eq!(
        report.differences,
        [Difference {
            offset: 0,
            exit: 7,
            mended: false
        }]
    );
    let (mends, report) = compare(&mut verifier, 1);
    assert_eq!((mends, report.differs(), report.differed), (0, false, 1));
    assert_eq!(compare(&mut verifier, 1).1.differed, 0);
}

#[test]
fn a_site_that_verifies_by_itself_counts_from_the_last_time_and_from_lockstep() {
    let at = |s: u64| Moment::from_nanos(s * 1_000_000_000);
    let every = Duration::from_secs(3600);
    assert!(!is_due(at(3599), every, at(0), None));
    assert!(is_due(at(3600), every, at(0), None));
    assert!(!is_due(at(5000), every, at(0), Some(at(3600))));
    assert!(is_due(at(7200), every, at(0), Some(at(3600))));
    assert!(!is_due(at(7200), every, at(7000), Some(at(3600))));
}
