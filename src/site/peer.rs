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
use antipode_disk_sync::protocol::Link;
use antipode_tiebreaker::{Generation, Incarnation, PairingId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::base::limits::SITE_MESSAGE_BYTES_MAX;
use crate::machine::probe::HostKind;
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
    /// In words, what is in the way.
    pub(crate) fn prepare(&self, prepare: Prepare, host: HostKind) -> Result<Prepared, String> {
        let question = Question::Prepare { prepare, host };
        match self.ask(&question, PREPARE_PATIENCE)? {
            Ok(Answer::Prepared(prepared)) => Ok(prepared),
            Ok(Answer::Free) => Err("the other site answered something else".to_owned()),
            Err(why) => Err(format!("the other site: {why}")),
        }
    }

    /// Whether it is there, and could take a copy of `vm`.
    pub(crate) fn call(&self, vm: &Name) -> Called {
        let question = Question::IsFree { vm: vm.clone() };
        match self.ask(&question, CALL_PATIENCE) {
            Ok(Ok(_)) => Called::Free,
            Ok(Err(why)) => Called::Busy(format!("the other site: {why}")),
            Err(why) => Called::Away(why),
        }
    }

    fn ask(&self, question: &Question, patience: Duration) -> Result<Result<Answer, String>, String> {
        let link = Link::connect_within(&self.address, &self.credentials, self.rule(), patience);
        let link = link.map_err(|error| format!("{}: {error}", self.address))?;
        link.limit_silence(patience)
            .map_err(|error| format!("{}: {error}", self.address))?;
        let (mut reader, mut writer) = link.into_streams();
        put(&mut writer, question)?;
        take(&mut reader)
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
