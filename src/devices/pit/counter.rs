//! One counter of the 8254: mode, count, gate, latches, and its output as a function of the tick.

use serde::{Deserialize, Serialize};

use crate::devices::TICKS_MAX;

/// Ticks of the input clock since the VM was created.
pub(super) type Tick = u64;

/// How the output behaves (data sheet, "Mode Definitions").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Mode {
    /// Mode 0: low while counting, high at the end.
    TerminalCount,
    /// Mode 1: low for the count after a rising gate.
    OneShot,
    /// Mode 2: one low tick per period.
    RateGenerator,
    /// Mode 3: high for half the period, low for half.
    SquareWave,
    /// Mode 4: one low tick at the end of the count.
    SoftwareStrobe,
    /// Mode 5: one low tick at the end of the count after a rising gate.
    HardwareStrobe,
}

impl Mode {
    /// From bits 3 to 1 of a control word; modes 2 and 3 have two codes each.
    fn from_control(control: u8) -> Self {
        match (control >> 1) & 7 {
            0 => Self::TerminalCount,
            1 => Self::OneShot,
            2 | 6 => Self::RateGenerator,
            3 | 7 => Self::SquareWave,
            4 => Self::SoftwareStrobe,
            _ => Self::HardwareStrobe,
        }
    }

    fn is_periodic(self) -> bool {
        matches!(self, Self::RateGenerator | Self::SquareWave)
    }

    fn is_triggered(self) -> bool {
        matches!(self, Self::OneShot | Self::HardwareStrobe)
    }
}

/// Which bytes of the count the data port carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Access {
    Low,
    High,
    LowThenHigh,
}

/// What the counting element does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Run {
    /// No count to work on.
    Stopped,
    /// Counting; the count was, or will be, loaded at this tick.
    Counting { start: Tick },
    /// The gate is low; this many ticks are done.
    Paused { elapsed: Tick },
}

/// One of the three counters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counter {
    mode: Mode,
    access: Access,
    bcd: bool,
    /// Bits 5 to 0 of the control word, as the status byte reports them.
    control: u8,
    gate: bool,
    /// The count register: what was written last.
    register: Option<u32>,
    /// The count being worked on, 1 to 65,536.
    count: u32,
    run: Run,
    /// Modes 2 and 3: when the period ends at which `register` replaces `count`.
    reload_at: Option<Tick>,
    /// The status byte's "null count": `register` has not reached the counting element.
    register_waits: bool,
    low_byte_written: Option<u8>,
    high_byte_next: bool,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
}

impl Counter {
    /// A counter as at power-on, with its gate at `gate`: silent until it is programmed.
    pub(super) fn new(gate: bool) -> Self {
        let mut counter = Self {
            mode: Mode::SquareWave,
            access: Access::LowThenHigh,
            bcd: false,
            control: 0,
            gate,
            register: None,
            count: 1,
            run: Run::Stopped,
            reload_at: None,
            register_waits: true,
            low_byte_written: None,
            high_byte_next: false,
            latched_count: None,
            latched_status: None,
        };
        counter.program(0x36);
        counter
    }

    /// Whether a restored one can be.
    pub(super) fn check(&self) -> bool {
        let counts = 1..=0x1_0000;
        let tick = match self.run {
            Run::Stopped => 0,
            Run::Counting { start: tick } | Run::Paused { elapsed: tick } => tick,
        };
        counts.contains(&self.count)
            && self.register.is_none_or(|register| counts.contains(&register))
            && tick.max(self.reload_at.unwrap_or(0)) < TICKS_MAX
    }

    /// A control word, with the counter's number already taken off and access bits that are not zero.
    pub(super) fn program(&mut self, control: u8) {
        let access = match (control >> 4) & 3 {
            1 => Access::Low,
            2 => Access::High,
            _ => Access::LowThenHigh,
        };
        *self = Self {
            mode: Mode::from_control(control),
            access,
            bcd: control & 1 != 0,
            control: control & 0x3F,
            gate: self.gate,
            register: None,
            count: self.count,
            run: Run::Stopped,
            reload_at: None,
            register_waits: true,
            low_byte_written: None,
            high_byte_next: false,
            latched_count: None,
            latched_status: None,
        };
    }

    /// A byte written to the data port.
    pub(super) fn write(&mut self, byte: u8, now: Tick) {
        self.settle(now);
        match self.access {
            Access::Low => self.write_count(u16::from(byte), now),
            Access::High => self.write_count(u16::from(byte) << 8, now),
            Access::LowThenHigh => match self.low_byte_written.take() {
                Some(low) => self.write_count(u16::from_le_bytes([low, byte]), now),
                None => {
                    self.low_byte_written = Some(byte);
                    if self.mode == Mode::TerminalCount {
                        // Data sheet, mode 0: the first byte of two stops counting and sets OUT low.
                        self.run = Run::Stopped;
                    }
                }
            },
        }
    }

    fn write_count(&mut self, value: u16, now: Tick) {
        self.register = Some(self.ticks_of(value));
        self.register_waits = true;
        match self.mode {
            Mode::TerminalCount | Mode::SoftwareStrobe => self.load(now),
            Mode::RateGenerator | Mode::SquareWave => match self.run {
                Run::Counting { start } if start <= now => {
                    self.reload_at = self.reload_at.or(self.next_rise_after(now));
                }
                _ if self.gate => self.load(now),
                // Waits for the gate.
                _ => {}
            },
            // Wait for the gate's rising edge.
            Mode::OneShot | Mode::HardwareStrobe => {}
        }
    }

    /// How many ticks a written count stands for: zero is the largest (data sheet, figure "Minimum and maximum").
    fn ticks_of(&self, value: u16) -> u32 {
        let ticks = if self.bcd {
            let digits = [12, 8, 4, 0].map(|shift| u32::from(value >> shift) & 0xF);
            digits.into_iter().fold(0, |number, digit| number * 10 + digit) % 10_000
        } else {
            u32::from(value)
        };
        if ticks == 0 { self.modulus() } else { ticks }
    }

    fn modulus(&self) -> u32 {
        if self.bcd { 10_000 } else { 0x1_0000 }
    }

    /// The next clock moves the count register into the counting element.
    fn load(&mut self, now: Tick) {
        let Some(register) = self.register else { return };
        self.count = register;
        self.register_waits = false;
        self.reload_at = None;
        self.run = if self.gate || self.mode.is_triggered() {
            Run::Counting { start: now + 1 }
        } else {
            Run::Paused { elapsed: 0 }
        };
    }

    /// Lets a waiting count take over if its period has begun by `now`.
    pub(super) fn settle(&mut self, now: Tick) {
        if let (Some(start), Some(register)) = (self.reload_at, self.register)
            && start <= now
        {
            self.count = register;
            self.run = Run::Counting { start };
            self.reload_at = None;
            self.register_waits = false;
        }
    }

    /// Drives the gate input (data sheet, "Gate Pin Operations Summary").
    pub(super) fn set_gate(&mut self, high: bool, now: Tick) {
        self.settle(now);
        let rises = high && !self.gate;
        let falls = !high && self.gate;
        self.gate = high;
        if self.mode.is_triggered() {
            if rises {
                self.load(now);
            }
        } else if self.mode.is_periodic() {
            if rises {
                self.load(now);
            } else if falls {
                self.run = Run::Stopped;
                self.reload_at = None;
            }
        } else {
            match self.run {
                Run::Paused { elapsed } if rises => {
                    self.run = Run::Counting {
                        start: now.saturating_sub(elapsed),
                    };
                }
                Run::Counting { start } if falls => {
                    self.run = Run::Paused {
                        elapsed: now.saturating_sub(start),
                    };
                }
                _ => {}
            }
        }
    }

    pub(super) fn gate(&self) -> bool {
        self.gate
    }

    /// Ticks since the count was loaded; none before.
    fn elapsed(&self, now: Tick) -> Option<Tick> {
        match self.run {
            Run::Stopped => None,
            Run::Counting { start } => now.checked_sub(start),
            Run::Paused { elapsed } => Some(elapsed),
        }
    }

    /// The OUT pin. [`Counter::settle`] comes first.
    pub(super) fn output(&self, now: Tick) -> bool {
        let count = Tick::from(self.count);
        let Some(elapsed) = self.elapsed(now) else {
            return self.mode != Mode::TerminalCount;
        };
        match self.mode {
            Mode::TerminalCount | Mode::OneShot => elapsed >= count,
            Mode::RateGenerator => elapsed % count != count - 1,
            Mode::SquareWave => elapsed % count < count.div_ceil(2),
            Mode::SoftwareStrobe | Mode::HardwareStrobe => elapsed != count,
        }
    }

    /// The first tick after `tick` at which OUT rises, as things are programmed now.
    pub(super) fn next_rise_after(&self, tick: Tick) -> Option<Tick> {
        let Run::Counting { mut start } = self.run else {
            return None;
        };
        let mut count = Tick::from(self.count);
        if let (Some(reload_at), Some(register)) = (self.reload_at, self.register) {
            if tick < reload_at {
                return Some(reload_at);
            }
            (start, count) = (reload_at, Tick::from(register));
        }
        match self.mode {
            Mode::TerminalCount | Mode::OneShot => Some(start + count).filter(|&rise| rise > tick),
            Mode::SoftwareStrobe | Mode::HardwareStrobe => {
                Some(start + count + 1).filter(|&rise| rise > tick)
            }
            Mode::RateGenerator | Mode::SquareWave => {
                let periods_done = tick.saturating_sub(start) / count;
                Some(start + (periods_done + 1) * count)
            }
        }
    }

    /// The counting element as the data port shows it.
    fn value(&self, now: Tick) -> u16 {
        let count = Tick::from(self.count);
        let modulus = Tick::from(self.modulus());
        let Some(elapsed) = self.elapsed(now) else {
            return self.encode(Tick::from(self.register.unwrap_or(0)));
        };
        self.encode(match self.mode {
            Mode::RateGenerator => count - elapsed % count,
            Mode::SquareWave => {
                // Counts by two, once in each half; an odd count spends its extra tick in the high half.
                let (phase, high_half) = (elapsed % count, count.div_ceil(2));
                let into_half = if phase < high_half {
                    phase
                } else {
                    phase - high_half
                };
                (count & !1).saturating_sub(2 * into_half)
            }
            _ => count + modulus - elapsed % modulus,
        })
    }

    fn encode(&self, value: Tick) -> u16 {
        let value = u16::try_from(value % Tick::from(self.modulus())).unwrap_or(0);
        if self.bcd {
            [1000, 100, 10, 1]
                .into_iter()
                .fold(0, |bcd, weight| (bcd << 4) | (value / weight % 10))
        } else {
            value
        }
    }

    /// Counter latch command: a second one before the count is read does nothing.
    pub(super) fn latch_count(&mut self, now: Tick) {
        self.settle(now);
        if self.latched_count.is_none() {
            self.latched_count = Some(self.value(now));
        }
    }

    /// Read-back of the status: OUT, null count, and the control word.
    pub(super) fn latch_status(&mut self, now: Tick) {
        self.settle(now);
        if self.latched_status.is_none() {
            let not_loaded = matches!(self.run, Run::Counting { start } if now < start);
            let null_count = self.register_waits || not_loaded;
            let flags = u8::from(self.output(now)) << 7 | u8::from(null_count) << 6;
            self.latched_status = Some(flags | self.control);
        }
    }

    /// A byte read from the data port: latched status first, then latched or live count.
    pub(super) fn read(&mut self, now: Tick) -> u8 {
        self.settle(now);
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let [low, high] = self
            .latched_count
            .unwrap_or_else(|| self.value(now))
            .to_le_bytes();
        let reads_high = match self.access {
            Access::Low => false,
            Access::High => true,
            Access::LowThenHigh => self.high_byte_next,
        };
        if self.access == Access::LowThenHigh {
            self.high_byte_next = !reads_high;
        }
        if self.access != Access::LowThenHigh || reads_high {
            self.latched_count = None;
        }
        if reads_high { high } else { low }
    }
}
