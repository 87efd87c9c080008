//! What a site's host suffers, short of losing its power: its disk, and the process of its VM.

use super::Sites;
use super::site::Site;
use crate::agent::client::Event;
use crate::agent::hold::HELD;
use crate::medium::{Health, Medium};
use anyhow::{Context, Result, bail};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// What a thread gets of its processor while it is slow: so many milliseconds of each 100.
const SLOW_MS_OF_100: u64 = 30;

/// For a thread to stand still.
const HOLD_TIMEOUT: Duration = Duration::from_secs(30);

/// Takes all room that there is, to the last block.
const FILL: &str = "cd /srv/vm && free=$(df -k . | awk 'NR == 2 { print $4 }') && fallocate -l $((free * 1024)) lab.full; \
    cat /dev/zero > lab.rest 2> /dev/null; sync; df -k . | awk 'NR == 2 { print $4 }'";
const EMPTY: &str = "rm -f /srv/vm/lab.full /srv/vm/lab.rest";

impl Sites<'_> {
    /// From now on the disk of `site` is like that.
    pub(crate) fn disk_is(&self, site: Site, health: Health) -> Result<()> {
        self.medium(site).map(|medium| medium.be(health))
    }

    fn medium(&self, site: Site) -> Result<&Medium> {
        let medium = self.media.get(&site);
        medium.with_context(|| format!("the disk of {site} is none that can fail"))
    }

    /// Whether the disk of `site` answers nothing: whoever asks that host for a file waits.
    pub(crate) fn hangs(&self, site: Site) -> bool {
        let medium = self.media.get(&site);
        medium.is_some_and(|medium| medium.health() == Health::Hung)
    }

    /// All disks are well again. A host whose disk has failed gets its power anew: its file system has given the disk up.
    pub(crate) fn mend_disks(&mut self) -> Result<()> {
        for site in Site::ALL {
            let Some(medium) = self.media.get(&site) else {
                continue;
            };
            let has_failed = medium.health() == Health::Failing;
            medium.be(Health::Well);
            if has_failed && self.has_power(site) {
                self.power_cut(site)?;
                self.power_on(site)?;
            }
        }
        Ok(())
    }

    /// All that was written is in the file that is the disk of `site`.
    pub(super) fn settle_disk(&self, site: Site) -> Result<()> {
        Ok(self.media.get(&site).map_or(Ok(()), Medium::settle)?)
    }

    /// Leaves no room on the disk of `site`.
    pub(crate) fn fill_disk(&self, site: Site) -> Result<()> {
        let left = self.host(site)?.shell(FILL)?;
        eprintln!("lab:   {site} has {left} KiB left");
        Ok(())
    }

    /// Makes room again.
    pub(crate) fn empty_disk(&self, site: Site) -> Result<()> {
        self.host(site)?.shell(EMPTY)?;
        Ok(())
    }

    /// The VM's process at `site` stands still, or goes on.
    pub(crate) fn stop_vm_process(&self, site: Site, stands: bool) -> Result<()> {
        let signal = if stands { "STOP" } else { "CONT" };
        let process = self.vm_process(site, &self.vm)?;
        self.host(site)?.shell(&format!("kill -{signal} {process}"))?;
        Ok(())
    }

    /// The thread that executes the VM's copy at `site` stands still; what answers for it goes on.
    pub(crate) fn hold_vcpu(&mut self, site: Site) -> Result<()> {
        // The first thread of the process is the vCPU's.
        let thread = self.vm_process(site, &self.vm)?.to_string();
        let mut channel = self.host(site)?.spawn(&["antipode-lab-agent", "hold", &thread])?;
        let deadline = Instant::now() + HOLD_TIMEOUT;
        let mut said = Vec::new();
        while !String::from_utf8_lossy(&said).contains(HELD) {
            match channel.next_before(deadline)? {
                Some(Event::Data(_, bytes)) => said.extend(bytes),
                ended => bail!(
                    "{site}: thread {thread} is not held: {ended:?} {}",
                    String::from_utf8_lossy(&said)
                ),
            }
        }
        self.held.insert(site, Mutex::new(channel));
        Ok(())
    }

    /// It goes on.
    pub(crate) fn release_vcpu(&mut self, site: Site) {
        // Whoever holds it is killed with its channel.
        self.held.remove(&site);
    }

    /// The thread that executes the VM's copy at `site` gets little of its processor, or as much as it wants.
    pub(crate) fn slow_vcpu(&self, site: Site, is_slow: bool) -> Result<()> {
        let thread = self.vm_process(site, &self.vm)?;
        let groups = "/sys/fs/cgroup";
        let script = if is_slow {
            let quota_us = SLOW_MS_OF_100 * 1_000;
            format!(
                "[ -e {groups}/cgroup.procs ] || mount -t cgroup2 none {groups}; cd {groups}; mkdir -p slow; \
                 echo threaded > slow/cgroup.type; echo +cpu > cgroup.subtree_control; \
                 echo {quota_us} 100000 > slow/cpu.max && echo {thread} > slow/cgroup.threads"
            )
        } else {
            format!("echo {thread} > {groups}/cgroup.threads")
        };
        self.host(site)?.shell(&script)?;
        Ok(())
    }
}
