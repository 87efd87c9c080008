//! Registers of the HPET (IA-PC HPET specification 1.0a, § 2.3).

use serde::{Deserialize, Serialize};

use crate::base::units::{GuestPhys, VirtualTime};
use crate::devices::platform::{HPET_HERTZ, HPET_MMIO, PIT_IRQ, RTC_IRQ};
use crate::devices::{AtExit, TICKS_MAX};

/// Ticks of the main counter since the VM was created.
type Tick = u64;

const TIMERS: usize = 3;
/// Femtoseconds of one tick.
const PERIOD_FS: u64 = 1_000_000_000_000_000 / HPET_HERTZ;
/// The low half of the capabilities, which the ACPI table repeats: vendor 8086h, legacy routing, a 32-bit counter, three
/// timers, revision 1.
pub const EVENT_TIMER_BLOCK: u32 = 0x8086_8201;
const _: () = assert!((EVENT_TIMER_BLOCK >> 8 & 0x1F) as usize == TIMERS - 1);

const CAPABILITIES: u64 = 0x000;
const CONFIGURATION: u64 = 0x010;
const INTERRUPT_STATUS: u64 = 0x020;
const MAIN_COUNTER: u64 = 0x0F0;
const FIRST_TIMER: u64 = 0x100;
const TIMER_STRIDE: u64 = 0x20;

const ENABLE: u64 = 1 << 0;
const LEGACY_ROUTING: u64 = 1 << 1;

const TIMER_INTERRUPT_ENABLE: u64 = 1 << 2;
const TIMER_PERIODIC: u64 = 1 << 3;
const TIMER_PERIODIC_CAPABLE: u64 = 1 << 4;
const TIMER_VALUE_SET: u64 = 1 << 6;
const TIMER_32_BIT: u64 = 1 << 8;
/// What software may set in a timer's configuration.
const TIMER_WRITABLE: u64 = 1 << 1 | TIMER_INTERRUPT_ENABLE | TIMER_PERIODIC | TIMER_VALUE_SET | TIMER_32_BIT;

const COUNTER_MASK: u64 = 0xFFFF_FFFF;
/// Ticks until the counter shows the same value again.
const COUNTER_SPAN: Tick = 1 << 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Timer {
    configuration: u64,
    comparator: u32,
    period: u32,
}

impl Timer {
    fn is_periodic(&self) -> bool {
        self.configuration & TIMER_PERIODIC != 0
    }
}

/// The event timer: its own saved form.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Hpet {
    configuration: u64,
    /// Value of the main counter at `started`, or its value while it is stopped.
    base: u32,
    started: Tick,
    timers: [Timer; TIMERS],
    /// Matches up to this tick have raised their interrupts.
    done_to: Tick,
}

impl Hpet {
    /// A stopped timer: what a PC's firmware hands over.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether a restored one can be.
    ///
    /// # Errors
    /// What cannot.
    pub fn check(&self) -> Result<(), &'static str> {
        let configured = |(index, timer): (usize, &Timer)| {
            let can_be_periodic = capabilities_of(index) & TIMER_PERIODIC_CAPABLE != 0;
            timer.configuration & !TIMER_WRITABLE == 0 && (can_be_periodic || !timer.is_periodic())
        };
        let is_sound = self.configuration & !(ENABLE | LEGACY_ROUTING) == 0
            && self.timers.iter().enumerate().all(configured)
            && self.started.max(self.done_to) < TICKS_MAX;
        is_sound
            .then_some(())
            .ok_or("a register holds what cannot be written to it")
    }

    /// Whether timers 0 and 1 have taken IRQ 0 and IRQ 8 from PIT and RTC.
    #[must_use]
    pub fn has_legacy_routing(&self) -> bool {
        self.configuration & (ENABLE | LEGACY_ROUTING) == ENABLE | LEGACY_ROUTING
    }

    fn is_running(&self) -> bool {
        self.configuration & ENABLE != 0
    }

    fn counter(&self, now: Tick) -> u32 {
        let elapsed = if self.is_running() {
            now.saturating_sub(self.started)
        } else {
            0
        };
        low(u64::from(self.base).wrapping_add(elapsed))
    }

    /// The first tick after `tick` at which `timer` matches and raises an interrupt.
    fn next_match_after(&self, timer: &Timer, tick: Tick) -> Option<Tick> {
        if !self.has_legacy_routing() || timer.configuration & TIMER_INTERRUPT_ENABLE == 0 {
            return None;
        }
        let tick = tick.max(self.started);
        let ahead = u64::from(timer.comparator.wrapping_sub(self.counter(tick)));
        Some(tick + if ahead == 0 { COUNTER_SPAN } else { ahead })
    }

    /// When the next interrupt is due; in the past if overdue.
    #[must_use]
    pub fn next_deadline(&self) -> Option<VirtualTime> {
        let matches = self.timers[..2]
            .iter()
            .filter_map(|timer| self.next_match_after(timer, self.done_to));
        matches.min().map(|tick| VirtualTime::of_tick(tick, HPET_HERTZ))
    }

    /// Raises the interrupts of matches that have come due; to be called at any exit.
    pub fn advance(&mut self, at: &mut AtExit<'_>) {
        let now = ticks(at);
        if now <= self.done_to {
            return;
        }
        for (index, irq) in [(0, PIT_IRQ), (1, RTC_IRQ)] {
            let timer = self.timers[index];
            let Some(due) = self
                .next_match_after(&timer, self.done_to)
                .filter(|due| *due <= now)
            else {
                continue;
            };
            at.irqs.pulse(irq);
            if timer.is_periodic() && timer.period > 0 {
                // The comparator moves on by whole periods, so that no lateness of an exit adds up.
                let periods = (now - due) / u64::from(timer.period) + 1;
                let moved =
                    u64::from(timer.comparator).wrapping_add(periods.wrapping_mul(u64::from(timer.period)));
                self.timers[index].comparator = low(moved);
            }
        }
        self.done_to = now;
    }

    /// Guest physical address and present value of the main counter.
    #[must_use]
    pub fn main_counter(&self, now: VirtualTime) -> (GuestPhys, u64) {
        let value = u64::from(self.counter(now.ticks_at(HPET_HERTZ)));
        (GuestPhys(HPET_MMIO.start() + MAIN_COUNTER), value)
    }

    /// Guest physical addresses and present values of all registers, for the page that the guest reads.
    pub fn registers(&self, now: VirtualTime) -> impl Iterator<Item = (GuestPhys, u64)> {
        let timers = (0..TIMERS as u64).flat_map(|index| {
            let base = FIRST_TIMER + index * TIMER_STRIDE;
            [base, base + 8]
        });
        let now = now.ticks_at(HPET_HERTZ);
        [CAPABILITIES, CONFIGURATION, INTERRUPT_STATUS, MAIN_COUNTER]
            .into_iter()
            .chain(timers)
            .map(move |offset| (GuestPhys(HPET_MMIO.start() + offset), self.register(offset, now)))
    }

    /// The guest writes `data` at guest physical `address`, which lies in [`HPET_MMIO`].
    pub fn mmio_write(&mut self, address: u64, data: &[u8], at: &mut AtExit<'_>) {
        self.advance(at);
        let offset = address - HPET_MMIO.start();
        let Some(shift) = access_shift(offset, data.len()) else {
            return;
        };
        let mut bytes = [0; 8];
        bytes[..data.len()].copy_from_slice(data);
        let written = u64::from_le_bytes(bytes) << shift;
        let mask = if data.len() == 8 {
            u64::MAX
        } else {
            COUNTER_MASK << shift
        };
        self.set_register(offset & !7, written, mask, ticks(at));
    }

    fn register(&self, offset: u64, now: Tick) -> u64 {
        match offset {
            CAPABILITIES => PERIOD_FS << 32 | u64::from(EVENT_TIMER_BLOCK),
            CONFIGURATION => self.configuration,
            INTERRUPT_STATUS => 0,
            MAIN_COUNTER => u64::from(self.counter(now)),
            _ => match timer_at(offset) {
                Some((index, false)) => self.timers[index].configuration | capabilities_of(index),
                Some((index, true)) => u64::from(self.timers[index].comparator),
                None => 0,
            },
        }
    }

    fn set_register(&mut self, offset: u64, written: u64, mask: u64, now: Tick) {
        match offset {
            CONFIGURATION => self.configure(self.configuration & !mask | written & mask, now),
            MAIN_COUNTER if !self.is_running() && mask & COUNTER_MASK != 0 => self.base = low(written),
            _ => match timer_at(offset) {
                Some((index, false)) => {
                    let timer = &mut self.timers[index];
                    timer.configuration = (timer.configuration & !mask | written & mask) & TIMER_WRITABLE;
                    if capabilities_of(index) & TIMER_PERIODIC_CAPABLE == 0 {
                        timer.configuration &= !TIMER_PERIODIC;
                    }
                }
                Some((index, true)) if mask & COUNTER_MASK != 0 => {
                    self.timers[index].compare_with(low(written))
                }
                _ => {}
            },
        }
    }

    fn configure(&mut self, configuration: u64, now: Tick) {
        let was_running = self.is_running();
        self.base = self.counter(now);
        self.configuration = configuration & (ENABLE | LEGACY_ROUTING);
        if was_running || self.is_running() {
            self.started = now;
            self.done_to = self.done_to.max(now);
        }
    }
}

impl Timer {
    /// A write of the comparator (§ 2.3.9.2.2): of a periodic timer it is the period, and the first match too if
    /// the value-set bit says so, which then clears.
    fn compare_with(&mut self, value: u32) {
        if !self.is_periodic() || self.configuration & TIMER_VALUE_SET != 0 {
            self.comparator = value;
        }
        if self.is_periodic() {
            self.period = value;
        }
        self.configuration &= !TIMER_VALUE_SET;
    }
}

fn ticks(at: &AtExit<'_>) -> Tick {
    at.now.ticks_at(HPET_HERTZ)
}

fn low(value: u64) -> u32 {
    u32::try_from(value & COUNTER_MASK).unwrap_or(u32::MAX)
}

/// The timer whose register lies at `offset`, and whether it is the comparator.
fn timer_at(offset: u64) -> Option<(usize, bool)> {
    let into = offset.checked_sub(FIRST_TIMER)?;
    let index = usize::try_from(into / TIMER_STRIDE)
        .ok()
        .filter(|index| *index < TIMERS)?;
    match into % TIMER_STRIDE {
        0 => Some((index, false)),
        8 => Some((index, true)),
        _ => None,
    }
}

/// Timer 0 alone is periodic.
fn capabilities_of(index: usize) -> u64 {
    if index == 0 { TIMER_PERIODIC_CAPABLE } else { 0 }
}

/// How far into its register an access lies, in bits; `None` for what the specification does not allow.
fn access_shift(offset: u64, byte_count: usize) -> Option<u64> {
    match (byte_count, offset % 8) {
        (8, 0) => Some(0),
        (4, into @ (0 | 4)) => Some(into * 8),
        _ => None,
    }
}
