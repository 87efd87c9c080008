//! Credentials that follow their files, so that a renewal needs no restart.
//!
//! ```text
//!   handshake ──looked_after──▶ 10 s since the last look? ──no──▶ credentials in use
//!                                        │ yes
//!                                        ▼
//!                       files as at the last look, and no fault then? ──yes──▶ credentials in use
//!                                        │ no
//!                                        ▼
//!                    load and check ──ok──▶ used from now on
//!                            └──fault──▶ told once, shown by `fault`; the credentials in use stay
//! ```
//!
//! What is half copied, exposed, or of another holder never replaces what works. Files are looked at when a
//! connection is made; a daemon that makes few may call [`LiveCredentials::refresh`] from a timer as well.
//!
//! Each look also says, once a day, what of the credentials in use ends soon.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::client::{ResolvesClientCert, Resumption};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, Error, ServerConfig, SignatureScheme};

use super::peer::PeerVerifier;
use super::provider;
use crate::credentials::{Credentials, Paths};
use crate::fault::FileError;
use crate::identity::PeerRule;
use crate::limits::{RELOAD_INTERVAL_SECONDS, WARNING_INTERVAL_SECONDS};
use crate::moment::{UnixTime, WallClock};

/// Credentials that are loaded anew when their files change.
#[derive(Debug)]
pub struct LiveCredentials {
    paths: Paths,
    clock: Arc<dyn WallClock>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    current: Arc<Credentials>,
    looked_at: UnixTime,
    /// What the files looked like just before they were last read.
    seen: [Option<Stamp>; 2],
    fault: Option<Arc<FileError>>,
    /// When an end that is near was last told.
    warned_at: Option<UnixTime>,
}

impl State {
    /// What of the credentials in use ends soon, unless that was told a day ago or less.
    fn warning(&mut self, now: UnixTime) -> Option<String> {
        let told_today =
            (self.warned_at).is_some_and(|told| (0..WARNING_INTERVAL_SECONDS).contains(&now.since(told)));
        let ending = self.current.ending(now).filter(|_| !told_today)?;
        self.warned_at = Some(now);
        Some(ending)
    }
}

/// What changes when a file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    mode: u32,
    changed: (i64, i64),
}

/// What came of a look at the files.
#[derive(Debug, Clone)]
pub enum Refreshed {
    /// They are as before.
    Unchanged,
    /// New credentials are in use.
    Replaced(Arc<Credentials>),
    /// What the files hold now cannot be used; the credentials in use stay.
    Kept(Arc<FileError>),
}

impl LiveCredentials {
    /// Loads the credentials for the first time; their holder must be one that `rule` admits.
    ///
    /// # Errors
    /// As [`Credentials::load`].
    pub fn open(paths: Paths, rule: &PeerRule, clock: Arc<dyn WallClock>) -> Result<Arc<Self>, FileError> {
        let looked_at = clock.now();
        let seen = stamps(&paths);
        let mut state = State {
            current: Arc::new(Credentials::load(&paths, rule, looked_at)?),
            looked_at,
            seen,
            fault: None,
            warned_at: None,
        };
        warn_of_end(&mut state, looked_at);
        Ok(Arc::new(Self {
            paths,
            clock,
            state: Mutex::new(state),
        }))
    }

    /// The credentials in use.
    #[must_use]
    pub fn current(&self) -> Arc<Credentials> {
        Arc::clone(&self.state().current)
    }

    /// Why the files' present content is not in use, if it is not.
    #[must_use]
    pub fn fault(&self) -> Option<Arc<FileError>> {
        self.state().fault.clone()
    }

    /// Looks at the files now.
    pub fn refresh(&self) -> Refreshed {
        let mut state = self.state();
        self.refresh_state(&mut state, self.clock.now())
    }

    /// The credentials in use, after a look at the files if one is due. A clock that was set back makes it due.
    pub(super) fn looked_after(&self) -> Arc<Credentials> {
        let now = self.clock.now();
        let mut state = self.state();
        if !(0..RELOAD_INTERVAL_SECONDS).contains(&now.since(state.looked_at)) {
            self.refresh_state(&mut state, now);
        }
        Arc::clone(&state.current)
    }

    pub(super) fn now(&self) -> UnixTime {
        self.clock.now()
    }

    fn refresh_state(&self, state: &mut State, now: UnixTime) -> Refreshed {
        let refreshed = self.load_anew(state, now);
        warn_of_end(state, now);
        refreshed
    }

    fn load_anew(&self, state: &mut State, now: UnixTime) -> Refreshed {
        state.looked_at = now;
        let seen = stamps(&self.paths);
        let changed = seen != state.seen;
        // After a fault the same files are read again: one that is not valid yet becomes so by itself.
        if !changed && state.fault.is_none() {
            return Refreshed::Unchanged;
        }
        state.seen = seen;
        match Credentials::load(&self.paths, &state.current.same_holder(), now) {
            Ok(credentials) => {
                state.current = Arc::new(credentials);
                state.fault = None;
                let validity = state.current.certificate().validity();
                tracing::info!(holder = %state.current.identity(), "new certificate in use; {}", validity.in_words(now));
                Refreshed::Replaced(Arc::clone(&state.current))
            }
            Err(error) => {
                if changed || state.fault.is_none() {
                    tracing::warn!("the certificate in use stays, the new one cannot be used: {error}");
                }
                let error = Arc::new(error);
                state.fault = Some(Arc::clone(&error));
                Refreshed::Kept(error)
            }
        }
    }

    /// A state is replaced field by field from finished values, so one that a panic left behind is sound.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How to accept connections from peers that `rule` admits.
    ///
    /// # Errors
    /// Where rustls refuses the settings: a defect, not a state of the host.
    pub fn server_config(self: &Arc<Self>, rule: PeerRule) -> Result<ServerConfig, Error> {
        let mut config = ServerConfig::builder_with_details(provider(), Arc::<Self>::clone(self))
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(self.verifier(rule))
            .with_cert_resolver(Arc::new(Resolver(Arc::clone(self))));
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// How to open connections to a peer that `rule` admits.
    ///
    /// # Errors
    /// Where rustls refuses the settings: a defect, not a state of the host.
    pub fn client_config(self: &Arc<Self>, rule: PeerRule) -> Result<ClientConfig, Error> {
        let mut config = ClientConfig::builder_with_details(provider(), Arc::<Self>::clone(self))
            .with_protocol_versions(&[&TLS13])?
            .dangerous() // rustls's name for a verifier of one's own
            .with_custom_certificate_verifier(self.verifier(rule))
            .with_client_cert_resolver(Arc::new(Resolver(Arc::clone(self))));
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        Ok(config)
    }

    fn verifier(self: &Arc<Self>, rule: PeerRule) -> Arc<PeerVerifier> {
        Arc::new(PeerVerifier {
            live: Arc::clone(self),
            rule,
        })
    }
}

fn warn_of_end(state: &mut State, now: UnixTime) {
    if let Some(ending) = state.warning(now) {
        tracing::warn!("{ending}");
    }
}

fn stamps(paths: &Paths) -> [Option<Stamp>; 2] {
    [stamp(&paths.credentials), stamp(&paths.trust)]
}

fn stamp(path: &Path) -> Option<Stamp> {
    let found = fs::metadata(path).ok()?;
    Some(Stamp {
        inode: found.ino(),
        length: found.len(),
        mode: found.mode(),
        changed: (found.ctime(), found.ctime_nsec()),
    })
}

/// Shows our certificate of the moment, at either end.
#[derive(Debug)]
struct Resolver(Arc<LiveCredentials>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.0.looked_after().key()))
    }
}

impl ResolvesClientCert for Resolver {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.0.looked_after().key()))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_authority::{DAY, NOW, TestAuthority};
    use crate::{Existing, Identity, LeafDays, Role, TRUST_FILE};

    /// Of a leaf of a year, made on the CA's first day.
    fn state(authority: &TestAuthority) -> State {
        let paths = authority.saved_leaf("antipode://site/berlin", NOW);
        let rule = PeerRule::AnyOf(Role::ALL.to_vec());
        State {
            current: Arc::new(Credentials::load(&paths, &rule, NOW).unwrap()),
            looked_at: NOW,
            seen: [None; 2],
            fault: None,
            warned_at: None,
        }
    }

    #[test]
    fn an_end_that_is_near_is_told_once_a_day() {
        let mut state = state(&TestAuthority::new());
        assert_eq!(state.warning(NOW.plus(328 * DAY)), None);
        let told = state.warning(NOW.plus(329 * DAY)).unwrap();
        assert!(
            told.starts_with("the certificate of antipode://site/berlin expires in 36 days")
                && told.contains("certs renew"),
            "{told}"
        );
        assert_eq!(state.warning(NOW.plus(330 * DAY - 1)), None);
        assert!(state.warning(NOW.plus(330 * DAY)).is_some());
        assert!(state.warning(NOW.plus(366 * DAY)).unwrap().contains("expired"));
    }

    #[test]
    fn the_end_of_the_ca_is_told_too() {
        let authority = TestAuthority::new();
        let late = NOW.plus(3300 * DAY);
        let identity = Identity::from_uri("antipode://site/berlin").unwrap();
        let issued = authority
            .authority
            .issue(&identity, LeafDays::new(300).unwrap(), late)
            .unwrap();
        let paths = Paths {
            credentials: authority.path(&issued.file_name()),
            trust: authority.path(TRUST_FILE),
        };
        issued.save(&paths.credentials, Existing::Keep).unwrap();
        let current = Credentials::load(&paths, &PeerRule::Exactly(identity), late).unwrap();
        let told = current.ending(late).unwrap();
        assert!(
            told.contains("make a new CA") && !told.contains("berlin"),
            "{told}"
        );
    }
}
