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

/// How much is talked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// So many values, by all clients together.
    Values(usize),
    /// As much as comes through in this time.
    Span(Duration),
}

/// What was talked about.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Talk {
    /// Values that were written and read back.
    pub values: usize,
    /// From the first connection to the last answer; of clients that end one after the other, by their own times: their
    /// rates add up to the values by this.
    pub seconds: f64,
}

/// Lets `clients` write values to `service` at `address`, each its share, and read them back. `salt` goes into every one.
///
/// # Errors
/// The connection's, a service that refuses, or a value that comes back changed.
pub fn talk(service: Service, address: &str, amount: Amount, clients: usize, salt: &str) -> io::Result<Talk> {
    let begun = Instant::now();
    match amount {
        Amount::Values(values) => {
            let pairs = talk::pairs(1..=values, salt);
            let share = pairs.len().div_ceil(clients.max(1)).max(1);
            together(pairs.chunks(share), |pairs| be_client(service, address, pairs))?;
            Ok(Talk {
                values: pairs.len(),
                seconds: begun.elapsed().as_secs_f64(),
            })
        }
        Amount::Span(span) => {
            let done = together(0..clients, |client| {
                let mut values = 0;
                // Keys of its own, as it reads back what it has written.
                let first = client * VALUES_A_CONNECTION + 1;
                let keys = first..=first + VALUES_A_CONNECTION - 1;
                while begun.elapsed() < span {
                    let pairs = talk::pairs(keys.clone(), &format!("{salt}-{values}"));
                    be_client(service, address, &pairs)?;
                    values += pairs.len();
                }
                Ok((values, begun.elapsed().as_secs_f64()))
            })?;
            let values = done.iter().map(|(values, _)| values).sum();
            #[expect(clippy::cast_precision_loss, reason = "thousands")]
            let (rate, all) = (
                done.iter()
                    .map(|(values, seconds)| *values as f64 / seconds)
                    .sum::<f64>(),
                values as f64,
            );
            Ok(Talk {
                values,
                seconds: all / rate,
            })
        }
    }
}

/// What each client comes to, all at once.
fn together<P: Send, T: Send>(
    parts: impl Iterator<Item = P>,
    client: impl Fn(P) -> io::Result<T> + Sync,
) -> io::Result<Vec<T>> {
    let client = &client;
    thread::scope(|scope| {
        let clients: Vec<_> = parts.map(|part| scope.spawn(move || client(part))).collect();
        let join = |client: thread::ScopedJoinHandle<'_, _>| {
            client
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("a client panicked")))
        };
        clients.into_iter().map(join).collect()
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
    fn clients_talk_for_a_span() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        thread::spawn(move || serve(&listener, ""));
        let span = Duration::from_millis(50);
        let talked = talk(Service::Compute, &address, Amount::Span(span), 2, "s").unwrap();
        assert!(
            talked.values >= 2 * VALUES_A_CONNECTION && talked.values.is_multiple_of(VALUES_A_CONNECTION),
            "{talked:?}"
        );
        assert!(talked.seconds >= span.as_secs_f64(), "{talked:?}");
    }

    #[test]
    fn every_value_comes_back_or_is_missed() {
        for (changed, is_fine) in [("", true), ("value-17-s", false)] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap().to_string();
            thread::spawn(move || serve(&listener, changed));
            let talked = talk(Service::Compute, &address, Amount::Values(25), 2, "s");
            assert_eq!(talked.is_ok(), is_fine, "{talked:?}");
        }
    }
}
