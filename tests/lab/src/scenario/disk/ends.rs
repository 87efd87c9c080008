//! The two hosts, and commands on them.

use super::super::exit_codes;
use crate::agent::client::{Channel, Event, Output};
use crate::agent::message::{ExitStatus, Run, Stream};
use crate::debian::run_tool;
use crate::host::{Disk, DiskMode, Host, HostFile, HostSpec, Materials, RunDirectory};
use crate::judge::replicas;
use crate::playground::cluster::Cluster;
use crate::playground::topology::{Role, plan};
use crate::switch::link::ShapeChange;
use crate::switch::random::Random;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Bytes of the disks that are synced, and of those that are cloned under a writer.
const DISK_BYTES: u64 = 48 << 20;
const BUSY_BYTES: u64 = 16 << 20;
pub(super) const LEAF: u64 = 64 * 1024;

/// The host that is copied from, and the one that becomes equal.
pub(super) const SOURCE: &str = "site-a";
pub(super) const TARGET: &str = "site-b";
const TARGET_ADDRESS: &str = "10.8.0.12:7420";
pub(super) const SOURCE_ADDRESS: &str = "10.8.0.11:7420";

/// Between them: 40 ms each way, 100 Mbit/s, and room for what is in flight.
const LINE: ShapeChange = ShapeChange {
    latency_us: Some(40_000),
    bandwidth_bps: Some(100_000_000),
    queue_bytes: Some(4 << 20),
    cut: None,
    jitter_us: None,
    loss_ppm: None,
    duplicate_ppm: None,
    reorder_ppm: None,
    reorder_hold_us: None,
};
const PORT: &str = "site-b.wan";

const COMMAND_TIMEOUT: Duration = Duration::from_secs(120);

/// Mounts the file system that holds metadata and certificates.
const MOUNT: &str = "mkdir -p /srv/disk && mount -t ext4 /dev/vda /srv/disk";

/// Two hosts that are up, with their line.
pub(super) struct Ends<'a> {
    materials: &'a Materials,
    run: &'a RunDirectory,
    specs: Vec<HostSpec>,
    cluster: Cluster,
}

/// A program that was started on a host.
pub(super) struct Started {
    channel: Channel,
    said: Vec<u8>,
}

impl Started {
    /// Waits until it has said `word`.
    pub(super) fn wait_for(&mut self, word: &str) -> Result<()> {
        let deadline = Instant::now() + COMMAND_TIMEOUT;
        while !String::from_utf8_lossy(&self.said).contains(word) {
            match self.channel.next_before(deadline)? {
                Some(Event::Data(Stream::Output, bytes)) => self.said.extend(bytes),
                Some(Event::Data(_, bytes)) => eprint!("lab: {}", String::from_utf8_lossy(&bytes)),
                Some(Event::Exit(status)) => bail!("it ended with {status} before it said {word}"),
                None => bail!("it never said {word}"),
            }
        }
        Ok(())
    }

    /// Kills it.
    pub(super) fn kill(mut self) -> Result<()> {
        self.channel.input().signal(libc::SIGKILL)?;
        self.channel.collect()?;
        Ok(())
    }

    /// Waits for its end, which must be a good one.
    pub(super) fn wait_end(mut self) -> Result<()> {
        let output = self.channel.collect()?;
        ensure!(
            output.status.success(),
            "it ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// Waits for its end, but no longer than `most`; answers with its exit code, if it has ended.
    pub(super) fn end_within(&mut self, most: Duration) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + most;
        loop {
            match self.channel.next_before(deadline)? {
                Some(Event::Exit(status)) => return Ok(Some(status)),
                Some(Event::Data(..)) => {}
                None => return Ok(None),
            }
        }
    }

    /// Waits for its end; answers with its exit code and its last line.
    pub(super) fn end(mut self) -> Result<(i32, Value)> {
        let output = self.channel.collect()?;
        let whole = [self.said, output.stdout.clone()].concat();
        told(&Output {
            stdout: whole,
            ..output
        })
    }
}

fn told(output: &Output) -> Result<(i32, Value)> {
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().last().unwrap_or("null");
    let said = serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))?;
    match output.status {
        ExitStatus::Code(code) => Ok((code, said)),
        ExitStatus::Signal(signal) => bail!("it was killed by signal {signal}"),
    }
}

impl<'a> Ends<'a> {
    /// Makes the disks and certificates and boots both hosts.
    pub(super) fn open(materials: &'a Materials, mirror: &Path, run: &'a RunDirectory) -> Result<Self> {
        let mut plans = plan(2, 0);
        plans.retain(|plan| plan.role == Role::Site);
        let certificates = certificates(materials, run.path())?;
        let mut specs = Vec::new();
        for (plan, seed) in plans.iter().zip(1..) {
            let folder = run.path().join(format!("disks-{}", plan.name));
            fs::create_dir_all(&folder)?;
            let disks = [store(&folder)?, image(&folder, seed)?, busy(&folder, seed)?];
            let file = |path: &str, mode, source: PathBuf| HostFile {
                path: path.into(),
                mode,
                source,
            };
            specs.push(HostSpec {
                memory_mib: 512,
                kvm: false,
                disks: disks
                    .map(|path| Disk {
                        path,
                        mode: DiskMode::ReadWrite,
                    })
                    .into(),
                modules: vec!["ext4".into()],
                files: vec![
                    file(
                        "/etc/site.pem",
                        0o600,
                        certificates.join(format!("site-{}.pem", plan.name)),
                    ),
                    file("/etc/ca.crt", 0o644, certificates.join("ca.crt")),
                    file("/bin/antipode-lab-mirror", 0o755, mirror.to_owned()),
                ],
                ..Cluster::spec(plan, run)
            });
        }
        let cluster = Cluster::boot(materials, &plans, &specs, run, 1)?;
        cluster.switch.client()?.shape(PORT, None, LINE)?;
        let ends = Self {
            materials,
            run,
            specs,
            cluster,
        };
        for name in [SOURCE, TARGET] {
            ends.host(name)?.shell(MOUNT)?;
        }
        Ok(ends)
    }

    pub(super) fn host(&self, name: &str) -> Result<&Host> {
        self.cluster
            .hosts
            .get(name)
            .with_context(|| format!("{name} has no power"))
    }

    /// Cuts a host's power and boots it again on the disks it had.
    pub(super) fn power_cycle(&mut self, name: &str) -> Result<()> {
        let host = self.cluster.hosts.remove(name).context("it has no power")?;
        host.power_cut();
        let spec = self
            .specs
            .iter()
            .find(|spec| spec.name == name)
            .context("no such host")?;
        let host = Host::boot(self.materials, spec, self.run)?;
        host.shell(MOUNT)?;
        self.cluster.hosts.insert(name.to_owned(), host);
        Ok(())
    }

    /// Cuts the line, or mends it.
    pub(super) fn cut(&self, is_cut: bool) -> Result<()> {
        let mut switch = self.cluster.switch.client()?;
        Ok(if is_cut {
            switch.cut(PORT, None)
        } else {
            switch.heal(PORT, None)
        }?)
    }

    /// Runs `antipode` to its end, which must be a good one.
    pub(super) fn antipode(&self, host: &str, arguments: &str) -> Result<Value> {
        self.antipode_ends(host, arguments, 0)
    }

    /// Runs `antipode` to its end, which must be this one.
    pub(super) fn antipode_ends(&self, host: &str, arguments: &str, expected: i32) -> Result<Value> {
        let line = format!("antipode {arguments} --json");
        let output = self.host(host)?.run(&["sh", "-c", &line])?;
        let (code, said) = told(&output)?;
        ensure!(code == expected, "{host}: {line}: exit code {code}: {said}");
        Ok(said)
    }

    /// Runs the mirror to its end.
    pub(super) fn mirror(&self, host: &str, arguments: &str) -> Result<Value> {
        let text = self
            .host(host)?
            .shell(&format!("antipode-lab-mirror {arguments}"))?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Starts a program, and says what.
    pub(super) fn start(&self, host: &str, line: &str) -> Result<Started> {
        let run = Run {
            argv: ["sh", "-c", &format!("exec {line}")].map(str::to_owned).into(),
            ..Run::default()
        };
        let channel = self
            .host(host)?
            .agent()
            .open(crate::agent::message::Request::Run(run))?;
        Ok(Started {
            channel,
            said: Vec::new(),
        })
    }

    /// Starts the target's end, and then the source's: (source, target).
    pub(super) fn start_sync(&self) -> Result<(Started, Started)> {
        let mut target = self.start(
            TARGET,
            "antipode disk serve /dev/vdb --as target --metadata /srv/disk/b.replica --listen 0.0.0.0:7420 --once \
             --cert /etc/site.pem --json",
        )?;
        target.wait_for("listening")?;
        let source = format!(
            "antipode disk sync /dev/vdb tls://{TARGET_ADDRESS} --source-metadata /srv/disk/a.replica \
             --cert /etc/site.pem --json"
        );
        Ok((self.start(SOURCE, &source)?, target))
    }

    /// What the target's replica says it is.
    pub(super) fn state(&self) -> Result<String> {
        let said = self.antipode(TARGET, "disk info /dev/vdb --metadata /srv/disk/b.replica")?;
        Ok(said["state"].as_str().unwrap_or_default().to_owned())
    }

    /// The file of this machine that is a host's disk: `vdb` or `vdc`. What its kernel holds back is flushed first.
    pub(super) fn disk(&self, host: &str, name: &str) -> Result<PathBuf> {
        self.host(host)?.shell("sync")?;
        Ok(self.run.path().join(format!("disks-{host}")).join(name))
    }

    /// Leaves in which the hosts' disks differ, read here.
    pub(super) fn differing(&self, name: &str) -> Result<u64> {
        Ok(replicas::differing(
            &self.disk(SOURCE, name)?,
            &self.disk(TARGET, name)?,
        )?)
    }
}

/// The number of an exit code that the page documents.
pub(super) fn exit_code(name: &str) -> Result<i32> {
    exit_codes::number(name)
        .map(i32::from)
        .with_context(|| format!("{name} is not documented"))
}

fn certificates(materials: &Materials, folder: &Path) -> Result<PathBuf> {
    let folder = folder.join("certificates");
    fs::create_dir_all(&folder)?;
    let antipode = materials.antipode.as_deref().context("no antipode was built")?;
    for arguments in [
        &["init"][..],
        &["issue", "site", SOURCE],
        &["issue", "site", TARGET],
    ] {
        run_tool(
            Command::new(antipode)
                .arg("certs")
                .args(arguments)
                .current_dir(&folder),
            "antipode",
        )?;
    }
    Ok(folder)
}

/// An ext4 file system for metadata.
fn store(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("vda");
    let mut command = Command::new("mke2fs");
    command.args([
        "-q",
        "-F",
        "-t",
        "ext4",
        "-m",
        "0",
        "-E",
        "lazy_itable_init=0,nodiscard",
    ]);
    let path_with_sbin = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    run_tool(
        command.arg(&path).arg("16M").env("PATH", path_with_sbin),
        "e2fsprogs",
    )?;
    Ok(path)
}

/// Half noise, a quarter words, a quarter zeros; the two hosts' share nothing but the zeros.
fn image(folder: &Path, seed: u64) -> Result<PathBuf> {
    let path = folder.join("vdb");
    let mut file = File::create(&path)?;
    let mut random = Random::new(seed, "image");
    let bytes = usize::try_from(LEAF)?;
    for leaf in 0..DISK_BYTES / LEAF {
        let content = match leaf % 4 {
            0 | 1 => noise(&mut random, bytes),
            2 => format!("leaf {leaf} of disk {seed}, ").repeat(bytes).into_bytes()[..bytes].to_vec(),
            _ => vec![0; bytes],
        };
        file.write_all(&content)?;
    }
    Ok(path)
}

fn busy(folder: &Path, seed: u64) -> Result<PathBuf> {
    let path = folder.join("vdc");
    let file = File::create(&path)?;
    file.set_len(BUSY_BYTES)?;
    let mut random = Random::new(seed, "busy");
    let bytes = usize::try_from(LEAF)?;
    for leaf in (0..BUSY_BYTES / LEAF).step_by(2) {
        file.write_all_at(&noise(&mut random, bytes), leaf * LEAF)?;
    }
    Ok(path)
}

fn noise(random: &mut Random, bytes: usize) -> Vec<u8> {
    (0..bytes / 8)
        .flat_map(|_| random.next_u64().to_le_bytes())
        .collect()
}
