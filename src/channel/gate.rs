//! What an open connection lets through: frames of its own session, that the other end may send.

use super::fault::Misbehaviour;
use super::frame::{Frame, Message};
use super::session::{Side, Tag};

/// Judges each frame after the Hello.
#[derive(Debug)]
pub struct Gate {
    tag: Tag,
    from: Side,
    foreign: u64,
}

impl Gate {
    /// For a session with `tag`, whose other end is `from`.
    #[must_use]
    pub const fn new(tag: Tag, from: Side) -> Self {
        Self {
            tag,
            from,
            foreign: 0,
        }
    }

    /// The message of `frame`, or none where it belongs to another session: that one is counted and forgotten (P2).
    ///
    /// # Errors
    /// Where the other end may not say that.
    pub fn admit(&mut self, frame: Frame) -> Result<Option<Message>, Misbehaviour> {
        if frame.tag != self.tag {
            self.foreign += 1;
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

    /// How many frames were of other sessions.
    #[must_use]
    pub const fn foreign(&self) -> u64 {
        self.foreign
    }
}
