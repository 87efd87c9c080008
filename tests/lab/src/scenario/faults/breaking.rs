//! How a fault is made, and mended.

use super::super::sites::{Direction, Site};
use super::campaign::{Campaign, site};
use super::plan::Fault;
use crate::medium::Health;
use crate::tiebreaker::town::NODES;
use anyhow::Result;
use std::collections::BTreeSet;
use std::time::Duration;

/// What is broken of the sites, so that it can be mended.
#[derive(Debug, Default)]
pub(super) struct Ailing {
    frozen: BTreeSet<Site>,
    /// The VM's process stands still there.
    stopped: BTreeSet<Site>,
    /// There is no room on the disk.
    full: BTreeSet<Site>,
}

impl Ailing {
    /// Whether nobody answers there.
    pub(super) fn stands(&self, site: Site) -> bool {
        self.frozen.contains(&site) || self.stopped.contains(&site)
    }
}

impl Campaign<'_> {
    /// Everything works again: what the scenario has left broken is mended.
    pub(super) fn mend(&mut self) -> Result<()> {
        self.sites.mend_network()?;
        self.start_nodes()?;
        let Ailing {
            frozen,
            stopped,
            full,
        } = std::mem::take(&mut self.ailing);
        for site in frozen {
            self.sites.host(site)?.thaw()?;
        }
        self.sites.mend_disks()?;
        for site in Site::ALL {
            self.sites.release_vcpu(site);
            if stopped.contains(&site) && self.sites.has_power(site) {
                self.sites.stop_vm_process(site, false)?;
            }
        }
        for site in Site::ALL {
            if !self.sites.has_power(site) {
                self.sites.power_on(site)?;
            } else if !self.sites.has_daemon(site) {
                self.sites.start_daemon(site)?;
            }
        }
        for site in full {
            self.sites.empty_disk(site)?;
        }
        Ok(())
    }

    fn start_nodes(&mut self) -> Result<()> {
        for node in 0..NODES.len() {
            if !self.sites.town.runs(node) {
                self.sites.town.start(node)?;
            }
        }
        Ok(())
    }

    pub(super) fn break_it(&mut self, fault: Fault, before: Site) -> Result<()> {
        let site = |who| site(who, before);
        match fault {
            Fault::Power(who) => self.sites.power_cut(site(who)),
            Fault::Unflushed(who) => {
                let lost = self.sites.lose_power(site(who), Some(&mut self.random))?;
                eprintln!(
                    "lab:   {} has lost {lost} sectors that were not flushed",
                    site(who)
                );
                Ok(())
            }
            Fault::DiskHangs(who) => self.sites.disk_is(site(who), Health::Hung),
            Fault::DiskSlow(who, ms) => {
                let health = Health::Slow(Duration::from_millis(ms));
                self.sites.disk_is(site(who), health)
            }
            Fault::DiskFails(who) => self.sites.disk_is(site(who), Health::Failing),
            Fault::DiskFull(who) => {
                self.ailing.full.insert(site(who));
                self.sites.fill_disk(site(who))
            }
            Fault::Freeze(who) => {
                self.sites.host(site(who))?.freeze()?;
                self.ailing.frozen.insert(site(who));
                Ok(())
            }
            Fault::VmProcess(who) => self.sites.kill_vm_process(site(who)),
            Fault::VmStops(who) => {
                self.ailing.stopped.insert(site(who));
                self.sites.stop_vm_process(site(who), true)
            }
            Fault::Vcpu(who) => self.sites.hold_vcpu(site(who)),
            Fault::VcpuSlow(who) => self.sites.slow_vcpu(site(who), true),
            Fault::Daemon(who) => self.sites.kill_daemon(site(who)),
            Fault::Wan => self.sites.cut_wan(Direction::Both, true),
            Fault::WanFrom(who) => self.sites.cut_wan(Direction::From(site(who)), true),
            Fault::Loss(parts_per_million) => self.sites.lose_on_wan(parts_per_million),
            Fault::TiebreakerLeader => {
                let leader = self.sites.tiebreaker_leader()?;
                self.sites.town.kill(leader)
            }
            Fault::Node(node) => self.sites.town.kill(node),
            Fault::Tiebreaker => {
                for site in Site::ALL {
                    self.sites.cut_from_tiebreaker(site, true);
                }
                Ok(())
            }
            Fault::Byte(who) => self.sites.change_byte(site(who)),
        }
    }

    pub(super) fn mend_it(&mut self, fault: Fault, before: Site) -> Result<()> {
        let site = |who| site(who, before);
        match fault {
            Fault::Power(who) | Fault::Unflushed(who) => self.sites.power_on(site(who)),
            Fault::DiskHangs(_) | Fault::DiskSlow(..) | Fault::DiskFails(_) => self.sites.mend_disks(),
            Fault::DiskFull(who) => {
                self.ailing.full.remove(&site(who));
                self.sites.empty_disk(site(who))
            }
            Fault::VmStops(who) => {
                self.ailing.stopped.remove(&site(who));
                self.sites.stop_vm_process(site(who), false)
            }
            Fault::Vcpu(who) => {
                self.sites.release_vcpu(site(who));
                Ok(())
            }
            // What was slow may have left the pairing, and ended.
            Fault::VcpuSlow(who) => {
                drop(self.sites.slow_vcpu(site(who), false));
                Ok(())
            }
            Fault::Freeze(who) => {
                self.sites.host(site(who))?.thaw()?;
                self.ailing.frozen.remove(&site(who));
                Ok(())
            }
            // The product mends it itself, or does not.
            Fault::VmProcess(_) | Fault::Byte(_) => Ok(()),
            Fault::Daemon(who) => self.sites.start_daemon(site(who)),
            Fault::Wan => self.sites.cut_wan(Direction::Both, false),
            Fault::WanFrom(who) => self.sites.cut_wan(Direction::From(site(who)), false),
            Fault::Loss(_) => self.sites.lose_on_wan(0),
            Fault::TiebreakerLeader => self.start_nodes(),
            Fault::Node(node) => self.sites.town.start(node),
            Fault::Tiebreaker => {
                for site in Site::ALL {
                    self.sites.cut_from_tiebreaker(site, false);
                }
                Ok(())
            }
        }
    }
}
