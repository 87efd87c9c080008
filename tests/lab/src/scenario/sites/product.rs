//! The product on the sites: its daemons, its commands, and what it says of a VM.

use super::super::vm::Kept;
use super::site::Site;
use super::{CONFIG, STATE, Sites, VM_CONFIG};
use crate::agent::client::{Channel, Event, Input, Output};
use crate::agent::message::{ExitStatus, Stream};
use crate::host::Host;
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// From starting `site run` to its answer.
const DAEMON_PATIENCE: Duration = Duration::from_secs(60);

/// Between two questions.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// The first words of a VM's own process.
const VM_PROCESS: &str = "antipode site vm";

/// `site run` on a host. What it says is in `site-<name>.log` of the run's directory.
pub(super) struct Daemon(Input);

impl Daemon {
    fn start(host: &Host, logs: &Path) -> Result<Self> {
        let line = format!("exec antipode site run --config {CONFIG} --log info");
        let channel = host.spawn(&["sh", "-c", &line])?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(logs.join(format!("{}.log", host.name())))?;
        let input = channel.input();
        thread::spawn(move || follow(channel, log));
        Ok(Self(input))
    }
}

fn follow(mut channel: Channel, mut log: File) {
    while let Ok(event) = channel.next() {
        match event {
            // The log is for people.
            Event::Data(_, bytes) => drop(log.write_all(&bytes)),
            Event::Exit(status) => {
                drop(writeln!(log, "lab: it ended with {status}"));
                return;
            }
        }
    }
}

/// By which word outputs leave.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub(crate) struct OutputRule {
    /// When the copy has made them too.
    pub(crate) verified: bool,
}

/// What the status tells of how the copy is kept the same.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Modes {
    /// How it is now.
    pub(crate) mode: String,
    /// Times that the guest was stopped while it computed.
    pub(crate) preemptions: u64,
    replay: Cost,
    resume: Cost,
    repair: Cost,
    checkpoint: Cost,
}

/// What one way has cost.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Cost {
    bytes: u64,
    /// How long outputs waited, the median.
    pub(crate) hold_ms_p50: Option<f64>,
    /// The same, of 99 in 100.
    pub(crate) hold_ms_p99: Option<f64>,
}

impl Modes {
    /// Bytes of the log, whatever they were for.
    pub(crate) fn bytes(&self) -> u64 {
        let all = [&self.replay, &self.resume, &self.repair, &self.checkpoint];
        all.iter().map(|cost| cost.bytes).sum()
    }

    /// Those that made a copy the same again.
    pub(crate) const fn repair_bytes(&self) -> u64 {
        self.repair.bytes
    }

    /// What keeping it the same in this way has cost.
    pub(crate) const fn of(&self, kept: Kept) -> &Cost {
        match kept {
            Kept::Checkpoint => &self.checkpoint,
            Kept::Auto | Kept::Replay => &self.replay,
        }
    }
}

/// What the status tells of repairs.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Repairs {
    /// How many there were.
    pub(crate) count: u64,
    /// The last one, as it is told.
    pub(crate) last: Value,
    /// The last one that came to nothing, as it is told.
    #[serde(default)]
    pub(crate) given_up: Value,
}

/// What `vm status` says.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct VmStatus {
    /// The role of the site that was asked.
    pub(crate) role: String,
    /// The other site, if there is a pairing.
    #[serde(default)]
    pub(crate) peer: Option<String>,
    /// The generation of its record.
    #[serde(default)]
    pub(crate) generation: Option<u64>,
    /// Exits of the guest.
    #[serde(default)]
    pub(crate) position: Option<u64>,
    /// How far the backup is behind.
    #[serde(default)]
    pub(crate) lag_ms: Option<f64>,
    /// Between the sites, as the product measures it.
    #[serde(default)]
    pub(crate) rtt_ms: Option<f64>,
    /// How long outputs were held.
    #[serde(default)]
    pub(crate) output_hold_ms_p50: Option<f64>,
    /// The same, of 99 in 100.
    #[serde(default)]
    pub(crate) output_hold_ms_p99: Option<f64>,
    /// When a flush of the guest is complete.
    #[serde(default)]
    pub(crate) flush: Option<String>,
    /// How long flushes waited for the other site.
    #[serde(default)]
    pub(crate) flush_hold_ms_p50: Option<f64>,
    /// When outputs leave.
    #[serde(default)]
    pub(crate) output: OutputRule,
    /// How the copy is kept the same, and what each way has cost.
    #[serde(default)]
    pub(crate) modes: Option<Modes>,
    /// Repairs of a copy that differed.
    #[serde(default)]
    pub(crate) repairs: Option<Repairs>,
    /// An echo over the log's own connection.
    #[serde(default)]
    pub(crate) echo_ms_p50: Option<f64>,
    /// The same, of 99 in 100.
    #[serde(default)]
    pub(crate) echo_ms_p99: Option<f64>,
    /// How long the guest stood still when it was protected.
    #[serde(default)]
    pub(crate) stun_ms: Option<f64>,
    /// From the lost site's last word to the claim.
    #[serde(default)]
    pub(crate) detection_ms: Option<f64>,
    /// From the claim to its grant.
    #[serde(default)]
    pub(crate) claim_ms: Option<f64>,
    /// From the grant until outputs could leave.
    #[serde(default)]
    pub(crate) going_live_ms: Option<f64>,
    /// Whether nothing is missing.
    #[serde(default)]
    pub(crate) green: bool,
    /// Why not, as a sentence.
    #[serde(default)]
    pub(crate) because: Option<String>,
    /// How far a transfer is.
    #[serde(default)]
    pub(crate) progress: Option<Progress>,
    /// What it took to make the other site's disk equal.
    #[serde(default)]
    pub(crate) resync: Option<Resync>,
    /// What it took to copy its memory.
    #[serde(default)]
    pub(crate) memory_sent: Option<MemorySent>,
    /// What restores the protection by itself, if it is to be restored.
    #[serde(default)]
    pub(crate) protect_again: Option<ProtectAgain>,
}

/// What it took to make the other site's disk equal.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Resync {
    /// How much of it was looked at.
    pub(crate) kind: String,
    /// Bytes that could differ.
    pub(crate) changed_bytes: u64,
    /// Bytes that were sent.
    pub(crate) sent_bytes: u64,
}

/// What it took to copy the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) struct MemorySent {
    /// All of it but for zeros.
    pub(crate) once_bytes: u64,
    /// With what was written meanwhile.
    pub(crate) sent_bytes: u64,
}

/// Protection that restores itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct ProtectAgain {
    /// What it waits for.
    #[serde(default)]
    pub(crate) waits_for: Option<String>,
    /// What the last try came to.
    #[serde(default)]
    pub(crate) last_failure: Option<String>,
}

/// How far a phase of `vm protect` is.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub(crate) struct Progress {
    /// Bytes done.
    pub(crate) done_bytes: u64,
    /// Bytes of the phase.
    pub(crate) total_bytes: u64,
}

/// Roles of a site that has the live copy.
const LIVE_ROLES: &[&str] = &[
    "unprotected",
    "solo",
    "syncing",
    "cloning",
    "stunned",
    "pairing",
    "cancelling",
    "settling",
    "primary",
];

impl VmStatus {
    /// Whether this site has the live copy.
    pub(crate) fn is_live(&self) -> bool {
        LIVE_ROLES.contains(&self.role.as_str())
    }
}

impl Sites<'_> {
    /// Starts `site run` on a host that is up, and waits until it answers.
    pub(crate) fn start_daemon(&mut self, site: Site) -> Result<()> {
        let daemon = Daemon::start(self.host(site)?, self.run.path())?;
        self.daemons.insert(site, daemon);
        let deadline = Instant::now() + DAEMON_PATIENCE;
        loop {
            match self.ask(site, "vm list") {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    let log = self.run.path().join(format!("{site}.log"));
                    bail!(
                        "`site run` on {site} does not answer: {error:#}; see {}",
                        log.display()
                    );
                }
                Err(_) => thread::sleep(ASK_EVERY),
            }
        }
    }

    /// Copies what the VM's processes have logged, from every site that still has power, beside the other logs.
    pub(crate) fn collect_logs(&self) {
        for (site, name) in Site::ALL
            .into_iter()
            .flat_map(|site| ["log", "console"].map(|name| (site, name)))
        {
            if self.hangs(site) {
                continue;
            }
            let path = format!("{STATE}/vms/{}/{name}", self.vm);
            // A site may have no VM, or no power.
            let bytes = self.host(site).and_then(|host| Ok(host.get(&path)?));
            if let Ok(bytes) = bytes {
                drop(fs::write(
                    self.run.path().join(format!("{site}-vm-{name}")),
                    bytes,
                ));
            }
        }
    }

    /// Kills `site run`; VMs go on.
    pub(crate) fn kill_daemon(&mut self, site: Site) -> Result<()> {
        self.end_daemon(site, libc::SIGKILL)
    }

    /// Stops `site run` as an operator does, and starts it again; VMs go on.
    pub(crate) fn restart_daemon(&mut self, site: Site) -> Result<()> {
        self.end_daemon(site, libc::SIGTERM)?;
        self.start_daemon(site)
    }

    fn end_daemon(&mut self, site: Site, signal: i32) -> Result<()> {
        let daemon = self.daemons.remove(&site).context("`site run` is down already")?;
        Ok(daemon.0.signal(signal)?)
    }

    /// Kills the VM's own process.
    pub(crate) fn kill_vm_process(&self, site: Site) -> Result<()> {
        let words = format!("{VM_PROCESS} --name {} ", self.vm);
        let killed = self.host(site)?.shell(&kill_all(&words))?;
        ensure!(!killed.is_empty(), "{site} runs no VM");
        Ok(())
    }

    /// The process of a VM.
    pub(crate) fn vm_process(&self, site: Site, vm: &str) -> Result<u32> {
        let words = format!("{VM_PROCESS} --name {vm} ");
        let found = self.host(site)?.shell(&each_process(&words, "echo $pid"))?;
        let [number] = found.split_whitespace().collect::<Vec<_>>()[..] else {
            bail!("{site} should have one process of {vm}: {found:?}");
        };
        number
            .parse()
            .with_context(|| format!("{site}: a process {number:?}"))
    }

    /// Runs a command of the product on a site to its end, which must be a good one; what it said last, as JSON.
    pub(crate) fn ask(&self, site: Site, words: &str) -> Result<Value> {
        let line = format!("antipode {words} --config {CONFIG} --json");
        let output = self.host(site)?.run(&["sh", "-c", &line])?;
        let said = last_line(&output);
        ensure!(
            output.status == ExitStatus::Code(0),
            "{site}: `antipode {words}` ended with {}: {said} {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        serde_json::from_str(&said).with_context(|| format!("{site}: `antipode {words}` said {said:?}"))
    }

    /// Starts a command of the product on a site; its end is awaited elsewhere.
    pub(crate) fn begin(&self, site: Site, words: &str) -> Result<Asked> {
        let line = format!("exec antipode {words} --config {CONFIG} --json");
        Ok(Asked {
            what: format!("{site}: `antipode {words}`"),
            channel: self.host(site)?.spawn(&["sh", "-c", &line])?,
        })
    }

    /// Waits until a site says that the VM has one of these roles there, as closely as the host can look; which it was.
    pub(crate) fn wait_role(&self, site: Site, roles: &[&str], patience: Duration) -> Result<String> {
        let (vm, wanted) = (&self.vm, roles.join("|"));
        let script = format!(
            "while :; do r=$(antipode vm status {vm} --config {CONFIG} --json 2> /dev/null | \
             sed -n 's/.*\"role\":\"\\([a-z]*\\)\".*/\\1/p'); \
             case \"$r\" in {wanted}) echo $r; exit;; esac; done"
        );
        let seconds = patience.as_secs().to_string();
        let output = self
            .host(site)?
            .run(&["timeout", &seconds, "sh", "-c", &script])?;
        ensure!(
            output.status == ExitStatus::Code(0),
            "{site}: the VM is none of {wanted} within {seconds} s: {:?}",
            self.status(site)
        );
        Ok(output.text())
    }

    /// Creates the VM at `site` and starts it.
    pub(crate) fn start_vm(&self, site: Site) -> Result<()> {
        self.start_other_vm(site, &self.vm)
    }

    /// Creates a VM of another name at `site`, from the definition that lies there, and starts it.
    pub(super) fn start_other_vm(&self, site: Site, vm: &str) -> Result<()> {
        self.ask(site, &format!("vm create {vm} --vm {VM_CONFIG}"))?;
        self.ask(site, &format!("vm start {vm}"))?;
        Ok(())
    }

    /// The command by which a host is asked for [`Sites::status`].
    pub(crate) fn status_command(&self) -> Vec<String> {
        let words = ["antipode", "vm", "status", &self.vm, "--config", CONFIG, "--json"];
        words.map(str::to_owned).into()
    }

    /// What a site says of the VM.
    pub(crate) fn status(&self, site: Site) -> Result<VmStatus> {
        let said = self.ask(site, &format!("vm status {}", self.vm))?;
        serde_json::from_value(said.clone()).with_context(|| format!("{site}: no status: {said}"))
    }

    /// Waits until `site` says something of the VM that is `wanted`.
    pub(crate) fn wait_status(
        &self,
        site: Site,
        what: &str,
        patience: Duration,
        wanted: impl Fn(&VmStatus) -> bool,
    ) -> Result<VmStatus> {
        let deadline = Instant::now() + patience;
        loop {
            let said = self.status(site);
            match &said {
                Ok(status) if wanted(status) => return said,
                _ if Instant::now() > deadline => {
                    bail!("{site}: {what} within {} s; it says {said:?}", patience.as_secs())
                }
                _ => thread::sleep(ASK_EVERY),
            }
        }
    }
}

/// A command under way.
pub(crate) struct Asked {
    what: String,
    channel: Channel,
}

impl Asked {
    /// Waits for its end, which must be a good one; what it said last.
    pub(crate) fn end(mut self, patience: Duration) -> Result<Value> {
        let deadline = Instant::now() + patience;
        let (mut said, mut complaint) = (Vec::new(), Vec::new());
        let status = loop {
            match self.channel.next_before(deadline)? {
                Some(Event::Data(Stream::Error, bytes)) => complaint.extend(bytes),
                Some(Event::Data(_, bytes)) => said.extend(bytes),
                Some(Event::Exit(status)) => break status,
                None => bail!("{} has not ended within {} s", self.what, patience.as_secs()),
            }
        };
        let text = String::from_utf8_lossy(&said).into_owned();
        let last = text.lines().last().unwrap_or_default();
        ensure!(
            status == ExitStatus::Code(0),
            "{} ended with {status}: {last} {}",
            self.what,
            String::from_utf8_lossy(&complaint).trim()
        );
        serde_json::from_str(last).with_context(|| format!("{} said {last:?}", self.what))
    }
}

/// A script that kills every process of which the first words are `words`, but for their folders, and says its number.
pub(super) fn kill_all(words: &str) -> String {
    each_process(words, "kill -KILL $pid && echo $pid")
}

/// A script that does `what` with the number, `$pid`, of every such process.
fn each_process(words: &str, what: &str) -> String {
    format!(
        "for process in /proc/[0-9]*; do if tr '\\0' ' ' 2>/dev/null < $process/cmdline | grep -q '^[^ ]*{words}'; then \
         pid=${{process#/proc/}}; {what}; fi; done"
    )
}

fn last_line(output: &Output) -> String {
    let text = output.text();
    text.lines().last().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_and_what_it_leaves_out_is_absent() {
        let text = r#"{"vm":"redis","role":"primary","peer":"site-b","generation":7,"pairing":"x","position":123,
            "lag_ms":1.5,"lag_bytes":1,"lag_exits":2,"rtt_ms":40.1,"output_hold_ms_p50":41.0,"green":true,"cause":null,
            "because":null,"progress":{"done_bytes":1,"total_bytes":2,"left_s":null},"since":1,"next":null}"#;
        let status: VmStatus = serde_json::from_str(text).unwrap();
        assert!(status.green && status.is_live());
        assert_eq!((status.position, status.lag_ms), (Some(123), Some(1.5)));
        assert_eq!(status.progress.map(|progress| progress.total_bytes), Some(2));
        let status: VmStatus = serde_json::from_str(r#"{"role":"backup"}"#).unwrap();
        assert!(!status.green && !status.is_live());
    }
}
