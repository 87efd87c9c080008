//! Three nodes of one cluster: their certificates, configurations, processes and links.

use super::proxy::{self, Cut};
use crate::host::RunDirectory;
use antipode_certs::tls::LiveCredentials;
use antipode_certs::{
    Authority, AuthorityDays, Existing, Identity, LeafDays, Name, Paths, PeerRule, Role, TRUST_FILE,
    UnixTime, WallClock,
};
use antipode_tiebreaker::client::{Client, Cluster};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub(super) const NODES: [&str; 3] = ["east", "north", "west"];
/// Milliseconds between heartbeats: a fifth of what is usual, so that a thousand rounds are soon over.
pub(super) const HEARTBEAT_MS: u64 = 20;
/// How long a client waits for one node before it asks the next.
const REPLY_PATIENCE: Duration = Duration::from_millis(250);

#[derive(Debug)]
struct HostTime;

impl WallClock for HostTime {
    fn now(&self) -> UnixTime {
        let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        UnixTime::from_seconds(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
    }
}

/// A cluster of three processes.
#[derive(Debug)]
pub(super) struct Town {
    folder: PathBuf,
    antipode: PathBuf,
    authority: Authority,
    children: [Option<Child>; 3],
    /// By from whom to whom.
    links: BTreeMap<(usize, usize), Cut>,
}

/// Where node `index` listens, or with `from` the proxy on the way from that node to it. No other process of this machine
/// has these addresses.
fn address(index: usize, from: Option<usize>) -> Result<SocketAddr> {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let last = index + from.map_or(1, |from| 10 + 10 * from);
    format!("127.{}.{low}.{last}:7600", high | 0xc0)
        .parse()
        .context("an address")
}

impl Town {
    /// Makes a cluster in the directory of `run` and starts it.
    pub(super) fn build(run: &RunDirectory, antipode: &Path) -> Result<Self> {
        let folder = run.path().to_owned();
        let authority = Authority::create(AuthorityDays::default(), HostTime.now())?;
        authority.save(&folder)?;
        let mut town = Self {
            folder,
            antipode: antipode.to_owned(),
            authority,
            children: [None, None, None],
            links: BTreeMap::new(),
        };
        for (index, name) in NODES.into_iter().enumerate() {
            town.issue(&format!("antipode://tiebreaker/{name}"))?;
            for from in (0..NODES.len()).filter(|from| *from != index) {
                let cut =
                    proxy::start(address(index, Some(from))?, address(index, None)?).context("a proxy")?;
                town.links.insert((from, index), cut);
            }
        }
        for (index, name) in NODES.into_iter().enumerate() {
            std::fs::write(town.folder.join(format!("{name}.toml")), config(index)?)?;
            let made = town
                .command("init", name)?
                .status()
                .context("antipode tiebreaker init")?;
            ensure!(
                made.success(),
                "antipode tiebreaker init of {name} ended with {made}"
            );
        }
        (0..NODES.len()).try_for_each(|index| town.start(index))?;
        Ok(town)
    }

    fn command(&self, verb: &str, node: &str) -> Result<Command> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.join(format!("{node}.log")))?;
        let mut command = Command::new(&self.antipode);
        command
            .args([
                "tiebreaker",
                verb,
                "--config",
                &format!("{node}.toml"),
                "--log",
                "info",
            ])
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        Ok(command)
    }

    /// Starts node `index`, and waits until it listens.
    pub(super) fn start(&mut self, index: usize) -> Result<()> {
        let mut command = self.command("run", NODES[index])?;
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .context("antipode tiebreaker run")?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        ensure!(
            line.contains("listens on"),
            "node {} does not start: see {}.log in {}",
            NODES[index],
            NODES[index],
            self.folder.display()
        );
        self.children[index] = Some(child);
        Ok(())
    }

    /// Ends node `index` as a power cut would.
    pub(super) fn kill(&mut self, index: usize) -> Result<()> {
        if let Some(mut child) = self.children[index].take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Freezes or thaws node `index`.
    pub(super) fn freeze(&self, index: usize, frozen: bool) -> Result<()> {
        let child = self.children[index]
            .as_ref()
            .context("a node that is down cannot be frozen")?;
        let signal = if frozen { Signal::SIGSTOP } else { Signal::SIGCONT };
        Ok(kill(Pid::from_raw(i32::try_from(child.id())?), signal)?)
    }

    /// Cuts or mends every link between node `index` and the others; clients still reach it.
    pub(super) fn cut_off(&self, index: usize, cut: bool) {
        for ((from, to), link) in &self.links {
            if *from == index || *to == index {
                link.set(cut);
            }
        }
    }

    /// Resident memory of each node, in bytes.
    pub(super) fn resident_bytes(&self) -> Result<Vec<u64>> {
        let of = |child: &Child| {
            let text = std::fs::read_to_string(format!("/proc/{}/status", child.id()))?;
            let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            let kibibytes = line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok());
            Ok(kibibytes.context("no VmRSS")? * 1024)
        };
        self.children.iter().flatten().map(of).collect()
    }

    /// A client with a certificate of its own.
    pub(super) fn client(&self, path: &str) -> Result<Client> {
        let paths = self.issue(&format!("antipode://{path}"))?;
        let rule = PeerRule::AnyOf(vec![Role::Site, Role::Operator]);
        let credentials = LiveCredentials::open(paths, &rule, Arc::new(HostTime))?;
        let nodes = NODES
            .into_iter()
            .enumerate()
            .map(|(index, name)| Ok((name.parse()?, address(index, None)?.to_string())));
        let cluster = Cluster {
            name: "lab".parse()?,
            nodes: nodes.collect::<Result<BTreeMap<Name, String>>>()?,
        };
        Ok(Client::new(cluster, credentials).patient_for(REPLY_PATIENCE))
    }

    fn issue(&self, uri: &str) -> Result<Paths> {
        let issued = self
            .authority
            .issue(&Identity::from_uri(uri)?, LeafDays::default(), HostTime.now())?;
        let credentials = self.folder.join(issued.file_name());
        issued.save(&credentials, Existing::Replace)?;
        Ok(Paths {
            credentials,
            trust: self.folder.join(TRUST_FILE),
        })
    }
}

impl Drop for Town {
    fn drop(&mut self) {
        for child in self.children.iter_mut().flatten() {
            // It may have ended by itself; a frozen one ends by SIGKILL as well.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The configuration of node `index`: it reaches the others through proxies.
fn config(index: usize) -> Result<String> {
    let own = NODES[index];
    let mut text = format!(
        "cluster = \"lab\"\n[certificates]\ncredentials = \"tiebreaker-{own}.pem\"\n[timing]\nheartbeat_ms = {HEARTBEAT_MS}\n"
    );
    for (other, name) in NODES.into_iter().enumerate() {
        let at = address(other, (other != index).then_some(index))?;
        let priority = u8::from(name == "north");
        writeln!(
            text,
            "[[node]]\nname = \"{name}\"\naddress = \"{at}\"\npriority = {priority}"
        )?;
    }
    let listen = address(index, None)?;
    writeln!(
        text,
        "[here]\nname = \"{own}\"\nlisten = \"{listen}\"\ndata = \"data-{own}\""
    )?;
    Ok(text)
}
