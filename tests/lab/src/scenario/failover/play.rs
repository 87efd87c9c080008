//! What is done, in order, and what came of it.

use super::super::Setup;
use super::super::boot::READY_TIMEOUT;
use super::super::sites::{PROTECT_TIMEOUT, Site, Sites, SitesPlan, VmStatus, WRITES_TIMEOUT, Watcher};
use super::view::View;
use crate::image::Service;
use crate::judge::live::Judgement;
use crate::load::watch::Report;
use anyhow::{Context, Result, ensure};
use std::thread;
use std::time::{Duration, Instant};

/// How long the VM runs in lockstep before the power is cut.
const TOGETHER: Duration = Duration::from_secs(8);

/// From the power cut to the other site's word that it is live.
const FAILOVER_TIMEOUT: Duration = Duration::from_secs(60);

/// Writes that must be acknowledged before the protection, and after the failover.
const WRITES: u64 = 20;

/// What came of it.
#[derive(Debug, Clone)]
pub(super) struct Outcome {
    /// From `vm start` to the service's first answer.
    pub(super) boot: Duration,
    /// Of `vm protect`.
    pub(super) protect: Duration,
    /// From the power cut to a site that says it is live.
    pub(super) failover: Duration,
    /// The longest that the guest did not answer while it was being protected: the stun, until the pairing was confirmed,
    /// and what came before.
    pub(super) silence_ms: u64,
    /// What the primary says before its power is cut.
    pub(super) before: VmStatus,
    /// What the other site says when it is live.
    pub(super) after: VmStatus,
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

    /// Those that nothing had asked for: one power was cut.
    pub(super) fn unasked_failovers(&self) -> u64 {
        self.failovers().saturating_sub(1)
    }

    /// What is not as it was promised.
    pub(super) fn violations(&self) -> Vec<String> {
        let mut found = self.client.violations();
        if self.granted != [Site::A, Site::B] {
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
    let capture = sites.start_capture("lan")?;
    view.say(&format!("a Debian guest with {service} starts at site-a"));
    let started = Instant::now();
    sites.start_vm(Site::A)?;
    view.follow(sites)?;
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

    view.say("the power of site-a's host is CUT");
    sites.power_cut(Site::A)?;
    view.no_power(Site::A);
    let cut = Instant::now();
    let failover = view.wait(&watcher, || {
        if sites.status(Site::B).is_ok_and(|status| status.is_live()) {
            return Ok(Some(cut.elapsed()));
        }
        ensure!(
            cut.elapsed() < FAILOVER_TIMEOUT,
            "site-b is not live {} s after site-a lost its power: {:?}",
            FAILOVER_TIMEOUT.as_secs(),
            sites.status(Site::B)
        );
        Ok(None)
    })?;
    view.say("site-b is live; the client's connection goes on");
    let wanted = watcher.progress().acked + WRITES;
    let deadline = Instant::now() + WRITES_TIMEOUT;
    view.wait(&watcher, || {
        ensure!(
            Instant::now() < deadline,
            "the client's writes are not acknowledged after the failover"
        );
        Ok((watcher.progress().acked >= wanted).then_some(()))
    })?;
    view.say("the client reads back everything that it was told");
    let client = watcher.finish()?;
    let (judgement, granted) = sites.judge(&capture, false)?;
    Ok(Outcome {
        boot,
        protect,
        failover,
        silence_ms,
        before,
        after: sites.status(Site::B)?,
        client,
        judgement,
        granted,
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
