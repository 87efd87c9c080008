//! A link: a TCP proxy that takes its time, as distance does, and can hold everything back, as a network does that has
//! lost the way.
//!
//! What is held back arrives late rather than never, since TCP would send it again.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Between two looks at whether a cut link is whole again.
const LOOK: Duration = Duration::from_millis(2);

/// Pieces that are under way at a time; whoever sends more waits.
const PIECES_MAX: usize = 1024;

/// Whether a link is cut, or has ended.
#[derive(Debug, Clone)]
pub(crate) struct Cut(Arc<Link>);

#[derive(Debug)]
struct Link {
    at: SocketAddr,
    is_cut: AtomicBool,
    has_ended: AtomicBool,
}

impl Cut {
    pub(crate) fn set(&self, cut: bool) {
        self.0.is_cut.store(cut, Ordering::SeqCst);
    }

    /// Takes no more connections: the address is free.
    pub(crate) fn end(&self) {
        self.0.has_ended.store(true, Ordering::SeqCst);
        // Whoever waits for a connection looks then.
        drop(TcpStream::connect(self.0.at));
    }

    fn has_ended(&self) -> bool {
        self.0.has_ended.load(Ordering::SeqCst)
    }

    fn wait(&self) {
        while self.0.is_cut.load(Ordering::SeqCst) && !self.has_ended() {
            thread::sleep(LOOK);
        }
    }
}

/// Forwards what comes to `from` to `to`, and what comes back, each `one_way` later, until it is ended or the process ends.
pub(crate) fn start(from: SocketAddr, to: SocketAddr, one_way: Duration) -> io::Result<Cut> {
    listen(TcpListener::bind(from)?, to, one_way)
}

/// As [`start`], from wherever `listener` is.
pub(crate) fn listen(listener: TcpListener, to: SocketAddr, one_way: Duration) -> io::Result<Cut> {
    let cut = Cut(Arc::new(Link {
        at: listener.local_addr()?,
        is_cut: AtomicBool::default(),
        has_ended: AtomicBool::default(),
    }));
    let of_link = cut.clone();
    thread::Builder::new().name("proxy".to_owned()).spawn(move || {
        for incoming in listener.incoming().flatten() {
            if of_link.has_ended() {
                return;
            }
            let cut = of_link.clone();
            thread::spawn(move || {
                cut.wait();
                // A node that is down takes no connection: its peer is told by the end of this one.
                if let Ok(outgoing) = TcpStream::connect(to) {
                    join(&incoming, &outgoing, &cut, one_way);
                }
            });
        }
    })?;
    Ok(cut)
}

fn join(one: &TcpStream, other: &TcpStream, cut: &Cut, one_way: Duration) {
    thread::scope(|scope| {
        scope.spawn(|| forward(one, other, cut, one_way));
        forward(other, one, cut, one_way);
    });
}

/// Ends both ways when one has ended.
fn forward(mut from: &TcpStream, mut to: &TcpStream, cut: &Cut, one_way: Duration) {
    // Nagle's delay would be the proxy's, not the network's.
    let _ = to.set_nodelay(true);
    thread::scope(|scope| {
        let (pieces, under_way) = mpsc::sync_channel::<(Instant, Vec<u8>)>(PIECES_MAX);
        scope.spawn(move || {
            for (due, piece) in under_way {
                thread::sleep(due.saturating_duration_since(Instant::now()));
                cut.wait();
                if to.write_all(&piece).is_err() {
                    break;
                }
            }
            for end in [from, to] {
                // It may be closed already.
                let _ = end.shutdown(Shutdown::Both);
            }
        });
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            if pieces
                .send((Instant::now() + one_way, buffer[..length].to_vec()))
                .is_err()
            {
                break;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_link_holds_back_and_then_delivers() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let cut = start(free, server.local_addr().unwrap(), Duration::ZERO).unwrap();
        let mut client = TcpStream::connect(free).unwrap();
        let (mut inside, _) = server.accept().unwrap();
        client.write_all(b"one").unwrap();
        let mut word = [0; 3];
        inside.read_exact(&mut word).unwrap();
        cut.set(true);
        client.write_all(b"two").unwrap();
        inside.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        assert!(
            inside.read_exact(&mut word).is_err(),
            "it went through a cut link"
        );
        cut.set(false);
        inside.set_read_timeout(None).unwrap();
        inside.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"two");
        drop(inside);
        assert_eq!(
            client.read(&mut word).unwrap(),
            0,
            "the end of one side is the end of the other"
        );
    }

    #[test]
    fn a_link_that_has_ended_leaves_its_address() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let cut = start(free, server.local_addr().unwrap(), Duration::ZERO).unwrap();
        cut.end();
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpListener::bind(free).is_err() {
            assert!(Instant::now() < deadline, "the address is still taken");
            thread::sleep(LOOK);
        }
    }

    #[test]
    fn a_link_takes_its_time_each_way() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let one_way = Duration::from_millis(20);
        start(free, server.local_addr().unwrap(), one_way).unwrap();
        let mut client = TcpStream::connect(free).unwrap();
        let (mut inside, _) = server.accept().unwrap();
        let begun = Instant::now();
        client.write_all(b"ping").unwrap();
        let mut word = [0; 4];
        inside.read_exact(&mut word).unwrap();
        assert!(begun.elapsed() >= one_way);
        inside.write_all(&word).unwrap();
        client.read_exact(&mut word).unwrap();
        assert!(begun.elapsed() >= 2 * one_way);
    }
}
