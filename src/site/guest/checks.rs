//! What is done for whoever takes nobody's word (`[check]` of the site's configuration).

use std::time::Duration;

use super::kept_differences::KeepDifferences;
use super::kept_frames::KeepFrames;
use crate::site::config::SiteConfig;
use crate::site::store::VmFolder;

/// Of one VM's copy; as a rule nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Checks {
    /// Where the guest's frames are kept, if they are.
    pub(crate) keep_frames: Option<KeepFrames>,
    /// Where it is kept in what a copy differed, if it is.
    pub(crate) keep_differences: Option<KeepDifferences>,
    /// A copy is led astray once in so many exits, on purpose.
    pub(crate) lead_astray_every: Option<u64>,
    /// A guest that computes is left alone for so long.
    pub(crate) preempt_after: Option<Duration>,
}

impl Checks {
    /// As `config` has them, of the VM with that folder.
    pub(super) fn of(config: &SiteConfig, folder: &VmFolder) -> Self {
        Self {
            keep_frames: config.keep_frames_bytes.map(|bytes_max| KeepFrames {
                folder: folder.clone(),
                bytes_max,
            }),
            keep_differences: config
                .keep_differences
                .map(|most| KeepDifferences::within(folder.file("differences"), most)),
            lead_astray_every: config.lead_astray_every,
            preempt_after: config.preempt_after,
        }
    }
}
