//! What one site's supervisor asks of the other's: one question a connection, between proven sites.
//!
//! ```text
//!   question, answer   length (u32, little-endian), JSON
//! ```

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use antipode_certs::tls::LiveCredentials;
use antipode_certs::{Identity, Name, PeerRule, Role};
use antipode_disk_sync::protocol::{Link, LinkError};
use antipode_tiebreaker::{Generation, Incarnation, PairingId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::base::limits::SITE_MESSAGE_BYTES_MAX;
use crate::machine::probe::{Difference, HostKind};
use crate::protocol::limits::CALL_PATIENCE;
use crate::protocol::reprotect::Called;

/// How long it may take until a copy can begin.
const PREPARE_PATIENCE: Duration = Duration::from_secs(45);

/// Be ready to become the copy of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepare {
    /// Which.
    pub vm: Name,
    /// Which of that name.
    pub incarnation: Incarnation,
    /// The pairing that is being made.
    pub pairing: PairingId,
    /// The generation of the record under which.
    pub generation: Generation,
    /// Where the asking process hears heartbeats.
    pub heartbeat_port: u16,
    /// BLAKE3 of what the machine is made of.
    pub recipe: [u8; 32],
}

/// What one supervisor is asked by the other site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Question {
    /// Could it take a copy of this VM now?
    IsFree {
        /// Which.
        vm: Name,
    },
    /// Be ready for one.
    Prepare {
        /// What is to be done.
        prepare: Prepare,
        /// What the asking host is.
        host: HostKind,
    },
}

/// What it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// It could.
    Free,
    /// It is.
    Prepared(Prepared),
}

/// A process is ready, and is reached at these ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// Of the logging channel, TCP, and of heartbeats, UDP.
    pub log_port: u16,
    /// Of the machine on its way.
    pub transfer_port: u16,
}

/// Why a site does not make itself ready to be a VM's copy. Nothing has changed there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Unready {
    /// The two hosts would not stay in lockstep.
    #[error("the hosts differ in {}; what may differ is named there in [peer] allow_different", told(.0))]
    HostsDiffer(Vec<Difference>),
    /// It has such a VM, and is to it what excludes that it follows.
    #[error("VM {vm} is {role} there")]
    Busy {
        /// The VM.
        vm: Name,
        /// What the site is to it.
        role: String,
    },
    /// Its host fails it.
    #[error("{0}")]
    Failed(String),
}

impl Unready {
    /// The name used in JSON of what was refused; none where nobody has done anything wrong.
    pub(crate) const fn name(&self) -> Option<&'static str> {
        match self {
            Self::HostsDiffer(_) => Some("hosts-differ"),
            Self::Busy { .. } => Some("role"),
            Self::Failed(_) => None,
        }
    }
}

fn told(differences: &[Difference]) -> String {
    let told: Vec<String> = differences.iter().map(ToString::to_string).collect();
    told.join(", ")
}

/// Why the other site's supervisor does not do what it is asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrepareError {
    /// It is not reached, or is not whom it must be, or takes us for another.
    #[error("{0}: {1}")]
    Link(String, LinkError),
    /// The connection failed, or it said what is no answer.
    #[error("{0}")]
    Failed(String),
    /// It refuses.
    #[error("the other site: {0}")]
    Refused(Unready),
}

/// Where the other site's supervisor is reached, and who it must be.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// As `host:port`.
    pub(crate) address: String,
    /// Its site.
    pub(crate) peer: Name,
    /// Whom this site proves to be.
    pub(crate) credentials: Arc<LiveCredentials>,
}

impl Caller {
    /// Who alone may answer.
    pub(crate) fn rule(&self) -> PeerRule {
        PeerRule::Exactly(Identity {
            role: Role::Site,
            name: self.peer.clone(),
        })
    }

    /// Has it become ready for a copy.
    ///
    /// # Errors
    /// [`PrepareError`].
    pub(crate) fn prepare(&self, prepare: Prepare, host: HostKind) -> Result<Prepared, PrepareError> {
        match self.ask(&Question::Prepare { prepare, host }, PREPARE_PATIENCE)? {
            Answer::Prepared(prepared) => Ok(prepared),
            Answer::Free => Err(PrepareError::Failed(
                "the other site answered something else".to_owned(),
            )),
        }
    }

    /// Whether it is there, and could take a copy of `vm`.
    pub(crate) fn call(&self, vm: &Name) -> Called {
        match self.ask(&Question::IsFree { vm: vm.clone() }, CALL_PATIENCE) {
            Ok(_) => Called::Free,
            Err(refused @ PrepareError::Refused(_)) => Called::Busy(refused.to_string()),
            Err(failed) => Called::Away(failed.to_string()),
        }
    }

    fn ask(&self, question: &Question, patience: Duration) -> Result<Answer, PrepareError> {
        let failed = |error| PrepareError::Link(self.address.clone(), error);
        let link = Link::connect_within(&self.address, &self.credentials, self.rule(), patience);
        let link = link.map_err(failed)?;
        link.limit_silence(patience)
            .map_err(|error| failed(error.into()))?;
        let (mut reader, mut writer) = link.into_streams();
        put(&mut writer, question).map_err(PrepareError::Failed)?;
        let answer: Result<Answer, Unready> = take(&mut reader).map_err(PrepareError::Failed)?;
        answer.map_err(PrepareError::Refused)
    }
}

/// Writes one message.
pub(super) fn put(writer: &mut impl Write, message: &impl Serialize) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| format!("the connection to the other site broke: {error}");
    let bytes = serde_json::to_vec(message).map_err(|error| failed(&error))?;
    let length = u32::try_from(bytes.len()).map_err(|error| failed(&error))?;
    let framed = [&length.to_le_bytes()[..], &bytes].concat();
    writer
        .write_all(&framed)
        .and_then(|()| writer.flush())
        .map_err(|error| failed(&error))
}

/// Reads one message.
pub(super) fn take<T: DeserializeOwned>(reader: &mut impl Read) -> Result<T, String> {
    let failed = |error: &dyn std::fmt::Display| format!("the connection to the other site broke: {error}");
    let mut length = [0; 4];
    reader.read_exact(&mut length).map_err(|error| failed(&error))?;
    let length = u32::from_le_bytes(length) as usize;
    if length > SITE_MESSAGE_BYTES_MAX {
        return Err(format!("the other site sent a message of {length} bytes"));
    }
    let mut bytes = vec![0; length];
    reader.read_exact(&mut bytes).map_err(|error| failed(&error))?;
    serde_json::from_slice(&bytes).map_err(|error| format!("the other site sent what is no message: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_travels_with_its_reason() {
        let differs = Difference {
            word: "cpu".to_owned(),
            here: "a".to_owned(),
            there: "b".to_owned(),
        };
        for (unready, name, words) in [
            (
                Unready::HostsDiffer(vec![differs]),
                Some("hosts-differ"),
                "the hosts differ in cpu (b, here a); what may differ is named there in [peer] allow_different",
            ),
            (
                Unready::Busy {
                    vm: "redis-1".parse().unwrap(),
                    role: "solo".to_owned(),
                },
                Some("role"),
                "VM redis-1 is solo there",
            ),
            (Unready::Failed("no KVM".to_owned()), None, "no KVM"),
        ] {
            let mut bytes = Vec::new();
            put(&mut bytes, &Err::<Prepared, _>(&unready)).unwrap();
            let answer: Result<Prepared, Unready> = take(&mut &bytes[..]).unwrap();
            let told = answer.unwrap_err();
            assert_eq!(told, unready);
            assert_eq!((told.name(), told.to_string().as_str()), (name, words));
        }
    }
}
