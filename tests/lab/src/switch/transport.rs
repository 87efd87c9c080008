//! The switch's sockets: one thread, `ppoll`, batched reads and writes. The only file here that does I/O.
//!
//! One turn of the loop: wait until a socket is readable or a frame in flight is due; step the fabric for every
//! frame read; then write what each host is to receive with one `write` a host. A host that does not read (frozen,
//! slow) fills its bounded buffer and then loses frames, as a network card's ring would; it never blocks others.

use super::capture::Writer;
use super::control::{Answer, Command, Config, LINE_BYTES_MAX, PortConfig};
use super::fabric::{Effect, Event, Fabric, PortId, Way};
use super::framing::{Decoder, encode};
use super::link::Nanos;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::time::{ClockId, clock_gettime};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Bytes that may wait for a host that does not read: about what a card's ring of 256 large frames holds.
const HOST_BUFFER_BYTES_MAX: usize = 1 << 20;

/// One read from a host: enough for a batch of frames, little enough to be fair to the others.
const READ_BYTES: usize = 256 * 1024;

/// Control connections served at once; more wait in the listener's queue.
const CONTROL_CLIENTS_MAX: usize = 16;

/// The wait for due frames may be late by this; the kernel's default of 50 µs would show in short latencies.
const TIMER_SLACK_NANOS: u64 = 1_000;

/// Why the switch could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot be read.
    #[error("the switch's configuration {path}: {reason}")]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A socket cannot be made.
    #[error(
        "cannot listen on {path}: {source}; remove what lies there, or choose a shorter path (at most 107 bytes)"
    )]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Waiting failed.
    #[error("the switch cannot wait for its sockets: {0}")]
    Poll(#[from] nix::Error),
}

pub(super) struct Socket {
    listener: UnixListener,
    pub(super) stream: Option<UnixStream>,
    decoder: Decoder,
    outgoing: Vec<u8>,
}

struct ControlClient {
    stream: UnixStream,
    received: Vec<u8>,
}

pub(super) struct Capture {
    pub(super) writer: Writer<BufWriter<File>>,
    pub(super) ports: Option<Vec<String>>,
    pub(super) interfaces: HashMap<PortId, u32>,
}

/// A running switch.
pub struct Switch {
    pub(super) fabric: Fabric,
    pub(super) sockets: Vec<Socket>,
    control: UnixListener,
    clients: Vec<ControlClient>,
    pub(super) capture: Option<Capture>,
    read_buffer: Vec<u8>,
    effects: Vec<Effect>,
    pub(super) stopping: bool,
}

/// Which descriptor a poll result belongs to.
enum Source {
    Control,
    Client(usize),
    Listener(usize),
    Host(usize),
}

/// Reads a configuration file, for [`Switch::new`].
///
/// # Errors
/// [`Error::Config`] naming the file and what is wrong in it.
pub fn read_config(path: &Path) -> Result<Config, Error> {
    let refuse = |reason: String| Error::Config {
        path: path.to_owned(),
        reason,
    };
    let text = std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| refuse(error.to_string()))
}

impl Switch {
    /// Opens every socket. When this returns, hosts may be started.
    ///
    /// # Errors
    /// [`Error::Listen`] naming the socket.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let mut switch = Self {
            fabric: Fabric::new(config.seed),
            sockets: Vec::new(),
            control: listen(&config.control)?,
            clients: Vec::new(),
            capture: None,
            read_buffer: vec![0; READ_BYTES],
            effects: Vec::new(),
            stopping: false,
        };
        for port in &config.ports {
            switch.add_port(port)?;
        }
        Ok(switch)
    }

    /// Serves until told to stop.
    ///
    /// # Errors
    /// [`Error::Poll`].
    pub fn run(mut self) -> Result<(), Error> {
        // Best effort: without it delays are coarser by 50 µs, and nothing else changes.
        let _ = nix::sys::prctl::set_timerslack(TIMER_SLACK_NANOS);
        while !self.stopping {
            let ready = self.wait()?;
            for source in ready {
                match source {
                    Source::Control => self.accept_client(),
                    Source::Client(index) => self.serve_client(index),
                    Source::Listener(index) => self.accept_host(index),
                    Source::Host(index) => self.read_host(index),
                }
            }
            self.clients.retain(|client| !client.received.ends_with(CLOSED));
            self.step(Event::Tick);
            self.write_hosts();
        }
        Ok(())
    }

    pub(super) fn add_port(&mut self, port: &PortConfig) -> Result<(), Error> {
        let listener = listen(&port.socket)?;
        let id = self.fabric.add_port(&port.name, &port.segment);
        assert_eq!(id.0, self.sockets.len(), "ports and sockets are added together");
        self.sockets.push(Socket {
            listener,
            stream: None,
            decoder: Decoder::default(),
            outgoing: Vec::new(),
        });
        if let Some(capture) = &mut self.capture
            && capture.ports.is_none()
            && let Ok(interface) = capture.writer.add_interface(&port.name)
        {
            capture.interfaces.insert(id, interface);
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<Vec<Source>, Error> {
        let mut sources = vec![Source::Control];
        let mut descriptors = vec![PollFd::new(self.control.as_fd(), PollFlags::POLLIN)];
        for (index, client) in self.clients.iter().enumerate() {
            sources.push(Source::Client(index));
            descriptors.push(PollFd::new(client.stream.as_fd(), PollFlags::POLLIN));
        }
        for (index, socket) in self.sockets.iter().enumerate() {
            sources.push(Source::Listener(index));
            descriptors.push(PollFd::new(socket.listener.as_fd(), PollFlags::POLLIN));
            if let Some(stream) = &socket.stream {
                let writable = if socket.outgoing.is_empty() {
                    PollFlags::empty()
                } else {
                    PollFlags::POLLOUT
                };
                sources.push(Source::Host(index));
                descriptors.push(PollFd::new(stream.as_fd(), PollFlags::POLLIN | writable));
            }
        }
        let timeout = self.fabric.next_due().map(|due| {
            let nanos = due.saturating_sub(monotonic());
            TimeSpec::nanoseconds(i64::try_from(nanos).unwrap_or(i64::MAX))
        });
        match ppoll(&mut descriptors, timeout, None) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let is_ready = |fd: &PollFd<'_>| {
            fd.revents()
                .is_some_and(|events| events.intersects(PollFlags::all() - PollFlags::POLLOUT))
        };
        let ready: Vec<bool> = descriptors.iter().map(is_ready).collect();
        Ok(sources
            .into_iter()
            .zip(ready)
            .filter_map(|(source, ready)| ready.then_some(source))
            .collect())
    }

    fn accept_host(&mut self, index: usize) {
        let socket = &mut self.sockets[index];
        if let Ok((stream, _)) = socket.listener.accept()
            && stream.set_nonblocking(true).is_ok()
        {
            // A host booted again takes its port over: the pipe of the one before is gone with it.
            socket.stream = Some(stream);
            socket.decoder = Decoder::default();
            socket.outgoing.clear();
        }
    }

    fn read_host(&mut self, index: usize) {
        let socket = &mut self.sockets[index];
        let Some(stream) = &mut socket.stream else { return };
        match stream.read(&mut self.read_buffer) {
            Ok(length @ 1..) => socket.decoder.extend(&self.read_buffer[..length]),
            Err(error) if is_transient(&error) => return,
            Ok(0) | Err(_) => {
                socket.stream = None;
                socket.outgoing.clear();
                return;
            }
        }
        loop {
            match self.sockets[index].decoder.next() {
                Ok(Some(frame)) => {
                    let port = PortId(index);
                    self.record(port, Way::Tx, &frame);
                    self.step(Event::Frame { port, frame });
                }
                Ok(None) => return,
                Err(error) => {
                    eprintln!(
                        "switch: port {}: {error}; disconnected",
                        self.fabric.ports()[index].name()
                    );
                    self.sockets[index].stream = None;
                    return;
                }
            }
        }
    }

    fn step(&mut self, event: Event) {
        let mut effects = std::mem::take(&mut self.effects);
        self.fabric.step(event, monotonic(), &mut effects);
        for effect in effects.drain(..) {
            let Effect::Deliver { port, frame } = effect;
            let socket = &mut self.sockets[port.0];
            if socket.stream.is_none() || socket.outgoing.len() + frame.len() > HOST_BUFFER_BYTES_MAX {
                self.fabric.host_dropped(port);
                continue;
            }
            encode(&frame, &mut socket.outgoing);
            self.record(port, Way::Rx, &frame);
        }
        self.effects = effects;
    }

    fn write_hosts(&mut self) {
        for socket in &mut self.sockets {
            let Some(stream) = &mut socket.stream else {
                continue;
            };
            if socket.outgoing.is_empty() {
                continue;
            }
            match stream.write(&socket.outgoing) {
                Ok(written) => drop(socket.outgoing.drain(..written)),
                Err(error) if is_transient(&error) => {}
                Err(_) => {
                    socket.stream = None;
                    socket.outgoing.clear();
                }
            }
        }
    }

    fn record(&mut self, port: PortId, way: Way, frame: &[u8]) {
        let Some(capture) = &mut self.capture else { return };
        let Some(interface) = capture.interfaces.get(&port) else {
            return;
        };
        if let Err(error) = capture.writer.frame(*interface, way, since_1970(), frame) {
            eprintln!("switch: the capture ends here: {error}");
            self.capture = None;
        }
    }

    fn accept_client(&mut self) {
        if let Ok((stream, _)) = self.control.accept()
            && self.clients.len() < CONTROL_CLIENTS_MAX
            && stream.set_nonblocking(true).is_ok()
        {
            self.clients.push(ControlClient {
                stream,
                received: Vec::new(),
            });
        }
    }

    fn serve_client(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let mut bytes = [0; 4_096];
        match client.stream.read(&mut bytes) {
            Ok(length @ 1..) => client.received.extend_from_slice(&bytes[..length]),
            Err(error) if is_transient(&error) => return,
            Ok(0) | Err(_) => {
                client.received = CLOSED.to_vec();
                return;
            }
        }
        while let Some(end) = self.clients[index]
            .received
            .iter()
            .position(|byte| *byte == b'\n')
        {
            let line: Vec<u8> = self.clients[index].received.drain(..=end).collect();
            let answer = match serde_json::from_slice::<Command>(&line) {
                Ok(command) => self.obey(command),
                Err(error) => Answer::refused(format!("not a command: {error}")),
            };
            self.answer(index, &answer);
        }
        if self.clients[index].received.len() > LINE_BYTES_MAX {
            self.clients[index].received = CLOSED.to_vec();
        }
    }

    fn answer(&mut self, index: usize, answer: &Answer) {
        let client = &mut self.clients[index];
        let mut line = serde_json::to_vec(answer).unwrap_or_default();
        line.push(b'\n');
        // An answer is small and its reader is waiting for it; one who is not loses the connection.
        let sent = client
            .stream
            .set_nonblocking(false)
            .and_then(|()| client.stream.write_all(&line));
        if sent.and_then(|()| client.stream.set_nonblocking(true)).is_err() {
            client.received = CLOSED.to_vec();
        }
    }
}

/// Marks a control client whose connection is over; no command contains a NUL.
const CLOSED: &[u8] = b"\0closed";

fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

fn listen(path: &Path) -> Result<UnixListener, Error> {
    let failed = |source| Error::Listen {
        path: path.to_owned(),
        source,
    };
    let listener = UnixListener::bind(path).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

fn monotonic() -> Nanos {
    nanos(ClockId::CLOCK_MONOTONIC)
}

fn since_1970() -> Nanos {
    nanos(ClockId::CLOCK_REALTIME)
}

fn nanos(clock: ClockId) -> Nanos {
    clock_gettime(clock)
        .ok()
        .and_then(|time| Nanos::try_from(time.num_nanoseconds()).ok())
        .unwrap_or(0)
}

#[cfg(test)]
#[path = "transport_tests.rs"]
mod tests;
