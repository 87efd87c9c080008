//! The head of a frame.

use crate::limits::FRAME_BYTES_MAX;

/// Bytes before the payload.
pub const HEAD_BYTES: usize = 5;

/// What a payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Who speaks, in JSON: the first frame of each session.
    Hello = 1,
    /// A message of consensus.
    Message = 2,
    /// A part of one, with more to come.
    Part = 3,
    /// The last part of one.
    LastPart = 4,
    /// What a client asks, in JSON.
    Demand = 5,
    /// What it is told, in JSON.
    Reply = 6,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::Hello,
        Self::Message,
        Self::Part,
        Self::LastPart,
        Self::Demand,
        Self::Reply,
    ];
}

/// A head that announces no frame of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Too long.
    #[error("a frame of {0} bytes is longer than {FRAME_BYTES_MAX}")]
    TooLong(usize),
    /// Of no kind that is known.
    #[error("{0} is no kind of frame")]
    Kind(u8),
}

/// What a frame's head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// What follows.
    pub kind: Kind,
    /// Its bytes.
    pub length: usize,
}

impl Head {
    /// Reads a head.
    ///
    /// # Errors
    /// Where it announces too much, or something unknown.
    pub fn parse(bytes: [u8; HEAD_BYTES]) -> Result<Self, FrameError> {
        let [a, b, c, d, kind] = bytes;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(FrameError::TooLong(length));
        }
        let known = Kind::ALL.into_iter().find(|known| *known as u8 == kind);
        known
            .map(|kind| Self { kind, length })
            .ok_or(FrameError::Kind(kind))
    }

    /// A whole frame.
    ///
    /// # Panics
    /// Where `payload` is too long: what is sent is bounded where it is made.
    #[must_use]
    pub fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len())
            .ok()
            .filter(|length| *length as usize <= FRAME_BYTES_MAX);
        let length = length.expect("what is sent fits into a frame");
        [&length.to_be_bytes(), &[kind as u8][..], payload].concat()
    }
}
