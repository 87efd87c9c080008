//! What is done, in order, and what came of it.

use super::super::Setup;
use super::super::boot::READY_TIMEOUT;
use super::super::sites::{
    Copies, PROTECT_TIMEOUT, Site, Sites, SitesPlan, VmStatus, WRITES_TIMEOUT, Watcher,
};
use super::view::View;
use crate::image::Service;
use crate::judge::live::Judgement;
use crate::load::watch::Report;
use anyhow::{Context, Result, ensure};
use std::thread;
use std::time::{Duration, Instant};

/// How long the VM runs in lockstep before the power is cut.
const TOGETHER: Duration = Duration::from_secs(6);

/// From the power cut to the other site's word that it is live.
const FAILOVER_TIMEOUT: Duration = Duration::from_secs(60);

/// From the return of a site to a VM that is protected again.
const RETURN_TIMEOUT: Duration = Duration::from_secs(120);

/// What may be sent of a disk, in tenths of what could differ.
const SENT_TENTHS_MAX: u64 = 12;

/// Writes that must be acknowledged before the protection, and after each failover.
const WRITES: u64 = 20;

/// A site that is lost, and its return.
#[derive(Debug, Clone)]
pub(super) struct Loss {
    /// Which.
    pub(super) lost: Site,
    /// From the power cut to a site that says it is live.
    pub(super) failover: Duration,
    /// What the other site says when it is live.
    pub(super) after: VmStatus,
    /// From `site run`'s first answer at the site that is back to the beginning of the protection.
    pub(super) start: Duration,
    /// From there to a VM that is protected.
    pub(super) protect: Duration,
    /// What the live site says then.
    pub(super) protected: VmStatus,
}

impl Loss {
    /// What it took to make the lost site's disk equal.
    pub(super) fn resync(&self) -> (u64, u64) {
        let resync = self.protected.resync.as_ref();
        resync.map_or((u64::MAX, 0), |resync| (resync.sent_bytes, resync.changed_bytes))
    }

    fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        let kind = self.protected.resync.as_ref().map(|resync| resync.kind.as_str());
        if kind != Some("partial") {
            found.push(format!(
                "{}'s disk was not made equal by its marks: {kind:?}",
                self.lost
            ));
        }
        let (sent, changed) = self.resync();
        if sent.saturating_mul(10) > changed.saturating_mul(SENT_TENTHS_MAX) {
            found.push(format!(
                "{sent} bytes were sent to {}, where {changed} could differ",
                self.lost
            ));
        }
        found
    }
}

/// What came of it.
#[derive(Debug, Clone)]
pub(super) struct Outcome {
    /// From `vm start` to the service's first answer.
    pub(super) boot: Duration,
    /// Of `vm protect`.
    pub(super) protect: Duration,
    /// The longest that the guest did not answer while it was being protected: the stun, until the pairing was confirmed,
    /// and what came before.
    pub(super) silence_ms: u64,
    /// What the primary says before its power is cut.
    pub(super) before: VmStatus,
    /// Each site is lost once.
    pub(super) losses: Vec<Loss>,
    pub(super) client: Report,
    pub(super) judgement: Judgement,
    /// The sites that were granted to be live, in order.
    pub(super) granted: Vec<Site>,
}

impl Outcome {
    /// Changes of the live site that were granted.
    pub(super) fn failovers(&self) -> u64 {
        (self.granted.len() as u64).saturating_sub(1)
    }

    /// Those that nothing had asked for.
    pub(super) fn unasked_failovers(&self) -> u64 {
        self.failovers().saturating_sub(self.losses.len() as u64)
    }

    /// Bytes that were sent of disks to the sites that were back, and bytes that could differ.
    pub(super) fn resync(&self) -> (u64, u64) {
        let each = self.losses.iter().map(Loss::resync);
        each.fold((0, 0), |sum, (sent, changed)| (sum.0 + sent, sum.1 + changed))
    }

    /// What is not as it was promised.
    pub(super) fn violations(&self) -> Vec<String> {
        let mut found = self.client.violations();
        found.extend(self.losses.iter().flat_map(Loss::violations));
        if self.granted != [Site::A, Site::B, Site::A] {
            found.push(format!(
                "by the tiebreaker, the live sites were {:?}",
                self.granted
            ));
        }
        if self.judgement.changes() != self.failovers() {
            found.push(format!(
                "by the switch's frames, the live sites were {:?}",
                self.judgement.reigns
            ));
        }
        found.extend(self.judgement.violations());
        found
    }
}

/// Plays everything.
pub(super) fn play(setup: &Setup, view: &View, rtt: Duration, seed: u64) -> Result<Outcome> {
    let service = setup.service();
    view.say("three tiebreaker nodes start, and three emulated hosts boot: two sites and a client");
    let mut sites = Sites::open(
        setup,
        "demo",
        SitesPlan {
            rtt,
            seed,
            twin: false,
            keep_frames: true,
            mortal_disks: false,
            copies: Copies::default(),
        },
    )?;
    let played = play_at(&mut sites, service, view);
    match &played {
        Ok(outcome) if outcome.violations().is_empty() => sites.finish(),
        // The logs of a run that broke a promise are kept.
        _ => sites.collect_logs(),
    }
    played
}

fn play_at(sites: &mut Sites<'_>, service: Service, view: &View) -> Result<Outcome> {
    let mut capture = sites.start_capture("lan")?;
    view.say(&format!("a Debian guest with {service} starts at site-a"));
    let started = Instant::now();
    sites.start_vm(Site::A)?;
    for site in Site::ALL {
        view.follow(sites, site)?;
    }
    let watcher = Watcher::start(sites.client()?, service, "demo", sites.logs())?;
    watcher.wait_ready(READY_TIMEOUT)?;
    let boot = started.elapsed();
    view.say("the client has one TCP connection to it, and writes without a pause");
    watcher.wait_acked(WRITES)?;

    view.say("`vm protect`: site-b receives the disk and the memory while the guest works, then follows in lockstep");
    let started = Instant::now();
    protect(sites, view, &watcher)?;
    let protect = started.elapsed();
    view.say("the VM is protected: every answer waits until site-b has what led to it");
    pause(view, &watcher, TOGETHER)?;
    let silence_ms = watcher.progress().probe_gap_ms_max;
    let before = sites.status(Site::A)?;
    ensure!(
        before.role == "primary" && before.green,
        "site-a should be the primary, and green, before its power is cut: {before:?}"
    );

    let mut losses = Vec::new();
    for lost in [Site::A, Site::B] {
        losses.push(lose(sites, view, &watcher, lost)?);
        sites.note_granted(&mut capture)?;
        pause(view, &watcher, TOGETHER)?;
    }
    view.say("the client reads back everything that it was told");
    let client = watcher.finish()?;
    let (judgement, granted) = sites.judge(capture, false)?;
    Ok(Outcome {
        boot,
        protect,
        silence_ms,
        before,
        losses,
        client,
        judgement,
        granted,
    })
}

/// Cuts the power of the site where the VM is live, and gives it back.
fn lose(sites: &mut Sites<'_>, view: &View, watcher: &Watcher, lost: Site) -> Result<Loss> {
    let live = lost.other();
    view.say(&format!("the power of {lost}'s host is CUT"));
    sites.power_cut(lost)?;
    view.no_power(lost);
    let cut = Instant::now();
    let failover = view.wait(watcher, || {
        if sites.status(live).is_ok_and(|status| status.is_live()) {
            return Ok(Some(cut.elapsed()));
        }
        ensure!(
            cut.elapsed() < FAILOVER_TIMEOUT,
            "{live} is not live {} s after {lost} lost its power: {:?}",
            FAILOVER_TIMEOUT.as_secs(),
            sites.status(live)
        );
        Ok(None)
    })?;
    view.say(&format!("{live} is live; the client's connection goes on"));
    let wanted = watcher.progress().acked + WRITES;
    let deadline = Instant::now() + WRITES_TIMEOUT;
    view.wait(watcher, || {
        ensure!(
            Instant::now() < deadline,
            "the client's writes are not acknowledged after the failover"
        );
        Ok((watcher.progress().acked >= wanted).then_some(()))
    })?;
    let after = sites.status(live)?;

    view.say(&format!(
        "{lost} has power again, and nobody says anything to anybody"
    ));
    sites.power_on(lost)?;
    let back = Instant::now();
    view.follow(sites, lost)?;
    let waits = ["solo", "unprotected"];
    let start = wait_for_return(sites, view, watcher, live, |status| {
        !waits.contains(&status.role.as_str())
    })?;
    view.say(&format!(
        "{live} brings {lost}'s disk up to date, and sends the memory"
    ));
    let protected = |status: &VmStatus| status.is_protected();
    wait_for_return(sites, view, watcher, live, protected)?;
    view.say("the VM is protected again");
    Ok(Loss {
        lost,
        failover,
        after,
        start: start.saturating_duration_since(back),
        protect: start.elapsed(),
        protected: sites.status(live)?,
    })
}

/// Waits until `live` says something that is `wanted`; when that was.
fn wait_for_return(
    sites: &Sites<'_>,
    view: &View,
    watcher: &Watcher,
    live: Site,
    wanted: impl Fn(&VmStatus) -> bool,
) -> Result<Instant> {
    let begun = Instant::now();
    view.wait(watcher, || {
        let said = sites.status(live);
        ensure!(
            begun.elapsed() < RETURN_TIMEOUT,
            "the VM is not protected again: {said:?}"
        );
        Ok(said.is_ok_and(|status| wanted(&status)).then(Instant::now))
    })
}

/// Carries `vm protect` out while the board is kept up to date.
fn protect(sites: &Sites<'_>, view: &View, watcher: &Watcher) -> Result<()> {
    let deadline = Instant::now() + PROTECT_TIMEOUT;
    thread::scope(|scope| {
        let protecting = scope.spawn(|| sites.ask(Site::A, &format!("vm protect {}", sites.vm)));
        view.wait(watcher, || {
            ensure!(
                Instant::now() < deadline,
                "the VM is not protected after {} s",
                PROTECT_TIMEOUT.as_secs()
            );
            Ok(protecting.is_finished().then_some(()))
        })?;
        protecting
            .join()
            .map_err(|_| anyhow::anyhow!("its thread has died"))?
            .map(drop)
            .context("protecting the VM")
    })
}

fn pause(view: &View, watcher: &Watcher, span: Duration) -> Result<()> {
    let end = Instant::now() + span;
    view.wait(watcher, || Ok((Instant::now() >= end).then_some(())))
}
