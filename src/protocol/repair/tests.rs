//! Two copies of a guest, the log between them, and a leak in one of them: by seeds, and with either site lost at every step.
//!
//! A guest is a register, pages and blocks; what it does at an exit is a function of its register. A leak changes the register
//! of the copy. What is planted breaks a rule that the driver keeps: then the checkers must find the harm.

use std::collections::{BTreeSet, VecDeque};

use super::*;
use crate::machine::Touched;

const PAGES: usize = 6;
const BLOCKS: usize = 4;
/// Exits in an epoch.
const EPOCH: usize = 8;
const EXITS: usize = 120;
/// A copy's difference shows so many exits later, at the most.
const SHOWS_WITHIN: usize = 3;
const STEPS_MAX: usize = 20_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    /// The disk of a copy that differs is not marked.
    Unmarked,
    /// It is clean again before it was overwritten.
    ClearedEarly,
    /// The copy acknowledges while it differs.
    Acknowledges,
    /// What has come of a repair is taken for all of it.
    HalfStaged,
    /// The primary carries only what it has written itself.
    ForgetsTheirs,
    /// It carries only what the copy has written.
    ForgetsOwn,
    /// Nobody compares what the copy is after its repair.
    NotCompared,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Harm {
    /// A disk is called whole that two machines have written to.
    CleanMixture,
    /// A copy goes live that is another machine.
    WrongLive,
    /// An output has left that whoever goes live does not have.
    OutputLost,
    /// It was acknowledged by a copy that knew that it differs.
    AcknowledgedInVain,
    /// Nothing was lost, and the copy was not made the same again.
    NotRepaired,
}

/// A seeded source of chance (SplitMix64).
#[derive(Clone)]
struct Chance(u64);

fn mixed(value: u64) -> u64 {
    let mut mixed = (value ^ value >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ mixed >> 31
}

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        index(mixed(self.0), end)
    }
}

fn index(value: u64, end: usize) -> usize {
    usize::try_from(value % u64::try_from(end).unwrap()).unwrap()
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Guest {
    exit: usize,
    register: u64,
    pages: [u64; PAGES],
    blocks: [u64; BLOCKS],
}

impl Guest {
    fn new() -> Self {
        Self {
            exit: 0,
            register: 1,
            pages: [0; PAGES],
            blocks: [0; BLOCKS],
        }
    }

    /// Goes to its next exit; answers with the page and the block that it wrote.
    fn go_on(&mut self) -> (usize, Option<usize>) {
        self.exit += 1;
        self.register = mixed(self.register.wrapping_add(self.exit as u64));
        let page = index(self.register, PAGES);
        self.pages[page] = self.register;
        let block = (self.register >> 32)
            .is_multiple_of(3)
            .then(|| index(self.register >> 8, BLOCKS));
        if let Some(block) = block {
            self.blocks[block] = self.register;
        }
        (page, block)
    }
}

/// What was written since both were the same.
#[derive(Debug, Clone, Default)]
struct Written {
    /// Where epochs began, and what was written in each.
    epochs: Vec<(usize, BTreeSet<usize>, BTreeSet<usize>)>,
}

impl Written {
    fn begin(&mut self, at: usize) {
        self.epochs.push((at, BTreeSet::new(), BTreeSet::new()));
    }

    fn note(&mut self, (page, block): (usize, Option<usize>)) {
        let (_, pages, blocks) = self.epochs.last_mut().unwrap();
        pages.insert(page);
        blocks.extend(block);
    }

    fn since(&self, at: usize) -> (BTreeSet<usize>, BTreeSet<usize>) {
        let epochs = self.epochs.iter().filter(|(begun, ..)| *begun >= at);
        epochs.fold(
            Default::default(),
            |(mut pages, mut blocks), (_, more, others)| {
                pages.extend(more);
                blocks.extend(others);
                (pages, blocks)
            },
        )
    }
}

#[derive(Debug, Clone)]
enum Logged {
    /// What the register is at this exit, or anything where it does not show.
    Exit(u64),
    Page(usize, u64),
    Block(usize, u64),
    End(u64, Box<Guest>),
}

#[derive(Debug, Clone)]
enum Message {
    Log(usize, Logged),
    Ack(usize),
    Word(Word),
}

/// A repair on its way into a copy: disk first, a block at a time.
#[derive(Debug, Clone)]
struct Applying {
    pages: Vec<(usize, u64)>,
    blocks: Vec<(usize, u64)>,
    end: Option<(u64, Guest)>,
}

struct World {
    chance: Chance,
    flaw: Flaw,
    step: usize,
    primary: Guest,
    written: Written,
    mender: Mender,
    log: Vec<Logged>,
    /// What the guest was at each exit, live.
    truth: Vec<Guest>,
    /// Entries of the log whose outputs have left.
    released: usize,
    capture: Option<Wish>,
    to_backup: VecDeque<Message>,
    to_primary: VecDeque<Message>,
    copy: Copy,
    own: Guest,
    own_written: Written,
    received: Vec<Logged>,
    executed: usize,
    leaked_at: Option<usize>,
    differed: u64,
    applying: Applying,
    is_applying: bool,
    is_clean: bool,
    holds_acks: bool,
    told: usize,
    has_left: bool,
    repaired: usize,
    leaks: usize,
    harm: BTreeSet<Harm>,
}

fn at(exit: usize) -> ExitOrdinal {
    ExitOrdinal::new(exit as u64)
}

impl World {
    fn new(seed: u64, flaw: Flaw) -> Self {
        let mut written = Written::default();
        written.begin(0);
        Self {
            chance: Chance(seed),
            flaw,
            step: 0,
            primary: Guest::new(),
            written: written.clone(),
            mender: Mender::default(),
            log: Vec::new(),
            truth: vec![Guest::new()],
            released: 0,
            capture: None,
            to_backup: VecDeque::new(),
            to_primary: VecDeque::new(),
            copy: Copy::default(),
            own: Guest::new(),
            own_written: written,
            received: Vec::new(),
            executed: 0,
            leaked_at: None,
            differed: 0,
            applying: Applying {
                pages: Vec::new(),
                blocks: Vec::new(),
                end: None,
            },
            is_applying: false,
            is_clean: true,
            holds_acks: false,
            told: 0,
            has_left: false,
            repaired: 0,
            leaks: 0,
            harm: BTreeSet::new(),
        }
    }

    fn now(&self) -> Moment {
        Moment::from_nanos(self.step as u64 * 100_000)
    }

    fn put(&mut self, entry: Logged) {
        self.log.push(entry.clone());
        self.to_backup.push_back(Message::Log(self.log.len(), entry));
    }

    fn primary_goes_on(&mut self) {
        if let Some(wish) = self.capture.take() {
            return self.carry(&wish);
        }
        if self.primary.exit == EXITS {
            return;
        }
        if self.primary.exit > 0 && self.primary.exit.is_multiple_of(EPOCH) {
            self.written.begin(self.primary.exit);
        }
        let wrote = self.primary.go_on();
        self.written.note(wrote);
        self.truth.push(self.primary.clone());
        self.put(Logged::Exit(self.primary.register));
    }

    fn carry(&mut self, wish: &Wish) {
        let touched = wish.touched().expect("a copy tells what it can have written");
        let (mut pages, mut blocks) = self.written.since(usize::try_from(wish.since).unwrap());
        let place = |address: u64| usize::try_from(address / 4096).unwrap();
        let theirs: BTreeSet<usize> = touched.pages.into_iter().map(place).collect();
        let their_blocks = touched
            .leaves
            .into_iter()
            .map(|leaf| usize::try_from(leaf).unwrap())
            .collect();
        match self.flaw {
            Flaw::ForgetsTheirs | Flaw::NotCompared => {}
            Flaw::ForgetsOwn => (pages, blocks) = (theirs, their_blocks),
            _ => {
                pages.extend(theirs);
                blocks.extend(their_blocks);
            }
        }
        for page in pages {
            self.put(Logged::Page(page, self.primary.pages[page]));
        }
        for block in blocks {
            self.put(Logged::Block(block, self.primary.blocks[block]));
        }
        self.put(Logged::End(wish.number, Box::new(self.primary.clone())));
        self.written.begin(self.primary.exit);
        let event = MendEvent::Captured {
            number: wish.number,
            outcome: Ok(at(self.primary.exit)),
        };
        self.mend(event);
    }

    fn mend(&mut self, event: MendEvent) {
        for effect in self.mender.step(event) {
            match effect {
                MendEffect::Excuse | MendEffect::ExcuseNoMore => {}
                MendEffect::Capture(wish) => self.capture = Some(wish),
                MendEffect::Tell(word) => self.to_backup.push_back(Message::Word(word)),
            }
        }
    }

    fn heal(&mut self, event: CopyEvent) {
        for effect in self.copy.step(self.now(), event) {
            match effect {
                CopyEffect::HoldAcknowledgements => self.holds_acks = self.flaw != Flaw::Acknowledges,
                CopyEffect::MarkDisk => self.is_clean = self.flaw == Flaw::Unmarked,
                CopyEffect::Tell(word) => self.to_primary.push_back(Message::Word(word)),
                CopyEffect::BeRepaired => {
                    self.is_applying = true;
                    self.is_clean |= self.flaw == Flaw::ClearedEarly;
                }
                CopyEffect::ClearDisk => self.is_clean = true,
                CopyEffect::Acknowledge(_) => self.holds_acks = false,
                CopyEffect::Leave => self.has_left = true,
            }
        }
    }

    fn deliver_to_backup(&mut self) {
        match self.to_backup.pop_front() {
            Some(Message::Log(seq, entry)) if seq == self.received.len() + 1 => self.received.push(entry),
            Some(Message::Word(Word::Refused { number, .. })) => self.heal(CopyEvent::Refused { number }),
            _ => {}
        }
    }

    fn deliver_to_primary(&mut self) {
        match self.to_primary.pop_front() {
            Some(Message::Ack(received)) => self.released = self.released.max(received),
            Some(Message::Word(Word::Wish(wish))) => self.mend(MendEvent::Wished(wish, true)),
            Some(Message::Word(Word::Repaired(done))) => self.mend(MendEvent::Repaired(done)),
            _ => {}
        }
    }

    fn acknowledge(&mut self) {
        if self.holds_acks || self.has_left || self.told == self.received.len() {
            return;
        }
        if self.copy.differs() {
            self.harm.insert(Harm::AcknowledgedInVain);
        }
        self.told = self.received.len();
        self.to_primary.push_back(Message::Ack(self.told));
    }

    /// What the copy does next with what it has received. False if there is nothing to do.
    fn copy_goes_on(&mut self) -> bool {
        if self.has_left {
            return false;
        }
        if self.is_applying {
            self.apply();
            return true;
        }
        let Some(entry) = self.received.get(self.executed).cloned() else {
            return false;
        };
        self.executed += 1;
        match entry {
            Logged::Exit(register) if !self.copy.differs() => self.execute(register),
            Logged::Page(page, content) => self.applying.pages.push((page, content)),
            Logged::Block(block, content) => self.applying.blocks.push((block, content)),
            Logged::End(number, guest) => {
                self.applying.end = Some((number, *guest));
                self.heal(CopyEvent::Staged { number });
            }
            Logged::Exit(_) => {}
        }
        true
    }

    fn execute(&mut self, register: u64) {
        let exit = self.own.exit;
        if exit > 0 && exit.is_multiple_of(EPOCH) && self.own_written.epochs.last().unwrap().0 != exit {
            if self.own != self.truth[exit] {
                return self.differs();
            }
            self.own_written.begin(exit);
        }
        let wrote = self.own.go_on();
        self.own_written.note(wrote);
        let is_late = self
            .leaked_at
            .is_some_and(|leaked| self.own.exit >= leaked + SHOWS_WITHIN);
        if self.own.register != register && (is_late || self.chance.below(2) == 0) {
            self.differs();
        }
    }

    fn differs(&mut self) {
        self.differed += 1;
        let since = self.own_written.epochs.last().unwrap().0;
        let (pages, blocks) = self.own_written.since(since);
        let touched = Touched {
            since: at(since),
            pages: pages.into_iter().map(|page| page as u64 * 4096).collect(),
            leaves: blocks.into_iter().map(|block| block as u64).collect(),
        };
        let wish = Wish::new(self.differed, at(self.own.exit), Cause::Unknown, "", &touched);
        self.applying.pages.clear();
        self.applying.blocks.clear();
        self.heal(CopyEvent::Differs(wish));
    }

    /// One block of the disk, or all the rest.
    fn apply(&mut self) {
        if let Some((block, content)) = self.applying.blocks.pop() {
            self.own.blocks[block] = content;
            return;
        }
        self.is_applying = false;
        for (page, content) in std::mem::take(&mut self.applying.pages) {
            self.own.pages[page] = content;
        }
        let Some((number, there)) = self.applying.end.take() else {
            return;
        };
        (self.own.exit, self.own.register) = (there.exit, there.register);
        if self.own != there && self.flaw != Flaw::NotCompared {
            return self.heal(CopyEvent::Failed);
        }
        self.own_written.begin(there.exit);
        self.leaked_at = None;
        self.repaired += 1;
        self.heal(CopyEvent::Repaired(Done {
            number,
            position: there.exit as u64,
            byte_count: 0,
            cause: Cause::Unknown,
        }));
    }

    fn leak(&mut self) {
        let is_free = self.leaked_at.is_none() && !self.copy.differs() && !self.is_applying;
        if is_free && self.own.exit > 3 && self.own.exit + 20 < EXITS {
            self.own.register ^= 1 << self.chance.below(60);
            self.leaked_at = Some(self.own.exit);
            self.leaks += 1;
        }
    }

    /// What is under way is lost; the log goes on where the backup's ends.
    fn cut(&mut self) {
        self.to_primary.clear();
        self.to_backup.clear();
        for seq in self.received.len()..self.log.len() {
            self.to_backup
                .push_back(Message::Log(seq + 1, self.log[seq].clone()));
        }
        self.told = 0;
        self.heal(CopyEvent::Reconnected);
    }

    fn one_step(&mut self) {
        self.step += 1;
        match self.chance.below(100) {
            0..=24 => self.primary_goes_on(),
            25..=49 => self.deliver_to_backup(),
            50..=64 => self.deliver_to_primary(),
            65..=89 => drop(self.copy_goes_on()),
            90..=95 => self.acknowledge(),
            96 => self.cut(),
            97..=98 => self.leak(),
            _ => self.heal(CopyEvent::Tick),
        }
        self.judge_disk();
    }

    /// A disk that is clean is that of the guest which it is said to be of, but for what has not shown yet.
    fn judge_disk(&mut self) {
        let is_known = self.copy.differs() || self.is_applying;
        if self.is_clean
            && is_known
            && self.own.blocks != self.truth[self.own.exit.min(self.truth.len() - 1)].blocks
        {
            self.harm.insert(Harm::CleanMixture);
        }
    }

    fn is_over(&self) -> bool {
        let is_still = self.to_backup.is_empty() && self.to_primary.is_empty() && self.capture.is_none();
        self.has_left
            || (self.primary.exit == EXITS
                && is_still
                && self.executed == self.log.len()
                && self.released == self.log.len()
                && !self.copy.differs())
    }

    /// To its end, or until that site is lost at that step.
    fn run(mut self, lost: Option<(Side, usize)>) -> (usize, BTreeSet<Harm>, usize) {
        while !self.is_over() && self.step < STEPS_MAX {
            if let Some((side, step)) = lost
                && step == self.step
            {
                match side {
                    Side::Primary => self.primary_is_lost(),
                    Side::Backup => self.backup_is_lost(),
                }
                return (self.step, self.harm, self.repaired);
            }
            self.one_step();
        }
        if self.has_left || self.step == STEPS_MAX {
            self.harm.insert(Harm::NotRepaired);
        } else if self.own != self.primary {
            self.harm.insert(Harm::WrongLive);
        }
        (self.step, self.harm, self.repaired)
    }

    /// Its memory is gone, its disk is as it is called; the primary goes on alone.
    fn backup_is_lost(&mut self) {
        self.judge_disk();
        self.mend(MendEvent::Over);
        assert!(self.mender.wish().is_none(), "nobody is repaired any more");
    }

    /// The copy goes live if it comes to the end of what it has, and is not known to be another machine.
    fn primary_is_lost(&mut self) {
        if self.flaw == Flaw::HalfStaged && self.copy.differs() && !self.applying.pages.is_empty() {
            self.own.exit = self.truth.len() - 1;
            self.is_applying = true;
            while self.is_applying {
                self.apply();
            }
            self.copy = Copy::default();
            self.leaked_at = None;
            self.executed = self.received.len();
        }
        while self.copy_goes_on() {}
        if self.copy.differs() || self.has_left {
            // It says so, and does not go on.
            return;
        }
        // What has not shown yet nobody can know.
        if self.leaked_at.is_none() && self.own != self.truth[self.own.exit] {
            self.harm.insert(Harm::WrongLive);
        }
        let has = self.log[..self.received.len()].len();
        if self.released > has {
            self.harm.insert(Harm::OutputLost);
        }
        if !self.is_clean {
            self.harm.insert(Harm::CleanMixture);
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Side {
    Primary,
    Backup,
}

#[test]
fn every_difference_is_repaired_and_nothing_is_harmed() {
    let (mut leaks, mut repaired) = (0, 0);
    for seed in 0..300 {
        let world = World::new(seed, Flaw::None);
        let (steps, harm, count) = world.run(None);
        assert_eq!(harm, BTreeSet::new(), "seed {seed}, {steps} steps");
        leaks += usize::from(count > 0);
        repaired += count;
    }
    assert!(
        leaks > 200 && repaired > 400,
        "{leaks} runs with repairs, {repaired} repairs"
    );
}

#[test]
fn either_site_is_lost_at_every_step_and_nothing_is_harmed() {
    for seed in 0..12 {
        let (steps, ..) = World::new(seed, Flaw::None).run(None);
        for side in [Side::Primary, Side::Backup] {
            for step in 0..steps {
                let (_, harm, _) = World::new(seed, Flaw::None).run(Some((side, step)));
                assert_eq!(harm, BTreeSet::new(), "seed {seed}, {side:?} lost at step {step}");
            }
        }
    }
}

/// The harm that `flaw` does, in some seed, with the primary lost at some step or not.
fn harm_of(flaw: Flaw) -> BTreeSet<Harm> {
    let mut found = BTreeSet::new();
    for seed in 0..60 {
        let (steps, harm, _) = World::new(seed, flaw).run(None);
        found.extend(harm);
        for step in (0..steps).step_by(37) {
            let (_, harm, _) = World::new(seed, flaw).run(Some((Side::Primary, step)));
            found.extend(harm);
        }
    }
    found
}

#[test]
fn each_flaw_is_found() {
    for (flaw, harm) in [
        (Flaw::Unmarked, Harm::CleanMixture),
        (Flaw::ClearedEarly, Harm::CleanMixture),
        (Flaw::Acknowledges, Harm::AcknowledgedInVain),
        (Flaw::HalfStaged, Harm::WrongLive),
        (Flaw::ForgetsTheirs, Harm::NotRepaired),
        (Flaw::ForgetsOwn, Harm::NotRepaired),
        (Flaw::NotCompared, Harm::WrongLive),
    ] {
        let found = harm_of(flaw);
        assert!(found.contains(&harm), "{flaw:?}: {found:?}");
    }
}

fn wish(number: u64) -> Wish {
    let touched = Touched {
        since: at(5),
        pages: [0x1000].into(),
        leaves: [3].into(),
    };
    Wish::new(number, at(9), Cause::Rdrand, "RAX differs", &touched)
}

fn done(number: u64) -> Done {
    Done {
        number,
        position: 12,
        byte_count: 4096,
        cause: Cause::Rdrand,
    }
}

#[test]
fn a_copy_holds_and_marks_before_it_tells_and_clears_before_it_acknowledges() {
    let mut copy = Copy::default();
    let now = Moment::default();
    assert_eq!(
        copy.step(now, CopyEvent::Differs(wish(1))),
        [
            CopyEffect::HoldAcknowledgements,
            CopyEffect::MarkDisk,
            CopyEffect::Tell(Word::Wish(wish(1)))
        ]
    );
    assert_eq!(
        copy.step(now, CopyEvent::Reconnected),
        [CopyEffect::Tell(Word::Wish(wish(1)))],
        "the word may have been lost with the connection"
    );
    assert_eq!(copy.step(now, CopyEvent::Staged { number: 2 }), [], "another's");
    assert_eq!(
        copy.step(now, CopyEvent::Staged { number: 1 }),
        [CopyEffect::BeRepaired]
    );
    assert_eq!(copy.step(now, CopyEvent::Refused { number: 1 }), [], "too late");
    assert_eq!(
        copy.step(now, CopyEvent::Repaired(done(1))),
        [
            CopyEffect::ClearDisk,
            CopyEffect::Acknowledge(ExitOrdinal::new(done(1).position)),
            CopyEffect::Tell(Word::Repaired(done(1)))
        ]
    );
    assert!(!copy.differs());
    assert_eq!(
        copy.step(now, CopyEvent::Reconnected),
        [CopyEffect::Tell(Word::Repaired(done(1)))]
    );
}

#[test]
fn a_copy_that_nobody_repairs_leaves() {
    let late = Moment::default() + REPAIR_PATIENCE + std::time::Duration::from_millis(1);
    for (event, now) in [
        (CopyEvent::Refused { number: 1 }, Moment::default()),
        (CopyEvent::Failed, Moment::default()),
        (CopyEvent::Tick, late),
    ] {
        let mut copy = Copy::default();
        copy.step(Moment::default(), CopyEvent::Differs(wish(1)));
        assert_eq!(copy.step(Moment::default(), CopyEvent::Tick), []);
        assert_eq!(copy.step(now, event), [CopyEffect::Leave]);
        assert!(copy.differs(), "and never claims");
        assert_eq!(copy.step(now, CopyEvent::Staged { number: 1 }), []);
    }
}

#[test]
fn a_wish_is_answered_once_and_by_who_can() {
    let mut mender = Mender::default();
    let asked = [MendEffect::Excuse, MendEffect::Capture(wish(1))];
    assert_eq!(mender.step(MendEvent::Wished(wish(1), true)), asked);
    assert_eq!(mender.step(MendEvent::Wished(wish(1), true)), [], "told again");
    let captured = |number, outcome| MendEvent::Captured { number, outcome };
    assert_eq!(mender.step(captured(1, Ok(at(12)))), []);
    let elsewhere = Done {
        position: 13,
        ..done(1)
    };
    assert_eq!(
        mender.step(MendEvent::Repaired(elsewhere)),
        [],
        "no such repair was sent"
    );
    assert_eq!(
        mender.step(MendEvent::Repaired(done(1))),
        [MendEffect::ExcuseNoMore]
    );
    assert_eq!(mender.step(MendEvent::Wished(wish(1), true)), [], "it is over");
    let refused = |number, why: &str| {
        let why = why.to_owned();
        [
            MendEffect::ExcuseNoMore,
            MendEffect::Tell(Word::Refused { number, why }),
        ]
    };
    let cannot = "this site does not lead a confirmed pairing now";
    assert_eq!(mender.step(MendEvent::Wished(wish(2), false)), refused(2, cannot));
    mender.step(MendEvent::Wished(wish(3), true));
    assert_eq!(
        mender.step(captured(3, Err("too much".to_owned()))),
        refused(3, "too much")
    );
    mender.step(MendEvent::Wished(wish(4), true));
    assert_eq!(mender.step(MendEvent::Over), [MendEffect::ExcuseNoMore]);
    assert_eq!(mender.step(MendEvent::Over), []);
    assert_eq!(
        mender.step(MendEvent::Wished(wish(1), true)),
        asked,
        "another copy counts anew"
    );
}
