//! Two sites, a VM and its twin: what is done with them, and what is read off them.

use super::super::probe::{SAMPLE_SCRIPT, Sample};
use super::load::{Done, Load, wait_ready};
use super::report::{Gap, Protected, Samples, Trial};
use crate::image::Service;
use crate::scenario::Setup;
use crate::scenario::boot::READY_TIMEOUT;
use crate::scenario::sites::{Copies, Site, Sites, SitesPlan, TWIN_ADDRESS, Watcher};
use crate::scenario::stage::GUEST_ADDRESS;
use anyhow::{Context, Result, anyhow, ensure};
use std::thread;
use std::time::{Duration, Instant};

/// The lossless network makes no choices; the switch wants a seed all the same.
const SEED: u64 = 1;

/// Before a load: what a boot, a copy or a long standstill left to do settles.
const SETTLING: Duration = Duration::from_secs(3);

/// How long the VM is watched before the power is cut.
const TOGETHER: Duration = Duration::from_secs(8);

/// From the power cut to the other site's word that it is live.
const FAILOVER_TIMEOUT: Duration = Duration::from_secs(60);

/// Writes that must be acknowledged before and after.
const WRITES: u64 = 20;

/// A VM at site-a, its twin at site-b.
pub(super) struct Stage<'a> {
    sites: Sites<'a>,
    service: Service,
    rtt: Duration,
    /// The VM's process, and the twin's.
    processes: [u32; 2],
}

impl<'a> Stage<'a> {
    /// Boots all, measures every load in every round, and in the end the gap; what was measured before an error stays.
    pub(super) fn play(
        setup: &'a Setup,
        (rtt, copies): (Duration, Copies),
        loads: &[Load],
        rounds: u32,
        samples: &mut Samples,
    ) -> Result<()> {
        let name = format!("bench-ft-{}-{}ms", setup.service(), rtt.as_millis());
        let plan = SitesPlan {
            rtt,
            seed: SEED,
            twin: true,
            keep_frames: false,
            mortal_disks: false,
            copies,
        };
        let sites = Sites::open(setup, &name, plan)?;
        let logs = sites.logs().to_owned();
        let mut stage = Self {
            sites,
            service: setup.service(),
            rtt,
            processes: [0; 2],
        };
        let measured = stage.measure(loads, rounds, samples);
        match &measured {
            Ok(()) => stage.sites.finish(),
            Err(_) => stage.sites.collect_logs(),
        }
        measured.with_context(|| format!("the logs are in {}", logs.display()))
    }

    fn measure(&mut self, loads: &[Load], rounds: u32, samples: &mut Samples) -> Result<()> {
        self.sites.start_vm(Site::A)?;
        self.processes = [
            self.sites.vm_process(Site::A, &self.sites.vm)?,
            self.sites.start_twin()?,
        ];
        for address in [GUEST_ADDRESS, TWIN_ADDRESS] {
            wait_ready(self.service, self.sites.client()?, address, READY_TIMEOUT)?;
        }
        for round in 1..=rounds {
            for load in loads {
                let trial = self
                    .trial(*load)
                    .with_context(|| format!("{}, round {round}", load.name()))?;
                eprintln!(
                    "lab:   {}, round {round} of {rounds}: {}",
                    load.name(),
                    trial.in_words()
                );
                samples.trials.push(trial);
            }
        }
        if self.service == Service::Redis {
            samples
                .gaps
                .push(self.failover().context("when site-a lost its power")?);
        }
        Ok(())
    }

    /// One load, unprotected and then protected; it stays protected.
    fn trial(&self, load: Load) -> Result<Trial> {
        let before = self.sites.standing()?;
        self.sites.unprotect(Site::A)?;
        let (unprotected, cpu) = self.unprotected(load).context("unprotected")?;
        let requests: f64 = unprotected.iter().map(|done| done.requests).sum();
        let protected = self.protected(load).context("protected")?;
        let granted = self.sites.granted_since(before)?;
        Ok(Trial {
            rtt_ms: self.rtt_ms(),
            load,
            unprotected_per_s: unprotected.map(Done::per_second),
            unprotected_cpu_ms: 1_000.0 * cpu.iter().sum::<f64>() / requests,
            protected,
            unasked_failovers: (granted.len() as u64).saturating_sub(1),
        })
    }

    fn rtt_ms(&self) -> u64 {
        u64::try_from(self.rtt.as_millis()).unwrap_or(u64::MAX)
    }

    /// Both guests at once; what they did, and processor seconds of both.
    fn unprotected(&self, load: Load) -> Result<([Done; 2], [f64; 2])> {
        let client = self.sites.client()?;
        self.signal_twin("CONT")?;
        thread::sleep(SETTLING);
        let before = self.cpu_seconds(self.processes)?;
        let done = thread::scope(|scope| {
            let twin = scope.spawn(|| load.carry_out(client, TWIN_ADDRESS, self.rtt));
            let first = load.carry_out(client, GUEST_ADDRESS, self.rtt);
            let twin = twin.join().map_err(|_| anyhow!("the twin's thread has died"))?;
            anyhow::Ok([first?, twin.context("the twin")?])
        })?;
        let after = self.cpu_seconds(self.processes)?;
        self.signal_twin("STOP")?;
        Ok((done, growth(before, after)))
    }

    /// The VM alone, in lockstep; nothing if it is not protected to the end.
    fn protected(&self, load: Load) -> Result<Option<Protected>> {
        let sites = &self.sites;
        let begun = sites.protect(Site::A)?;
        thread::sleep(SETTLING);
        let processes = [self.processes[0], sites.vm_process(Site::B, &sites.vm)?];
        let (cpu, wan, at) = (
            self.cpu_seconds(processes)?,
            sites.wan_bytes_from(Site::A)?,
            Instant::now(),
        );
        let done = load.carry_out(sites.client()?, GUEST_ADDRESS, self.rtt)?;
        let status = sites.status(Site::A)?;
        let (wan, span) = (sites.wan_bytes_from(Site::A)? - wan, at.elapsed().as_secs_f64());
        let [primary, backup] = growth(cpu, self.cpu_seconds(processes)?);
        if !status.is_protected() || status.generation != begun.generation {
            let why = status.because.as_deref().unwrap_or(&status.role);
            eprintln!("lab:   {}: the protection was lost: {why}", load.name());
            return Ok(None);
        }
        let by_request = |seconds: f64| 1_000.0 * seconds / done.requests;
        #[expect(clippy::cast_precision_loss, reason = "bytes of seconds are far below 2^52")]
        let wan = wan as f64;
        Ok(Some(Protected {
            per_s: done.per_second(),
            primary_cpu_ms: by_request(primary),
            backup_cpu_ms: by_request(backup),
            hold_ms_p50: status.output_hold_ms_p50,
            hold_ms_p99: status.output_hold_ms_p99,
            echo_ms_p50: status.echo_ms_p50,
            echo_ms_p99: status.echo_ms_p99,
            stun_ms: status.stun_ms,
            wan_kib_per_s: wan / 1_024.0 / span,
            preemptions: status.modes.map_or(0, |modes| modes.preemptions),
        }))
    }

    /// Site-a loses its power while a client writes.
    fn failover(&mut self) -> Result<Gap> {
        let before = self.sites.standing()?;
        self.sites.protect(Site::A)?;
        let watcher = Watcher::start(self.sites.client()?, self.service, "gap", self.sites.logs())?;
        watcher.wait_ready(READY_TIMEOUT)?;
        watcher.wait_acked(WRITES)?;
        thread::sleep(TOGETHER);
        let protected = self.sites.status(Site::A)?;
        ensure!(
            protected.is_protected(),
            "the protection was lost before: {protected:?}"
        );
        self.sites.power_cut(Site::A)?;
        self.sites
            .wait_status(Site::B, "not live", FAILOVER_TIMEOUT, |status| status.is_live())?;
        watcher.wait_acked(WRITES)?;
        let client = watcher.finish_unharmed()?;
        let status = self.sites.status(Site::B)?;
        let granted = self.sites.granted_since(before)?;
        ensure!(
            granted.ends_with(&[Site::A, Site::B]),
            "by the tiebreaker, the live sites were {granted:?}"
        );
        Ok(Gap {
            rtt_ms: self.rtt_ms(),
            probe_ms: client.probe.gap_ms_max,
            connection_ms: client.sequence.gap_ms_max,
            detection_ms: status.detection_ms,
            claim_ms: status.claim_ms,
            going_live_ms: status.going_live_ms,
            echo_ms_p50: protected.echo_ms_p50,
            // One was asked for, and the first of them is where it began.
            unasked_failovers: (granted.len() as u64).saturating_sub(2),
        })
    }

    /// Processor seconds so far of a process at each site.
    fn cpu_seconds(&self, processes: [u32; 2]) -> Result<[f64; 2]> {
        let of = |site, process: u32| -> Result<f64> {
            let text = self
                .sites
                .host(site)?
                .shell(&format!("pid={process}; {SAMPLE_SCRIPT}"))?;
            Ok(Sample::parse(&text)?.cpu_seconds)
        };
        let [first, second] = processes;
        Ok([of(Site::A, first)?, of(Site::B, second)?])
    }

    fn signal_twin(&self, signal: &str) -> Result<()> {
        let [_, twin] = self.processes;
        self.sites
            .host(Site::B)?
            .shell(&format!("kill -{signal} {twin}"))?;
        Ok(())
    }
}

fn growth(before: [f64; 2], after: [f64; 2]) -> [f64; 2] {
    [after[0] - before[0], after[1] - before[1]]
}
