//! One machine in one fresh host: booted, left idle, loaded, stopped.

use super::contestant::{Contestant, DISK, QEMU_DISK, TAP};
use super::guest;
use super::probe::{SAMPLE_SCRIPT, Sample, memory_beyond_guest_mib};
use crate::agent::client::{Channel, Event};
use crate::host::Host;
use crate::load::order::{Direction, Order, Pattern};
use crate::scenario::clients::ask;
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

/// A guest boots in seconds; on a machine that is building everything else it may take this.
const BOOT_TIMEOUT: Duration = Duration::from_secs(180);

/// From the ready line to the idle measurement: what the boot left to do settles.
const SETTLING: Duration = Duration::from_secs(3);

const IDLE_SPAN: Duration = Duration::from_secs(10);

const DISK_SPAN: Duration = Duration::from_millis(1_500);

const NETWORK_SPAN: Duration = Duration::from_millis(2_500);

/// For the guest to power off.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

const SIGTERM: i32 = 15;

/// Makes the TAP and a fresh disk, and reads both programs once so that neither is measured cold.
fn preparation() -> String {
    let (address, file_system, load) = (guest::HOST_ADDRESS, guest::FILE_SYSTEM_MIB, guest::LOAD_MIB);
    format!(
        "set -e; mount -t debugfs debugfs /sys/kernel/debug; tunctl -t {TAP} > /dev/null
         ip addr add {address}/24 dev {TAP}; ip link set {TAP} up
         dd if=/dev/vdb of={DISK} bs=1M 2> /dev/null
         dd if=/dev/zero of={DISK} bs=1M seek={file_system} count={load} conv=notrunc 2> /dev/null
         lab-chroot {QEMU_DISK} qemu-system-x86_64 --version > /dev/null
         cat /opt/vda/usr/bin/qemu-system-x86_64 /opt/vda/usr/share/seabios/* > /dev/null
         antipode --version > /dev/null"
    )
}

/// What one run of one machine showed.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Trial {
    /// Whose.
    pub(super) contestant: Contestant,
    /// From the start of the process to the guest's ready line.
    pub(super) boot_s: f64,
    /// Processor seconds that the process used per second of an idle guest, in thousandths.
    pub(super) idle_cpu_permille: f64,
    /// KVM's counters per second of an idle guest.
    pub(super) idle_kvm_per_s: BTreeMap<String, f64>,
    /// Memory of the process beyond guest RAM, after idling.
    pub(super) memory_beyond_guest_mib: f64,
    /// By name.
    pub(super) loads: BTreeMap<&'static str, Load>,
    /// Antipode's own account of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) summary: Option<serde_json::Value>,
}

/// What one load showed.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Load {
    /// Throughput.
    pub(super) mib_per_s: f64,
    /// Requests of the program per second; for the network, 64 KiB of data count as one.
    pub(super) requests_per_s: f64,
    /// Processor time of the process for each.
    pub(super) cpu_us_per_request: f64,
    /// KVM's counters for each.
    pub(super) kvm_per_request: BTreeMap<String, f64>,
}

/// Every load, by its name in results.
pub(super) fn loads() -> Vec<(&'static str, Order)> {
    let disk = |direction, pattern, depth| Order::Disk {
        direction,
        pattern,
        depth,
        span: DISK_SPAN,
    };
    let (read, write) = (Direction::Read, Direction::Write);
    vec![
        ("seq_read", disk(read, Pattern::Sequential, 1)),
        ("seq_write", disk(write, Pattern::Sequential, 1)),
        ("rand_read", disk(read, Pattern::Random, 1)),
        ("rand_write", disk(write, Pattern::Random, 1)),
        ("rand_read_4", disk(read, Pattern::Random, 4)),
        ("rand_write_4", disk(write, Pattern::Random, 4)),
        ("net_tx", Order::Send(NETWORK_SPAN)),
        ("net_rx", Order::Receive),
    ]
}

/// Runs the machine in `host`, which must be fresh.
pub(super) fn run(host: &Host, contestant: Contestant, command_line: &str) -> Result<Trial> {
    host.shell(&preparation())?;
    let command = contestant.command(command_line);
    let started = Instant::now();
    let script = format!("echo $$ > /tmp/machine.pid; exec {command}");
    let mut machine = Machine {
        host,
        channel: host.spawn(&["sh", "-c", &script])?,
        output: String::new(),
    };
    machine
        .wait_until_ready(started + BOOT_TIMEOUT)
        .with_context(|| format!("{} in its host", contestant.name()))?;
    let boot_s = started.elapsed().as_secs_f64();
    thread::sleep(SETTLING);
    let before = machine.sample()?;
    thread::sleep(IDLE_SPAN);
    let after = machine.sample()?;
    let span = after.uptime_seconds - before.uptime_seconds;
    let smaps = host.shell("cat /proc/$(cat /tmp/machine.pid)/smaps")?;
    let mut results = BTreeMap::new();
    for (name, order) in loads() {
        let load = machine
            .load(order)
            .with_context(|| format!("{} under {name}", contestant.name()))?;
        results.insert(name, load);
    }
    Ok(Trial {
        contestant,
        boot_s,
        idle_cpu_permille: 1_000.0 * (after.cpu_seconds - before.cpu_seconds) / span,
        idle_kvm_per_s: after.kvm_growth(&before, span),
        memory_beyond_guest_mib: memory_beyond_guest_mib(&smaps, guest::MEMORY_MIB),
        loads: results,
        summary: machine.stop()?,
    })
}

struct Machine<'a> {
    host: &'a Host,
    channel: Channel,
    output: String,
}

impl Machine<'_> {
    /// Takes one event into the output. False once the process has ended.
    fn follow(&mut self, deadline: Instant) -> Result<bool> {
        match self.channel.next_before(deadline)? {
            Some(Event::Data(_, bytes)) => self.output.push_str(&String::from_utf8_lossy(&bytes)),
            Some(Event::Exit(_)) => return Ok(false),
            None => bail!(
                "nothing more within the time allowed; it printed:\n{}",
                self.output
            ),
        }
        Ok(true)
    }

    fn wait_until_ready(&mut self, deadline: Instant) -> Result<()> {
        let ready = guest::SERVICE.ready_line();
        while !self.output.contains(&ready) {
            if !self.follow(deadline)? {
                bail!("it ended before `{ready}`; it printed:\n{}", self.output);
            }
        }
        Ok(())
    }

    fn sample(&self) -> Result<Sample> {
        let text = self
            .host
            .shell(&format!("pid=$(cat /tmp/machine.pid); {SAMPLE_SCRIPT}"))?;
        Sample::parse(&text)
    }

    fn load(&self, order: Order) -> Result<Load> {
        let before = self.sample()?;
        let answer = ask(self.host, guest::ADDRESS, order, NETWORK_SPAN)?;
        let after = self.sample()?;
        let request_bytes = match order {
            Order::Disk { pattern, .. } => pattern.block_bytes(),
            Order::Send(_) | Order::Receive => 64 << 10,
        };
        #[expect(clippy::cast_precision_loss, reason = "bytes of seconds are far below 2^52")]
        let (bytes, request_bytes) = (answer.bytes as f64, request_bytes as f64);
        let requests = bytes / request_bytes;
        Ok(Load {
            mib_per_s: bytes / answer.seconds / f64::from(1 << 20),
            requests_per_s: requests / answer.seconds,
            cpu_us_per_request: 1e6 * (after.cpu_seconds - before.cpu_seconds) / requests,
            kvm_per_request: after.kvm_growth(&before, requests),
        })
    }

    /// Ends the machine. Antipode powers the guest off and prints its account as the last line; QEMU just ends.
    fn stop(mut self) -> Result<Option<serde_json::Value>> {
        self.channel.input().signal(SIGTERM)?;
        let deadline = Instant::now() + STOP_TIMEOUT;
        while self.follow(deadline).context("after SIGTERM")? {}
        let last = self.output.lines().rev().find(|line| line.starts_with('{'));
        Ok(last.and_then(|line| serde_json::from_str(line).ok()))
    }
}
