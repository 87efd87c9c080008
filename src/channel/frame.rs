//! Frames: what travels over the log connection, and how (P2, S2).
//!
//! ```text
//!   frame   0        4      5                  21
//!           ├ length ┼ kind ┼ session tag (16) ┼ body, `length` bytes ┤           integers little-endian
//!
//!   kind   body                                                          sent by
//!   Hello  hello.rs                                                      both, first and once
//!   Log    seq (8), urgent (1), a batch of the log                       the primary
//!   Ack    received (8), executed (8), replayed (8), durable (8)         the backup
//!   Ping   stamp (8)                                                     both
//!   Pong   the stamp of the Ping that it answers                         both
//!   Word   what one role says to the other, opaque here                    both
//!   Check  of a verification: check.rs                                   both, as it says
//!   Repair of a copy that differs, opaque here                           both
//!   Bye    reason (1)                                                    both, last
//! ```
//!
//! - Length and kind are checked before a byte of the body is waited for. No frame is longer than
//!   [`CHANNEL_FRAME_BYTES_MAX`], and none but Log comes near.
//! - Memory is taken as bytes come, never on a length's word.
//! - There is one way to write a frame: what reads well, and is written again, is the same bytes.
//! - TLS guards the bytes, and batches are chained by their own digests: there is no checksum here.

use std::sync::Arc;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::check::Check;
use super::hello::{HELLO_BYTES_MAX, Hello, HelloError, Refusal};
use super::session::{LogSeq, Tag};
use crate::base::limits::{
    CHANNEL_CHECK_BYTES_MAX, CHANNEL_FRAME_BYTES_MAX, CHANNEL_READ_BYTES, CHANNEL_REPAIR_BYTES_MAX,
    CHANNEL_WORD_BYTES_MAX, LOG_FRAME_BYTES_MAX,
};
use crate::base::units::ExitOrdinal;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Head {
    length: U32,
    kind: u8,
    tag: [u8; Tag::BYTES],
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct LogHead {
    seq: U64,
    urgent: u8,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct AckBody {
    received: U64,
    executed: U64,
    replayed: U64,
    durable: U64,
}

/// Bytes of a frame before its body.
pub const HEAD_BYTES: usize = size_of::<Head>();

// The longest frame there is.
const _: () = assert!(HEAD_BYTES + size_of::<LogHead>() + LOG_FRAME_BYTES_MAX <= CHANNEL_FRAME_BYTES_MAX);
const _: () = assert!(HEAD_BYTES + HELLO_BYTES_MAX <= CHANNEL_FRAME_BYTES_MAX);

/// One batch of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFrame {
    /// Its number in the session.
    pub seq: LogSeq,
    /// Whether an output waits for its acknowledgement.
    pub urgent: bool,
    /// The batch, as the replay layer writes it. Shared between the backlog and what waits to be sent.
    pub batch: Arc<[u8]>,
}

impl LogFrame {
    /// What it takes of the connection, before TLS.
    #[must_use]
    pub fn byte_count(&self) -> u64 {
        (HEAD_BYTES + size_of::<LogHead>() + self.batch.len()) as u64
    }
}

/// How far the backup is. Each number stands for everything before it as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ack {
    /// The last log frame received whole: what releases outputs (P1).
    pub received: LogSeq,
    /// The last one that it has executed to its end, all of its outputs made and compared: what releases them where they are
    /// verified (H3).
    pub executed: LogSeq,
    /// The exit that its replay has reached.
    pub replayed: ExitOrdinal,
    /// The exit up to which its replica is durable (P8).
    pub durable: ExitOrdinal,
}

/// Why an end leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByeReason {
    /// The pairing ends in order.
    Ended,
    /// Its copy of the VM, or its replica, cannot go on in lockstep. Its site's status says why.
    Failed,
    /// The other end broke the rules.
    Misbehaved,
    /// The two do not belong together.
    Refused(Refusal),
}

/// Codes of [`ByeReason::Refused`] begin here.
const BYE_REFUSED: u8 = 16;

impl ByeReason {
    const fn code(self) -> u8 {
        match self {
            Self::Ended => 1,
            Self::Failed => 2,
            Self::Misbehaved => 3,
            Self::Refused(refusal) => BYE_REFUSED + refusal as u8,
        }
    }

    fn parse(code: u8) -> Option<Self> {
        let refused = Refusal::ALL.into_iter().map(Self::Refused);
        [Self::Ended, Self::Failed, Self::Misbehaved]
            .into_iter()
            .chain(refused)
            .find(|reason| reason.code() == code)
    }
}

impl std::fmt::Display for ByeReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ended => f.write_str("the pairing has ended"),
            Self::Failed => f.write_str("it cannot go on in lockstep; its own status says why"),
            Self::Misbehaved => f.write_str("it says that this site broke the protocol"),
            Self::Refused(refusal) => refusal.fmt(f),
        }
    }
}

/// What a frame says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Who speaks.
    Hello(Hello),
    /// A batch of the log.
    Log(LogFrame),
    /// How far the backup is.
    Ack(Ack),
    /// Asks for a Pong with the same stamp.
    Ping(u64),
    /// Answers a Ping.
    Pong(u64),
    /// What one role says to the other.
    Word(Vec<u8>),
    /// Of a verification.
    Check(Check),
    /// Of a copy that differs (H2).
    Repair(Vec<u8>),
    /// Nothing more will come, and why.
    Bye(ByeReason),
}

const KIND_HELLO: u8 = 1;
const KIND_LOG: u8 = 2;
const KIND_ACK: u8 = 3;
const KIND_PING: u8 = 4;
const KIND_PONG: u8 = 5;
const KIND_BYE: u8 = 6;
const KIND_WORD: u8 = 7;
const KIND_CHECK: u8 = 8;
const KIND_REPAIR: u8 = 9;

impl Message {
    const fn kind(&self) -> u8 {
        match self {
            Self::Hello(_) => KIND_HELLO,
            Self::Log(_) => KIND_LOG,
            Self::Ack(_) => KIND_ACK,
            Self::Ping(_) => KIND_PING,
            Self::Pong(_) => KIND_PONG,
            Self::Word(_) => KIND_WORD,
            Self::Check(_) => KIND_CHECK,
            Self::Repair(_) => KIND_REPAIR,
            Self::Bye(_) => KIND_BYE,
        }
    }

    /// The name of its kind.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "Hello",
            Self::Log(_) => "Log",
            Self::Ack(_) => "Ack",
            Self::Ping(_) => "Ping",
            Self::Pong(_) => "Pong",
            Self::Word(_) => "Word",
            Self::Check(_) => "Check",
            Self::Repair(_) => "Repair",
            Self::Bye(_) => "Bye",
        }
    }
}

/// Bytes that are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Of no kind that is known.
    #[error("{0} is no kind of frame")]
    Kind(u8),
    /// Its body is of a length that no frame of its kind has.
    #[error("a frame of kind {kind} has no body of {length} bytes")]
    Length {
        /// Its kind.
        kind: u8,
        /// The length that it announces.
        length: usize,
    },
    /// A field that cannot be.
    #[error("a frame's {0} is none that can be")]
    Field(&'static str),
    /// No Hello.
    #[error("a Hello cannot be read: {0}")]
    Hello(#[from] HelloError),
}

/// A message and the session that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The session's.
    pub tag: Tag,
    /// What it says.
    pub message: Message,
}

impl Frame {
    /// Appends it to `bytes`.
    ///
    /// # Panics
    /// Where a batch is longer than [`LOG_FRAME_BYTES_MAX`]: [`super::Sender::push`] takes none.
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        let at = bytes.len();
        let mut head = Head {
            length: U32::ZERO,
            kind: self.message.kind(),
            tag: self.tag.0,
        };
        bytes.extend_from_slice(head.as_bytes());
        match &self.message {
            Message::Hello(hello) => hello.encode(bytes),
            Message::Log(log) => {
                let head = LogHead {
                    seq: log.seq.0.into(),
                    urgent: log.urgent.into(),
                };
                bytes.extend_from_slice(head.as_bytes());
                bytes.extend_from_slice(&log.batch);
            }
            Message::Ack(ack) => {
                let body = AckBody {
                    received: ack.received.0.into(),
                    executed: ack.executed.0.into(),
                    replayed: ack.replayed.get().into(),
                    durable: ack.durable.get().into(),
                };
                bytes.extend_from_slice(body.as_bytes());
            }
            Message::Ping(stamp) | Message::Pong(stamp) => bytes.extend_from_slice(&stamp.to_le_bytes()),
            Message::Word(word) | Message::Repair(word) => bytes.extend_from_slice(word),
            Message::Check(check) => check.encode(bytes),
            Message::Bye(reason) => bytes.push(reason.code()),
        }
        let length = bytes.len() - at - HEAD_BYTES;
        assert!(
            lengths(head.kind).is_some_and(|lengths| lengths.contains(&length)),
            "a frame of kind {} never has {length} bytes",
            head.kind
        );
        head.length = u32::try_from(length).expect("lengths are bounded").into();
        bytes[at..at + HEAD_BYTES].copy_from_slice(head.as_bytes());
    }
}

/// The lengths that the body of a frame of `kind` may have.
fn lengths(kind: u8) -> Option<std::ops::RangeInclusive<usize>> {
    let exactly = |length: usize| length..=length;
    match kind {
        KIND_HELLO => Some(1..=HELLO_BYTES_MAX),
        KIND_LOG => Some(size_of::<LogHead>() + 1..=size_of::<LogHead>() + LOG_FRAME_BYTES_MAX),
        KIND_ACK => Some(exactly(size_of::<AckBody>())),
        KIND_PING | KIND_PONG => Some(exactly(8)),
        KIND_WORD => Some(1..=CHANNEL_WORD_BYTES_MAX),
        KIND_CHECK => Some(1..=CHANNEL_CHECK_BYTES_MAX),
        KIND_REPAIR => Some(1..=CHANNEL_REPAIR_BYTES_MAX),
        KIND_BYE => Some(exactly(1)),
        _ => None,
    }
}

impl Head {
    /// The length of the body.
    fn judge(&self) -> Result<usize, FrameError> {
        let (kind, length) = (self.kind, self.length.get() as usize);
        let lengths = lengths(kind).ok_or(FrameError::Kind(kind))?;
        if lengths.contains(&length) {
            Ok(length)
        } else {
            Err(FrameError::Length { kind, length })
        }
    }
}

/// Reads the body of a frame whose head has been judged.
fn decode(kind: u8, body: &[u8]) -> Result<Message, FrameError> {
    let malformed = FrameError::Length {
        kind,
        length: body.len(),
    };
    let stamp = || U64::read_from_bytes(body).map(U64::get).map_err(|_| malformed);
    match kind {
        KIND_HELLO => Ok(Message::Hello(Hello::decode(body)?)),
        KIND_LOG => {
            let (head, batch) = LogHead::read_from_prefix(body).map_err(|_| malformed)?;
            let urgent = match head.urgent {
                0 => false,
                1 => true,
                _ => return Err(FrameError::Field("urgency")),
            };
            Ok(Message::Log(LogFrame {
                seq: LogSeq(head.seq.get()),
                urgent,
                batch: batch.into(),
            }))
        }
        KIND_ACK => {
            let ack = AckBody::read_from_bytes(body).map_err(|_| malformed)?;
            Ok(Message::Ack(Ack {
                received: LogSeq(ack.received.get()),
                executed: LogSeq(ack.executed.get()),
                replayed: ExitOrdinal::new(ack.replayed.get()),
                durable: ExitOrdinal::new(ack.durable.get()),
            }))
        }
        KIND_PING => Ok(Message::Ping(stamp()?)),
        KIND_PONG => Ok(Message::Pong(stamp()?)),
        KIND_WORD => Ok(Message::Word(body.to_vec())),
        KIND_REPAIR => Ok(Message::Repair(body.to_vec())),
        KIND_CHECK => Check::decode(body)
            .map(Message::Check)
            .ok_or(FrameError::Field("word of a verification")),
        KIND_BYE => {
            let reason = body.first().and_then(|code| ByeReason::parse(*code));
            Ok(Message::Bye(
                reason.ok_or(FrameError::Field("reason for leaving"))?,
            ))
        }
        _ => Err(FrameError::Kind(kind)),
    }
}

/// Makes frames of bytes, in whatever pieces they come.
#[derive(Debug, Default)]
pub struct Deframer {
    bytes: Vec<u8>,
    /// How many of them are taken.
    taken: usize,
}

impl Deframer {
    /// Where further bytes are appended, with room for the next of them.
    pub fn input(&mut self) -> &mut Vec<u8> {
        // What is taken is given up before more comes: a frame's bytes move once at most.
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.reserve(CHANNEL_READ_BYTES);
        &mut self.bytes
    }

    /// The next frame, if all of it is there.
    ///
    /// # Errors
    /// Where the bytes are no frame: there is no going on after it.
    pub fn frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Ok((head, rest)) = Head::read_from_prefix(&self.bytes[self.taken..]) else {
            return Ok(None);
        };
        let Some(body) = rest.get(..head.judge()?) else {
            return Ok(None);
        };
        let message = decode(head.kind, body)?;
        self.taken += HEAD_BYTES + body.len();
        Ok(Some(Frame {
            tag: Tag(head.tag),
            message,
        }))
    }

    /// Whether bytes of a frame are there that is not whole.
    #[must_use]
    pub fn is_within_frame(&self) -> bool {
        self.taken < self.bytes.len()
    }
}
