//! Sites with certificates of one CA, and connections between them over the loopback.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use antipode_certs::tls::{LiveCredentials, Secured};
use antipode_certs::{
    Authority, AuthorityDays, Existing, Identity, LeafDays, Name, Paths, PeerRule, Role, TRUST_FILE,
    UnixTime, WallClock,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsStream;

use crate::base::clock::{HostClock, SystemClock};
use crate::channel::{Connection, Frame, Hello, Listener, Message, Opened, Tag, TransportError, dial};

#[derive(Debug)]
struct SomeDay;

impl WallClock for SomeDay {
    fn now(&self) -> UnixTime {
        UnixTime::from_seconds(1_800_000_000)
    }
}

/// A CA and those who hold its certificates.
pub(super) struct Town {
    folder: TempDir,
    authority: Authority,
}

pub(super) fn name(name: &str) -> Name {
    name.parse().unwrap()
}

pub(super) fn now() -> Duration {
    Duration::from_nanos(SystemClock.monotonic_ns())
}

impl Town {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(AuthorityDays::default(), SomeDay.now()).unwrap();
        authority.save(folder.path()).unwrap();
        Self { folder, authority }
    }

    pub(super) fn credentials(&self, uri: &str) -> Arc<LiveCredentials> {
        let identity = Identity::from_uri(uri).unwrap();
        let issued = self
            .authority
            .issue(&identity, LeafDays::default(), SomeDay.now())
            .unwrap();
        let paths = Paths {
            credentials: self.folder.path().join(issued.file_name()),
            trust: self.folder.path().join(TRUST_FILE),
        };
        issued.save(&paths.credentials, Existing::Replace).unwrap();
        LiveCredentials::open(paths, &PeerRule::AnyOf(Role::ALL.to_vec()), Arc::new(SomeDay)).unwrap()
    }

    /// Where site west waits for site east.
    pub(super) fn west(&self) -> Listener {
        let anywhere = "127.0.0.1:0".parse().unwrap();
        Listener::bind(anywhere, self.credentials("antipode://site/west"), name("east")).unwrap()
    }

    /// A connection of site east to `to`, where it looks for site west.
    pub(super) async fn east_to(&self, to: SocketAddr) -> Result<Connection, TransportError> {
        let credentials = self.credentials("antipode://site/east");
        dial(&to.to_string(), &credentials, &name("west")).await
    }

    /// Both ends of a connection: east's, then west's.
    pub(super) async fn connected(&self) -> (Connection, Connection) {
        let mut west = self.west();
        let to = west.address().unwrap();
        let (east, west) = tokio::join!(self.east_to(to), west.accept());
        (east.unwrap(), west.unwrap())
    }

    /// What comes of two Hellos over one connection.
    pub(super) async fn greeted(
        &self,
        east: &Hello,
        west: &Hello,
    ) -> (Result<Opened, TransportError>, Result<Opened, TransportError>) {
        let (at_east, at_west) = self.connected().await;
        tokio::join!(at_east.greet(east), at_west.greet(west))
    }

    /// West's end of a connection whose other end has east's certificate and does what a test wants.
    pub(super) async fn with_hostile_east(&self) -> (Hostile, Connection) {
        let mut west = self.west();
        let to = west.address().unwrap();
        let credentials = self.credentials("antipode://site/east");
        let hostile = async {
            let tcp = TcpStream::connect(to).await.unwrap();
            let rule = PeerRule::AnyOf(vec![Role::Site]);
            Hostile(Secured::connect(tcp, &credentials, rule).await.unwrap().tls)
        };
        let (hostile, west) = tokio::join!(hostile, west.accept());
        (hostile, west.unwrap())
    }
}

/// An end that keeps to no protocol above TLS.
pub(super) struct Hostile(pub(super) TlsStream<TcpStream>);

impl Hostile {
    pub(super) async fn say(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
        self.0.flush().await.unwrap();
    }

    pub(super) async fn say_frame(&mut self, tag: Tag, message: Message) {
        self.say(&bytes_of(tag, message)).await;
    }
}

pub(super) fn bytes_of(tag: Tag, message: Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    Frame { tag, message }.encode(&mut bytes);
    bytes
}

/// Leads one connection after the other to `to`, and cuts each after as many bytes towards it as `budgets` say.
pub(super) async fn cutting_proxy(at: &TcpListener, to: SocketAddr, budgets: &[usize]) {
    for &budget in budgets {
        let (mut from, _) = at.accept().await.unwrap();
        let mut onwards = TcpStream::connect(to).await.unwrap();
        let (mut from_reader, mut from_writer) = from.split();
        let (mut onward_reader, mut onward_writer) = onwards.split();
        let there = async {
            let (mut left, mut piece) = (budget, vec![0; 4096]);
            while left > 0 {
                let most = left.min(piece.len());
                let count = from_reader.read(&mut piece[..most]).await.unwrap_or(0);
                if count == 0 || onward_writer.write_all(&piece[..count]).await.is_err() {
                    return;
                }
                left -= count;
            }
        };
        // The way back ends with the way there.
        tokio::select! {
            () = there => {}
            _ = async {
                let _ = tokio::io::copy(&mut onward_reader, &mut from_writer).await;
                std::future::pending::<()>().await;
            } => {}
        }
    }
}
