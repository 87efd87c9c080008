//! What one site's supervisor asks of the other's: one question a connection, between proven sites.
//!
//! ```text
//!   question, answer   length (u32, little-endian), JSON
//! ```

use std::io::{Read, Write};
use std::sync::Arc;

use antipode_certs::tls::LiveCredentials;
use antipode_certs::{Name, PeerRule};
use antipode_disk_sync::protocol::Link;
use antipode_tiebreaker::{Generation, Incarnation, PairingId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::base::limits::SITE_MESSAGE_BYTES_MAX;
use crate::machine::probe::HostKind;

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

/// Asks the supervisor at `address`.
///
/// # Errors
/// In words, what is in the way.
pub(crate) fn prepare(
    address: &str,
    credentials: &Arc<LiveCredentials>,
    rule: PeerRule,
    question: &Question,
) -> Result<Prepared, String> {
    let link = Link::connect(address, credentials, rule).map_err(|error| format!("{address}: {error}"))?;
    let (mut reader, mut writer) = link.into_streams();
    put(&mut writer, question)?;
    let answer: Result<Prepared, String> = take(&mut reader)?;
    answer.map_err(|why| format!("the other site: {why}"))
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
