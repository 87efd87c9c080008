//! A VM process, from its arguments to its end.
//!
//! ```text
//!   main thread      vCPU, once the role says so
//!   driver           a runtime of its own: role, channel, heartbeats, tiebreaker, control socket
//!   transfer         only while a machine is on its way
//! ```

use std::net::{SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;

use antipode_certs::tls::LiveCredentials;
use antipode_certs::{Name, PeerRule, WallClock};
use antipode_tiebreaker::Boot;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::asker::Asker;
use super::begin::{self, Begin};
use super::checks::Checks;
use super::driver::{Driver, Parts};
use super::happening::Happening;
use super::inbound::Inbound;
use super::orders::FromVcpu;
use crate::base::clock::{HostClock, SystemClock};
use crate::base::scheduling::let_others_run_on;
use crate::channel::Listener;
use crate::machine::config;
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
    folder.make().map_err(in_words)?;
    let lock = folder.lock().map_err(in_words)?;
    let rule = PeerRule::AnyOf(antipode_certs::Role::ALL.to_vec());
    let credentials = LiveCredentials::open(config.credentials.clone(), &rule, clock).map_err(in_words)?;
    let socket = control::listen(&folder.control()).map_err(in_words)?;
    let (transfer, log_port) = free_ports(&config)?;
    let transfer_port = transfer.local_addr().map_err(in_words)?.port();
    let vm_config = || config::load(&folder.definition()).map_err(in_words);
    if join.is_none() {
        // What is wrong with its files is said before it starts.
        definition::check_files(&vm_config()?)?;
    }
    let settings = Settings {
        own: credentials.current().identity().name.clone(),
        peer: config.peer.clone(),
        boot: Boot(u64::from_le_bytes(
            HostEntropy::draw().map_err(definition::no_random_bytes)?,
        )),
        failure_timeout_floor: config.failure_timeout_floor,
    };
    let now = Moment::from_nanos(SystemClock.monotonic_ns());
    let role = Role::new(now, settings, folder.notes().map_err(in_words)?);
    let (happenings, happened) = unbounded_channel();
    let (reports, told) = unbounded_channel();
    let (begin, begins) = channel();
    let position = Arc::new(AtomicU64::new(0));
    let ending = happenings.clone();
    terminate(Box::new(move || {
        // Without a driver it is over already.
        let _ = ending.send(Happening::Terminate);
    }));
    let (restored_here, restored) = channel();
    let is_given_up = Arc::<AtomicBool>::default();
    if let Some(asked) = &join {
        let inbound = Inbound {
            asked: asked.clone(),
            listener: transfer,
            credentials: Arc::clone(&credentials),
            peer: config.peer.clone(),
            folder: folder.clone(),
            begin: begin.clone(),
            happenings: happenings.clone(),
            restored,
            is_given_up: Arc::clone(&is_given_up),
        };
        inbound.start().map_err(in_words)?;
    }
    let parts = Parts {
        name,
        folder: folder.clone(),
        intent: folder.intent().map_err(in_words)?,
        credentials,
        role,
        begin,
        happenings,
        position: Arc::clone(&position),
        restored: restored_here,
        is_given_up,
        ports: (log_port, transfer_port),
        config: config.clone(),
    };
    let driver = drive(parts, join, socket, happened, told).map_err(in_words)?;
    let checks = Checks::of(&config, &folder);
    begin::serve(&begins, vm_config, &reports, &position, &checks);
    // One that panicked has taken the process with it.
    let _ = driver.join();
    let _ = std::fs::remove_file(folder.control());
    // Whoever comes next makes a socket of its own.
    drop(lock);
    Ok(())
}

fn in_words(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// The driver on a thread of its own, which ends the process when it ends.
fn drive(
    parts: Parts,
    join: Option<Prepare>,
    socket: UnixListener,
    happened: UnboundedReceiver<Happening>,
    told: UnboundedReceiver<FromVcpu>,
) -> std::io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let begin = parts.begin.clone();
    let serve = async move {
        let asker = Asker {
            cluster: parts.config.tiebreaker.clone(),
            credentials: Arc::clone(&parts.credentials),
            vm: parts.name.clone(),
            happenings: parts.happenings.clone(),
            idle: Arc::default(),
        };
        let address = SocketAddr::new(parts.config.listen.ip(), parts.ports.0);
        let bound = Listener::bind(address, Arc::clone(&parts.credentials), parts.config.peer.clone());
        let listener = match bound {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, %address, "the logging channel's port is taken"),
        };
        tokio::spawn(control::serve(socket, parts.happenings.clone()));
        let mut driver = Driver::new(parts, asker, listener);
        if let Some(prepare) = &join {
            driver.join(prepare);
        }
        driver.serve(happened, told).await;
    };
    std::thread::Builder::new().name("driver".into()).spawn(move || {
        let _end = EndWithThread;
        if let Err(error) = let_others_run_on() {
            tracing::warn!(%error, "the driver may take the guest's CPU at each word of it");
        }
        runtime.block_on(serve);
        // Who has ended already needs no telling.
        let _ = begin.send(Begin::End);
    })
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
