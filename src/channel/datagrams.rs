//! The socket for heartbeats.

use std::io;
use std::net::SocketAddr;

use tokio::net::UdpSocket;

use super::heartbeat::HEARTBEAT_BYTES;

/// Sends to one other site, and hears from anybody: who has sent a datagram is for [`super::Heartbeats`] to say.
#[derive(Debug)]
pub struct Datagrams {
    socket: UdpSocket,
    /// The same one. What it cannot take at once it says at once, whether or not the runtime has asked it before.
    outlet: std::net::UdpSocket,
    peer: SocketAddr,
    unsent: u64,
}

/// A datagram as it came, no longer than one byte more than a heartbeat: enough to see that it is none.
#[derive(Debug, Clone, Copy)]
pub struct Received {
    bytes: [u8; HEARTBEAT_BYTES + 1],
    length: usize,
}

impl Received {
    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Datagrams {
    /// Hears on `address` and sends to `peer`. Belongs into a runtime.
    ///
    /// # Errors
    /// Where the host refuses the address.
    pub fn bind(address: SocketAddr, peer: SocketAddr) -> io::Result<Self> {
        // Not connected: an ICMP error that anybody can send would end up in our reads.
        let outlet = std::net::UdpSocket::bind(address)?;
        outlet.set_nonblocking(true)?;
        Ok(Self {
            socket: UdpSocket::from_std(outlet.try_clone()?)?,
            outlet,
            peer,
            unsent: 0,
        })
    }

    /// Where it hears.
    ///
    /// # Errors
    /// Where the host does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Sends a datagram. One that the host does not take is as good as one lost on the way; it is counted.
    pub fn send(&mut self, datagram: &[u8; HEARTBEAT_BYTES]) {
        match self.outlet.send_to(datagram, self.peer) {
            Ok(_) => {}
            Err(error) => {
                self.unsent += 1;
                tracing::debug!(peer = %self.peer, "a heartbeat could not be sent: {error}");
            }
        }
    }

    /// How many datagrams the host did not take.
    #[must_use]
    pub const fn unsent(&self) -> u64 {
        self.unsent
    }

    /// The next datagram. May be given up at any time without a loss.
    ///
    /// # Errors
    /// Where the host fails.
    pub async fn receive(&self) -> io::Result<Received> {
        let mut bytes = [0; HEARTBEAT_BYTES + 1];
        let (length, _) = self.socket.recv_from(&mut bytes).await?;
        Ok(Received { bytes, length })
    }
}
