//! Whole handshakes between two ends in memory: who gets through, who does not, and with which fault.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use rustls::{ClientConnection, Connection, Error, ServerConnection};

use super::*;
use crate::test_authority::{DAY, NOW, TestAuthority};
use crate::{Existing, Identity, LeafDays, PeerRule, Role, UnixTime, WallClock};

#[derive(Debug)]
struct TestClock(AtomicI64);

impl TestClock {
    fn at(moment: UnixTime) -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(moment.seconds())))
    }

    fn advance(&self, seconds: i64) {
        self.0.fetch_add(seconds, Ordering::Relaxed);
    }
}

impl WallClock for TestClock {
    fn now(&self) -> UnixTime {
        UnixTime::from_seconds(self.0.load(Ordering::Relaxed))
    }
}

const ANYONE: fn() -> PeerRule = || PeerRule::AnyOf(Role::ALL.to_vec());

fn only(role: Role) -> PeerRule {
    PeerRule::AnyOf(vec![role])
}

fn identity(uri: &str) -> Identity {
    Identity::from_uri(uri).unwrap()
}

/// `uri`'s credentials from `authority`, on a clock that stands at `now`.
fn live(authority: &TestAuthority, uri: &str, clock: &Arc<TestClock>) -> Arc<LiveCredentials> {
    let paths = authority.saved_leaf(uri, clock.now());
    LiveCredentials::open(paths, &ANYONE(), Arc::<TestClock>::clone(clock)).unwrap()
}

/// How a connection ended up: whom the client met and whom the server met, or why there was none.
type Meeting = Result<(Identity, Identity), Error>;

fn meet(
    client: &Arc<LiveCredentials>,
    finds: PeerRule,
    server: &Arc<LiveCredentials>,
    admits: PeerRule,
) -> Meeting {
    let client_config = Arc::new(client.client_config(finds)?);
    let server_config = Arc::new(server.server_config(admits)?);
    connect(
        ClientConnection::new(client_config, server_name())?,
        ServerConnection::new(server_config)?,
    )
}

/// Carries bytes between both ends until neither has any. The error of the end that found it is told: the other
/// end only sees an alert.
fn connect(client: ClientConnection, server: ServerConnection) -> Meeting {
    let mut ends = [Connection::from(client), Connection::from(server)];
    loop {
        let mut moved = false;
        for (from, to) in [(0, 1), (1, 0)] {
            let mut bytes = Vec::new();
            while ends[from].wants_write() {
                ends[from].write_tls(&mut bytes).unwrap();
            }
            moved |= !bytes.is_empty();
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                ends[to].read_tls(&mut rest).unwrap();
                ends[to].process_new_packets()?;
            }
        }
        if !moved {
            break;
        }
    }
    assert!(ends.iter().all(|end| !end.is_handshaking()));
    for end in &ends {
        assert_eq!(end.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        assert_eq!(end.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
    Ok((peer_identity(&ends[0]).unwrap(), peer_identity(&ends[1]).unwrap()))
}

#[track_caller]
fn fault_of(meeting: Meeting) -> CertificateFault {
    let error = meeting.unwrap_err();
    fault_in(&error).unwrap_or_else(|| panic!("{error}")).clone()
}

#[test]
fn both_ends_learn_role_and_name_of_the_other() {
    let (authority, clock) = (TestAuthority::new(), TestClock::at(NOW));
    let berlin = live(&authority, "antipode://site/berlin", &clock);
    let judge = live(&authority, "antipode://tiebreaker/one", &clock);
    let operator = live(&authority, "antipode://operator/alice", &clock);
    assert_eq!(
        meet(&berlin, only(Role::Tiebreaker), &judge, ANYONE()).unwrap(),
        (
            identity("antipode://tiebreaker/one"),
            identity("antipode://site/berlin")
        )
    );
    let exactly = PeerRule::Exactly(identity("antipode://site/berlin"));
    assert_eq!(
        meet(&operator, exactly, &berlin, only(Role::Operator)).unwrap().1,
        identity("antipode://operator/alice")
    );
}

#[test]
fn a_peer_of_another_ca_is_refused_by_either_end() {
    let (ours, theirs, clock) = (TestAuthority::new(), TestAuthority::new(), TestClock::at(NOW));
    let berlin = live(&ours, "antipode://site/berlin", &clock);
    let stranger = live(&theirs, "antipode://site/paris", &clock);
    assert_eq!(
        fault_of(meet(&berlin, ANYONE(), &stranger, ANYONE())),
        CertificateFault::WrongAuthority
    );
    // The server's view: a client that trusts our CA as well, and shows its own certificate.
    let both = [
        theirs.authority.certificate_pem(),
        ours.authority.certificate_pem(),
    ]
    .concat();
    std::fs::write(theirs.path("ca.crt"), both).unwrap();
    clock.advance(60);
    assert_eq!(
        fault_of(meet(&stranger, ANYONE(), &berlin, ANYONE())),
        CertificateFault::WrongAuthority
    );
}

#[test]
fn a_peer_of_a_wrong_role_or_name_is_refused_by_either_end() {
    let (authority, clock) = (TestAuthority::new(), TestClock::at(NOW));
    let berlin = live(&authority, "antipode://site/berlin", &clock);
    let paris = live(&authority, "antipode://site/paris", &clock);
    let wrong_role = CertificateFault::WrongRole {
        expected: vec![Role::Tiebreaker],
        found: identity("antipode://site/paris"),
    };
    assert_eq!(
        fault_of(meet(&berlin, only(Role::Tiebreaker), &paris, ANYONE())),
        wrong_role
    );
    assert_eq!(
        fault_of(meet(&paris, ANYONE(), &berlin, only(Role::Tiebreaker))),
        wrong_role
    );
    let rome = PeerRule::Exactly(identity("antipode://site/rome"));
    assert!(matches!(
        fault_of(meet(&berlin, rome, &paris, ANYONE())),
        CertificateFault::WrongName { .. }
    ));
}

#[test]
fn an_operator_cannot_pose_as_a_server() {
    let (authority, clock) = (TestAuthority::new(), TestClock::at(NOW));
    let berlin = live(&authority, "antipode://site/berlin", &clock);
    let operator = live(&authority, "antipode://operator/alice", &clock);
    assert_eq!(
        fault_of(meet(&berlin, ANYONE(), &operator, ANYONE())),
        CertificateFault::Malformed("its key may not be used for this end of a connection")
    );
}

#[test]
fn a_peer_out_of_its_dates_is_refused_by_either_end() {
    let authority = TestAuthority::new();
    let (now, later) = (TestClock::at(NOW), TestClock::at(NOW.plus(366 * DAY)));
    let old = live(&authority, "antipode://site/old", &now);
    let new = live(&authority, "antipode://site/new", &later);
    let expired =
        |fault| matches!(fault, CertificateFault::Expired { since } if since == NOW.plus(365 * DAY));
    // On its slow clock the client sees a certificate from the future.
    assert!(matches!(
        fault_of(meet(&old, ANYONE(), &new, ANYONE())),
        CertificateFault::NotYetValid { .. }
    ));
    // Both clocks right: the server judges the client's certificate, the client the server's.
    now.advance(366 * DAY);
    assert!(expired(fault_of(meet(&old, ANYONE(), &new, ANYONE()))));
    assert!(expired(fault_of(meet(&new, ANYONE(), &old, ANYONE()))));
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let (authority, clock) = (TestAuthority::new(), TestClock::at(NOW));
    let berlin = live(&authority, "antipode://site/berlin", &clock);
    let mut config = berlin.client_config(ANYONE()).unwrap();
    config.client_auth_cert_resolver = Arc::new(NoCertificate);
    let client = ClientConnection::new(Arc::new(config), server_name()).unwrap();
    let server = ServerConnection::new(Arc::new(berlin.server_config(ANYONE()).unwrap())).unwrap();
    assert_eq!(connect(client, server), Err(Error::NoCertificatesPresented));
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[test]
fn a_certificate_alone_is_worth_nothing_without_its_key() {
    let (authority, clock) = (TestAuthority::new(), TestClock::at(NOW));
    let berlin = live(&authority, "antipode://site/berlin", &clock);
    let paris = live(&authority, "antipode://site/paris", &clock);
    let stolen = berlin.current().certificate().der().clone();
    let foreign_key = Arc::clone(&paris.current().key().key);
    let mut config = paris.client_config(ANYONE()).unwrap();
    config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(
        rustls::sign::CertifiedKey::new(vec![stolen], foreign_key),
    ));
    let client = ClientConnection::new(Arc::new(config), server_name()).unwrap();
    let server = ServerConnection::new(Arc::new(berlin.server_config(ANYONE()).unwrap())).unwrap();
    assert_eq!(
        connect(client, server),
        Err(Error::InvalidCertificate(rustls::CertificateError::BadSignature))
    );
}

#[test]
fn a_renewal_is_taken_up_without_a_restart() {
    let (authority, clock) = (TestAuthority::new(), TestClock::at(NOW));
    let berlin = live(&authority, "antipode://site/berlin", &clock);
    let paris = live(&authority, "antipode://site/paris", &clock);
    let first = berlin.current().certificate().fingerprint();
    let server = Arc::new(berlin.server_config(ANYONE()).unwrap());
    clock.advance(300 * DAY);
    for uri in ["antipode://site/berlin", "antipode://site/paris"] {
        authority.saved_leaf(uri, clock.now());
    }
    clock.advance(100 * DAY);
    // The configuration was made with the old certificate, which has expired since.
    let client =
        ClientConnection::new(Arc::new(paris.client_config(ANYONE()).unwrap()), server_name()).unwrap();
    assert!(connect(client, ServerConnection::new(server).unwrap()).is_ok());
    assert_ne!(berlin.current().certificate().fingerprint(), first);
    assert!(matches!(berlin.refresh(), Refreshed::Unchanged));
}

#[test]
fn files_are_looked_at_again_only_when_it_is_time() {
    let (authority, clock) = (TestAuthority::new(), TestClock::at(NOW));
    let berlin = live(&authority, "antipode://site/berlin", &clock);
    let serial = |credentials: &crate::Credentials| credentials.certificate().serial().to_owned();
    let first = serial(&berlin.current());
    authority.saved_leaf("antipode://site/berlin", NOW);
    clock.advance(9);
    assert_eq!(serial(&berlin.looked_after()), first);
    clock.advance(1);
    let second = serial(&berlin.looked_after());
    assert_ne!(second, first);
    authority.saved_leaf("antipode://site/berlin", NOW);
    clock.advance(-3600);
    assert_ne!(
        serial(&berlin.looked_after()),
        second,
        "a clock set back must not stop the looks"
    );
}

#[test]
fn what_cannot_be_used_does_not_replace_what_works() {
    let (authority, clock) = (TestAuthority::new(), TestClock::at(NOW));
    let berlin = live(&authority, "antipode://site/berlin", &clock);
    let first = berlin.current().certificate().serial().to_owned();
    let path = authority.path("site-berlin.pem");
    let text = std::fs::read_to_string(&path).unwrap();
    let stays = |what: &str| match berlin.refresh() {
        Refreshed::Kept(error) => {
            assert!(error.to_string().contains(what), "{error}");
            assert_eq!(berlin.current().certificate().serial(), first);
            assert!(berlin.fault().is_some());
        }
        other => panic!("{other:?}"),
    };
    std::fs::write(&path, &text[..text.len() / 2]).unwrap();
    stays("it is no PEM file");
    std::fs::remove_file(&path).unwrap();
    stays("there is no such file");
    // Another holder's certificate, sound in itself.
    let paris = authority.leaf("antipode://site/paris");
    paris.save(&path, Existing::Keep).unwrap();
    stays("it is for antipode://site/paris, but antipode://site/berlin is needed");
    // From a host whose clock is two hours fast: refused now, taken by itself when its time has come.
    let early = authority.authority.issue(
        &identity("antipode://site/berlin"),
        LeafDays::default(),
        NOW.plus(7200),
    );
    early.unwrap().save(&path, Existing::Replace).unwrap();
    stays("it is not valid before");
    stays("it is not valid before");
    clock.advance(7200);
    assert!(matches!(berlin.refresh(), Refreshed::Replaced(_)));
    assert!(berlin.fault().is_none());
}

#[test]
fn a_ca_is_replaced_without_a_restart() {
    let (old, new, clock) = (TestAuthority::new(), TestAuthority::new(), TestClock::at(NOW));
    let berlin = live(&old, "antipode://site/berlin", &clock);
    let paris = live(&new, "antipode://site/paris", &clock);
    let both = [old.authority.certificate_pem(), new.authority.certificate_pem()].concat();
    for authority in [&old, &new] {
        std::fs::write(authority.path("ca.crt"), &both).unwrap();
    }
    clock.advance(60);
    assert!(meet(&berlin, ANYONE(), &paris, ANYONE()).is_ok());
    // The old CA is dropped where paris is: berlin's certificate, still of it, is refused from then on.
    std::fs::write(new.path("ca.crt"), new.authority.certificate_pem()).unwrap();
    clock.advance(60);
    assert_eq!(
        fault_of(meet(&berlin, ANYONE(), &paris, ANYONE())),
        CertificateFault::WrongAuthority
    );
}

/// The first message of a client that knows TLS 1.2 alone, in its record.
fn hello_of_tls_1_2() -> Vec<u8> {
    let extensions: [&[u8]; 2] = [
        // supported_groups: x25519, secp256r1
        &[0, 10, 0, 6, 0, 4, 0, 0x1d, 0, 0x17],
        // signature_algorithms: ecdsa_secp256r1_sha256, ed25519
        &[0, 13, 0, 6, 0, 4, 4, 3, 8, 7],
    ];
    let extensions = extensions.concat();
    let body = [
        &[3, 3][..],
        &[7; 32],
        // No session; ECDHE_ECDSA with AES-128 and AES-256; no compression.
        &[0, 0, 4, 0xc0, 0x2b, 0xc0, 0x2c, 1, 0],
        &u16::try_from(extensions.len()).unwrap().to_be_bytes(),
        &extensions,
    ]
    .concat();
    let length = u16::try_from(body.len()).unwrap();
    let message = [&[1, 0][..], &length.to_be_bytes(), &body].concat();
    let length = u16::try_from(message.len()).unwrap();
    [&[0x16, 3, 1][..], &length.to_be_bytes(), &message].concat()
}

#[test]
fn tls_1_2_is_not_spoken() {
    let (authority, clock) = (TestAuthority::new(), TestClock::at(NOW));
    let server = live(&authority, "antipode://site/paris", &clock);
    let config = Arc::new(server.server_config(ANYONE()).unwrap());
    let mut server = ServerConnection::new(config).unwrap();
    let hello = hello_of_tls_1_2();
    assert_eq!(server.read_tls(&mut hello.as_slice()).unwrap(), hello.len());
    let told = server.process_new_packets().unwrap_err();
    let versions = rustls::PeerIncompatible::SupportedVersionsExtensionRequired;
    assert_eq!(told, Error::PeerIncompatible(versions));
    let mut alert = Vec::new();
    server.write_tls(&mut alert).unwrap();
    // A fatal alert: protocol_version.
    assert_eq!((alert[0], &alert[5..]), (0x15, &[2, 70][..]));
}
