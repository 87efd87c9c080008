//! Protection, on and off, as often as it is wanted.

use super::product::VmStatus;
use super::{Site, Sites};
use crate::scenario::vm::Kept;
use anyhow::{Result, ensure};
use std::thread;
use std::time::{Duration, Instant};

/// From the command to a VM that is protected.
pub(crate) const PROTECT_TIMEOUT: Duration = Duration::from_secs(300);

/// From the command to a VM that is live and alone.
const UNPROTECT_TIMEOUT: Duration = Duration::from_secs(60);

/// Between two words to end it.
const ASK_AGAIN: Duration = Duration::from_millis(300);

/// How often a protection is asked for that does not come about: after another one the other site may need its time.
const TRIES: u32 = 5;

/// Between two of them.
const TRY_AGAIN: Duration = Duration::from_secs(2);

impl VmStatus {
    /// Whether it is the live copy, and protected.
    pub(crate) fn is_protected(&self) -> bool {
        self.role == "primary" && self.green
    }
}

impl Sites<'_> {
    /// From the next protection on the copy is kept the same in this way, if the VM is live at `site` then.
    pub(crate) fn keep_same_by(&self, site: Site, kept: Kept) -> Result<()> {
        let definition = self.definition_at();
        let line = format!("mode = \"{}\"", kept.name());
        self.host(site)?.shell(&format!(
            "sed -i '1,/^.kernel./s/^mode = .*/{line}/' {definition} && grep -q '^{line}$' {definition}"
        ))?;
        Ok(())
    }

    /// Protects the VM, which is live at `live`, if it is not protected; what that site says then.
    pub(crate) fn protect(&self, live: Site) -> Result<VmStatus> {
        let protected = || self.status(live).ok().filter(VmStatus::is_protected);
        if let Some(status) = protected() {
            return Ok(status);
        }
        let mut tries = 0;
        loop {
            let asked = self.begin(live, &format!("vm protect {}", self.vm))?;
            let ended = asked.end(PROTECT_TIMEOUT);
            if let Some(status) = protected() {
                return Ok(status);
            }
            tries += 1;
            ensure!(
                tries < TRIES,
                "the VM is not protected after {tries} tries: {ended:?}"
            );
            thread::sleep(TRY_AGAIN);
        }
    }

    /// Ends the protection of the VM, which is live at `live`, if there is one, or would be one again by itself.
    pub(crate) fn unprotect(&self, live: Site) -> Result<VmStatus> {
        let deadline = Instant::now() + UNPROTECT_TIMEOUT;
        loop {
            let status = self.status(live)?;
            let is_alone = matches!(status.role.as_str(), "unprotected" | "solo");
            if is_alone && status.protect_again.is_none() {
                return Ok(status);
            }
            ensure!(
                Instant::now() < deadline,
                "{live}: its protection does not end: {status:?}"
            );
            // Refused while something else is under way.
            drop(self.ask(live, &format!("vm unprotect {}", self.vm)));
            thread::sleep(ASK_AGAIN);
        }
    }

    /// Waits until the VM is protected again by itself, wherever it is live.
    pub(crate) fn wait_protected_again(&self) -> Result<()> {
        let deadline = Instant::now() + PROTECT_TIMEOUT;
        loop {
            let said = Site::ALL.map(|site| self.status(site));
            if said.iter().flatten().any(VmStatus::is_protected) {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "the VM is not protected again within {} s; its sites say {said:?}",
                PROTECT_TIMEOUT.as_secs()
            );
            thread::sleep(ASK_AGAIN);
        }
    }
}
