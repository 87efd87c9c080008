//! Two datacenters and what is between them: everything that a protected VM needs, from the product's own commands.
//!
//! ```text
//!        three tiebreaker nodes (processes of this machine)
//!           │ 5 ms, a cut for each site and node │
//!   client ─┼─ 0.5 ms ─┬────────────────┬────────┼─
//!           │        site-a          site-b      │      hosts with KVM, TAP and bridge
//!           └──────────┘│               │└───────┘
//!                       └── rtt ÷ 2 ────┘               the log, heartbeats, disks
//! ```
//!
//! The sites and the client are emulated hosts behind the lab's switch. The tiebreaker's nodes are processes: three more
//! hosts would take the processors away from the two that matter here, and what a site can see of a node is the same, a
//! TCP connection with a delay that can be cut. Each site has its certificate, its configuration and the VM's on board;
//! its disk holds kernel, initrd and the guest's disk, and survives a power cut as a real one does.
//!
//! - `site`: names and addresses. - `ailments`: what a host suffers, short of losing its power. - `network`: delays, cuts and losses. - `product`: `site run` and the commands.
//! - `protection`: on and off. - `renewal`: certificates. - `replacement`: another host in a site's place.
//! - `watcher`: the client. - `evidence`: what the switch, the tiebreaker's record and the disks say afterwards.
//! - `twin`: for a comparison, a second VM at site-b that is like the first.

mod ailments;
mod evidence;
mod hosts;
mod network;
mod product;
mod protection;
mod renewal;
mod replacement;
mod site;
mod twin;
mod watcher;

pub(crate) use network::Direction;
pub(crate) use product::{Asked, Modes, VmStatus};
pub(crate) use protection::PROTECT_TIMEOUT;
pub(crate) use site::Site;
pub(crate) use twin::TWIN_ADDRESS;
pub(crate) use watcher::{WRITES_TIMEOUT, Watcher};

use super::clients::PROGRAM;
use super::stage::TAP;
use super::vm::Kept;
use super::{Setup, VmSettings, store};
use crate::agent::client::Channel;
use crate::debian::run_tool;
use crate::host::{Disk, DiskMode, Host, HostFile, HostSpec, OUTSIDE_ADDRESS, RunDirectory};
use crate::image::Image;
use crate::load::guest::{ECHO_PORT, LARGE_PACKETS, ORDER_PORT, write_initrd};
use crate::medium::Medium;
use crate::playground::cluster::Cluster;
use crate::playground::topology::{HostPlan, Role, plan};
use crate::switch::random::Random;
use crate::tiebreaker::proxy::Cut;
use crate::tiebreaker::town::{self, NODES, Town};
use anyhow::{Context, Result};
use evidence::Witness;
use product::Daemon;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

/// Between the sites, there and back, where nothing else is asked for.
pub(crate) const RTT: Duration = Duration::from_millis(40);

/// Configurations and certificates on a site's host.
const CONFIG: &str = "/etc/antipode/site.toml";
const VM_CONFIG: &str = "/etc/antipode/vm.toml";
const CREDENTIALS: &str = "/etc/antipode/site.pem";
const TRUST: &str = "/etc/antipode/ca.crt";

/// `site run`'s state, on the site's disk.
const STATE: &str = "/srv/vm/site";

/// Memory of a site's host beyond the guest's: its own system, `site run`, and what is on its way between disk and line.
const SITE_OWN_MIB: u64 = 1_024;

/// From a site to a tiebreaker node, and between nodes, each way.
const TIEBREAKER_ONE_WAY: Duration = Duration::from_millis(5);

/// Milliseconds between the tiebreaker's heartbeats.
const TIEBREAKER_HEARTBEAT_MS: u64 = 50;

const CLIENT: &str = "client";

/// What is to be built.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SitesPlan {
    /// Between the sites, there and back.
    pub(crate) rtt: Duration,
    /// All chance in the switch follows from it.
    pub(crate) seed: u64,
    /// Whether site-b has a VM of its own, and guests carry orders out.
    pub(crate) twin: bool,
    /// Whether the sites keep the frames that their guests make, for the judge.
    pub(crate) keep_frames: bool,
    /// Whether the sites' disks are such as can fail.
    pub(crate) mortal_disks: bool,
    /// How copies are treated.
    pub(crate) copies: Copies,
}

/// How the VM's copies are treated.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(crate) struct Copies {
    /// Lead each copy astray once in so many exits of its guest, which must be repaired
    #[arg(long, value_name = "EXITS", value_parser = clap::value_parser!(u64).range(100..))]
    pub(crate) lead_astray: Option<u64>,
    /// Have a program in the guest do what no copy repeats, once in so many milliseconds, which must be repaired
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(100..))]
    pub(crate) leak_every_ms: Option<u64>,
    /// Have outputs leave when the copy has made them too
    #[arg(long)]
    pub(crate) verified: bool,
    /// Keep them the same in this way
    #[arg(long, value_enum)]
    pub(crate) mode: Option<Kept>,
    /// Leave a guest that computes alone for so many milliseconds, instead of for as long as it is worth
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) preempt_after_ms: Option<u64>,
}

impl Copies {
    /// Whether they differ, now and then, from what they follow.
    pub(crate) const fn differ(self) -> bool {
        self.lead_astray.is_some() || self.leak_every_ms.is_some()
    }
}

impl SitesPlan {
    /// What the load in a guest is started with.
    fn load_arguments(self) -> Vec<String> {
        let mut arguments = vec![format!("echo {ECHO_PORT}")];
        if let Some(every_ms) = self.copies.leak_every_ms {
            arguments.push(format!("leak {every_ms}"));
        }
        if self.twin {
            // Of its orders none is for a disk.
            arguments.push(format!("serve {ORDER_PORT} /dev/null 0 0"));
        }
        arguments
    }

    /// A VM's definition at `site`.
    fn definition(self, settings: VmSettings) -> String {
        let words = if self.twin { LARGE_PACKETS } else { "" };
        let cmdline = format!("{words} {}", settings.cmdline);
        VmSettings {
            cmdline: cmdline.trim_start().to_owned(),
            verifies_output: self.copies.verified,
            kept: self.copies.mode,
            ..settings
        }
        .toml()
    }
}

/// Two sites, a tiebreaker and a client, up. Dropping it cuts the power of all.
pub(crate) struct Sites<'a> {
    setup: &'a Setup,
    plan: SitesPlan,
    /// The VM's name.
    pub(crate) vm: String,
    specs: BTreeMap<Site, HostSpec>,
    daemons: BTreeMap<Site, Daemon>,
    /// Sites in whose place another host stands.
    replaced: BTreeSet<Site>,
    /// Threads that stand still.
    held: BTreeMap<Site, Mutex<Channel>>,
    cluster: Cluster,
    /// The sites' disks, if they can fail. They outlive the hosts.
    media: BTreeMap<Site, Medium>,
    /// Each site's way to each node.
    ways: BTreeMap<(Site, usize), Cut>,
    witness: Mutex<Witness>,
    /// The tiebreaker.
    pub(crate) town: Town,
    /// Declared last: everything else uses it.
    run: RunDirectory,
}

impl<'a> Sites<'a> {
    /// Starts the tiebreaker and boots the hosts side by side; `site run` answers on both. Logs and disks are in a
    /// directory called after `name`, which is kept unless [`Sites::finish`] takes it away.
    pub(crate) fn open(setup: &'a Setup, name: &str, plan: SitesPlan) -> Result<Self> {
        let run = RunDirectory::create(&setup.materials.lab_directory, name)?;
        let antipode = setup
            .materials
            .antipode
            .as_deref()
            .context("no antipode was built")?;
        let town_plan = town::Plan {
            number: 0,
            heartbeat_ms: TIEBREAKER_HEARTBEAT_MS,
            one_way: TIEBREAKER_ONE_WAY,
            backup: None,
        };
        let town = Town::build(&run, antipode, town_plan)?;
        let load = setup.materials.build_binary("antipode-lab-load")?;
        let (mut ways, mut specs, mut all) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        let mut media = BTreeMap::new();
        let hosts = self::plan(2, 0);
        for host in &hosts {
            let spec = match Site::named(&host.name) {
                None => client(host, &run, &load),
                Some(site) => {
                    let files = Files::make(setup, plan, &run, &town, site, &load)?;
                    ways.extend(files.ways.iter().map(|(node, cut)| ((site, *node), cut.clone())));
                    let mut spec = files.host(setup, plan, &run, host);
                    if plan.mortal_disks {
                        let medium = serve_disk(&mut spec, &run)?;
                        media.insert(site, medium);
                    }
                    specs.insert(site, spec.clone());
                    spec
                }
            };
            all.push(spec);
        }
        let cluster = Cluster::boot(&setup.materials, &hosts, &all, &run, plan.seed)?;
        let mut sites = Self {
            setup,
            plan,
            vm: setup.service().name().to_owned(),
            specs,
            daemons: BTreeMap::new(),
            replaced: BTreeSet::new(),
            held: BTreeMap::new(),
            cluster,
            media,
            ways,
            witness: Mutex::new(Witness::new(&town)?),
            town,
            run,
        };
        sites.lay_cables()?;
        for site in Site::ALL {
            sites.come_up(site)?;
        }
        Ok(sites)
    }

    /// All went well: the power goes, and nothing is kept.
    pub(crate) fn finish(self) {
        let Self {
            cluster, town, run, ..
        } = self;
        drop((cluster, town));
        run.finish();
    }

    /// Where logs of this run lie.
    pub(crate) fn logs(&self) -> &Path {
        self.run.path()
    }

    /// Cuts a site's power. What its disk had not flushed is there again when it returns.
    pub(crate) fn power_cut(&mut self, site: Site) -> Result<()> {
        self.lose_power(site, None).map(drop)
    }

    /// Cuts a site's power; with `random`, what its disk had not flushed is lost, as chance has it. How many sectors are.
    pub(crate) fn lose_power(&mut self, site: Site, random: Option<&mut Random>) -> Result<u64> {
        let host = self.cluster.hosts.remove(site.name());
        host.with_context(|| format!("{site} has no power already"))?
            .power_cut();
        self.daemons.remove(&site);
        self.held.remove(&site);
        match self.media.get(&site) {
            Some(medium) => Ok(medium.lose_power(random)?),
            None => Ok(0),
        }
    }

    /// Whether a site's host is up.
    pub(crate) fn has_power(&self, site: Site) -> bool {
        self.cluster.hosts.contains_key(site.name())
    }

    /// Whether `site run` was started there, and not killed since.
    pub(crate) fn has_daemon(&self, site: Site) -> bool {
        self.daemons.contains_key(&site)
    }

    /// Boots a site's host again on the disk it had, and starts `site run`.
    pub(crate) fn power_on(&mut self, site: Site) -> Result<()> {
        let host = Host::boot(&self.setup.materials, &self.specs[&site], &self.run)?;
        self.cluster.hosts.insert(site.name().to_owned(), host);
        self.come_up(site)
    }

    fn come_up(&mut self, site: Site) -> Result<()> {
        let host = self.host(site)?;
        host.shell(store::MOUNT)?;
        let own = if self.plan.twin { twin::TAP } else { "" };
        host.shell(&format!("lab-bridge br0 eth0 {TAP} {own}"))?;
        self.start_daemon(site)
    }

    /// The file of this machine that is a site's disk.
    fn store(&self, site: Site) -> PathBuf {
        self.run.path().join(format!("store-{site}.ext4"))
    }
}

/// Puts a disk that can fail in the place of the host's.
fn serve_disk(spec: &mut HostSpec, run: &RunDirectory) -> Result<Medium> {
    let disk = spec.disks.first_mut().context("the host has no disk")?;
    let medium = Medium::serve(&disk.path, run.socket(&format!("{}.disk", spec.name)))?;
    *disk = Disk {
        path: medium.socket().to_owned(),
        mode: DiskMode::Served,
    };
    Ok(medium)
}

fn client(host: &HostPlan, run: &RunDirectory, load: &Path) -> HostSpec {
    HostSpec {
        files: vec![file(PROGRAM, 0o755, load)],
        ..Cluster::spec(host, run)
    }
}

/// What one site's host is made of.
struct Files {
    folder: PathBuf,
    store: PathBuf,
    ways: BTreeMap<usize, Cut>,
}

impl Files {
    fn make(
        setup: &Setup,
        plan: SitesPlan,
        run: &RunDirectory,
        town: &Town,
        site: Site,
        load: &Path,
    ) -> Result<Self> {
        let folder = run.path().join(format!("{site}-files"));
        fs::create_dir(&folder)?;
        let antipode = setup
            .materials
            .antipode
            .as_deref()
            .context("no antipode was built")?;
        let mut issue = Command::new(antipode);
        issue
            .args(["certs", "issue", "site", site.name(), "--ca"])
            .arg(town.folder())
            .arg("--into")
            .arg(&folder);
        run_tool(&mut issue, "antipode")?;
        let (mut ways, mut ports) = (BTreeMap::new(), Vec::new());
        for node in 0..NODES.len() {
            let (port, cut) = town.way_from_elsewhere(node)?;
            ways.insert(node, cut);
            ports.push(port);
        }
        fs::write(folder.join("site.toml"), site_config(plan, site, &ports))?;
        let settings = match site {
            Site::B if plan.twin => twin::settings(setup),
            _ => settings(setup),
        };
        fs::write(folder.join("vm.toml"), plan.definition(settings))?;
        let store = run.path().join(format!("store-{site}.ext4"));
        Self::fill(&setup.image, plan, site, load, &folder, &store)?;
        Ok(Self { folder, store, ways })
    }

    /// The site where the VM is created has its kernel, initrd and disk; the other one has room for them.
    fn fill(
        image: &Image,
        plan: SitesPlan,
        site: Site,
        load: &Path,
        folder: &Path,
        store: &Path,
    ) -> Result<()> {
        let initrd = folder.join("initrd");
        write_initrd(image, load, &plan.load_arguments(), &initrd)?;
        let files = [
            (image.kernel.as_path(), store::KERNEL),
            (&initrd, store::INITRD),
            (&image.disk, store::DISK),
        ];
        let bytes = |path: &Path| path.metadata().map(|metadata| metadata.len());
        let copies = bytes(&image.kernel)? + bytes(&initrd)? + bytes(&image.disk)?;
        let room = store::ROOM_BYTES + 2 * copies;
        match site {
            Site::A => store::make_of(&files, room, store)?,
            Site::B if plan.twin => store::make_of(&files, room + copies, store)?,
            Site::B => store::make_of(&[], room + copies, store)?,
        };
        Ok(())
    }

    fn host(&self, setup: &Setup, plan: SitesPlan, run: &RunDirectory, host: &HostPlan) -> HostSpec {
        let guests = 1 + u64::from(plan.twin);
        let guests_mib = guests * (setup.service().memory_bytes() >> 20);
        let own = |name: &str| self.folder.join(name);
        let credentials = own(&format!("site-{}.pem", host.name));
        debug_assert_eq!(host.role, Role::Site);
        HostSpec {
            memory_mib: u32::try_from(SITE_OWN_MIB + guests_mib).unwrap_or(u32::MAX),
            outside: true,
            disks: vec![Disk {
                path: self.store.clone(),
                mode: DiskMode::ReadWrite,
            }],
            modules: store::MODULES.iter().map(ToString::to_string).collect(),
            files: vec![
                file(CONFIG, 0o644, &own("site.toml")),
                file(VM_CONFIG, 0o644, &own("vm.toml")),
                file(CREDENTIALS, 0o600, &credentials),
                file(TRUST, 0o644, &own("ca.crt")),
            ],
            ..Cluster::spec(host, run)
        }
    }
}

fn file(path: &str, mode: u32, source: &Path) -> HostFile {
    HostFile {
        path: path.to_owned(),
        mode,
        source: source.to_owned(),
    }
}

/// The VM that is created at site-a.
fn settings(setup: &Setup) -> VmSettings {
    VmSettings {
        name: setup.service().name().to_owned(),
        ..VmSettings::new(setup)
    }
}

/// The site's configuration; `ports` lead to the tiebreaker's nodes.
fn site_config(plan: SitesPlan, site: Site, ports: &[u16]) -> String {
    let peer = site.other();
    let (listen, address) = (site.address(), peer.address());
    let mut text = format!(
        "[certificates]\ncredentials = \"{CREDENTIALS}\"\n\n[site]\nlisten = \"{listen}\"\nstate = \"{STATE}\"\n\
         vm_ports = \"7410-7419\"\n\n[peer]\nname = \"{peer}\"\naddress = \"{address}\"\n\n[tiebreaker]\ncluster = \"lab\"\n"
    );
    for (node, port) in NODES.iter().zip(ports) {
        // Writing to a String does not fail.
        let _ = write!(
            text,
            "\n[[tiebreaker.node]]\nname = \"{node}\"\naddress = \"{OUTSIDE_ADDRESS}:{port}\"\n"
        );
    }
    // Far more than a guest sends between two scenarios.
    let keep_frames_mib = plan.keep_frames.then_some(64);
    let checks = [
        ("keep_frames_mib", keep_frames_mib),
        ("lead_astray_every_exits", plan.copies.lead_astray),
        ("preempt_after_ms", plan.copies.preempt_after_ms),
    ];
    let checks: Vec<String> = checks
        .into_iter()
        .filter_map(|(key, value)| Some(format!("{key} = {}\n", value?)))
        .collect();
    if !checks.is_empty() {
        text.push_str(&format!("\n[check]\n{}", checks.concat()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_site_names_the_other_and_every_node() {
        let plan = SitesPlan {
            rtt: Duration::ZERO,
            seed: 1,
            twin: false,
            keep_frames: true,
            mortal_disks: false,
            copies: Copies {
                lead_astray: Some(5000),
                ..Copies::default()
            },
        };
        let text = site_config(plan, Site::B, &[1, 2, 3]);
        let checks = "[check]\nkeep_frames_mib = 64\nlead_astray_every_exits = 5000\n";
        assert!(text.ends_with(checks), "{text}");
        assert!(text.contains("listen = \"10.8.0.12:7400\""), "{text}");
        assert!(
            text.contains("[peer]\nname = \"site-a\"\naddress = \"10.8.0.11:7400\""),
            "{text}"
        );
        for (node, port) in NODES.iter().zip(1..) {
            assert!(
                text.contains(&format!("name = \"{node}\"\naddress = \"10.7.0.2:{port}\"")),
                "{text}"
            );
        }
    }
}
