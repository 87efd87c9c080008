//! Three nodes of one cluster: their certificates, configurations, processes and links.

use super::proxy::{self, Cut};
use crate::host::RunDirectory;
use antipode_certs::tls::LiveCredentials;
use antipode_certs::{
    Authority, AuthorityDays, Existing, Identity, Issued, LeafDays, Name, Paths, PeerRule, Role, TRUST_FILE,
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
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Heartbeats after which the most eager node stands for election.
pub(crate) const ELECTION_HEARTBEATS: u64 = 10;
pub(crate) const NODES: [&str; 3] = ["east", "north", "west"];
/// The configuration of [`Town::operator`].
pub(crate) const OPERATOR_CONFIG: &str = "operator.toml";
/// Heartbeats for which a client waits for one node before it asks the next: at the usual ones, as long as any client.
const REPLY_HEARTBEATS: u64 = 15;

#[derive(Debug)]
struct HostTime;

impl WallClock for HostTime {
    fn now(&self) -> UnixTime {
        let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        UnixTime::from_seconds(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
    }
}

/// What kind of cluster to make.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Tells the clusters of one process apart: each has addresses of its own. Below 6.
    pub(crate) number: u8,
    /// Milliseconds between heartbeats.
    pub(crate) heartbeat_ms: u64,
    /// How long a link takes, each way.
    pub(crate) one_way: Duration,
    /// A backup to begin from; else the cluster is new.
    pub(crate) backup: Option<PathBuf>,
}

/// A cluster of three processes.
#[derive(Debug)]
pub(crate) struct Town {
    plan: Plan,
    folder: PathBuf,
    antipode: PathBuf,
    authority: Authority,
    /// What trusts that one alone.
    trusted_next: String,
    children: [Option<Child>; 3],
    /// By from whom to whom.
    links: BTreeMap<(usize, usize), Cut>,
}

/// Where node `index` of cluster `number` listens, or with `from` the proxy on the way from that node to it. No other
/// process of this machine has these addresses.
pub(crate) fn address(number: u8, index: usize, from: Option<usize>, port: u16) -> Result<SocketAddr> {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let last = usize::from(number) * 40 + index + from.map_or(1, |from| 10 + 10 * from);
    format!("127.{}.{low}.{last}:{port}", high | 0xc0)
        .parse()
        .context("an address")
}

impl Town {
    /// Makes a cluster in a directory of its own inside that of `run`, and starts it.
    pub(crate) fn build(run: &RunDirectory, antipode: &Path, plan: Plan) -> Result<Self> {
        let folder = run.path().join(format!("cluster-{}", plan.number));
        std::fs::create_dir(&folder).with_context(|| format!("creating {}", folder.display()))?;
        let authority = Authority::create(AuthorityDays::default(), HostTime.now())?;
        authority.save(&folder)?;
        let mut town = Self {
            plan,
            folder,
            antipode: antipode.to_owned(),
            authority,
            trusted_next: String::new(),
            children: [None, None, None],
            links: BTreeMap::new(),
        };
        for (index, name) in NODES.into_iter().enumerate() {
            town.issue(&format!("antipode://tiebreaker/{name}"))?;
            for from in (0..NODES.len()).filter(|from| *from != index) {
                let way = (town.address(index, Some(from))?, town.address(index, None)?);
                let cut = proxy::start(way.0, way.1, town.plan.one_way).context("a proxy")?;
                town.links.insert((from, index), cut);
            }
        }
        for (index, name) in NODES.into_iter().enumerate() {
            std::fs::write(town.folder.join(format!("{name}.toml")), town.config(index)?)?;
            let mut command = match &town.plan.backup {
                None => town.command("init", name)?,
                Some(_) => town.command("restore", name)?,
            };
            if let Some(backup) = &town.plan.backup {
                command.arg(backup).arg("--every-site-is-stopped");
            }
            run_to_end(command)?;
        }
        (0..NODES.len()).try_for_each(|index| town.start(index))?;
        Ok(town)
    }

    fn address(&self, index: usize, from: Option<usize>) -> Result<SocketAddr> {
        address(self.plan.number, index, from, 7600)
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
    pub(crate) fn start(&mut self, index: usize) -> Result<()> {
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
    pub(crate) fn kill(&mut self, index: usize) -> Result<()> {
        if let Some(mut child) = self.children[index].take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Whether node `index` was started, and not killed since.
    pub(crate) fn runs(&self, index: usize) -> bool {
        self.children[index].is_some()
    }

    /// Freezes or thaws node `index`.
    pub(crate) fn freeze(&self, index: usize, frozen: bool) -> Result<()> {
        let child = self.children[index]
            .as_ref()
            .context("a node that is down cannot be frozen")?;
        let signal = if frozen { Signal::SIGSTOP } else { Signal::SIGCONT };
        Ok(kill(Pid::from_raw(i32::try_from(child.id())?), signal)?)
    }

    /// Cuts or mends every link between node `index` and the others; clients still reach it.
    pub(crate) fn cut_off(&self, index: usize, cut: bool) {
        for ((from, to), link) in &self.links {
            if *from == index || *to == index {
                link.set(cut);
            }
        }
    }

    /// Takes the disk of node `index`, which is down, and gives it a new seat.
    pub(crate) fn lose_disk(&self, index: usize) -> Result<()> {
        std::fs::remove_dir_all(self.folder.join(format!("data-{}", NODES[index])))?;
        run_to_end(self.command("rejoin", NODES[index])?)
    }

    /// Makes a way of its own to node `index` for somebody who is elsewhere: the port on 127.0.0.1, and its cut.
    pub(crate) fn way_from_elsewhere(&self, index: usize) -> Result<(u16, Cut)> {
        let listener = TcpListener::bind("127.0.0.1:0").context("a proxy")?;
        let port = listener.local_addr()?.port();
        let cut = proxy::listen(listener, self.address(index, None)?, self.plan.one_way)?;
        Ok((port, cut))
    }

    /// The folder of everything, where [`Town::operator`] works.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Within what a claim should be answered whatever becomes of the leader: twice the election timeout.
    pub(crate) fn bound(&self) -> Duration {
        Duration::from_millis(2 * ELECTION_HEARTBEATS * self.plan.heartbeat_ms)
    }

    /// Makes an operator's certificate and configuration, [`OPERATOR_CONFIG`].
    pub(crate) fn operator(&self) -> Result<()> {
        let paths = self.issue("antipode://operator/lab")?;
        let text = self.shared_config(&paths.credentials.display().to_string(), None)?;
        Ok(std::fs::write(self.folder.join(OPERATOR_CONFIG), text)?)
    }

    /// Resident memory of each node, in bytes.
    pub(crate) fn resident_bytes(&self) -> Result<Vec<u64>> {
        let of = |child: &Child| {
            let text = std::fs::read_to_string(format!("/proc/{}/status", child.id()))?;
            let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kibibytes = line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok());
            Ok(kibibytes.context("no VmHWM")? * 1024)
        };
        self.children.iter().flatten().map(of).collect()
    }

    /// A client with a certificate of its own.
    pub(crate) fn client(&self, path: &str) -> Result<Client> {
        let paths = self.issue(&format!("antipode://{path}"))?;
        let rule = PeerRule::AnyOf(vec![Role::Site, Role::Operator]);
        let credentials = LiveCredentials::open(paths, &rule, Arc::new(HostTime))?;
        let nodes = NODES
            .into_iter()
            .enumerate()
            .map(|(index, name)| Ok((name.parse()?, self.address(index, None)?.to_string())));
        let cluster = Cluster {
            name: "lab".parse()?,
            nodes: nodes.collect::<Result<BTreeMap<Name, String>>>()?,
        };
        let patience = Duration::from_millis(REPLY_HEARTBEATS * self.plan.heartbeat_ms);
        Ok(Client::new(cluster, credentials).patient_for(patience))
    }

    /// The configuration of node `index`: it reaches the others through proxies.
    fn config(&self, index: usize) -> Result<String> {
        let own = NODES[index];
        let shared = self.shared_config(&format!("tiebreaker-{own}.pem"), Some(index))?;
        let listen = self.address(index, None)?;
        Ok(format!(
            "{shared}[here]\nname = \"{own}\"\nlisten = \"{listen}\"\ndata = \"data-{own}\"\n"
        ))
    }

    /// The nodes as `own` reaches them, or as whoever is none.
    fn shared_config(&self, credentials: &str, own: Option<usize>) -> Result<String> {
        let heartbeat_ms = self.plan.heartbeat_ms;
        let mut text = format!(
            "cluster = \"lab\"\n[certificates]\ncredentials = \"{credentials}\"\n[timing]\nheartbeat_ms = {heartbeat_ms}\n"
        );
        for (index, name) in NODES.into_iter().enumerate() {
            let at = self.address(index, own.filter(|own| *own != index))?;
            let priority = u8::from(name == "north");
            writeln!(
                text,
                "[[node]]\nname = \"{name}\"\naddress = \"{at}\"\npriority = {priority}"
            )?;
        }
        Ok(text)
    }

    /// Another CA is trusted besides, and issues from now on. What every trust file must hold until
    /// [`Town::drop_old_authority`].
    pub(crate) fn add_authority(&mut self) -> Result<String> {
        let authority = Authority::create(AuthorityDays::default(), HostTime.now())?;
        let folder = tempfile::tempdir_in(&self.folder)?;
        authority.save(folder.path())?;
        let trusted =
            [&self.folder, folder.path()].map(|place| std::fs::read_to_string(place.join(TRUST_FILE)));
        let [old, new] = trusted;
        let new = new?;
        let both = format!("{}{new}", old?);
        self.trust(&both)?;
        self.authority = authority;
        self.trusted_next = new;
        Ok(both)
    }

    /// Certificates of the old CA are worth nothing any more. What every trust file must hold.
    pub(crate) fn drop_old_authority(&mut self) -> Result<String> {
        self.trust(&self.trusted_next)?;
        Ok(self.trusted_next.clone())
    }

    fn trust(&self, authorities: &str) -> Result<()> {
        let beside = self.folder.join("trust.new");
        std::fs::write(&beside, authorities)?;
        Ok(std::fs::rename(beside, self.folder.join(TRUST_FILE))?)
    }

    /// All that was issued to nodes and operators is issued anew.
    pub(crate) fn reissue(&self) -> Result<()> {
        for entry in std::fs::read_dir(&self.folder)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let holder = name
                .strip_suffix(".pem")
                .and_then(|holder| holder.split_once('-'));
            if let Some((role, name)) = holder {
                self.issue(&format!("antipode://{role}/{name}"))?;
            }
        }
        Ok(())
    }

    /// Issues a certificate to site `name`, in the file at `path`.
    pub(crate) fn issue_to(&self, name: &str, path: &Path) -> Result<()> {
        let issued = self.issued(&format!("antipode://site/{name}"))?;
        Ok(issued.save(path, Existing::Replace)?)
    }

    /// What an operator does about `vm` by `antipode tiebreaker`: whether it was done, and what was said.
    pub(crate) fn decide_by_hand(&self, arguments: &[&str]) -> Result<(bool, String)> {
        self.operator()?;
        let mut command = Command::new(&self.antipode);
        command
            .arg("tiebreaker")
            .args(arguments)
            .args(["--config", OPERATOR_CONFIG, "--json"])
            .current_dir(&self.folder)
            .stdin(Stdio::null());
        let output = command.output().context("antipode tiebreaker")?;
        let said = [&output.stdout[..], &output.stderr].concat();
        Ok((
            output.status.success(),
            String::from_utf8_lossy(&said).into_owned(),
        ))
    }

    fn issue(&self, uri: &str) -> Result<Paths> {
        let issued = self.issued(uri)?;
        let credentials = self.folder.join(issued.file_name());
        issued.save(&credentials, Existing::Replace)?;
        Ok(Paths {
            credentials,
            trust: self.folder.join(TRUST_FILE),
        })
    }

    /// A certificate for `uri`, in no file yet.
    fn issued(&self, uri: &str) -> Result<Issued> {
        let identity = Identity::from_uri(uri)?;
        Ok(self
            .authority
            .issue(&identity, LeafDays::default(), HostTime.now())?)
    }
}

impl Drop for Town {
    fn drop(&mut self) {
        for child in self.children.iter_mut().flatten() {
            // It may have ended by itself; a frozen one ends by SIGKILL as well.
            let _ = child.kill();
            let _ = child.wait();
        }
        for cut in self.links.values() {
            cut.end();
        }
    }
}

fn run_to_end(mut command: Command) -> Result<()> {
    let status = command.status().context("antipode tiebreaker")?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

/// Who leads, by its own word.
pub(crate) async fn leader(client: &mut Client, within: Duration) -> Result<usize> {
    let end = Instant::now() + within;
    while Instant::now() < end {
        for (index, node) in NODES.into_iter().enumerate() {
            let status = client.status(&node.parse()?, Duration::from_millis(500)).await;
            if status.is_ok_and(|status| status.role == "leader") {
                return Ok(index);
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    anyhow::bail!("nobody has led for {within:?}")
}
