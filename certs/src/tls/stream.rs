//! TLS over a TCP connection, for those who use tokio: the handshake, who is at the other end, and keys for what
//! travels beside the connection.

use std::io;
use std::sync::Arc;

use rustls::{AlertDescription, Error};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::{LiveCredentials, fault_in, peer_identity, server_name};
use crate::fault::CertificateFault;
use crate::identity::{Identity, PeerRule};

/// Why there is no connection, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The host or the network failed, or the other end left.
    #[error("{0}")]
    Io(io::Error),
    /// The other end's certificate.
    #[error("{0}")]
    Certificate(CertificateFault),
    /// The other end refuses ours, or what we said.
    #[error("the other end refuses the connection: TLS alert {0:?}")]
    Alert(AlertDescription),
    /// The other end does not speak TLS as it must be spoken.
    #[error("TLS: {0}")]
    Tls(Error),
}

/// rustls hides its errors in those of the socket.
impl From<io::Error> for TlsError {
    fn from(error: io::Error) -> Self {
        match error.downcast::<Error>() {
            Ok(error) => error.into(),
            Err(error) => Self::Io(error),
        }
    }
}

impl From<Error> for TlsError {
    fn from(error: Error) -> Self {
        match (fault_in(&error), &error) {
            (Some(fault), _) => Self::Certificate(fault.clone()),
            (None, Error::AlertReceived(alert)) => Self::Alert(*alert),
            (None, _) => Self::Tls(error),
        }
    }
}

/// A connection over which both ends have shown who they are.
#[derive(Debug)]
pub struct Secured {
    /// What is read and written.
    pub tls: TlsStream<TcpStream>,
    /// Who is at the other end.
    pub peer: Identity,
}

impl Secured {
    /// The handshake of the end that has dialled, with whom `rule` admits. Sets no time limit.
    ///
    /// # Errors
    /// Where another one answers, or nobody does.
    pub async fn connect(
        tcp: TcpStream,
        live: &Arc<LiveCredentials>,
        rule: PeerRule,
    ) -> Result<Self, TlsError> {
        let connector = TlsConnector::from(Arc::new(live.client_config(rule)?));
        let tls = connector.connect(server_name(), tcp).await?;
        Self::over(tls.into())
    }

    /// The handshake of the end that was dialled, by whom `rule` admits. Sets no time limit.
    ///
    /// # Errors
    /// Where the other end is nobody that is admitted.
    pub async fn accept(
        tcp: TcpStream,
        live: &Arc<LiveCredentials>,
        rule: PeerRule,
    ) -> Result<Self, TlsError> {
        let acceptor = TlsAcceptor::from(Arc::new(live.server_config(rule)?));
        let tls = acceptor.accept(tcp).await?;
        Self::over(tls.into())
    }

    fn over(tls: TlsStream<TcpStream>) -> Result<Self, TlsError> {
        let peer = peer_identity(tls.get_ref().1).map_err(TlsError::Certificate)?;
        Ok(Self { tls, peer })
    }

    /// A key that the two ends of this connection know and nobody else (RFC 8446 § 7.5): another one for each `label` and
    /// `context`, the same at both ends.
    ///
    /// # Errors
    /// Where rustls refuses: never on a connection whose handshake is complete.
    pub fn exported_key(&self, label: &str, context: &[u8]) -> Result<[u8; 32], TlsError> {
        let (label, context) = (label.as_bytes(), Some(context));
        let key = match &self.tls {
            TlsStream::Client(tls) => tls.get_ref().1.export_keying_material([0; 32], label, context),
            TlsStream::Server(tls) => tls.get_ref().1.export_keying_material([0; 32], label, context),
        };
        Ok(key?)
    }
}
