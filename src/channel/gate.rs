//! What an open connection lets through: frames of its own session, that the other end may send.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::fault::Misbehaviour;
use super::frame::{Frame, Message};
use super::session::{Side, Tag};

/// Judges each frame after the Hello.
#[derive(Debug)]
pub struct Gate {
    tag: Tag,
    from: Side,
    foreign: Arc<AtomicU64>,
}

impl Gate {
    /// For a session with `tag`, whose other end is `from`.
    #[must_use]
    pub fn new(tag: Tag, from: Side) -> Self {
        Self {
            tag,
            from,
            foreign: Arc::default(),
        }
    }

    /// The message of `frame`, or none where it belongs to another session: that one is counted and forgotten (P2).
    ///
    /// # Errors
    /// Where the other end may not say that.
    pub fn admit(&mut self, frame: Frame) -> Result<Option<Message>, Misbehaviour> {
        if frame.tag != self.tag {
            self.foreign.fetch_add(1, Ordering::Relaxed);
            return Ok(None);
        }
        let may_say = match (&frame.message, self.from) {
            (Message::Hello(_), _) | (Message::Log(_), Side::Backup) | (Message::Ack(_), Side::Primary) => {
                false
            }
            (Message::Log(_), Side::Primary)
            | (Message::Ack(_), Side::Backup)
            | (Message::Ping(_) | Message::Pong(_) | Message::Word(_) | Message::Bye(_), _) => true,
        };
        if may_say {
            Ok(Some(frame.message))
        } else {
            Err(Misbehaviour::OutOfPlace(frame.message.name()))
        }
    }

    /// How many frames were of other sessions, as it is counted on.
    #[must_use]
    pub fn foreign(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.foreign)
    }
}
