//! Registers and behaviour of the ACPI fixed hardware.

use serde::{Deserialize, Serialize};

use super::super::{AtExit, Effect, PortDevice, platform, ports_read, ports_written};
use crate::base::units::VirtualTime;

const STATUS: u16 = platform::ACPI_PM1_EVENT_PORT;
const STATUS_HIGH: u16 = STATUS + 1;
const ENABLE: u16 = STATUS + 2;
const ENABLE_HIGH: u16 = STATUS + 3;
const CONTROL: u16 = platform::ACPI_PM1_CONTROL_PORT;
const CONTROL_HIGH: u16 = CONTROL + 1;
const TIMER: u16 = platform::ACPI_PM_TIMER_PORT;
const TIMER_LAST: u16 = TIMER + 3;

/// PM1 status and enable bits (ACPI 6.5 § 4.8.3.1).
const TIMER_BIT: u16 = 1 << 0;
const GLOBAL_LOCK_BIT: u16 = 1 << 5;
const POWER_BUTTON_BIT: u16 = 1 << 8;
const RTC_BIT: u16 = 1 << 10;
const ENABLE_BITS: u16 = TIMER_BIT | GLOBAL_LOCK_BIT | POWER_BUTTON_BIT | RTC_BIT;

/// PM1 control bits (ACPI 6.5 § 4.8.3.2), as bytes.
const CONTROL_SCI_ENABLE: u8 = 1 << 0;
const CONTROL_BUS_MASTER_RELOAD: u8 = 1 << 1;
const CONTROL_HIGH_SLEEP_TYPE_SHIFT: u32 = 2;
const CONTROL_HIGH_SLEEP_TYPE: u8 = 0b111 << CONTROL_HIGH_SLEEP_TYPE_SHIFT;
const CONTROL_HIGH_SLEEP_ENABLE: u8 = 1 << 5;

/// `TMR_STS` is set when the timer's highest bit changes (ACPI 6.5 § 4.8.2.1).
const TIMER_HALF_BITS: u32 = 31;

/// Keyboard-controller command: pulse the reset line.
const KEYBOARD_RESET: u8 = 0xFE;
/// Keyboard-controller status: both buffers empty.
const KEYBOARD_IDLE: u8 = 0;

/// The ACPI fixed hardware: its own saved form.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AcpiPm {
    status: u16,
    enable: u16,
    bus_master_reload: bool,
    sleep_type: u8,
    /// How often the timer's highest bit had changed when it was looked at last.
    timer_halves: u64,
}

impl AcpiPm {
    /// Everything clear, as after reset.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether a restored one can be.
    ///
    /// # Errors
    /// What cannot.
    pub fn check(&self) -> Result<(), &'static str> {
        let is_sound = u32::from(self.sleep_type) <= 0b111 && self.timer_halves < 1 << 32;
        is_sound
            .then_some(())
            .ok_or("its timer or sleep type is out of range")
    }

    /// When an enabled timer-status interrupt is next due; never if `None`.
    #[must_use]
    pub fn next_deadline(&self) -> Option<VirtualTime> {
        let awaited = self.enable & TIMER_BIT != 0 && self.status & TIMER_BIT == 0;
        awaited.then(|| {
            let tick = (self.timer_halves + 1) << TIMER_HALF_BITS;
            VirtualTime::of_tick(tick, platform::ACPI_PM_TIMER_HERTZ)
        })
    }

    /// Sets the timer status if its time has come and drives SCI; to be called at any exit.
    pub fn advance(&mut self, at: &mut AtExit<'_>) {
        let halves = timer(at) >> TIMER_HALF_BITS;
        if halves > self.timer_halves {
            self.timer_halves = halves;
            self.status |= TIMER_BIT;
        }
        self.drive_sci(at);
    }

    /// The operator presses the power button.
    pub fn press_power_button(&mut self, at: &mut AtExit<'_>) {
        self.status |= POWER_BUTTON_BIT;
        self.advance(at);
    }

    fn drive_sci(&self, at: &mut AtExit<'_>) {
        at.irqs
            .set(platform::ACPI_SCI_IRQ, self.status & self.enable != 0);
    }

    fn read_byte(&self, port: u16, ticks: u64) -> u8 {
        match port {
            STATUS..=STATUS_HIGH => self.status.to_le_bytes()[usize::from(port - STATUS)],
            ENABLE..=ENABLE_HIGH => self.enable.to_le_bytes()[usize::from(port - ENABLE)],
            CONTROL => {
                let reload = if self.bus_master_reload {
                    CONTROL_BUS_MASTER_RELOAD
                } else {
                    0
                };
                CONTROL_SCI_ENABLE | reload
            }
            CONTROL_HIGH => self.sleep_type << CONTROL_HIGH_SLEEP_TYPE_SHIFT,
            // The low four of the eight bytes: the timer wraps at 32 bits.
            TIMER..=TIMER_LAST => ticks.to_le_bytes()[usize::from(port - TIMER)],
            platform::KEYBOARD_COMMAND_PORT => KEYBOARD_IDLE,
            _ => 0xFF,
        }
    }

    fn write_byte(&mut self, port: u16, value: u8, at: &mut AtExit<'_>) {
        let low = u16::from(value);
        let high = low << 8;
        match port {
            STATUS => self.status &= !low,
            STATUS_HIGH => self.status &= !high,
            ENABLE => self.enable = (self.enable & 0xFF00) | (low & ENABLE_BITS),
            ENABLE_HIGH => self.enable = (self.enable & 0x00FF) | (high & ENABLE_BITS),
            CONTROL => self.bus_master_reload = value & CONTROL_BUS_MASTER_RELOAD != 0,
            CONTROL_HIGH => {
                self.sleep_type = (value & CONTROL_HIGH_SLEEP_TYPE) >> CONTROL_HIGH_SLEEP_TYPE_SHIFT;
                let sleeps = value & CONTROL_HIGH_SLEEP_ENABLE != 0;
                if sleeps && self.sleep_type == platform::ACPI_S5_SLEEP_TYPE {
                    at.effects.push(Effect::PowerOff);
                }
            }
            platform::ACPI_RESET_PORT if value == platform::ACPI_RESET_VALUE => {
                at.effects.push(Effect::Reset)
            }
            platform::KEYBOARD_COMMAND_PORT if value == KEYBOARD_RESET => at.effects.push(Effect::Reset),
            _ => {}
        }
    }
}

/// The timer, not yet cut to its 32 bits.
fn timer(at: &AtExit<'_>) -> u64 {
    at.now.ticks_at(platform::ACPI_PM_TIMER_HERTZ)
}

impl PortDevice for AcpiPm {
    fn port_read(&mut self, port: u16, data: &mut [u8], at: &mut AtExit<'_>) {
        self.advance(at);
        for (port, byte) in ports_read(port, data) {
            *byte = self.read_byte(port, timer(at));
        }
    }

    fn port_write(&mut self, port: u16, data: &[u8], at: &mut AtExit<'_>) {
        self.advance(at);
        for (port, byte) in ports_written(port, data) {
            self.write_byte(port, byte, at);
        }
        self.drive_sci(at);
    }
}
