//! The services' own protocols, just enough of each to write values and read them back.
//!
//! Written against `Read + Write`, so that tests need no service. Writing and reading are apart: a caller that opens
//! a connection for each knows that the service kept the values, not the connection.

mod compute;
mod postgres;
mod redis;
mod sequence;

pub use sequence::Sequence;

use crate::image::Service;
use std::io::{self, Read, Write};
use std::ops::RangeInclusive;

/// What is written and must be read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Lower-case letters, digits and `-`.
    pub key: String,
    /// As the key.
    pub value: String,
}

/// A pair for each of `numbers`. `salt` goes into every value, so that a later run cannot read an earlier one's.
#[must_use]
pub fn pairs(numbers: RangeInclusive<usize>, salt: &str) -> Vec<Pair> {
    let pair = |number: usize| Pair {
        key: format!("key-{number}"),
        value: format!("value-{number}-{salt}"),
    };
    numbers.map(pair).collect()
}

/// Writes every pair; returns when the service has acknowledged all.
///
/// # Errors
/// Those of the stream, and [`io::ErrorKind::InvalidData`] with the service's words if it does not acknowledge.
pub fn write(service: Service, stream: &mut (impl Read + Write), pairs: &[Pair]) -> io::Result<()> {
    match service {
        Service::Redis => redis::write(stream, pairs),
        Service::Postgres => postgres::write(stream, pairs),
        // It keeps no pairs: a line comes back behind the progress of the computation.
        Service::Compute => Ok(()),
        Service::Shell => Err(no_port()),
    }
}

/// Reads every pair and compares.
///
/// # Errors
/// As [`write`](fn@write); a value that differs is named with what was written and what came.
pub fn read(service: Service, stream: &mut (impl Read + Write), pairs: &[Pair]) -> io::Result<()> {
    match service {
        Service::Redis => redis::read(stream, pairs),
        Service::Postgres => postgres::read(stream, pairs),
        Service::Compute => compute::echo(stream, pairs),
        Service::Shell => Err(no_port()),
    }
}

fn no_port() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "a shell listens on its console only")
}

fn refused(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

fn as_number(text: &str) -> io::Result<u64> {
    text.parse()
        .map_err(|_| refused(format!("{text:?} is no number")))
}

fn compare(pair: &Pair, came: &str) -> io::Result<()> {
    if came == pair.value {
        return Ok(());
    }
    let Pair { key, value } = pair;
    Err(refused(format!("{key}: wrote {value:?}, read {came:?}")))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A service that says what it was told to, and a client whose words are kept.
    #[derive(Debug)]
    pub(crate) struct Script {
        says: io::Cursor<Vec<u8>>,
        pub(crate) heard: Vec<u8>,
    }

    impl Script {
        pub(crate) fn new(says: &[u8]) -> Self {
            Self {
                says: io::Cursor::new(says.to_vec()),
                heard: Vec::new(),
            }
        }
    }

    impl Read for Script {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.says.read(buffer)
        }
    }

    impl Write for Script {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.heard.extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn pairs_differ_among_themselves_and_between_runs() {
        let first = pairs(1..=3, "a");
        assert_eq!(first.len(), 3);
        assert_ne!(first[0].key, first[1].key);
        assert_ne!(first[0].value, pairs(1..=1, "b")[0].value);
    }

    #[test]
    fn a_service_that_hangs_up_is_noticed() {
        for service in [Service::Redis, Service::Postgres, Service::Compute] {
            let error = read(service, &mut Script::new(b""), &pairs(1..=1, "a")).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{service}");
        }
    }
}
