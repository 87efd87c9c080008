//! What operators do, as scenarios of their own or as steps of others.

use super::super::sites::{Site, VmStatus};
use super::campaign::{Campaign, PATIENCE, Played, WRITES};
use anyhow::{Context, Result, bail, ensure};
use std::thread;
use std::time::{Duration, Instant};

/// The tiebreaker refuses to be forced for ten seconds after a site was last in touch.
const FORCE_TIMEOUT: Duration = Duration::from_secs(40);

/// Between two tries.
const FORCE_AGAIN: Duration = Duration::from_secs(2);

impl Campaign<'_> {
    /// Stops the VM in order and starts it at `target`; a client writes before, and another one after.
    pub(super) fn stop_and_start(&mut self, before: Site, target: Site, name: &str) -> Result<Played> {
        let watcher = self.watch(&format!("{name}-before"))?;
        watcher.wait_acked(WRITES)?;
        let told = self.sites.status(before)?;
        watcher.finish_unharmed().context("before it was stopped")?;
        let begun = Instant::now();
        self.stop(before)?;
        self.sites.ask(target, &format!("vm start {}", self.sites.vm))?;
        let started = self
            .sites
            .wait_status(target, "not started", PATIENCE, VmStatus::is_live)?;
        let lasted = begun.elapsed();
        let watcher = self.watch(name)?;
        watcher.wait_acked(WRITES)?;
        Ok(Played {
            client: watcher.finish()?,
            lasted,
            hit: started.role,
            told: Some(told),
            refused: None,
        })
    }

    /// `before` runs alone and is lost; an operator has the other site start with what it has, by force. When the first one
    /// returns, both have gone on alone: that it is overwritten must be said as well.
    pub(super) fn force(&mut self, before: Site, name: &str) -> Result<Played> {
        let (other, vm) = (before.other(), self.sites.vm.clone());
        self.sites.power_cut(other)?;
        let told = self
            .sites
            .wait_status(before, "not alone", PATIENCE, |status| status.role == "solo")?;
        let watcher = self.watch(&format!("{name}-given-up"))?;
        watcher.wait_acked(WRITES)?;
        // This is what an operator gives up.
        drop(watcher.finish()?);
        let begun = Instant::now();
        self.sites.power_cut(before)?;
        self.sites.power_on(other)?;
        self.force_start(other)?;
        self.sites.ask(other, &format!("vm start {vm}"))?;
        let started = self
            .sites
            .wait_status(other, "not started", PATIENCE, VmStatus::is_live)?;
        let lasted = begun.elapsed();
        let watcher = self.watch(name)?;
        watcher.wait_acked(WRITES)?;
        self.sites.power_on(before)?;
        // Before it has heard that it has lost, it is about to start, and another site is refused for that.
        self.sites
            .wait_status(before, "not stale", PATIENCE, |status| status.role == "stale")?;
        let refused = self.sites.ask(other, &format!("vm protect {vm}"));
        let why = refused
            .err()
            .context("what one site holds alone was overwritten")?;
        ensure!(
            format!("{why:#}").contains("gone on alone"),
            "refused otherwise: {why:#}"
        );
        self.sites.ask(other, &format!("vm protect {vm} --discard"))?;
        watcher.wait_acked(WRITES)?;
        Ok(Played {
            client: watcher.finish()?,
            lasted,
            hit: started.role,
            told: told.flush.is_some().then_some(told),
            refused: None,
        })
    }

    /// Says that `site` may start, whatever it has, as soon as the tiebreaker allows it.
    fn force_start(&self, site: Site) -> Result<()> {
        let deadline = Instant::now() + FORCE_TIMEOUT;
        let mut refusals = 0;
        loop {
            let generation = self.sites.generation()?.to_string();
            let (is_done, said) = self.sites.town.decide_by_hand(&[
                "force",
                &self.sites.vm,
                "--site",
                site.name(),
                "--generation",
                &generation,
                "--reason",
                "the other site is lost",
            ])?;
            if is_done {
                ensure!(
                    refusals > 0,
                    "it was done while the other site was in touch: {said}"
                );
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{site} may not be forced to start: {said}");
            }
            refusals += 1;
            thread::sleep(FORCE_AGAIN);
        }
    }

    /// Another host takes the place of `site`, once the VM is live alone.
    pub(super) fn replace(&mut self, site: Site) -> Result<()> {
        self.sites
            .wait_status(site.other(), "not alone", PATIENCE, |status| {
                status.role == "solo"
            })?;
        self.sites.replace_host(site)
    }
}
