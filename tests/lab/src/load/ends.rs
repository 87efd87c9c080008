//! Both ends of a load: the guest serves, the host asks.

use super::disk::Region;
use super::order::Order;
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes handed to a socket, or taken from it, by one call.
const CHUNK_BYTES: usize = 128 << 10;

/// What a load came to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Bytes moved.
    pub bytes: u64,
    /// By the clock of the one who asked.
    pub seconds: f64,
}

/// Serves orders, one connection after another, for ever.
///
/// # Errors
/// If nothing can be accepted any more; an order that fails ends its own connection, with the reason as its answer.
pub fn serve(listener: &TcpListener, region: &Region) -> io::Result<()> {
    loop {
        let (mut stream, _) = listener.accept()?;
        if let Err(error) = serve_one(&stream, region) {
            // Whoever asked may be gone, and then nobody wants to know.
            let _ = writeln!(stream, "{error}");
        }
    }
}

fn serve_one(mut stream: &TcpStream, region: &Region) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    // An order is short; what follows it is data, part of which the reader may hold already.
    reader.by_ref().take(128).read_line(&mut line)?;
    match line.parse().map_err(io::Error::other)? {
        Order::Disk {
            direction,
            pattern,
            depth,
            span,
        } => writeln!(stream, "{}", region.load(direction, pattern, depth, span)?),
        Order::Send(span) => send_for(stream, span).map(drop),
        Order::Receive => writeln!(stream, "{}", drain(reader)?),
    }
}

/// Asks for `order`; `span` is how long to send if it is [`Order::Receive`].
///
/// # Errors
/// The connection's, or the other end's own words.
pub fn ask(address: &str, order: Order, span: Duration) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    let started = Instant::now();
    writeln!(stream, "{order}")?;
    let bytes = match order {
        Order::Send(_) => drain(&stream)?,
        Order::Disk { .. } => read_count(&stream)?,
        Order::Receive => {
            send_for(&stream, span)?;
            stream.shutdown(Shutdown::Write)?;
            read_count(&stream)?
        }
    };
    Ok(Answer {
        bytes,
        seconds: started.elapsed().as_secs_f64(),
    })
}

fn read_count(stream: &TcpStream) -> io::Result<u64> {
    let mut line = String::new();
    BufReader::new(stream).take(4_096).read_line(&mut line)?;
    let line = line.trim();
    line.parse()
        .map_err(|_| io::Error::other(format!("the guest answered `{line}`")))
}

fn drain(mut from: impl Read) -> io::Result<u64> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut total = 0;
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(total),
            count => total += count as u64,
        }
    }
}

fn send_for(mut stream: &TcpStream, span: Duration) -> io::Result<u64> {
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(span);
            ended.store(true, Ordering::Relaxed);
        });
        let buffer = vec![0xA5; CHUNK_BYTES];
        let mut total = 0;
        while !ended.load(Ordering::Relaxed) {
            total += stream.write(&buffer)? as u64;
        }
        Ok(total)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let region = Region {
            path: "/no/such/disk".into(),
            start: 0,
            length: 1 << 20,
        };
        thread::spawn(move || serve(&listener, &region));
        address
    }

    #[test]
    fn bytes_are_counted_both_ways() {
        let (address, span) = (served(), Duration::from_millis(30));
        let sent = ask(&address, Order::Send(span), span).unwrap();
        let received = ask(&address, Order::Receive, span).unwrap();
        for answer in [sent, received] {
            assert!(answer.bytes > 0 && answer.seconds >= 0.03, "{answer:?}");
        }
    }

    #[test]
    fn the_other_ends_reason_is_told() {
        let order = "disk read random 1 10".parse().unwrap();
        let error = ask(&served(), order, Duration::ZERO).unwrap_err();
        assert!(error.to_string().contains("No such file"), "{error}");
    }
}
