//! Registers and behaviour of the MC146818.

use serde::{Deserialize, Serialize};

use super::super::{AtExit, PortDevice, platform, ports_read, ports_written};
use super::calendar::CivilDate;
use crate::base::units::VirtualTime;

const INDEX_PORT: u16 = *platform::RTC_PORTS.start();
const DATA_PORT: u16 = *platform::RTC_PORTS.end();

const SECONDS: u8 = 0x00;
const SECONDS_ALARM: u8 = 0x01;
const MINUTES: u8 = 0x02;
const MINUTES_ALARM: u8 = 0x03;
const HOURS: u8 = 0x04;
const HOURS_ALARM: u8 = 0x05;
const WEEKDAY: u8 = 0x06;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const REGISTER_A: u8 = 0x0A;
const REGISTER_B: u8 = 0x0B;
const REGISTER_C: u8 = 0x0C;
const REGISTER_D: u8 = 0x0D;
const CENTURY: u8 = 0x32;

/// Register A: update in progress.
const A_UPDATE_IN_PROGRESS: u8 = 1 << 7;
/// Register A: both bits set hold the divider chain in reset.
const A_DIVIDER_RESET: u8 = 0x60;
/// Register A: rate of the periodic interrupt.
const A_RATE: u8 = 0x0F;
/// 32.768 kHz time base, 1,024 Hz: what firmware sets.
const A_INITIAL: u8 = 0x26;
const B_SET: u8 = 1 << 7;
const B_UPDATE_INTERRUPT: u8 = 1 << 4;
const B_BINARY: u8 = 1 << 2;
const B_24_HOURS: u8 = 1 << 1;
/// Bits of register C; the enable bits of register B are at the same places.
const C_PERIODIC: u8 = 1 << 6;
const C_ALARM: u8 = 1 << 5;
const C_UPDATE_ENDED: u8 = 1 << 4;
const C_INTERRUPT: u8 = 1 << 7;
/// Register D: the battery is fine.
const D_VALID: u8 = 1 << 7;
/// Hours in 12-hour mode.
const HOURS_PM: u8 = 1 << 7;
/// An alarm byte with both upper bits set matches anything.
const ALARM_ANY: u8 = 0xC0;

const NANOS_PER_SECOND: i128 = 1_000_000_000;
const SECONDS_PER_DAY: i64 = 86_400;
const TIME_BASE_HERTZ: i128 = 32_768;
/// How long before an update the bit says so (data sheet, t_BUC).
const UPDATE_WARNING_NS: i128 = 244_000;
/// Seconds from 1970 to 9999-12-31 23:59:59, the last moment the registers can show.
const LAST_SECOND: i64 = 253_402_300_799;

/// No clock that shows the years 1970 to 9999 is further off virtual time, which has 64 bits.
const OFFSET_NS_MAX: u128 = 1 << 70;

/// The real-time clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rtc {
    index: u8,
    /// CMOS bytes, registers A and B, the alarm, and, while the clock is halted, the time bytes.
    bytes: [u8; 128],
    /// Flags of register C without `C_INTERRUPT`.
    flags: u8,
    /// Guest wall clock minus virtual time, in nanoseconds since 1970.
    offset_ns: i128,
    /// The weekday the guest set, relative to the calendar's.
    weekday_shift: i64,
    /// Flags are up to date to here.
    flags_at: VirtualTime,
}

/// A clock's saved form: its fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RtcState {
    index: u8,
    bytes: Vec<u8>,
    flags: u8,
    offset_ns: i128,
    weekday_shift: i64,
    flags_at: VirtualTime,
}

impl Rtc {
    /// The saved form.
    #[must_use]
    pub fn save(&self) -> RtcState {
        RtcState {
            index: self.index,
            bytes: self.bytes.to_vec(),
            flags: self.flags,
            offset_ns: self.offset_ns,
            weekday_shift: self.weekday_shift,
            flags_at: self.flags_at,
        }
    }

    /// The clock that `state` is of.
    ///
    /// # Errors
    /// What cannot be.
    pub fn restored(state: &RtcState) -> Result<Self, &'static str> {
        let bytes = state.bytes.as_slice().try_into();
        let is_sound = state.index < 128
            && state.flags & !(C_PERIODIC | C_ALARM | C_UPDATE_ENDED) == 0
            && state.offset_ns.unsigned_abs() < OFFSET_NS_MAX
            && state.weekday_shift.unsigned_abs() < 1000;
        if !is_sound {
            return Err("a register is out of range");
        }
        Ok(Self {
            index: state.index,
            bytes: bytes.map_err(|_| "a clock has 128 bytes")?,
            flags: state.flags,
            offset_ns: state.offset_ns,
            weekday_shift: state.weekday_shift,
            flags_at: state.flags_at,
        })
    }

    /// A clock that shows `wall_clock_at_start_unix_seconds` at virtual time zero, held within 1970 to 9999.
    #[must_use]
    pub fn new(wall_clock_at_start_unix_seconds: i64) -> Self {
        let mut bytes = [0; 128];
        bytes[usize::from(REGISTER_A)] = A_INITIAL;
        bytes[usize::from(REGISTER_B)] = B_24_HOURS;
        let start = wall_clock_at_start_unix_seconds.clamp(0, LAST_SECOND);
        Self {
            index: 0,
            bytes,
            flags: 0,
            offset_ns: i128::from(start) * NANOS_PER_SECOND,
            weekday_shift: 0,
            flags_at: VirtualTime::ZERO,
        }
    }

    /// When an enabled interrupt next raises IRQ 8, so that [`Rtc::advance`] is due; never if `None`. It lies in the
    /// past if it is overdue.
    #[must_use]
    pub fn next_deadline(&self) -> Option<VirtualTime> {
        if self.interrupts() {
            // IRQ 8 is high until register C is read: no further edge can come.
            return None;
        }
        let enabled = self.byte(REGISTER_B);
        let wall = self.wall_ns(self.flags_at);
        let periodic = self.next_period_ns(wall).filter(|_| enabled & C_PERIODIC != 0);
        let second = wall.div_euclid(NANOS_PER_SECOND);
        let update =
            (!self.halted() && enabled & C_UPDATE_ENDED != 0).then_some((second + 1) * NANOS_PER_SECOND);
        let alarm = self
            .seconds_to_alarm(second)
            .filter(|_| !self.halted() && enabled & C_ALARM != 0)
            .map(|wait| (second + i128::from(wait)) * NANOS_PER_SECOND);
        let due = [periodic, update, alarm].into_iter().flatten().min()?;
        Some(VirtualTime::from_nanos(
            u64::try_from(due - self.offset_ns).unwrap_or(u64::MAX),
        ))
    }

    /// Sets the flags of what happened since the last call and drives IRQ 8; to be called at any exit.
    pub fn advance(&mut self, at: &mut AtExit<'_>) {
        if at.now > self.flags_at {
            self.raise_flags(at.now);
        }
        at.irqs.set(platform::RTC_IRQ, self.interrupts());
    }

    fn raise_flags(&mut self, now: VirtualTime) {
        let (from, to) = (self.wall_ns(self.flags_at), self.wall_ns(now));
        self.flags_at = now;
        if self.next_period_ns(from).is_some_and(|due| due <= to) {
            self.flags |= C_PERIODIC;
        }
        let (from_second, to_second) = (from.div_euclid(NANOS_PER_SECOND), to.div_euclid(NANOS_PER_SECOND));
        if self.halted() || from_second == to_second {
            return;
        }
        self.flags |= C_UPDATE_ENDED;
        if self
            .seconds_to_alarm(from_second)
            .is_some_and(|wait| i128::from(wait) <= to_second - from_second)
        {
            self.flags |= C_ALARM;
        }
    }

    fn byte(&self, register: u8) -> u8 {
        self.bytes[usize::from(register & 0x7F)]
    }

    fn set_byte(&mut self, register: u8, value: u8) {
        self.bytes[usize::from(register & 0x7F)] = value;
    }

    fn interrupts(&self) -> bool {
        self.flags & self.byte(REGISTER_B) != 0
    }

    fn divider_is_reset(&self) -> bool {
        self.byte(REGISTER_A) & A_DIVIDER_RESET == A_DIVIDER_RESET
    }

    fn halted(&self) -> bool {
        self.byte(REGISTER_B) & B_SET != 0 || self.divider_is_reset()
    }

    /// Guest wall clock, which goes on underneath while the clock is halted: it keeps the phase of the second.
    fn wall_ns(&self, now: VirtualTime) -> i128 {
        i128::from(now.as_nanos()) + self.offset_ns
    }

    /// The end of the periodic interrupt's present period, in wall-clock nanoseconds.
    fn next_period_ns(&self, wall: i128) -> Option<i128> {
        let period_ticks = match self.byte(REGISTER_A) & A_RATE {
            _ if self.divider_is_reset() => return None,
            0 => return None,
            // Data sheet, table 5: with the 32.768 kHz base the two fastest rates repeat 256 and 128 Hz.
            rate @ 1..=2 => 1_i128 << (rate + 6),
            rate => 1_i128 << (rate - 1),
        };
        let ticks = (wall * TIME_BASE_HERTZ).div_euclid(NANOS_PER_SECOND);
        let next = (ticks.div_euclid(period_ticks) + 1) * period_ticks * NANOS_PER_SECOND;
        // Rounded up, so that the tick has happened at that nanosecond.
        Some(-(-next).div_euclid(TIME_BASE_HERTZ))
    }

    /// Seconds from `second` to the next one whose time of day matches the alarm, 1 to 86,400.
    fn seconds_to_alarm(&self, second: i128) -> Option<i64> {
        let matches = |register: u8, value: i64| {
            let byte = self.byte(register);
            let wanted = if register == HOURS_ALARM {
                self.decode_hours(byte)
            } else {
                self.decode(byte)
            };
            byte & ALARM_ANY == ALARM_ANY || wanted == value
        };
        let start = i64::try_from(second.rem_euclid(i128::from(SECONDS_PER_DAY))).unwrap_or(0);
        let mut candidate = start + 1;
        // Skips whole hours and minutes that cannot match: at most 25 + 60 + 60 steps.
        while candidate <= start + SECONDS_PER_DAY {
            let time_of_day = candidate % SECONDS_PER_DAY;
            if !matches(HOURS_ALARM, time_of_day / 3600) {
                candidate += 3600 - candidate % 3600;
            } else if !matches(MINUTES_ALARM, time_of_day / 60 % 60) {
                candidate += 60 - candidate % 60;
            } else if !matches(SECONDS_ALARM, time_of_day % 60) {
                candidate += 1;
            } else {
                return Some(candidate - start);
            }
        }
        None
    }

    fn decode(&self, byte: u8) -> i64 {
        if self.byte(REGISTER_B) & B_BINARY != 0 {
            i64::from(byte)
        } else {
            i64::from(byte >> 4) * 10 + i64::from(byte & 0xF)
        }
    }

    fn encode(&self, value: i64) -> u8 {
        let value = u8::try_from(value.rem_euclid(100)).unwrap_or(0);
        if self.byte(REGISTER_B) & B_BINARY != 0 {
            value
        } else {
            ((value / 10) << 4) | (value % 10)
        }
    }

    fn decode_hours(&self, byte: u8) -> i64 {
        if self.byte(REGISTER_B) & B_24_HOURS != 0 {
            return self.decode(byte);
        }
        let afternoon = if byte & HOURS_PM != 0 { 12 } else { 0 };
        self.decode(byte & !HOURS_PM) % 12 + afternoon
    }

    fn encode_hours(&self, hours: i64) -> u8 {
        if self.byte(REGISTER_B) & B_24_HOURS != 0 {
            return self.encode(hours);
        }
        let on_the_dial = if hours % 12 == 0 { 12 } else { hours % 12 };
        let afternoon = if hours >= 12 { HOURS_PM } else { 0 };
        self.encode(on_the_dial) | afternoon
    }

    /// Fills the time bytes from the wall clock.
    fn show_time(&mut self, now: VirtualTime) {
        let seconds = self.wall_ns(now).div_euclid(NANOS_PER_SECOND);
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX / 2);
        let (days, time_of_day) = (
            seconds.div_euclid(SECONDS_PER_DAY),
            seconds.rem_euclid(SECONDS_PER_DAY),
        );
        let date = CivilDate::from_days(days);
        self.set_byte(SECONDS, self.encode(time_of_day % 60));
        self.set_byte(MINUTES, self.encode(time_of_day / 60 % 60));
        self.set_byte(HOURS, self.encode_hours(time_of_day / 3600));
        self.set_byte(WEEKDAY, self.encode(weekday_index(days, self.weekday_shift) + 1));
        self.set_byte(DAY, self.encode(date.day));
        self.set_byte(MONTH, self.encode(date.month));
        self.set_byte(YEAR, self.encode(date.year));
        self.set_byte(CENTURY, self.encode(date.year.div_euclid(100)));
    }

    /// Makes the time bytes the wall clock's time, `fraction_ns` into its second.
    fn take_time(&mut self, now: VirtualTime, fraction_ns: i128) {
        let date = CivilDate {
            year: self.decode(self.byte(CENTURY)) * 100 + self.decode(self.byte(YEAR)),
            month: self.decode(self.byte(MONTH)),
            day: self.decode(self.byte(DAY)),
        };
        let days = date.clamped().to_days();
        let hours = self.decode_hours(self.byte(HOURS)).min(23);
        let minutes = self.decode(self.byte(MINUTES)).min(59);
        let seconds = self.decode(self.byte(SECONDS)).min(59);
        let wall = days * SECONDS_PER_DAY + hours * 3600 + minutes * 60 + seconds;
        self.weekday_shift = self.decode(self.byte(WEEKDAY)) - 1 - weekday_index(days, 0);
        self.offset_ns = i128::from(wall) * NANOS_PER_SECOND + fraction_ns - i128::from(now.as_nanos());
    }

    fn fraction_ns(&self, now: VirtualTime) -> i128 {
        self.wall_ns(now).rem_euclid(NANOS_PER_SECOND)
    }

    fn read_register(&mut self, now: VirtualTime) -> u8 {
        match self.index {
            SECONDS | MINUTES | HOURS | WEEKDAY..=YEAR | CENTURY => {
                if !self.halted() {
                    self.show_time(now);
                }
                self.byte(self.index)
            }
            REGISTER_A => {
                let left = NANOS_PER_SECOND - self.fraction_ns(now);
                let updating = !self.halted() && left <= UPDATE_WARNING_NS;
                self.byte(REGISTER_A) | if updating { A_UPDATE_IN_PROGRESS } else { 0 }
            }
            REGISTER_C => {
                let interrupt = if self.interrupts() { C_INTERRUPT } else { 0 };
                std::mem::take(&mut self.flags) | interrupt
            }
            REGISTER_D => D_VALID,
            index => self.byte(index),
        }
    }

    fn write_register(&mut self, value: u8, now: VirtualTime) {
        match self.index {
            SECONDS | MINUTES | HOURS | WEEKDAY..=YEAR | CENTURY => {
                if self.halted() {
                    self.set_byte(self.index, value);
                } else {
                    self.show_time(now);
                    self.set_byte(self.index, value);
                    self.take_time(now, self.fraction_ns(now));
                }
            }
            REGISTER_A | REGISTER_B => self.write_control(value, now),
            REGISTER_C | REGISTER_D => {}
            index => self.set_byte(index, value),
        }
    }

    /// Registers A and B, which may halt the clock or let it run again.
    fn write_control(&mut self, value: u8, now: VirtualTime) {
        let (was_halted, divider_was_reset) = (self.halted(), self.divider_is_reset());
        if !was_halted {
            // In the modes of before: a change of mode does not convert what a halted clock shows.
            self.show_time(now);
        }
        if self.index == REGISTER_A {
            self.set_byte(REGISTER_A, value & !A_UPDATE_IN_PROGRESS);
        } else {
            // Data sheet, "SET": it clears the update-ended interrupt's enable bit.
            let cleared = if value & B_SET != 0 { B_UPDATE_INTERRUPT } else { 0 };
            self.set_byte(REGISTER_B, value & !cleared);
        }
        let divider_released = divider_was_reset && !self.divider_is_reset();
        let fraction_ns = if divider_released {
            NANOS_PER_SECOND / 2
        } else {
            self.fraction_ns(now)
        };
        if was_halted && !self.halted() {
            self.take_time(now, fraction_ns);
        } else if divider_released {
            // Still halted by SET: only the phase moves.
            self.offset_ns += fraction_ns - self.fraction_ns(now);
        }
    }
}

/// Days since the last Sunday, `shift` days on.
fn weekday_index(days: i64, shift: i64) -> i64 {
    // 1970-01-01 was a Thursday.
    (days + 4 + shift).rem_euclid(7)
}

impl PortDevice for Rtc {
    fn port_read(&mut self, port: u16, data: &mut [u8], at: &mut AtExit<'_>) {
        self.advance(at);
        for (port, byte) in ports_read(port, data) {
            if port == DATA_PORT {
                *byte = self.read_register(at.now);
            }
        }
        self.advance(at);
    }

    fn port_write(&mut self, port: u16, data: &[u8], at: &mut AtExit<'_>) {
        self.advance(at);
        for (port, byte) in ports_written(port, data) {
            match port {
                // Bit 7 masks NMI, of which there is none.
                INDEX_PORT => self.index = byte & 0x7F,
                DATA_PORT => self.write_register(byte, at.now),
                _ => {}
            }
        }
        self.advance(at);
    }
}
