//! The central race, by seeds: two sides execute one log of guest writes at their own pace while units are moved and
//! compared between them over a line that delays and reorders.

use std::collections::BTreeMap;

use super::*;
use crate::replica::GenerationId;

const UNITS: u64 = 12;
/// A guest write changes one part of a unit.
const PARTS: usize = 3;

type Content = [u8; PARTS];

/// A seeded source of chance (SplitMix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// Which part of the rule a planted target leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Planted {
    Nothing,
    /// It uses what is carried though its guest has written to the unit since.
    PutsOldBack,
    /// It uses what is carried before its guest is there.
    ShowsTheFuture,
    /// It uses what is of another generation.
    TakesAnyGeneration,
}

#[derive(Debug, Clone, Copy)]
struct GuestWrite {
    unit: Unit,
    part: usize,
    value: u8,
}

struct World {
    chance: Chance,
    planted: Planted,
    compares: bool,
    log: Vec<GuestWrite>,
    source: BTreeMap<Unit, Content>,
    target: BTreeMap<Unit, Content>,
    /// How many writes each side has executed.
    at: (u64, u64),
    mover: Mover,
    placer: Placer,
    orders: Vec<Order>,
    replies: Vec<Reply>,
    /// Units that are equal at equal positions.
    healed: BTreeMap<Unit, bool>,
    alarms: u64,
    used: u64,
    again: u64,
}

const GENERATION: GenerationId = GenerationId([1; 16]);

fn apply(disk: &mut BTreeMap<Unit, Content>, write: GuestWrite) {
    disk.get_mut(&write.unit).unwrap()[write.part] = write.value;
}

impl World {
    fn new(seed: u64, planted: Planted, compares: bool) -> Self {
        let mut chance = Chance(seed);
        let source: BTreeMap<Unit, Content> = (0..UNITS).map(|unit| (Unit(unit), [1; PARTS])).collect();
        let mut target = source.clone();
        let mut healed = BTreeMap::new();
        for unit in (0..UNITS).map(Unit) {
            let differs = !compares && chance.below(2) == 0;
            if differs {
                target.insert(unit, [99; PARTS]);
            }
            healed.insert(unit, !differs);
        }
        let log = (0..60).map(|_| GuestWrite {
            unit: Unit(chance.below(UNITS)),
            part: usize::try_from(chance.below(PARTS as u64)).unwrap(),
            value: u8::try_from(2 + chance.below(90)).unwrap(),
        });
        let log: Vec<GuestWrite> = log.collect();
        let units = healed
            .iter()
            .filter(|(_, healed)| compares || !**healed)
            .map(|(unit, _)| *unit);
        Self {
            mover: Mover::new(GENERATION, units),
            placer: Placer::new(GENERATION, Position(0)),
            planted,
            compares,
            log,
            source,
            target,
            at: (0, 0),
            orders: Vec::new(),
            replies: Vec::new(),
            healed,
            alarms: 0,
            used: 0,
            again: 0,
            chance,
        }
    }

    fn carried(&self, content: Content) -> Carried {
        if self.compares {
            Carried::Hash(*blake3::hash(&content).as_bytes())
        } else {
            Carried::Data(content.to_vec())
        }
    }

    /// One of the things that may happen next does.
    fn step(&mut self) {
        match self.chance.below(6) {
            0 if self.at.0 < self.log.len() as u64 => {
                apply(&mut self.source, self.log[usize::try_from(self.at.0).unwrap()]);
                self.at.0 += 1;
            }
            // The target follows and never overtakes.
            1 | 2 if self.at.1 < self.at.0 => self.target_guest_writes(),
            3 => {
                if let Some(unit) = self.mover.next() {
                    let carried = self.carried(self.source[&unit]);
                    let order = self.mover.read(unit, Position(self.at.0), carried);
                    if self.chance.below(8) == 0 {
                        // A late packet of an earlier pairing, with whatever was on the disk then.
                        self.orders.push(Order {
                            generation: GenerationId([9; 16]),
                            carried: self.carried([77; PARTS]),
                            ..order.clone()
                        });
                    }
                    self.orders.push(order);
                }
            }
            4 if !self.orders.is_empty() => {
                let index = usize::try_from(self.chance.below(self.orders.len() as u64)).unwrap();
                let order = self.orders.swap_remove(index);
                self.arrive(order);
            }
            5 if !self.replies.is_empty() => {
                let index = usize::try_from(self.chance.below(self.replies.len() as u64)).unwrap();
                let reply = self.replies.swap_remove(index);
                self.mover.answered(reply);
            }
            _ => {}
        }
    }

    fn arrive(&mut self, mut order: Order) {
        match self.planted {
            Planted::TakesAnyGeneration => order.generation = GENERATION,
            Planted::ShowsTheFuture if order.read_at.0 > self.at.1 => return self.put(&order),
            Planted::PutsOldBack if order.read_at.0 <= self.at.1 => return self.put(&order),
            _ => {}
        }
        let used = self.placer.arrived(order);
        self.make(used);
    }

    fn target_guest_writes(&mut self) {
        let write = self.log[usize::try_from(self.at.1).unwrap()];
        let at = Position(self.at.1 + 1);
        let before = self.placer.guest_writes(write.unit, at);
        self.make(before);
        apply(&mut self.target, write);
        self.at.1 += 1;
        let due = self.placer.reached(at);
        self.make(due);
        self.look();
    }

    fn make(&mut self, uses: impl IntoIterator<Item = Use>) {
        for one in uses {
            match one {
                Use::Now(order) => self.put(&order),
                Use::Again(unit) => {
                    self.again += 1;
                    self.replies.push(Reply::Again(unit));
                }
            }
        }
    }

    fn put(&mut self, order: &Order) {
        self.used += 1;
        match &order.carried {
            Carried::Data(bytes) => {
                self.target
                    .insert(order.unit, bytes.as_slice().try_into().unwrap());
                self.healed.insert(order.unit, true);
            }
            Carried::Hash(hash) => {
                self.alarms += u64::from(blake3::hash(&self.target[&order.unit]).as_bytes() != hash);
            }
        }
        self.replies.push(Reply::Done {
            unit: order.unit,
            read_at: order.read_at,
        });
        self.look();
    }

    /// What the target's guest would read is what the source's guest read at that position.
    fn look(&mut self) {
        let mut expected: BTreeMap<Unit, Content> = (0..UNITS).map(|unit| (Unit(unit), [1; PARTS])).collect();
        for write in &self.log[..usize::try_from(self.at.1).unwrap()] {
            apply(&mut expected, *write);
        }
        let wrong = self
            .healed
            .iter()
            .filter(|(unit, healed)| **healed && self.target[*unit] != expected[*unit]);
        self.alarms += wrong.count() as u64;
    }

    /// Runs until all is moved and executed, or for so many steps.
    fn run(&mut self) -> bool {
        for _ in 0..20_000 {
            self.step();
            let executed = self.at == (self.log.len() as u64, self.log.len() as u64);
            if executed && self.mover.is_done() && self.orders.is_empty() {
                return true;
            }
        }
        false
    }
}

#[test]
fn whatever_the_order_a_moved_unit_is_never_old_nor_from_the_future() {
    let (mut used, mut again) = (0, 0);
    for seed in 0..500 {
        let mut world = World::new(seed, Planted::Nothing, false);
        assert!(world.run(), "seed {seed} comes to no end");
        assert_eq!(
            world.alarms, 0,
            "seed {seed}: the target's guest saw what is not there"
        );
        assert_eq!(world.source, world.target, "seed {seed}");
        used += world.used;
        again += world.again;
    }
    assert!(
        used > 1000 && again > 100,
        "{used} used, {again} again: the race was hardly run"
    );
}

#[test]
fn a_comparison_on_a_busy_disk_raises_no_false_alarm_and_no_difference_escapes() {
    for seed in 0..500 {
        let mut world = World::new(seed, Planted::Nothing, true);
        assert!(world.run(), "seed {seed} comes to no end");
        assert_eq!(world.alarms, 0, "seed {seed}: a false alarm");
        // The same with a difference that is really there, in a unit that no guest writes to.
        let mut world = World::new(seed, Planted::Nothing, true);
        let untouched = (0..UNITS)
            .map(Unit)
            .find(|unit| world.log.iter().all(|write| write.unit != *unit));
        let Some(unit) = untouched else { continue };
        world.target.insert(unit, [50; PARTS]);
        world.healed.insert(unit, false);
        assert!(world.run(), "seed {seed} comes to no end");
        assert!(world.alarms > 0, "seed {seed}: the difference was not seen");
    }
}

#[test]
fn each_part_of_the_rule_is_needed() {
    for planted in [
        Planted::PutsOldBack,
        Planted::ShowsTheFuture,
        Planted::TakesAnyGeneration,
    ] {
        let caught = (0..200).filter(|&seed| {
            let mut world = World::new(seed, planted, false);
            let _ended = world.run();
            world.alarms > 0 || world.source != world.target
        });
        let caught = caught.count();
        assert!(caught > 20, "{planted:?}: {caught} of 200 seeds notice it");
    }
}

#[test]
fn a_mark_that_was_set_since_the_read_stays() {
    let unit = Unit(3);
    let mut mover = Mover::new(GENERATION, [unit]);
    assert_eq!(mover.next(), Some(unit));
    let order = mover.read(unit, Position(5), Carried::Data(Vec::new()));
    mover.mark(unit);
    assert_eq!(mover.next(), None, "one read of a unit at a time");
    mover.answered(Reply::Done {
        unit,
        read_at: Position(4),
    });
    assert_eq!(mover.next(), None, "an answer to an earlier read");
    mover.answered(Reply::Done {
        unit,
        read_at: order.read_at,
    });
    assert!(!mover.is_done());
    assert_eq!(mover.next(), Some(unit));
}

#[test]
fn the_same_seed_is_the_same_run() {
    let trace = |seed| {
        let mut world = World::new(seed, Planted::Nothing, false);
        world.run();
        (world.used, world.again, world.placer.dropped(), world.target)
    };
    assert_eq!(trace(7), trace(7));
    assert_ne!(trace(7), trace(8));
}
