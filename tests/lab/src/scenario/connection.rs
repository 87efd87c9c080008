//! A TCP connection from the client host: the kernel there speaks TCP, `nc` there passes bytes to and from the lab.

use super::Result;
use crate::agent::client::{Channel, Event};
use crate::agent::message::Stream;
use crate::host::Host;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

/// An emulated guest that forces writes to an emulated disk may take seconds; silence this long is a failure.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Reads fail with the words of `nc` if there was no connection, and with [`io::ErrorKind::TimedOut`] after a minute
/// of silence. Dropping it ends the connection.
pub struct Connection {
    channel: Channel,
    received: Vec<u8>,
    complaint: String,
    address: String,
}

impl Connection {
    /// Connects `host` to `address`.
    ///
    /// # Errors
    /// If the host is gone.
    pub fn open(host: &Host, address: &str, port: u16) -> Result<Self> {
        let channel = host.spawn(&["nc", address, &port.to_string()])?;
        Ok(Self {
            channel,
            received: Vec::new(),
            complaint: String::new(),
            address: format!("{address}:{port}"),
        })
    }

    /// The other end.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The next bytes; none at the end.
    fn receive(&mut self) -> io::Result<Vec<u8>> {
        let deadline = Instant::now() + SILENCE_MAX;
        loop {
            match self.channel.next_before(deadline).map_err(io::Error::other)? {
                Some(Event::Data(Stream::Error, bytes)) => {
                    self.complaint.push_str(&String::from_utf8_lossy(&bytes));
                }
                Some(Event::Data(_, bytes)) => return Ok(bytes),
                Some(Event::Exit(status)) if status.success() => return Ok(Vec::new()),
                Some(Event::Exit(status)) => {
                    let said = self.complaint.trim();
                    return Err(io::Error::other(format!("nc ended with {status}: {said}")));
                }
                None => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.received.is_empty() {
            self.received = self.receive()?;
        }
        let length = buffer.len().min(self.received.len());
        buffer[..length].copy_from_slice(&self.received[..length]);
        self.received.drain(..length);
        Ok(length)
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.channel.input().send(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
