//! The sockets: TCP, mutual TLS 1.3 by `antipode-certs`, and frames on top. The one file that opens any.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use antipode_certs::tls::{LiveCredentials, Secured, TlsError};
use antipode_certs::{CertificateFault, Identity, PeerRule};
use nix::sys::socket::{setsockopt, sockopt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsStream;

use super::frame::{FrameError, HEAD_BYTES, Head, Kind};
use crate::limits::{HANDSHAKE_MS_MAX, KEEPALIVE_SECONDS, UNACKNOWLEDGED_MS_MAX};

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The host or the network failed, or the other end left.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The other end's certificate, or ours in its eyes.
    #[error("{0}")]
    Certificate(CertificateFault),
    /// The other end sent something that is no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame of another kind than the one that is due.
    #[error("a frame of kind {0:?} is out of place")]
    Unexpected(Kind),
    /// A payload that is not what its kind says.
    #[error("what came cannot be read")]
    Unreadable,
    /// It took too long.
    #[error("no answer in {0} ms")]
    Late(u64),
}

impl StreamError {
    /// Whether the other end broke a rule, rather than a wire.
    #[must_use]
    pub const fn is_fault_of_peer(&self) -> bool {
        matches!(self, Self::Frame(_) | Self::Unexpected(_) | Self::Unreadable)
    }
}

impl From<TlsError> for StreamError {
    fn from(error: TlsError) -> Self {
        match error {
            TlsError::Io(error) => Self::Io(error),
            TlsError::Certificate(fault) => Self::Certificate(fault),
            other => Self::Io(io::Error::other(other)),
        }
    }
}

/// One end of a connection that carries frames.
#[derive(Debug)]
pub struct Stream {
    tls: TlsStream<TcpStream>,
    peer: Identity,
}

impl From<Secured> for Stream {
    fn from(Secured { tls, peer }: Secured) -> Self {
        Self { tls, peer }
    }
}

/// Connects to `address` and makes sure that whoever answers is one that `rule` admits.
///
/// # Errors
/// Where nobody answers in time, or another.
pub async fn dial(
    address: &str,
    credentials: &Arc<LiveCredentials>,
    rule: PeerRule,
) -> Result<Stream, StreamError> {
    let connected = async {
        let tcp = TcpStream::connect(address).await?;
        tune(&tcp)?;
        Ok(Secured::connect(tcp, credentials, rule).await?.into())
    };
    in_time(HANDSHAKE_MS_MAX, connected).await
}

/// Accepts connections.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    credentials: Arc<LiveCredentials>,
    rule: PeerRule,
}

impl Listener {
    /// Listens on `address` for those that `rule` admits.
    ///
    /// # Errors
    /// Where the host refuses.
    pub async fn bind(
        address: SocketAddr,
        credentials: Arc<LiveCredentials>,
        rule: PeerRule,
    ) -> io::Result<Self> {
        Ok(Self {
            tcp: TcpListener::bind(address).await?,
            credentials,
            rule,
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// Where the host does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// The next connection, before its handshake.
    ///
    /// # Errors
    /// Where the host refuses; another try may succeed.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.tcp.accept().await
    }

    /// The handshake of a connection.
    ///
    /// # Errors
    /// Where the other end is nobody that is admitted, or takes too long.
    pub async fn welcome(&self, tcp: TcpStream) -> Result<Stream, StreamError> {
        let welcomed = async {
            tune(&tcp)?;
            let rule = self.rule.clone();
            Ok(Secured::accept(tcp, &self.credentials, rule).await?.into())
        };
        in_time(HANDSHAKE_MS_MAX, welcomed).await
    }
}

impl Stream {
    /// Who is at the other end.
    pub const fn peer(&self) -> &Identity {
        &self.peer
    }

    /// Sends frames that are made already.
    ///
    /// # Errors
    /// Where the connection is over.
    pub async fn send(&mut self, frames: &[u8]) -> Result<(), StreamError> {
        self.tls.write_all(frames).await?;
        Ok(self.tls.flush().await?)
    }

    /// Sends `value` in JSON.
    ///
    /// # Errors
    /// Where the connection is over.
    pub async fn send_json(&mut self, kind: Kind, value: &impl Serialize) -> Result<(), StreamError> {
        let payload = serde_json::to_vec(value).map_err(|_| StreamError::Unreadable)?;
        self.send(&Head::frame(kind, &payload)).await
    }

    /// The next frame, into `payload`.
    ///
    /// # Errors
    /// Where the connection is over, or what comes is no frame.
    pub async fn receive(&mut self, payload: &mut Vec<u8>) -> Result<Kind, StreamError> {
        let mut head = [0; HEAD_BYTES];
        self.tls.read_exact(&mut head).await?;
        let Head { kind, length } = Head::parse(head)?;
        payload.clear();
        payload.resize(length, 0);
        self.tls.read_exact(payload).await?;
        Ok(kind)
    }

    /// The next frame, which must be of `kind` and come within `ms`.
    ///
    /// # Errors
    /// Where it is not, or the connection is over.
    pub async fn receive_json<T: DeserializeOwned>(&mut self, kind: Kind, ms: u64) -> Result<T, StreamError> {
        let mut payload = Vec::new();
        match in_time(ms, self.receive(&mut payload)).await? {
            found if found == kind => serde_json::from_slice(&payload).map_err(|_| StreamError::Unreadable),
            other => Err(StreamError::Unexpected(other)),
        }
    }
}

/// A connection whose other end has vanished shall end within seconds, not after the quarter of an hour for which TCP
/// would try; until then its retries grow so rare that a link that is back is not noticed.
fn tune(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    setsockopt(tcp, sockopt::TcpUserTimeout, &UNACKNOWLEDGED_MS_MAX)?;
    setsockopt(tcp, sockopt::KeepAlive, &true)?;
    setsockopt(tcp, sockopt::TcpKeepIdle, &KEEPALIVE_SECONDS)?;
    Ok(setsockopt(tcp, sockopt::TcpKeepInterval, &KEEPALIVE_SECONDS)?)
}

async fn in_time<T>(ms: u64, work: impl Future<Output = Result<T, StreamError>>) -> Result<T, StreamError> {
    timeout(Duration::from_millis(ms), work)
        .await
        .unwrap_or(Err(StreamError::Late(ms)))
}
