//! What one site's supervisor asks of the other's: one question a connection, between proven sites.
//!
//! ```text
//!   question, answer   length (u32, little-endian), JSON
//! ```

use std::io::{Read, Write};
use std::sync::Arc;

use antipode_certs::tls::LiveCredentials;
use antipode_certs::{Name, PeerRule};
use antipode_disk_sync::protocol::{Link, LinkError};
use antipode_tiebreaker::{Generation, Incarnation, PairingId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::base::limits::SITE_MESSAGE_BYTES_MAX;
use crate::machine::probe::{Difference, HostKind};

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
pub(crate) struct Question {
    /// What is to be done.
    pub(crate) prepare: Prepare,
    /// What the asking host is.
    pub(crate) host: HostKind,
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

/// Why the other site's supervisor has not made it ready.
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

/// Asks the supervisor at `address`.
///
/// # Errors
/// [`PrepareError`].
pub(crate) fn prepare(
    address: &str,
    credentials: &Arc<LiveCredentials>,
    rule: PeerRule,
    question: &Question,
) -> Result<Prepared, PrepareError> {
    let link = Link::connect(address, credentials, rule)
        .map_err(|error| PrepareError::Link(address.to_owned(), error))?;
    let (mut reader, mut writer) = link.into_streams();
    put(&mut writer, question).map_err(PrepareError::Failed)?;
    let answer: Result<Prepared, Unready> = take(&mut reader).map_err(PrepareError::Failed)?;
    answer.map_err(PrepareError::Refused)
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
