//! The page that shows the guest its clock, kept up with virtual time.

use super::{RunError, Vm};
use crate::base::units::VirtualTime;

impl Vm {
    /// From here on it is `now` for the guest.
    pub(super) fn show_time(&mut self, now: VirtualTime) {
        self.now = self.now.max(now);
        let (address, counter) = self.board.hpet().main_counter(self.now);
        if let Some(page) = self.kvm.page() {
            // The page was made for this register; only another page would refuse it.
            let shown = page.show(address, counter);
            debug_assert_eq!(shown, Ok(()));
        }
    }

    /// Shows the guest all registers of its clock.
    pub(super) fn show_hpet(&self) -> Result<(), RunError> {
        let Some(page) = self.kvm.page() else {
            return Ok(());
        };
        for (address, value) in self.board.hpet().registers(self.now) {
            page.show(address, value).map_err(|outside| RunError::Host {
                what: "showing the clock",
                source: std::io::Error::other(outside),
            })?;
        }
        Ok(())
    }
}
