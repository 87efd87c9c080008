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

/// The reading thread: frames into the inbox until the line ends.
pub(super) fn receive(reader: Box<dyn Read + Send>, inbox: &Inbox, received: &AtomicU64, may_wait: bool) {
    let mut reader = BufReader::with_capacity(256 * 1024, reader);
    loop {
        let mut length = [0; 4];
        if let Err(error) = reader.read_exact(&mut length) {
            inbox.put(Told::LinkFailed(error));
            return;
        }
        let length = in_memory(u64::from(u32::from_le_bytes(length)));
        if length > FRAME_BYTES_MAX {
            inbox.put(Told::NoFrame("a frame that is too long"));
            return;
        }
        if length == 0 {
            continue;
        }
        let mut body = vec![0; length];
        if let Err(error) = reader.read_exact(&mut body) {
            inbox.put(Told::LinkFailed(error));
            return;
        }
        received.fetch_add(on_disk(length) + 4, Ordering::Relaxed);
        match Frame::decode(&body) {
            Ok(frame) => {
                if !inbox.put_frame(frame, length, may_wait) {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!("the peer sent bytes that are no frame: {error}");
                inbox.put(Told::NoFrame("bytes that are no frame"));
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
            let length = u32::try_from(body.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
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
            writer.write_all(&length.to_le_bytes())?;
            writer.write_all(&body)?;
            if is_last {
                writer.flush()?;
            }
            sent.fetch_add(u64::from(length) + 4, Ordering::Relaxed);
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
