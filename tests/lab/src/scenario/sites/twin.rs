//! A second VM, at site-b, that is like the first: the same kernel, initrd, disk and memory, an address and a card of its
//! own. It is never protected, and stands still whenever it is not wanted.

use super::super::{Setup, VmSettings};
use super::{Site, Sites};
use anyhow::Result;

/// Its address on the client's network.
pub(crate) const TWIN_ADDRESS: &str = "10.9.0.51";

const TWIN_MAC: [u8; 6] = [0x02, 0xa0, 0, 0, 9, 51];

/// Its TAP interface: the other one is a backup's.
pub(super) const TAP: &str = "tap1";

fn name(first: &str) -> String {
    format!("{first}-twin")
}

/// What it is made of.
pub(super) fn settings(setup: &Setup) -> VmSettings {
    let address = format!("{TWIN_ADDRESS}/24");
    VmSettings {
        name: name(setup.service().name()),
        cmdline: format!("quiet {}", setup.image.command_line(Some(&address), None)),
        tap: Some(TAP.to_owned()),
        mac: TWIN_MAC,
        ..VmSettings::new(setup)
    }
}

impl Sites<'_> {
    /// Creates the twin and starts it; its process.
    pub(crate) fn start_twin(&self) -> Result<u32> {
        let twin = name(&self.vm);
        self.start_other_vm(Site::B, &twin)?;
        self.vm_process(Site::B, &twin)
    }
}
