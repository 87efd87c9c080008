//! The connection under a session: a stream of bytes each way, mutual TLS between sites (S1).
//!
//! A session reads and writes at the same time, from two threads; a TLS connection is one state. So the state is
//! behind a lock that is held only while bytes are turned into records or back, never while the socket is waited
//! for. After the handshake only the writer writes to the socket: records stay in order.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use antipode_certs::tls::{LiveCredentials, fault_in, peer_identity, server_name};
use antipode_certs::{Identity, PeerRule};
use nix::sys::socket::{setsockopt, sockopt};
use rustls::{ClientConnection, Connection, ServerConnection};

/// How long a peer may take to be reached; and to prove who it is, all in all, in however many pieces.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long the line may be dead before the session ends; it can be resumed.
const DEAD_LINE_MS: u32 = 30_000;

/// How long a peer in a session may say nothing, not even that its process runs.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(30);

const KEEPALIVE_AFTER_SECONDS: u32 = 10;
const KEEPALIVE_INTERVAL_SECONDS: u32 = 5;
const KEEPALIVE_PROBES: u32 = 4;

const SOCKET_READ_BYTES: usize = 64 * 1024;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The network or the host refuses.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The peer is not whom it must be, or takes us for such.
    #[error("{}", tls_fault(.0))]
    Tls(rustls::Error),
    /// The peer showed no certificate that names it.
    #[error("the peer's certificate: {0}")]
    Nameless(antipode_certs::CertificateFault),
}

fn tls_fault(error: &rustls::Error) -> String {
    fault_in(error).map_or_else(
        || format!("TLS: {error}"),
        |fault| format!("the peer's certificate: {fault}"),
    )
}

/// The way out.
pub(crate) trait Outgoing: Write + Send {
    /// Says that nothing more will come.
    fn finish(&mut self) -> io::Result<()>;
}

/// An established connection.
pub struct Link {
    pub(crate) reader: Box<dyn Read + Send>,
    pub(crate) writer: Box<dyn Outgoing>,
    /// Ends both ways at once, so that a reader that waits returns.
    pub(crate) close: Box<dyn Fn() + Send + Sync>,
    /// Limits how long a reader waits. Within a process there is nobody to be frozen alone.
    limit_silence: Box<dyn Fn(Duration) -> io::Result<()> + Send + Sync>,
    peer: Option<Identity>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl Link {
    /// Two ends within this process.
    ///
    /// # Errors
    /// The host's.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = UnixStream::pair()?;
        Ok((Self::local(one)?, Self::local(other)?))
    }

    pub(crate) fn local(stream: UnixStream) -> io::Result<Self> {
        let (reader, closer) = (stream.try_clone()?, stream.try_clone()?);
        Ok(Self {
            reader: Box::new(reader),
            writer: Box::new(stream),
            close: Box::new(move || drop(closer.shutdown(Shutdown::Both))),
            limit_silence: Box::new(|_| Ok(())),
            peer: None,
        })
    }

    /// Connects to `address`, a host and port, where whom `rule` admits must answer.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn connect(address: &str, live: &Arc<LiveCredentials>, rule: PeerRule) -> Result<Self, LinkError> {
        Self::connect_within(address, live, rule, HANDSHAKE_TIMEOUT)
    }

    /// The same, with so much patience: until the peer is reached, and again until it has proven who it is.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn connect_within(
        address: &str,
        live: &Arc<LiveCredentials>,
        rule: PeerRule,
        patience: Duration,
    ) -> Result<Self, LinkError> {
        let mut outcome = Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the name stands for no address",
        ));
        for address in address.to_socket_addrs()? {
            outcome = TcpStream::connect_timeout(&address, patience);
            if outcome.is_ok() {
                break;
            }
        }
        let config = live.client_config(rule).map_err(LinkError::Tls)?;
        let connection = ClientConnection::new(Arc::new(config), server_name()).map_err(LinkError::Tls)?;
        Self::secured(outcome?, connection.into(), patience)
    }

    /// Takes a connection that came in, from whom `rule` admits.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn accept(stream: TcpStream, live: &Arc<LiveCredentials>, rule: PeerRule) -> Result<Self, LinkError> {
        let config = live.server_config(rule).map_err(LinkError::Tls)?;
        let connection = ServerConnection::new(Arc::new(config)).map_err(LinkError::Tls)?;
        Self::secured(stream, connection.into(), HANDSHAKE_TIMEOUT)
    }

    fn secured(
        mut socket: TcpStream,
        mut connection: Connection,
        patience: Duration,
    ) -> Result<Self, LinkError> {
        socket.set_nodelay(true)?;
        watch_line(&socket)?;
        within(patience, &socket.try_clone()?, || {
            shake_hands(&mut socket, &mut connection)
        })?;
        let peer = peer_identity(&connection).map_err(LinkError::Nameless)?;
        connection.set_buffer_limit(None);
        // The peer may have sent its first frames with the end of its handshake; no later record would tell of them.
        let mut decrypted = Vec::new();
        let peer_has_closed = take_decrypted(&mut connection, &mut decrypted)?;
        let (closer, waiter) = (socket.try_clone()?, socket.try_clone()?);
        let shared = Arc::new(Mutex::new(connection));
        Ok(Self {
            reader: Box::new(TlsReader {
                connection: Arc::clone(&shared),
                socket: socket.try_clone()?,
                decrypted,
                taken: 0,
                peer_has_closed,
            }),
            writer: Box::new(TlsWriter {
                connection: shared,
                socket,
                records: Vec::new(),
            }),
            close: Box::new(move || drop(closer.shutdown(Shutdown::Both))),
            limit_silence: Box::new(move |span| {
                waiter.set_read_timeout(Some(span))?;
                let dead_after_ms = u32::try_from(span.as_millis())
                    .unwrap_or(DEAD_LINE_MS)
                    .min(DEAD_LINE_MS);
                Ok(setsockopt(&waiter, sockopt::TcpUserTimeout, &dead_after_ms)?)
            }),
            peer: Some(peer),
        })
    }

    /// Has a reader fail that hears nothing for `span`, and a writer whose bytes nobody takes for so long.
    ///
    /// # Errors
    /// The host's.
    pub fn limit_silence(&self, span: Duration) -> io::Result<()> {
        (self.limit_silence)(span)
    }

    /// Both ways of it, for another protocol than this one's.
    #[must_use]
    pub fn into_streams(self) -> (Box<dyn Read + Send>, Box<dyn Write + Send>) {
        (self.reader, self.writer)
    }

    /// Who is at the other end; none within this process.
    #[must_use]
    pub fn peer(&self) -> Option<&Identity> {
        self.peer.as_ref()
    }
}

/// Has the kernel end a connection whose line is dead, whether we wait to send or to receive.
fn watch_line(socket: &TcpStream) -> io::Result<()> {
    setsockopt(socket, sockopt::KeepAlive, &true)?;
    setsockopt(socket, sockopt::TcpKeepIdle, &KEEPALIVE_AFTER_SECONDS)?;
    setsockopt(socket, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL_SECONDS)?;
    setsockopt(socket, sockopt::TcpKeepCount, &KEEPALIVE_PROBES)?;
    setsockopt(socket, sockopt::TcpUserTimeout, &DEAD_LINE_MS)?;
    Ok(())
}

/// Does `work` on a connection, which ends both ways if that takes longer: one deadline for all of it, however often the
/// other end says a little.
fn within(
    patience: Duration,
    socket: &TcpStream,
    work: impl FnOnce() -> Result<(), LinkError>,
) -> Result<(), LinkError> {
    let (done, waits) = channel::<()>();
    thread::scope(|scope| {
        let watch = thread::Builder::new().name("deadline".into());
        let watch = watch.spawn_scoped(scope, move || {
            let is_late = waits.recv_timeout(patience) == Err(RecvTimeoutError::Timeout);
            if is_late {
                // One that has ended by itself needs no end.
                let _ = socket.shutdown(Shutdown::Both);
            }
            is_late
        })?;
        let outcome = work();
        drop(done);
        let is_late = watch
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        if is_late {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long").into());
        }
        outcome
    })
}

/// The handshake. What is wrong is told to the peer, if it still listens.
fn shake_hands(socket: &mut TcpStream, connection: &mut Connection) -> Result<(), LinkError> {
    loop {
        while connection.wants_write() {
            connection.write_tls(socket)?;
        }
        if !connection.is_handshaking() {
            return Ok(());
        }
        if connection.read_tls(socket)? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        if let Err(error) = connection.process_new_packets() {
            let _ = connection.write_tls(socket);
            return Err(LinkError::Tls(error));
        }
    }
}

fn locked(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Outgoing for UnixStream {
    fn finish(&mut self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

struct TlsReader {
    connection: Arc<Mutex<Connection>>,
    socket: TcpStream,
    decrypted: Vec<u8>,
    taken: usize,
    peer_has_closed: bool,
}

/// Moves what the connection's records carry to the end of `decrypted`. Answers whether the peer has said that nothing
/// more comes.
fn take_decrypted(connection: &mut Connection, decrypted: &mut Vec<u8>) -> io::Result<bool> {
    let state = connection
        .process_new_packets()
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let begun = decrypted.len();
    decrypted.resize(begun + state.plaintext_bytes_to_read(), 0);
    connection.reader().read_exact(&mut decrypted[begun..])?;
    Ok(state.peer_has_closed())
}

impl TlsReader {
    /// Waits for records and takes out what they carry.
    fn fill(&mut self) -> io::Result<()> {
        let mut records = [0; SOCKET_READ_BYTES];
        let count = self
            .socket
            .read(&mut records)
            .map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock => io::Error::new(
                    io::ErrorKind::TimedOut,
                    "it has said nothing for too long; if its process is frozen, end it",
                ),
                _ => error,
            })?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut rest = &records[..count];
        let mut connection = locked(&self.connection);
        self.decrypted.clear();
        self.taken = 0;
        while !rest.is_empty() && !self.peer_has_closed {
            connection.read_tls(&mut rest)?;
            self.peer_has_closed = take_decrypted(&mut connection, &mut self.decrypted)?;
        }
        Ok(())
    }
}

impl Read for TlsReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.decrypted.len() {
            if self.peer_has_closed {
                return Ok(0);
            }
            self.fill()?;
        }
        let count = buffer.len().min(self.decrypted.len() - self.taken);
        buffer[..count].copy_from_slice(&self.decrypted[self.taken..self.taken + count]);
        self.taken += count;
        Ok(count)
    }
}

struct TlsWriter {
    connection: Arc<Mutex<Connection>>,
    socket: TcpStream,
    records: Vec<u8>,
}

impl TlsWriter {
    /// Sends what `put` gives the connection to say.
    fn send(&mut self, put: impl FnOnce(&mut Connection) -> io::Result<()>) -> io::Result<()> {
        self.records.clear();
        {
            let mut connection = locked(&self.connection);
            put(&mut connection)?;
            while connection.wants_write() {
                connection.write_tls(&mut self.records)?;
            }
        }
        self.socket.write_all(&self.records)
    }
}

impl Write for TlsWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.send(|connection| connection.writer().write_all(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Outgoing for TlsWriter {
    fn finish(&mut self) -> io::Result<()> {
        self.send(|connection| {
            connection.send_close_notify();
            Ok(())
        })?;
        self.socket.shutdown(Shutdown::Write)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::path::Path;

    use antipode_certs::{
        Authority, AuthorityDays, Existing, LeafDays, Paths, Role, TRUST_FILE, UnixTime, WallClock,
    };

    use super::*;

    #[derive(Debug)]
    struct SomeDay;

    impl WallClock for SomeDay {
        fn now(&self) -> UnixTime {
            UnixTime::from_seconds(1_800_000_000)
        }
    }

    fn sites() -> PeerRule {
        PeerRule::AnyOf(vec![Role::Site])
    }

    fn credentials(folder: &Path) -> Arc<LiveCredentials> {
        let authority = Authority::create(AuthorityDays::default(), SomeDay.now()).unwrap();
        authority.save(folder).unwrap();
        let identity = Identity::from_uri("antipode://site/a").unwrap();
        let issued = authority
            .issue(&identity, LeafDays::default(), SomeDay.now())
            .unwrap();
        let paths = Paths {
            credentials: folder.join(issued.file_name()),
            trust: folder.join(TRUST_FILE),
        };
        issued.save(&paths.credentials, Existing::Replace).unwrap();
        LiveCredentials::open(paths, &sites(), Arc::new(SomeDay)).unwrap()
    }

    /// Both ends of a connection.
    fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    /// A client whose first words, and its goodbye if `says_goodbye`, leave with the last flight of its handshake.
    fn hasty_client(mut socket: TcpStream, live: &Arc<LiveCredentials>, says_goodbye: bool) -> TcpStream {
        let config = Arc::new(live.client_config(sites()).unwrap());
        let mut connection = ClientConnection::new(config, server_name()).unwrap();
        while connection.is_handshaking() {
            while connection.wants_write() {
                connection.write_tls(&mut socket).unwrap();
            }
            connection.read_tls(&mut socket).unwrap();
            connection.process_new_packets().unwrap();
        }
        connection.writer().write_all(b"first words").unwrap();
        if says_goodbye {
            connection.send_close_notify();
        }
        let mut flight = Vec::new();
        while connection.wants_write() {
            connection.write_tls(&mut flight).unwrap();
        }
        socket.write_all(&flight).unwrap();
        socket
    }

    #[test]
    fn a_peer_that_says_nothing_is_waited_for_so_long_and_no_longer() {
        let folder = tempfile::tempdir().unwrap();
        let live = credentials(folder.path());
        let (client, server) = connected();
        thread::scope(|scope| {
            let client = scope.spawn(|| hasty_client(client, &live, false));
            let mut link = Link::accept(server, &live, sites()).unwrap();
            let silent = client.join().unwrap();
            link.limit_silence(Duration::from_millis(1)).unwrap();
            let mut words = [0; 11];
            link.reader.read_exact(&mut words).unwrap();
            let error = link.reader.read(&mut words).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
            drop(silent);
        });
    }

    #[test]
    fn a_peer_that_proves_itself_bit_by_bit_has_one_deadline_for_all_of_it() {
        const PIECES: u32 = 1000;
        let folder = tempfile::tempdir().unwrap();
        let live = credentials(folder.path());
        let (mut client, server) = connected();
        let (refused, waits) = channel::<()>();
        let dripping = thread::spawn(move || {
            // The beginning of a long record, and then its bytes, each well before anybody takes it for silence.
            client.write_all(&[22, 3, 1, 0x3F, 0]).unwrap();
            let still =
                |_: &u32| waits.recv_timeout(Duration::from_millis(10)) == Err(RecvTimeoutError::Timeout);
            let said = (0..PIECES).take_while(still);
            said.take_while(|_| client.write_all(&[0]).is_ok()).count()
        });
        let config = live.server_config(sites()).unwrap();
        let connection = ServerConnection::new(Arc::new(config)).unwrap();
        let error = Link::secured(server, connection.into(), Duration::from_millis(200)).unwrap_err();
        drop(refused);
        assert!(
            matches!(&error, LinkError::Io(error) if error.kind() == io::ErrorKind::TimedOut),
            "{error}"
        );
        let said = dripping.join().unwrap();
        assert!((1..900).contains(&said), "{said} pieces");
    }

    #[test]
    fn what_comes_with_the_end_of_the_handshake_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let live = credentials(folder.path());
        for says_goodbye in [false, true] {
            let (client, server) = connected();
            thread::scope(|scope| {
                let client = scope.spawn(|| hasty_client(client, &live, says_goodbye));
                let mut link = Link::accept(server, &live, sites()).unwrap();
                let mut words = [0; 11];
                link.reader.read_exact(&mut words).unwrap();
                assert_eq!(&words, b"first words");
                drop(client.join().unwrap());
                let after = link.reader.read(&mut words);
                if says_goodbye {
                    assert_eq!(after.unwrap(), 0);
                } else {
                    assert!(after.is_err(), "an end without a goodbye is a cut");
                }
            });
        }
    }
}
