//! Ports of the 8254 and system control port B; IRQ 0.

use serde::{Deserialize, Serialize};

use super::super::{AtExit, PortDevice, TICKS_MAX, platform, ports_read, ports_written};
use super::counter::{Counter, Tick};
use crate::base::units::VirtualTime;

const COUNTER_0: u16 = *platform::PIT_PORTS.start();
const COUNTER_2: u16 = COUNTER_0 + 2;
const CONTROL: u16 = COUNTER_0 + 3;

/// Control word: counter number 3 means read-back.
const SELECT_READ_BACK: u8 = 3;
const READ_BACK_NO_COUNT: u8 = 1 << 5;
const READ_BACK_NO_STATUS: u8 = 1 << 4;

const PORT_B_GATE_2: u8 = 1 << 0;
const PORT_B_SPEAKER: u8 = 1 << 1;
const PORT_B_REFRESH: u8 = 1 << 4;
const PORT_B_OUT_2: u8 = 1 << 5;

/// Ticks between two memory refreshes, about 15 µs: what firmware loads into channel 1.
const REFRESH_TICKS: Tick = 18;

/// The timer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pit {
    counters: [Counter; 3],
    speaker: bool,
    /// Edges of channel 0 up to this tick have reached IRQ 0.
    irq_done_to: Tick,
}

impl Default for Pit {
    fn default() -> Self {
        Self::new()
    }
}

impl Pit {
    /// A timer that nobody has programmed: it raises no interrupt.
    #[must_use]
    pub fn new() -> Self {
        Self {
            counters: [Counter::new(true), Counter::new(true), Counter::new(false)],
            speaker: false,
            irq_done_to: 0,
        }
    }

    /// Whether a restored one can be.
    ///
    /// # Errors
    /// What cannot.
    pub fn check(&self) -> Result<(), &'static str> {
        let is_sound = self.counters.iter().all(Counter::check) && self.irq_done_to < TICKS_MAX;
        is_sound
            .then_some(())
            .ok_or("a counter holds what cannot be written to it")
    }

    /// The timer as a PC's firmware hands it over: channel 0 at the longest period, 18.2 Hz. Linux reads it for
    /// randomness long before it programs it, and waits for ever on a channel without a count.
    #[must_use]
    pub fn as_firmware_leaves_it() -> Self {
        const CHANNEL_0_SQUARE_WAVE: u8 = 0x36;
        let mut pit = Self::new();
        pit.write_byte(CONTROL, CHANNEL_0_SQUARE_WAVE, 0);
        pit.write_byte(COUNTER_0, 0, 0);
        pit.write_byte(COUNTER_0, 0, 0);
        pit
    }

    /// When channel 0's output next rises, so that [`Pit::advance`] is due; never if `None`.
    ///
    /// It is counted from the last `advance` (every port access does one too), and lies in the past if that edge is
    /// overdue.
    #[must_use]
    pub fn next_deadline(&self) -> Option<VirtualTime> {
        let rise = self.counters[0].next_rise_after(self.irq_done_to)?;
        Some(VirtualTime::of_tick(rise, platform::PIT_HERTZ))
    }

    /// Raises IRQ 0 for what came due; to be called at any exit.
    pub fn advance(&mut self, at: &mut AtExit<'_>) {
        let now = ticks(at);
        if now <= self.irq_done_to {
            return;
        }
        if self.counters[0]
            .next_rise_after(self.irq_done_to)
            .is_some_and(|rise| rise <= now)
        {
            at.irqs.pulse(platform::PIT_IRQ);
        }
        self.irq_done_to = now;
        self.counters[0].settle(now);
    }

    fn read_byte(&mut self, port: u16, now: Tick) -> u8 {
        match port {
            COUNTER_0..=COUNTER_2 => self.counters[usize::from(port - COUNTER_0)].read(now),
            platform::PIT_GATE_PORT => self.read_port_b(now),
            _ => 0xFF,
        }
    }

    fn write_byte(&mut self, port: u16, value: u8, now: Tick) {
        match port {
            COUNTER_0..=COUNTER_2 => self.counters[usize::from(port - COUNTER_0)].write(value, now),
            CONTROL => self.write_control(value, now),
            platform::PIT_GATE_PORT => {
                self.speaker = value & PORT_B_SPEAKER != 0;
                self.counters[2].set_gate(value & PORT_B_GATE_2 != 0, now);
            }
            _ => {}
        }
    }

    fn write_control(&mut self, value: u8, now: Tick) {
        let select = value >> 6;
        if select == SELECT_READ_BACK {
            self.read_back(value, now);
            return;
        }
        let counter = &mut self.counters[usize::from(select)];
        if value & 0x30 == 0 {
            counter.latch_count(now);
        } else {
            counter.program(value);
        }
    }

    fn read_back(&mut self, value: u8, now: Tick) {
        for (bit, counter) in (1..).zip(&mut self.counters) {
            if value & (1 << bit) == 0 {
                continue;
            }
            if value & READ_BACK_NO_COUNT == 0 {
                counter.latch_count(now);
            }
            if value & READ_BACK_NO_STATUS == 0 {
                counter.latch_status(now);
            }
        }
    }

    fn read_port_b(&mut self, now: Tick) -> u8 {
        let counter = &mut self.counters[2];
        counter.settle(now);
        let bit = |mask: u8, set: bool| if set { mask } else { 0 };
        bit(PORT_B_GATE_2, counter.gate())
            | bit(PORT_B_SPEAKER, self.speaker)
            | bit(PORT_B_REFRESH, now / REFRESH_TICKS % 2 == 1)
            | bit(PORT_B_OUT_2, counter.output(now))
    }
}

fn ticks(at: &AtExit<'_>) -> Tick {
    at.now.ticks_at(platform::PIT_HERTZ)
}

impl PortDevice for Pit {
    fn port_read(&mut self, port: u16, data: &mut [u8], at: &mut AtExit<'_>) {
        self.advance(at);
        for (port, byte) in ports_read(port, data) {
            *byte = self.read_byte(port, ticks(at));
        }
    }

    fn port_write(&mut self, port: u16, data: &[u8], at: &mut AtExit<'_>) {
        // An edge that came due under the old programming is not lost by the new one.
        self.advance(at);
        for (port, byte) in ports_written(port, data) {
            self.write_byte(port, byte, ticks(at));
        }
    }
}
