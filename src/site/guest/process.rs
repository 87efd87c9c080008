//! A VM process, from its arguments to its end.
//!
//! ```text
//!   main thread      vCPU, once the role says so
//!   driver           a runtime of its own: role, channel, heartbeats, tiebreaker, control socket
//!   transfer         only while a machine is on its way
//! ```

use std::net::{SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::channel;

use antipode_certs::tls::LiveCredentials;
use antipode_certs::{Name, PeerRule, WallClock};
use antipode_tiebreaker::{Boot, Incarnation};
use tokio::sync::mpsc::unbounded_channel;

use super::asker::Asker;
use super::begin;
use super::driver::{Driver, Parts};
use super::happening::Happening;
use super::inbound::Inbound;
use super::orders::{Ending, FromVcpu};
use crate::base::clock::{HostClock, SystemClock};
use crate::base::entropy::EntropySource;
use crate::channel::Listener;
use crate::machine::config;
use crate::machine::launch::Birth;
use crate::machine::workers::HostEntropy;
use crate::protocol::moment::Moment;
use crate::protocol::role::{Role, Settings};
use crate::site::config::SiteConfig;
use crate::site::peer::Prepare;
use crate::site::store::VmFolder;
use crate::site::{control, definition};

/// Runs the process of VM `name` to its end; of a copy of the other site's if `join` says so.
///
/// # Errors
/// In words, what is in the way. Nothing runs then.
pub fn run(
    config: SiteConfig,
    name: Name,
    join: Option<Prepare>,
    clock: Arc<dyn WallClock>,
    terminate: impl FnOnce(Box<dyn FnOnce() + Send>),
) -> Result<(), String> {
    let folder = VmFolder::of(&config.state, name.as_str());
    folder.make().map_err(|error| error.to_string())?;
    let rule = PeerRule::AnyOf(antipode_certs::Role::ALL.to_vec());
    let credentials =
        LiveCredentials::open(config.credentials.clone(), &rule, clock).map_err(|error| error.to_string())?;
    let own = credentials.current().identity().name.clone();
    let socket = control::listen(&folder.control()).map_err(|error| error.to_string())?;
    let (transfer, log_port) = free_ports(&config)?;
    let transfer_port = transfer.local_addr().map_err(|error| error.to_string())?.port();

    let notes = folder.notes().map_err(|error| error.to_string())?;
    let settings = Settings {
        own,
        peer: config.peer.clone(),
        boot: Boot(number()?),
        failure_timeout_floor: config.failure_timeout_floor,
    };
    let role = Role::new(Moment::from_nanos(SystemClock.monotonic_ns()), settings, notes);
    let (happenings, happened) = unbounded_channel();
    let (reports, told) = unbounded_channel();
    let (begin, begins) = channel();
    let position = Arc::new(AtomicU64::new(0));
    let ending = happenings.clone();
    terminate(Box::new(move || {
        // Without a driver it is over already.
        let _ = ending.send(Happening::Terminate);
    }));
    let vm_config = || config::load(&folder.definition()).map_err(|error| error.to_string());
    let known = if join.is_some() { None } else { Some(vm_config()?) };
    let offer = match &known {
        Some(config) => Some(definition::offer_of(config, no_birth())?),
        None => None,
    };
    let parts = Parts {
        name: name.clone(),
        folder: folder.clone(),
        credentials: Arc::clone(&credentials),
        role,
        begin: begin.clone(),
        offer,
        mac: None,
        happenings: happenings.clone(),
        position: Arc::clone(&position),
        ports: (log_port, transfer_port),
        config: config.clone(),
    };
    let (restored_here, restored) = channel();
    if join.is_some() {
        let inbound = Inbound {
            listener: transfer,
            credentials: Arc::clone(&credentials),
            peer: config.peer.clone(),
            folder: folder.clone(),
            begin,
            happenings: happenings.clone(),
            restored,
        };
        inbound.start().map_err(|error| error.to_string())?;
    }
    let (told_on, told_here) = unbounded_channel();
    let driver = std::thread::Builder::new().name("driver".into()).spawn(move || {
        let _end = EndWithThread;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { return };
        runtime.block_on(async move {
            let asker = Asker {
                cluster: config.tiebreaker.clone(),
                credentials: Arc::clone(&credentials),
                vm: name,
                happenings: happenings.clone(),
            };
            let address = SocketAddr::new(config.listen.ip(), log_port);
            let listener = match Listener::bind(address, credentials, config.peer.clone()) {
                Ok(listener) => Some(listener),
                Err(error) => {
                    tracing::error!(%error, "the logging channel's port {log_port} is taken");
                    return;
                }
            };
            let mut driver = Driver::new(parts, asker, listener, Incarnation(1));
            if let Some(prepare) = &join {
                driver.join(prepare);
            }
            tokio::spawn(control::serve(socket, happenings));
            driver.serve(happened, told_here).await;
        });
    });
    let driver = driver.map_err(|error| error.to_string())?;
    // What the vCPU's thread tells goes to the driver, and whether it stands as it was sent, to the transfer.
    let telling = std::thread::Builder::new().name("reports".into()).spawn(move || {
        let mut told = told;
        while let Some(report) = told.blocking_recv() {
            match &report {
                FromVcpu::Restored { .. } => drop(restored_here.send(Ok(()))),
                FromVcpu::Ended(Err(Ending::Failed(why))) => drop(restored_here.send(Err(why.clone()))),
                _ => {}
            }
            if told_on.send(report).is_err() {
                return;
            }
        }
    });
    telling.map_err(|error| error.to_string())?;
    begin::serve(&begins, vm_config, &reports, &position);
    let _ = driver.join();
    let _ = std::fs::remove_file(folder.control());
    Ok(())
}

/// A driver that panics takes its process with it: no VM runs on without one.
struct EndWithThread;

impl Drop for EndWithThread {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

fn no_birth() -> Birth {
    Birth {
        random_seed: [0; crate::machine::boot::RANDOM_SEED_BYTES],
        wall_clock_unix_seconds: 0,
        offloads: None,
    }
}

/// A listener for machines, and a port for the logging channel beside it, of those that the site may use.
fn free_ports(config: &SiteConfig) -> Result<(TcpListener, u16), String> {
    let ports: RangeInclusive<u16> = config.vm_ports.clone();
    let ip = config.listen.ip();
    for port in ports.clone().step_by(2) {
        let Some(next) = port.checked_add(1).filter(|next| ports.contains(next)) else {
            continue;
        };
        let is_free = TcpListener::bind((ip, port)).is_ok() && std::net::UdpSocket::bind((ip, port)).is_ok();
        if let (true, Ok(transfer)) = (is_free, TcpListener::bind((ip, next))) {
            return Ok((transfer, port));
        }
    }
    Err(format!(
        "no two ports are free from {} to {}",
        ports.start(),
        ports.end()
    ))
}

fn number() -> Result<u64, String> {
    let mut bytes = [0; 8];
    let drawn = HostEntropy::open().and_then(|mut entropy| entropy.fill(&mut bytes));
    drawn.map_err(|error| format!("the host has no random bytes: {error}"))?;
    Ok(u64::from_le_bytes(bytes))
}
