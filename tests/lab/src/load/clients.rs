//! Clients of a guest's service: several at once, each of which waits for every answer before it asks again, as
//! applications do. So each value costs the guest frames, wake-ups and, if the service keeps it, a disk write of its own.

use crate::image::Service;
use crate::talk::{self, Pair};
use serde::{Deserialize, Serialize};
use std::io;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

/// Values that go through one connection.
const VALUES_A_CONNECTION: usize = 10;

/// An emulated guest that forces writes to an emulated disk may take seconds; silence this long is a failure.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// What was talked about.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Talk {
    /// Values that were written and read back.
    pub values: usize,
    /// From the first connection to the last answer.
    pub seconds: f64,
}

/// Lets `clients` write `pairs` to `service` at `address`, each its share, and read them back.
///
/// # Errors
/// The connection's, a service that refuses, or a value that comes back changed.
pub fn talk(service: Service, address: &str, pairs: &[Pair], clients: usize) -> io::Result<Talk> {
    let begun = Instant::now();
    let share = pairs.len().div_ceil(clients.max(1)).max(1);
    thread::scope(|scope| {
        let client = |pairs| scope.spawn(move || be_client(service, address, pairs));
        let clients: Vec<_> = pairs.chunks(share).map(client).collect();
        clients.into_iter().try_for_each(|client| {
            client
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("a client panicked")))
        })
    })?;
    Ok(Talk {
        values: pairs.len(),
        seconds: begun.elapsed().as_secs_f64(),
    })
}

fn be_client(service: Service, address: &str, pairs: &[Pair]) -> io::Result<()> {
    for some in pairs.chunks(VALUES_A_CONNECTION) {
        let at_once = match service {
            // Its clients send one statement at a time, in a session that begins with the connection.
            Service::Postgres => some.len(),
            // These would be sent as one.
            Service::Redis | Service::Compute | Service::Shell => 1,
        };
        let mut stream = connect(address)?;
        some.chunks(at_once)
            .try_for_each(|part| talk::write(service, &mut stream, part))?;
        // Another connection: what comes back was kept by the service.
        let mut stream = connect(address)?;
        some.chunks(at_once)
            .try_for_each(|part| talk::read(service, &mut stream, part))?;
    }
    Ok(())
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;

    /// The compute service's answers, but for the value at `changed`.
    fn serve(listener: &TcpListener, changed: &'static str) {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            thread::spawn(move || {
                for line in BufReader::new(&stream).lines() {
                    let line = line.unwrap();
                    let answer = if line == changed { "other" } else { &line };
                    writeln!(&stream, "1 ab {answer}").unwrap();
                }
            });
        }
    }

    #[test]
    fn every_value_comes_back_or_is_missed() {
        for (changed, is_fine) in [("", true), ("value-17-s", false)] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap().to_string();
            thread::spawn(move || serve(&listener, changed));
            let talked = talk(Service::Compute, &address, &talk::pairs(25, "s"), 2);
            assert_eq!(talked.is_ok(), is_fine, "{talked:?}");
        }
    }
}
