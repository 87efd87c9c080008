//! Two sites and a client: what is done with them, and what is read off them.

use super::report::{Return, Samples, Switchover};
use crate::image::Service;
use crate::scenario::Setup;
use crate::scenario::boot::READY_TIMEOUT;
use crate::scenario::sites::{Copies, PROTECT_TIMEOUT, Site, Sites, SitesPlan, VmStatus, Watcher};
use crate::scenario::store;
use anyhow::{Context, Result, ensure};
use std::thread;
use std::time::{Duration, Instant};

/// The lossless network makes no choices; the switch wants a seed all the same.
const SEED: u64 = 1;

/// How long the VM runs in lockstep before anything is done.
const TOGETHER: Duration = Duration::from_secs(4);

/// How long the client writes to a VM that has lost its backup.
const ALONE: Duration = Duration::from_secs(10);

/// From a power cut to a site that is live alone, and from a return to the beginning of the protection.
const PATIENCE: Duration = Duration::from_secs(60);

/// Over a narrow line.
const RETURN_TIMEOUT: Duration = Duration::from_secs(600);

/// Writes that must be acknowledged before and after.
const WRITES: u64 = 20;

/// What a host hashes to show how fast it is.
const HASHED_MIB: u32 = 128;

/// The line between the sites.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line {
    pub(super) rtt: Duration,
    pub(super) bits_per_second: u64,
}

impl Line {
    fn seconds_of(self, bytes: u64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "bytes of a VM are below 2^52")]
        let (bits, rate) = ((bytes * 8) as f64, self.bits_per_second as f64);
        bits / rate
    }
}

pub(super) struct Stage<'a> {
    sites: Sites<'a>,
    service: Service,
    line: Line,
}

impl<'a> Stage<'a> {
    /// Boots all and measures every round; what was measured before an error stays.
    pub(super) fn play(setup: &'a Setup, line: Line, rounds: u32, samples: &mut Samples) -> Result<()> {
        let plan = SitesPlan {
            rtt: line.rtt,
            seed: SEED,
            twin: false,
            keep_frames: false,
            mortal_disks: false,
            copies: Copies::default(),
        };
        let sites = Sites::open(setup, "bench-rebuild", plan)?;
        let logs = sites.logs().to_owned();
        let mut stage = Self {
            sites,
            service: setup.service(),
            line,
        };
        let measured = stage.measure(rounds, samples);
        match &measured {
            Ok(()) => stage.sites.finish(),
            Err(_) => stage.sites.collect_logs(),
        }
        measured.with_context(|| format!("the logs are in {}", logs.display()))
    }

    fn measure(&mut self, rounds: u32, samples: &mut Samples) -> Result<()> {
        self.sites.start_vm(Site::A)?;
        self.watch("boot")?.finish()?;
        let hashing = self
            .hashing_bytes_per_second()
            .context("how fast a host hashes")?;
        self.sites.protect(Site::A)?;
        for round in 1..=rounds {
            let back = self
                .lose_and_return(round, hashing)
                .with_context(|| format!("round {round}: the return"))?;
            eprintln!("lab:   round {round} of {rounds}: {back:?}");
            samples.returns.push(back);
            for from in Site::ALL {
                let switched = self
                    .switch_over(round, from)
                    .with_context(|| format!("round {round}: the switchover from {from}"))?;
                eprintln!("lab:   round {round} of {rounds}: {switched:?}");
                samples.switchovers.push(switched);
            }
        }
        Ok(())
    }

    /// A client that has begun to write.
    fn watch(&self, run: &str) -> Result<Watcher> {
        let watcher = Watcher::start(self.sites.client()?, self.service, run, self.sites.logs())?;
        watcher.wait_ready(READY_TIMEOUT)?;
        watcher.wait_acked(WRITES)?;
        Ok(watcher)
    }

    fn lose_and_return(&mut self, round: u32, hashing_bytes_per_second: f64) -> Result<Return> {
        let watcher = self.watch(&format!("return-{round}"))?;
        thread::sleep(TOGETHER);
        self.sites.power_cut(Site::B)?;
        let is_alone = |status: &VmStatus| status.role == "solo";
        self.sites.wait_status(Site::A, "not alone", PATIENCE, is_alone)?;
        thread::sleep(ALONE);
        self.sites.narrow_wan(Some(self.line.bits_per_second))?;
        let sent_before = self.sites.wan_bytes_from(Site::A)?;
        self.sites.power_on(Site::B)?;
        let back = Instant::now();
        let has_begun = |status: &VmStatus| status.role != "solo";
        self.sites
            .wait_status(Site::A, "not protected again", PATIENCE, has_begun)?;
        let begun = Instant::now();
        let status = self.sites.wait_status(
            Site::A,
            "not protected again",
            RETURN_TIMEOUT,
            VmStatus::is_protected,
        )?;
        let took = begun.elapsed();
        let wire_bytes = self.sites.wan_bytes_from(Site::A)? - sent_before;
        self.sites.narrow_wan(None)?;
        watcher.wait_acked(WRITES)?;
        watcher.finish_unharmed()?;
        let disk = status.resync.context("the site tells nothing of the disk")?;
        let memory = status
            .memory_sent
            .context("the site tells nothing of the memory")?;
        #[expect(clippy::cast_precision_loss, reason = "bytes of a disk are below 2^52")]
        let hashing_s = disk.changed_bytes as f64 / hashing_bytes_per_second;
        Ok(Return {
            start_s: begun.saturating_duration_since(back).as_secs_f64(),
            took_s: took.as_secs_f64(),
            wire_bytes,
            line_s: self.line.seconds_of(wire_bytes),
            hashing_s,
            kind: disk.kind,
            disk_changed_bytes: disk.changed_bytes,
            disk_sent_bytes: disk.sent_bytes,
            memory_once_bytes: memory.once_bytes,
            memory_sent_bytes: memory.sent_bytes,
        })
    }

    /// How fast both hosts at once hash what is no zeros, beside a guest that is written to: one has it in memory, the other on
    /// its disk alone, as after a boot.
    fn hashing_bytes_per_second(&self) -> Result<f64> {
        let watcher = self.watch("hashing")?;
        let file = format!("{}/hashed", store::DIRECTORY);
        let on_both = |command: &str| self.sites.on_both(|_, host| Ok(host.shell(command)?));
        on_both(&format!(
            "dd if=/dev/urandom of={file} bs=1M count={HASHED_MIB} 2>&1 && sync"
        ))?;
        self.sites
            .host(Site::B)?
            .shell("echo 3 > /proc/sys/vm/drop_caches")?;
        let begun = Instant::now();
        on_both(&format!("antipode disk digest {file}"))?;
        let took = begun.elapsed().as_secs_f64();
        on_both(&format!("rm {file}"))?;
        watcher.finish_unharmed()?;
        Ok(f64::from(HASHED_MIB << 20) / took)
    }

    /// Hands the live role from `from` to the other site.
    fn switch_over(&self, round: u32, from: Site) -> Result<Switchover> {
        let watcher = self.watch(&format!("switchover-{round}-{from}"))?;
        thread::sleep(TOGETHER);
        let before = self.sites.status(from)?;
        ensure!(
            before.is_protected(),
            "the protection was lost before: {before:?}"
        );
        self.sites
            .begin(from, &format!("vm switchover {}", self.sites.vm))?
            .end(PATIENCE)?;
        self.sites
            .wait_status(from.other(), "not live", PROTECT_TIMEOUT, VmStatus::is_protected)?;
        watcher.wait_acked(WRITES)?;
        let client = watcher.finish_unharmed()?;
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of minutes")]
        let milliseconds = |count: u64| count as f64;
        Ok(Switchover {
            rtt_ms: self.line.rtt.as_secs_f64() * 1_000.0,
            echo_ms_p50: before.echo_ms_p50.context("no echo was measured")?,
            probe_ms: milliseconds(client.probe.gap_ms_max),
            connection_ms: milliseconds(client.sequence.gap_ms_max),
        })
    }
}
