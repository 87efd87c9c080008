//! The log connection: TCP, mutual TLS 1.3, frames. The one file of the channel that opens any (datagrams: its
//! neighbour).
//!
//! ```text
//!   dial ─────────────▶ Connection ──greet──▶ Opened { reader, writer, theirs, keys }
//!   Listener::accept ──▶     │                   │
//!                            │                   ├─ reader.next()    one message at a time
//!        certificate: role site, the peer's name └─ writer.put(…), writer.drain()
//! ```
//!
//! - Both ends send their Hello at once, read the other's, and judge it ([`Hello::judge`]). Who refuses says why with a
//!   Bye, so that both sites can show it.
//! - [`Reader::next`], [`Writer::drain`] and [`Listener::accept`] may be given up at any time and begun again: nothing is
//!   lost. So one task can wait for all of them at once.
//! - No keep-alive and no time limit on an open connection: whether the other end is alive is for heartbeats and the
//!   silence here to say (P4), and a frame counts only when it is whole.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use antipode_certs::tls::{LiveCredentials, Secured, TlsError};
use antipode_certs::{CertificateFault, Identity, Name, PeerRule, Role};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsStream;

use super::fault::Misbehaviour;
use super::frame::{ByeReason, Deframer, Frame, FrameError, Message};
use super::gate::Gate;
use super::heartbeat::HeartbeatKeys;
use super::hello::{Hello, HelloError, Refusal};
use super::outbox::Outbox;
use super::session::{Side, Tag};
use crate::base::limits::{
    CHANNEL_HANDSHAKE_MS_MAX, CHANNEL_HANDSHAKES_MAX, CHANNEL_UNACKNOWLEDGED_MS_MAX, CHANNEL_WINDOW_BYTES,
};

const HEARTBEAT_KEY_LABEL: &str = "antipode heartbeat";

/// Why there is no connection, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The network or the host failed, or the connection was cut.
    #[error("{0}")]
    Io(io::Error),
    /// The other end did not answer in time.
    #[error("the peer did not answer within {CHANNEL_HANDSHAKE_MS_MAX} ms")]
    Late,
    /// The other end is nobody that may speak here.
    #[error("the peer's certificate: {0}")]
    Certificate(CertificateFault),
    /// The other end does not accept our certificate, or does not speak TLS as we do.
    #[error("{0}")]
    Tls(TlsError),
    /// The other end sent something that is no frame.
    #[error("the peer sent what is no frame: {0}")]
    Frame(#[from] FrameError),
    /// The other end broke the rules.
    #[error("the peer broke the protocol: {0}")]
    Misbehaviour(#[from] Misbehaviour),
    /// The two do not belong together. The other end was told.
    #[error("{0}")]
    Refused(Refusal),
    /// The other end has left, and said why.
    #[error("the peer has left: {0}")]
    Left(ByeReason),
    /// The other end has closed the connection without a word.
    #[error("the peer has closed the connection")]
    Closed,
}

impl TransportError {
    /// Whether the other end broke a rule, rather than a wire.
    #[must_use]
    pub const fn is_fault_of_peer(&self) -> bool {
        matches!(self, Self::Frame(_) | Self::Misbehaviour(_))
    }

    /// By which name it is shown that one end was refused by the other; none where nothing but a wire broke, or the other
    /// end left.
    #[must_use]
    pub const fn refusal(&self) -> Option<&'static str> {
        match self {
            Self::Certificate(_) => Some("certificate"),
            Self::Tls(TlsError::Alert(_)) => Some("own-certificate"),
            Self::Frame(_) => Some("no-frame"),
            Self::Misbehaviour(fault) => Some(fault.name()),
            Self::Refused(refusal) | Self::Left(ByeReason::Refused(refusal)) => Some(refusal.name()),
            Self::Io(_) | Self::Late | Self::Tls(_) | Self::Left(_) | Self::Closed => None,
        }
    }
}

impl From<TlsError> for TransportError {
    fn from(error: TlsError) -> Self {
        match error {
            TlsError::Io(error) => Self::Io(error),
            TlsError::Certificate(fault) => Self::Certificate(fault),
            TlsError::Alert(_) | TlsError::Tls(_) => Self::Tls(error),
        }
    }
}

impl From<io::Error> for TransportError {
    fn from(error: io::Error) -> Self {
        TlsError::from(error).into()
    }
}

/// The one site that may be at the other end.
fn site(name: &Name) -> PeerRule {
    PeerRule::Exactly(Identity {
        role: Role::Site,
        name: name.clone(),
    })
}

/// A socket with room for what a long and fast line carries. The host grows its own choice up to a limit of its own; a
/// size that we set stays, so it is set only where the host lets us pass that limit.
fn roomy(socket: &TcpSocket) -> io::Result<()> {
    let set = setsockopt(socket, sockopt::RcvBufForce, &CHANNEL_WINDOW_BYTES)
        .and_then(|()| setsockopt(socket, sockopt::SndBufForce, &CHANNEL_WINDOW_BYTES));
    match set {
        Ok(()) | Err(Errno::EPERM) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn new_socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    roomy(&socket)?;
    Ok(socket)
}

fn tune(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    Ok(setsockopt(
        tcp,
        sockopt::TcpUserTimeout,
        &CHANNEL_UNACKNOWLEDGED_MS_MAX,
    )?)
}

async fn in_time<T>(work: impl Future<Output = Result<T, TransportError>>) -> Result<T, TransportError> {
    timeout(Duration::from_millis(CHANNEL_HANDSHAKE_MS_MAX), work)
        .await
        .unwrap_or(Err(TransportError::Late))
}

/// Connects to `address`, a host and port, where site `peer` must answer.
///
/// # Errors
/// Where nobody answers in time, or another.
pub async fn dial(
    address: &str,
    credentials: &Arc<LiveCredentials>,
    peer: &Name,
) -> Result<Connection, TransportError> {
    in_time(async {
        let nowhere = || io::Error::new(io::ErrorKind::NotFound, "the name stands for no address");
        let mut outcome = Err(nowhere());
        for address in lookup_host(address).await? {
            outcome = new_socket(address)?.connect(address).await;
            if outcome.is_ok() {
                break;
            }
        }
        let tcp = outcome?;
        tune(&tcp)?;
        Ok(Connection::over(
            Secured::connect(tcp, credentials, site(peer)).await?,
        ))
    })
    .await
}

/// Accepts connections of one site.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    credentials: Arc<LiveCredentials>,
    peer: Name,
    /// Those whose other end has yet to show who it is.
    handshakes: JoinSet<Result<Connection, TransportError>>,
}

impl Listener {
    /// Listens on `address` for site `peer`.
    ///
    /// # Errors
    /// Where the host refuses the address.
    pub fn bind(address: SocketAddr, credentials: Arc<LiveCredentials>, peer: Name) -> io::Result<Self> {
        let socket = new_socket(address)?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let backlog = u32::try_from(CHANNEL_HANDSHAKES_MAX).unwrap_or(u32::MAX);
        Ok(Self {
            tcp: socket.listen(backlog)?,
            credentials,
            peer,
            handshakes: JoinSet::new(),
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// Where the host does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// The next connection over which the other end has shown that it is the site. Strangers that take their time do not
    /// hold it up, up to [`CHANNEL_HANDSHAKES_MAX`] of them.
    ///
    /// # Errors
    /// Where one was turned away, or the host has no descriptor left: another call goes on, after a moment.
    pub async fn accept(&mut self) -> Result<Connection, TransportError> {
        loop {
            let may_begin = self.handshakes.len() < CHANNEL_HANDSHAKES_MAX;
            tokio::select! {
                // An empty set has nothing to wait for.
                Some(done) = self.handshakes.join_next() => {
                    return done.unwrap_or_else(|panicked| Err(io::Error::other(panicked).into()));
                }
                accepted = self.tcp.accept(), if may_begin => {
                    let (tcp, _) = accepted?;
                    let (credentials, rule) = (Arc::clone(&self.credentials), site(&self.peer));
                    self.handshakes.spawn(in_time(async move {
                        tune(&tcp)?;
                        Ok(Connection::over(Secured::accept(tcp, &credentials, rule).await?))
                    }));
                }
            }
        }
    }
}

/// A connection to the right site, about nothing yet.
#[derive(Debug)]
pub struct Connection {
    secured: Secured,
    deframer: Deframer,
}

/// A connection about a session.
#[derive(Debug)]
pub struct Opened {
    /// What comes in.
    pub reader: Reader,
    /// What goes out.
    pub writer: Writer,
    /// What the other end has said of itself.
    pub theirs: Hello,
    /// For heartbeats from now on.
    pub keys: HeartbeatKeys,
}

impl Connection {
    fn over(secured: Secured) -> Self {
        Self {
            secured,
            deframer: Deframer::default(),
        }
    }

    /// Says `ours`, hears what the other end says, and goes on if the two belong together.
    ///
    /// # Errors
    /// [`TransportError::Refused`] where they do not; the other end is told.
    pub async fn greet(mut self, ours: &Hello) -> Result<Opened, TransportError> {
        let tag = ours.session.tag();
        let theirs = in_time(async {
            self.say(tag, Message::Hello(ours.clone())).await?;
            match self.hear_hello(ours).await {
                Err(TransportError::Refused(refusal)) => {
                    // The other end may have left for the same reason: that it cannot be told is no news.
                    let _ = self.say(tag, Message::Bye(ByeReason::Refused(refusal))).await;
                    let _ = self.secured.tls.shutdown().await;
                    Err(TransportError::Refused(refusal))
                }
                heard => heard,
            }
        })
        .await?;
        let key = |side: Side| self.secured.exported_key(HEARTBEAT_KEY_LABEL, &[side as u8]);
        let keys = HeartbeatKeys {
            primary: key(Side::Primary)?,
            backup: key(Side::Backup)?,
        };
        let (from, to) = tokio::io::split(self.secured.tls);
        Ok(Opened {
            reader: Reader {
                tls: from,
                deframer: self.deframer,
                gate: Gate::new(tag, ours.side.other()),
            },
            writer: Writer {
                tls: to,
                outbox: Outbox::new(tag),
                bytes: Vec::new(),
                written: 0,
                is_flushed: true,
            },
            theirs,
            keys,
        })
    }

    async fn say(&mut self, tag: Tag, message: Message) -> Result<(), TransportError> {
        let mut bytes = Vec::new();
        Frame { tag, message }.encode(&mut bytes);
        self.secured.tls.write_all(&bytes).await?;
        Ok(self.secured.tls.flush().await?)
    }

    async fn hear_hello(&mut self, ours: &Hello) -> Result<Hello, TransportError> {
        let frame = match next_frame(&mut self.secured.tls, &mut self.deframer).await {
            Err(TransportError::Frame(FrameError::Hello(HelloError::Version(_)))) => {
                return Err(TransportError::Refused(Refusal::Version));
            }
            frame => frame?,
        };
        match frame.message {
            Message::Hello(theirs) if theirs.session.tag() == frame.tag => {
                Hello::judge(ours, &theirs).map_err(TransportError::Refused)?;
                Ok(theirs)
            }
            Message::Bye(reason) => Err(TransportError::Left(reason)),
            other => Err(Misbehaviour::OutOfPlace(other.name()).into()),
        }
    }
}

/// Waits for a whole frame. May be given up at any time: what has come of it stays in `deframer`.
async fn next_frame<T: AsyncReadExt + Unpin>(
    from: &mut T,
    deframer: &mut Deframer,
) -> Result<Frame, TransportError> {
    loop {
        if let Some(frame) = deframer.frame()? {
            return Ok(frame);
        }
        if from.read_buf(deframer.input()).await? == 0 {
            return Err(TransportError::Closed);
        }
    }
}

/// What comes in over an open connection.
#[derive(Debug)]
pub struct Reader {
    tls: ReadHalf<TlsStream<TcpStream>>,
    deframer: Deframer,
    gate: Gate,
}

impl Reader {
    /// The next message of this session. May be given up at any time without a loss. The last one is a Bye, if the other
    /// end leaves in order.
    ///
    /// # Errors
    /// Where the connection is over, or the other end breaks the rules.
    pub async fn next(&mut self) -> Result<Message, TransportError> {
        loop {
            let frame = next_frame(&mut self.tls, &mut self.deframer).await?;
            if let Some(message) = self.gate.admit(frame)? {
                return Ok(message);
            }
        }
    }

    /// How many frames were of other sessions, as it is counted on.
    #[must_use]
    pub fn foreign(&self) -> Arc<AtomicU64> {
        self.gate.foreign()
    }
}

/// What goes out over an open connection.
#[derive(Debug)]
pub struct Writer {
    tls: WriteHalf<TlsStream<TcpStream>>,
    outbox: Outbox,
    /// Frames on their way into the connection.
    bytes: Vec<u8>,
    written: usize,
    is_flushed: bool,
}

impl Writer {
    /// Takes `message`; [`Self::drain`] sends it. What waits is bounded: see [`Outbox`].
    pub fn put(&mut self, message: Message) {
        self.outbox.put(message);
    }

    /// Whether everything is with the host's network.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.is_flushed && self.outbox.is_empty()
    }

    /// Sends what waits; returns when nothing does. May be given up at any time and begun again without a loss.
    ///
    /// # Errors
    /// Where the connection is over.
    pub async fn drain(&mut self) -> Result<(), TransportError> {
        while !self.is_drained() {
            if self.written == self.bytes.len() {
                self.bytes.clear();
                self.written = 0;
                self.outbox.take_into(&mut self.bytes);
            }
            if self.bytes.is_empty() {
                self.tls.flush().await?;
                self.is_flushed = true;
            } else {
                self.is_flushed = false;
                self.written += self.tls.write(&self.bytes[self.written..]).await?;
            }
        }
        Ok(())
    }

    /// Sends what waits, last of all `reason`, and leaves. Takes [`CHANNEL_HANDSHAKE_MS_MAX`] where the other end does not
    /// read: whoever cannot wait spawns it.
    ///
    /// # Errors
    /// Where the connection is over, or the other end takes nothing any more.
    pub async fn leave(mut self, reason: ByeReason) -> Result<(), TransportError> {
        self.put(Message::Bye(reason));
        in_time(async move {
            self.drain().await?;
            Ok(self.tls.shutdown().await?)
        })
        .await
    }
}
