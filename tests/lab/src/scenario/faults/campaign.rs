//! A stage that outlives its scenarios: what a fault has broken is mended, and the VM is protected again.

use super::super::Setup;
use super::super::boot::READY_TIMEOUT;
use super::super::sites::{Asked, Copies, PROTECT_TIMEOUT, RTT, Site, Sites, SitesPlan, VmStatus, Watcher};
use super::super::vm::Kept;
use super::breaking::Ailing;
use super::plan::{Moment, Scenario, Step, Who};
use super::verdict::Found;
use crate::load::watch::Report;
use crate::switch::random::Random;
use antipode_tiebreaker::Flush;
use anyhow::{Context, Result, bail, ensure};
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

/// For anything else that the product is asked for.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// How long a switchover that was interrupted may take to say so.
const SWITCH_TIMEOUT: Duration = Duration::from_secs(90);

/// Writes that are acknowledged before anything is broken, and after everything that is mended.
pub(super) const WRITES: u64 = 12;

/// How far an emulated host's clock may be from this one's.
const CLOCKS_APART_MAX: Duration = Duration::from_secs(3);

/// What came of the steps.
pub(super) struct Played {
    pub(super) client: Report,
    pub(super) lasted: Duration,
    /// The role of the live site at which they began.
    pub(super) hit: String,
    /// What the live site said before, if it was protected.
    pub(super) told: Option<VmStatus>,
    /// Why the other site was refused to go live, if it was.
    pub(super) refused: Option<String>,
}

/// Two sites with a VM, and what is broken of them.
pub(super) struct Campaign<'a> {
    pub(super) sites: Sites<'a>,
    service: crate::image::Service,
    copies: Copies,
    pub(super) ailing: Ailing,
    /// Of what happens within a fault.
    pub(super) random: Random,
}

impl<'a> Campaign<'a> {
    /// Boots everything and starts the VM at site-a, unprotected.
    pub(super) fn open(setup: &'a Setup, seed: u64, copies: Copies) -> Result<Self> {
        let plan = SitesPlan {
            rtt: RTT,
            seed,
            twin: false,
            keep_frames: true,
            mortal_disks: true,
            copies,
        };
        let sites = Sites::open(setup, "faults", plan)?;
        sites.start_vm(Site::A)?;
        let campaign = Self {
            sites,
            service: setup.service(),
            copies,
            ailing: Ailing::default(),
            random: Random::new(seed, "faults"),
        };
        let watcher = campaign.watch("first")?;
        watcher.wait_acked(WRITES)?;
        watcher.finish_unharmed().context("before anything was broken")?;
        Ok(campaign)
    }

    /// Plays one scenario: what was found, and at which role of the live site the steps began.
    pub(super) fn play(&mut self, scenario: &Scenario, seed: u64) -> Result<(Found, String)> {
        let name = format!("{}-{seed}", scenario.name);
        self.random = Random::new(seed, &name);
        let before = match scenario.moment {
            Moment::Protected | Moment::Parked(_) | Moment::Forced => self.protected(scenario.flush)?,
            _ => self.unprotected()?,
        };
        let capture = self.sites.start_capture(&name)?;
        let played = match scenario.moment {
            Moment::Parked(who) => self.stop_and_start(before, site(who, before), &name),
            Moment::Forced => self.force(before, &name),
            _ => self.play_captured(scenario, seed, before, &name),
        };
        let played = match played {
            Ok(played) => played,
            Err(error) => {
                self.sites.stop_capture()?;
                return Err(error);
            }
        };
        let (judgement, granted) = self
            .sites
            .judge(capture, scenario.moment == Moment::Protected && !scenario.outage)?;
        let found = Found {
            before,
            granted,
            judgement,
            client: played.client,
            lasted: played.lasted,
            told: played.told,
            refused: played.refused,
        };
        Ok((found, played.hit))
    }

    fn play_captured(&mut self, scenario: &Scenario, seed: u64, before: Site, name: &str) -> Result<Played> {
        let began = UNIX_EPOCH.elapsed()?.saturating_sub(CLOCKS_APART_MAX).as_secs();
        let watcher = self.watch(name)?;
        watcher.wait_acked(WRITES)?;
        let told = match scenario.moment {
            Moment::Protected => Some(self.sites.status(before)?),
            _ => None,
        };
        let is_by_rule = |told: &VmStatus| told.output.verified || !self.copies.verified;
        ensure!(
            told.iter().all(is_by_rule),
            "outputs leave before the copy has made them"
        );
        if let Some(kept @ (Kept::Replay | Kept::Checkpoint)) = self.copies.mode {
            let is_kept_so =
                |told: &VmStatus| told.modes.as_ref().is_some_and(|modes| modes.mode == kept.name());
            ensure!(
                told.iter().all(is_kept_so),
                "the copy is not kept the same as it was wished"
            );
        }
        self.sites.narrow_wan(scenario.bandwidth_bps())?;
        let (protecting, hit) = match scenario.moment {
            Moment::Protected | Moment::Parked(_) | Moment::Forced => (None, "primary".to_owned()),
            moment => {
                let protecting = self
                    .sites
                    .begin(before, &format!("vm protect {}", self.sites.vm))?;
                let hit = self.sites.wait_role(before, moment.roles(), PROTECT_TIMEOUT)?;
                (Some(protecting), hit)
            }
        };
        let begun = Instant::now();
        let mut switching = None;
        for step in scenario.drawn(seed) {
            self.take_step(step, before, &mut switching)?;
        }
        let lasted = begun.elapsed();
        let goes_on = match scenario.outage {
            true => self.serves_anew(name).map(|()| None),
            false => self.goes_on(&watcher, (before, began), name),
        };
        // The same of a switchover.
        if let Some(switching) = switching
            && let Err(error) = switching.end(SWITCH_TIMEOUT)
        {
            eprintln!("lab:   {error:#}");
        }
        // A protection that was interrupted may fail; that it harms nothing is what the client says.
        if let Some(protecting) = protecting
            && let Err(error) = protecting.end(PROTECT_TIMEOUT)
        {
            eprintln!("lab:   {error:#}");
        }
        let sites = self.told();
        let report = watcher.finish();
        let refused = match goes_on {
            Ok(refused) => refused,
            Err(error) => {
                let client = report.map(|report| report.violations().join("; "));
                bail!("after everything: {error:#}; {sites}; the client: {client:?}");
            }
        };
        Ok(Played {
            client: report?,
            lasted,
            hit,
            told,
            refused,
        })
    }

    /// Waits until the client is served on, or else another one, where the other site was refused to go live: why it was.
    fn goes_on(
        &mut self,
        watcher: &Watcher,
        (before, began): (Site, u64),
        name: &str,
    ) -> Result<Option<String>> {
        let refused = watcher.wait_acked_unless(WRITES, || self.refusal(before, began))?;
        if refused.is_some() {
            // The site that was lost is the one that may start.
            self.mend()?;
            self.serves_anew(name)?;
        }
        Ok(refused)
    }

    /// Why nobody goes on, though the site that follows `before` is there: its copy differed since `began`, in seconds since 1970, and
    /// who could have repaired it was silenced meanwhile, in lockstep (H3).
    fn refusal(&self, before: Site, began: u64) -> Option<String> {
        let is_silenced = !self.sites.has_power(before) || self.ailing.stands(before);
        if !self.copies.differ() || !is_silenced || !self.sites.is_paired().unwrap_or(false) {
            return None;
        }
        let status = self.sites.status(before.other()).ok()?;
        let given_up = status.repairs?.given_up;
        let is_of_now = given_up["began"].as_u64() >= Some(began);
        (status.role == "stale" && is_of_now).then(|| given_up.to_string())
    }

    /// Takes a step of which the chance is drawn.
    fn take_step(&mut self, step: Step, before: Site, switching: &mut Option<Asked>) -> Result<()> {
        match step {
            Step::Switch(who) => {
                let words = format!("vm switchover {}", self.sites.vm);
                let live = self.sites.live_site()?;
                *switching = Some(self.sites.begin(site(who, live), &words)?);
            }
            Step::Switched => {
                let switching = switching.take().context("nothing is switched over")?;
                switching.end(PATIENCE)?;
            }
            Step::Wait(drawn, _) => thread::sleep(Duration::from_millis(drawn)),
            Step::Protected => self.sites.wait_protected_again()?,
            Step::Until(moment) => {
                let live = self.sites.live_site()?;
                let hit = self.sites.wait_role(live, moment.roles(), PROTECT_TIMEOUT)?;
                eprintln!("lab:   again {hit}");
            }
            Step::Restart(who) => self.sites.restart_daemon(site(who, before))?,
            Step::Renew => self.sites.replace_authority()?,
            Step::Replace(who) => self.replace(site(who, before))?,
            Step::Verify(who, differ) => self.verify(site(who, before), differ)?,
            Step::Break(fault) => self
                .break_it(fault, before)
                .with_context(|| format!("{fault:?}"))?,
            Step::Mend(fault) => self
                .mend_it(fault, before)
                .with_context(|| format!("mending {fault:?}"))?,
        }
        Ok(())
    }

    /// Another client is served: the connections of before are gone with the guest that had them.
    fn serves_anew(&self, name: &str) -> Result<()> {
        let watcher = self.watch(&format!("{name}-after"))?;
        watcher.wait_acked(WRITES)?;
        watcher.finish_unharmed().context("after the outage")?;
        Ok(())
    }

    /// Protects the VM, by this rule for its flushes, if it is not, and waits until it is; where it is live.
    fn protected(&mut self, flush: Flush) -> Result<Site> {
        let live = self.sites.live_site()?;
        if self.sites.flush_rule()? != flush {
            // A pairing that stands keeps its rule.
            self.sites.unprotect(live)?;
            self.sites.set_flush_rule(flush)?;
        }
        self.sites.protect(live).with_context(|| self.told())?;
        Ok(live)
    }

    /// Ends the protection if there is one; where the VM is live.
    fn unprotected(&mut self) -> Result<Site> {
        let live = self.sites.live_site()?;
        self.sites.unprotect(live)?;
        Ok(live)
    }

    /// Protects the VM, and sees that both replicas hold the same while nobody writes.
    pub(super) fn equal_replicas(&mut self) -> Result<()> {
        self.protected(self.sites.flush_rule()?)?;
        self.sites.wait_equal_replicas()
    }

    /// Stops the VM in order, which makes both replicas durable at one position, and compares them; leaves that differ.
    pub(super) fn compare_replicas(&mut self) -> Result<u64> {
        let live = self.protected(self.sites.flush_rule()?)?;
        self.stop(live)?;
        self.sites.differing_leaves()
    }

    /// Stops the VM in order, asked for at `live`, and waits until it is stopped at both sites.
    pub(super) fn stop(&self, live: Site) -> Result<()> {
        self.sites.ask(live, &format!("vm stop {}", self.sites.vm))?;
        for site in Site::ALL {
            self.sites
                .wait_status(site, "not stopped", PATIENCE, |status| status.role == "stopped")?;
        }
        Ok(())
    }

    /// Repairs of a copy, as both sites tell of them since their VM's process began, and what the last one was.
    pub(super) fn repairs(&self) -> (u64, String) {
        let told = Site::ALL.map(|site| self.sites.status(site).ok().and_then(|status| status.repairs));
        let told = told.into_iter().flatten().max_by_key(|repairs| repairs.count);
        told.map_or((0, String::new()), |repairs| {
            (repairs.count, repairs.last.to_string())
        })
    }

    /// Something is wrong: what the product has logged on the hosts is kept with the other logs.
    pub(super) fn collect_logs(&self) {
        self.sites.collect_logs();
    }

    /// All went well: nothing is kept.
    pub(super) fn finish(self) {
        self.sites.finish();
    }

    pub(super) fn watch(&self, name: &str) -> Result<Watcher> {
        let watcher = Watcher::start(self.sites.client()?, self.service, name, self.sites.logs())?;
        watcher.wait_ready(READY_TIMEOUT)?;
        Ok(watcher)
    }

    /// What both sites say, for an error.
    fn told(&self) -> String {
        let said = Site::ALL.map(|site| match self.ailing.stands(site) || self.sites.hangs(site) {
            true => format!("{site} stands still"),
            false => format!("{site}: {:?}", self.sites.status(site)),
        });
        said.join("; ")
    }

    /// Has the disks compared while the client writes, and sees that so many leaves differed and are equal now.
    fn verify(&self, site: Site, differ: u64) -> Result<()> {
        let said = self.sites.ask(site, &format!("vm verify {}", self.sites.vm))?;
        let verify = &said["verify"];
        let number = |key: &str| verify[key].as_u64().unwrap_or(u64::MAX);
        ensure!(
            (number("differed"), number("mended")) == (differ, differ),
            "{differ} leaves differ, and the comparison said {verify}"
        );
        eprintln!("lab:   compared: {verify}");
        Ok(())
    }
}

pub(super) const fn site(who: Who, before: Site) -> Site {
    match who {
        Who::Live => before,
        Who::Other => before.other(),
    }
}
