//! A switch and the hosts it joins, up together.

use super::topology::{HostPlan, Role};
use crate::host::{Error, Host, HostSpec, Materials, Nic, Result, RunDirectory};
use crate::switch::control::{Config, PortConfig};
use crate::switch::process::SwitchProcess;
use std::collections::BTreeMap;
use std::thread;

/// Hosts that are up. Dropping it cuts the power of all.
pub struct Cluster {
    /// By name.
    pub hosts: BTreeMap<String, Host>,
    /// What joins them. Declared after the hosts: it goes last.
    pub switch: SwitchProcess,
}

impl Cluster {
    /// The host's specification as `plan` wants it; the caller may add files and disks before [`Cluster::boot`].
    #[must_use]
    pub fn spec(plan: &HostPlan, run: &RunDirectory) -> HostSpec {
        let nic = |nic: &super::topology::NicPlan| Nic {
            socket: run.socket(&nic.port),
            mac: nic.mac,
            address: Some(nic.address.clone()),
        };
        let is_site = plan.role == Role::Site;
        HostSpec {
            memory_mib: if is_site { 1_024 } else { 256 },
            kvm: is_site,
            nics: plan.nics.iter().map(nic).collect(),
            ..HostSpec::new(&plan.name)
        }
    }

    /// Starts the switch with a port for every card of `plans`, then boots the hosts `specs` side by side.
    ///
    /// # Errors
    /// The first host's that does not come up; the others are then gone as well.
    pub fn boot(
        materials: &Materials,
        plans: &[HostPlan],
        specs: &[HostSpec],
        run: &RunDirectory,
        seed: u64,
    ) -> Result<Self> {
        let port = |nic: &super::topology::NicPlan| PortConfig {
            name: nic.port.clone(),
            segment: nic.segment.to_owned(),
            socket: run.socket(&nic.port),
        };
        let ports = plans.iter().flat_map(|plan| &plan.nics).map(port).collect();
        let config = Config {
            seed,
            control: run.socket("switch"),
            ports,
        };
        let switch = SwitchProcess::start(&config, run.path())?;
        let hosts = thread::scope(|scope| {
            let booting: Vec<_> = specs
                .iter()
                .map(|spec| scope.spawn(move || Host::boot(materials, spec, run)))
                .collect();
            let joined = booting.into_iter().map(|thread| {
                thread.join().unwrap_or_else(|_| {
                    let panicked = std::io::Error::other("its thread panicked");
                    Err(Error::Start {
                        program: "a host".to_owned(),
                        source: panicked,
                    })
                })
            });
            joined.collect::<Result<Vec<Host>>>()
        })?;
        let hosts = hosts
            .into_iter()
            .map(|host| (host.name().to_owned(), host))
            .collect();
        Ok(Self { hosts, switch })
    }
}
