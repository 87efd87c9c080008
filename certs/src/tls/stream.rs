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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::test_authority::{NOW, TestAuthority};
    use crate::{Role, UnixTime, WallClock};

    #[derive(Debug)]
    struct Then;

    impl WallClock for Then {
        fn now(&self) -> UnixTime {
            NOW
        }
    }

    fn any_of(roles: Vec<Role>) -> PeerRule {
        PeerRule::AnyOf(roles)
    }

    fn live(authority: &TestAuthority, uri: &str) -> Arc<LiveCredentials> {
        let paths = authority.saved_leaf(uri, NOW);
        LiveCredentials::open(paths, &any_of(Role::ALL.to_vec()), Arc::new(Then)).unwrap()
    }

    /// What both ends make of a connection: the one that dials, then the one that is dialled and admits `admitted`.
    async fn meet(admitted: Role) -> (Result<Secured, TlsError>, Result<Secured, TlsError>) {
        let authority = TestAuthority::new();
        let berlin = live(&authority, "antipode://site/berlin");
        let paris = live(&authority, "antipode://site/paris");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let dialling = async {
            let tcp = TcpStream::connect(to).await.unwrap();
            Secured::connect(tcp, &berlin, any_of(vec![Role::Site])).await
        };
        let waiting = async {
            let (tcp, _) = listener.accept().await.unwrap();
            Secured::accept(tcp, &paris, any_of(vec![admitted])).await
        };
        tokio::join!(dialling, waiting)
    }

    #[tokio::test]
    async fn both_ends_export_the_same_keys_and_each_use_has_its_own() {
        let (berlin, paris) = meet(Role::Site).await;
        let (berlin, paris) = (berlin.unwrap(), paris.unwrap());
        assert_eq!(berlin.peer.to_string(), "antipode://site/paris");
        assert_eq!(paris.peer.to_string(), "antipode://site/berlin");
        let mut keys = Vec::new();
        for (label, context) in [("one", "here"), ("one", "there"), ("other", "here")] {
            let key = berlin.exported_key(label, context.as_bytes()).unwrap();
            assert_eq!(paris.exported_key(label, context.as_bytes()).unwrap(), key);
            assert!(!keys.contains(&key));
            keys.push(key);
        }
        let (another, _) = meet(Role::Site).await;
        assert!(!keys.contains(&another.unwrap().exported_key("one", b"here").unwrap()));
    }

    #[tokio::test]
    async fn who_refuses_knows_why_and_the_other_end_that_it_was_refused() {
        let (berlin, paris) = meet(Role::Operator).await;
        assert!(matches!(
            paris.unwrap_err(),
            TlsError::Certificate(CertificateFault::WrongRole { .. })
        ));
        // A client's handshake ends before its certificate is judged: its first read tells.
        let read = berlin.unwrap().tls.read_u8().await;
        assert!(matches!(
            TlsError::from(read.unwrap_err()),
            TlsError::Alert(AlertDescription::CertificateUnknown)
        ));
    }
}
