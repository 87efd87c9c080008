//! The two threads at the line: bytes into frames, frames into bytes.

use std::io::{self, BufReader, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::frame::Frame;
use super::link::Outgoing;
use super::pace::{Clock, Pacer};
use super::queue::{Inbox, Outbox, ToLeave, Told};
use crate::limits::FRAME_BYTES_MAX;
use crate::units::{in_memory, on_disk};

/// How often an end that has nothing to say shows that its process runs. Well below [`super::link::SILENCE_MAX`].
const SIGN_OF_LIFE_EVERY: Duration = Duration::from_secs(5);

/// The length of a frame that says nothing.
const SIGN_OF_LIFE: [u8; 4] = [0; 4];

#[derive(Debug, Default)]
pub(super) struct Traffic {
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
}

/// Why no frame came.
#[derive(Debug)]
pub(super) enum NoFrame {
    /// The line has ended, or failed.
    Link(io::Error),
    /// Nothing that a peer may send.
    Breach(&'static str),
}

impl From<NoFrame> for Told {
    fn from(none: NoFrame) -> Self {
        match none {
            NoFrame::Link(error) => Self::LinkFailed(error),
            NoFrame::Breach(what) => Self::NoFrame(what),
        }
    }
}

/// The next frame that says something, and its bytes.
pub(super) fn read_frame(reader: &mut impl Read) -> Result<(Frame, Vec<u8>), NoFrame> {
    let mut length = SIGN_OF_LIFE;
    while length == SIGN_OF_LIFE {
        reader.read_exact(&mut length).map_err(NoFrame::Link)?;
    }
    let length = in_memory(u64::from(u32::from_le_bytes(length)));
    if length > FRAME_BYTES_MAX {
        return Err(NoFrame::Breach("a frame that is too long"));
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).map_err(NoFrame::Link)?;
    let frame = Frame::decode(&body).map_err(|error| {
        tracing::warn!("the peer sent bytes that are no frame: {error}");
        NoFrame::Breach("bytes that are no frame")
    })?;
    Ok((frame, body))
}

/// A frame with these bytes, as it stands on the line.
pub(super) fn write_frame(writer: &mut impl Write, body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(body.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    writer.write_all(&length.to_le_bytes())?;
    writer.write_all(body)
}

/// The reading thread: frames into the inbox until the line ends.
pub(super) fn receive(reader: Box<dyn Read + Send>, inbox: &Inbox, received: &AtomicU64, may_wait: bool) {
    let mut reader = BufReader::with_capacity(256 * 1024, reader);
    loop {
        match read_frame(&mut reader) {
            Ok((frame, body)) => {
                received.fetch_add(on_disk(body.len()) + 4, Ordering::Relaxed);
                if !inbox.put_frame(frame, body.len(), may_wait) {
                    return;
                }
            }
            Err(none) => {
                inbox.put(none.into());
                return;
            }
        }
    }
}

/// The writing thread: frames onto the line until the outbox is closed and empty.
pub(super) fn send(
    writer: Box<dyn Outgoing>,
    outbox: &Outbox,
    inbox: &Inbox,
    mut pacer: Pacer,
    clock: &dyn Clock,
    sent: &AtomicU64,
) -> io::Result<()> {
    let mut writer = io::BufWriter::with_capacity(256 * 1024, writer);
    let mut write = || -> io::Result<()> {
        loop {
            let (body, is_last) = match outbox.take(SIGN_OF_LIFE_EVERY) {
                ToLeave::Frame(body, is_last) => (body, is_last),
                ToLeave::Nothing => {
                    writer.write_all(&SIGN_OF_LIFE)?;
                    writer.flush()?;
                    continue;
                }
                ToLeave::End => break,
            };
            let mut wait = pacer.wait_for(body.len() + 4, clock.now());
            while !wait.is_zero() {
                writer.flush()?;
                let pause = wait.min(SIGN_OF_LIFE_EVERY);
                outbox.pause(pause);
                wait -= pause;
                if !wait.is_zero() {
                    writer.write_all(&SIGN_OF_LIFE)?;
                }
            }
            // Before the other end can have answered: the report is made then.
            sent.fetch_add(on_disk(body.len()) + 4, Ordering::Relaxed);
            write_frame(&mut writer, &body)?;
            if is_last {
                writer.flush()?;
            }
        }
        writer.flush()?;
        // A peer that has heard all it wanted may have hung up already: that it cannot be told so is no failure.
        let _ = writer.get_mut().finish();
        Ok(())
    };
    let outcome = write();
    if let Err(error) = &outcome {
        outbox.fail();
        inbox.put(Told::LinkFailed(error.kind().into()));
    }
    outcome
}

impl Outgoing for Box<dyn Outgoing> {
    fn finish(&mut self) -> io::Result<()> {
        (**self).finish()
    }
}
