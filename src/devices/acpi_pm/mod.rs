//! ACPI fixed hardware: PM1a event and control blocks, PM timer, reset register; and the keyboard controller's reset.
//!
//! Models ACPI 6.5 § 4.8 at the addresses in [`platform`]. The FADT must agree with what is here: `TMR_VAL_EXT` set
//! (32-bit timer), `RESET_REG_SUP` set, no SMI command port (ACPI mode is always on, so `SCI_EN` reads as one), SCI
//! level-triggered on IRQ 9, no sleep button.
//!
//! ```text
//!   offset  0      PM1_STS   TMR, GBL, PWRBTN, RTC, WAK     write one to clear
//!           2      PM1_EN    TMR, GBL, PWRBTN, RTC
//!           4      PM1_CNT   SCI_EN = 1, BM_RLD, SLP_TYP; SLP_EN with S5 powers off, any other type is ignored
//!           8      PM_TMR    read-only, 32 bits at 3.579545 MHz of virtual time
//!          12      RESET     1 resets
//! ```
//!
//! SCI is high exactly while a status bit and its enable bit are both set. Of the status bits the machine sets two:
//! `TMR` when bit 31 of the timer changes either way, computed lazily by [`AcpiPm::advance`], and `PWRBTN` by
//! [`AcpiPm::press_power_button`]. `GBL`, `RTC` and `WAK` stay clear, since there is neither firmware to share a lock
//! with nor a sleep to wake from; their enable bits can be written and read back, which ACPICA checks.
//!
//! Registers are decoded byte by byte, so every access width works; all bytes of one access see the same instant.
//!
//! [`platform`]: super::platform

mod device;
#[cfg(test)]
mod tests;

pub use device::AcpiPm;
