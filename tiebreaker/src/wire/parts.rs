//! Messages of consensus as frames: whole, or in parts where they are longer than one.

use protobuf::Message as _;
use raft::eraftpb::Message;

use super::frame::{Head, Kind};
use crate::limits::{FRAME_BYTES_MAX, SNAPSHOT_BYTES_MAX};
use crate::node::NodeId;

/// What is no message from its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Not protobuf, or with bytes behind it.
    #[error("a message cannot be read")]
    Malformed,
    /// From another node than the session's.
    #[error("a message says that it comes from node {0}")]
    Sender(u64),
    /// For another node.
    #[error("a message is for node {0}")]
    Recipient(u64),
    /// Parts without end.
    #[error("a message in parts is longer than {SNAPSHOT_BYTES_MAX} bytes")]
    TooLong,
    /// A frame that is no message or part.
    #[error("a frame of kind {0:?} came where a message should")]
    Kind(Kind),
    /// A whole message in the middle of one in parts.
    #[error("a message came before the last part of the one before")]
    Interrupted,
}

/// The frames that carry `message`; none of a message that is too long even in parts.
///
/// # Panics
/// Never: raft-rs's messages have no required fields.
pub fn parts_of(message: &Message) -> impl Iterator<Item = Vec<u8>> + use<> {
    let bytes = message
        .write_to_bytes()
        .expect("raft-rs's messages have no required fields");
    let is_whole = bytes.len() <= FRAME_BYTES_MAX;
    let end = if bytes.len() > SNAPSHOT_BYTES_MAX {
        0
    } else {
        bytes.len()
    };
    // One at a time: of a snapshot, all of them are as long as everything that there is.
    (0..end).step_by(FRAME_BYTES_MAX).map(move |at| {
        let part = &bytes[at..bytes.len().min(at + FRAME_BYTES_MAX)];
        let kind = match at + part.len() == bytes.len() {
            _ if is_whole => Kind::Message,
            true => Kind::LastPart,
            false => Kind::Part,
        };
        Head::frame(kind, part)
    })
}

/// Puts messages together again.
#[derive(Debug)]
pub struct Assembler {
    from: NodeId,
    to: NodeId,
    parts: Vec<u8>,
}

impl Assembler {
    /// For the messages of `from` to `to`.
    #[must_use]
    pub const fn new(from: NodeId, to: NodeId) -> Self {
        Self {
            from,
            to,
            parts: Vec::new(),
        }
    }

    /// Takes the next frame; answers with a message if it is complete.
    ///
    /// # Errors
    /// Where the frame is out of place, the message too long, unreadable, or not from or for whom it must be.
    pub fn take(&mut self, kind: Kind, payload: &[u8]) -> Result<Option<Message>, MessageError> {
        match kind {
            Kind::Message if self.parts.is_empty() => self.read(payload).map(Some),
            Kind::Message => Err(MessageError::Interrupted),
            Kind::Part | Kind::LastPart => {
                if self.parts.len() + payload.len() > SNAPSHOT_BYTES_MAX {
                    return Err(MessageError::TooLong);
                }
                self.parts.extend_from_slice(payload);
                if kind == Kind::Part {
                    return Ok(None);
                }
                let whole = std::mem::take(&mut self.parts);
                self.read(&whole).map(Some)
            }
            other => Err(MessageError::Kind(other)),
        }
    }

    fn read(&self, bytes: &[u8]) -> Result<Message, MessageError> {
        let message = Message::parse_from_bytes(bytes).map_err(|_| MessageError::Malformed)?;
        if message.from != self.from.0 {
            return Err(MessageError::Sender(message.from));
        }
        if message.to != self.to.0 {
            return Err(MessageError::Recipient(message.to));
        }
        Ok(message)
    }
}
