//! The hosts of a scenario, up and joined: a site that can run guests, and a client.

use super::store;
use super::{Connection, Error, Result, Setup, Task, Vm, VmSettings};
use crate::host::{Disk, DiskMode, Host, HostSpec, RunDirectory};
use crate::image::Service;
use crate::playground::cluster::Cluster;
use crate::playground::topology::{HostPlan, Role, plan};
use crate::switch::process::SwitchProcess;
use std::path::{Path, PathBuf};

/// The guest's address on the client's network.
pub const GUEST_ADDRESS: &str = "10.9.0.50";

/// The guest's address on the wire: the lab's prefix, network 9, host 50.
pub const GUEST_MAC: [u8; 6] = [0x02, 0xa0, 0, 0, 9, 50];

/// The TAP interface on the site that is joined to the client's network.
pub const TAP: &str = "tap0";

/// What the site needs beyond the guest: its own system in memory, and kernel and initrd while they are loaded.
const SITE_OWN_MIB: u64 = 768;

/// As [`plan`] calls them.
const SITE: &str = "site-a";
const CLIENT: &str = "client";

/// What there is on a stage beyond a site.
#[derive(Debug, Clone)]
pub struct StageSpec {
    /// A client host, on the same network.
    pub client: bool,
    /// The site can use KVM.
    pub kvm: bool,
    /// Memory of the guests on the site.
    pub guest_memory_mib: u64,
    /// Further disks of the site: `/dev/vdb`, `/dev/vdc`, …
    pub disks: Vec<Disk>,
    /// All chance in the switch follows from it.
    pub seed: u64,
}

impl StageSpec {
    /// A site with KVM and memory for one guest of `setup`, and a client.
    #[must_use]
    pub fn new(setup: &Setup) -> Self {
        Self {
            client: true,
            kvm: true,
            guest_memory_mib: setup.service().memory_bytes() >> 20,
            disks: Vec::new(),
            seed: 1,
        }
    }
}

/// Hosts that are up. Dropping it cuts their power.
pub struct Stage {
    cluster: Cluster,
    service: Service,
    logs: PathBuf,
}

impl Stage {
    /// Boots the hosts side by side, mounts the site's disk and joins a TAP to the client's network.
    ///
    /// # Errors
    /// A host that does not come up.
    pub fn open(setup: &Setup, run: &RunDirectory, spec: &StageSpec) -> Result<Self> {
        let mut plans = plan(1, 0);
        plans.retain(|plan| spec.client || plan.role != Role::Client);
        let store = Disk {
            path: store::make(&setup.image, run.path())?,
            mode: DiskMode::ReadWrite,
        };
        let specs: Vec<HostSpec> = plans
            .iter()
            .map(|plan| match plan.role {
                Role::Site => site(plan, run, spec, &store),
                Role::Client | Role::Tiebreaker => Cluster::spec(plan, run),
            })
            .collect();
        let cluster = Cluster::boot(&setup.materials, &plans, &specs, run, spec.seed)?;
        let stage = Self {
            cluster,
            service: setup.service(),
            logs: run.path().to_owned(),
        };
        stage.site().shell(store::MOUNT)?;
        stage.site().shell(&format!("lab-bridge br0 eth0 {TAP}"))?;
        Ok(stage)
    }

    /// The host that runs guests. Kernel, initrd and the guest's disk lie in its `/srv/vm`.
    #[must_use]
    pub fn site(&self) -> &Host {
        // A stage without this host was never opened.
        &self.cluster.hosts[SITE]
    }

    /// The host that talks to guests, if the stage has one.
    #[must_use]
    pub fn client(&self) -> Option<&Host> {
        self.cluster.hosts.get(CLIENT)
    }

    /// The network between them.
    #[must_use]
    pub fn switch(&self) -> &SwitchProcess {
        &self.cluster.switch
    }

    /// Where logs of this stage lie.
    #[must_use]
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// Starts `antipode run` on the site.
    ///
    /// # Errors
    /// If the host is gone. What antipode has to say against the VM is known when it ends.
    pub fn start(&self, settings: &VmSettings) -> Result<Vm> {
        self.start_task(settings, &Task::Run)
    }

    /// Starts `task` on the site.
    ///
    /// # Errors
    /// As [`Stage::start`].
    pub fn start_task(&self, settings: &VmSettings, task: &Task) -> Result<Vm> {
        Vm::start(self.site(), settings, task, &self.logs)
    }

    /// Connects to the guest's service from the client host.
    ///
    /// # Errors
    /// If the stage has no client or the service no port; a guest that does not answer is known at the first read.
    pub fn connect(&self) -> Result<Connection> {
        let (Some(client), Some(port)) = (self.client(), self.service.port()) else {
            return Err(Error::Talk {
                service: self.service,
                address: GUEST_ADDRESS.to_owned(),
                source: std::io::Error::other("there is no client on this stage, or the service has no port"),
            });
        };
        Connection::open(client, GUEST_ADDRESS, port)
    }
}

fn site(plan: &HostPlan, run: &RunDirectory, spec: &StageSpec, store: &Disk) -> HostSpec {
    let mut disks = vec![store.clone()];
    disks.extend(spec.disks.iter().cloned());
    HostSpec {
        memory_mib: u32::try_from(SITE_OWN_MIB + spec.guest_memory_mib).unwrap_or(u32::MAX),
        kvm: spec.kvm,
        disks,
        modules: store::MODULES.iter().map(ToString::to_string).collect(),
        ..Cluster::spec(plan, run)
    }
}
