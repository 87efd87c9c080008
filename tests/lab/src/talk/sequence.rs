//! Numbers that only rise, kept by a service: what a checker of acknowledged writes needs of each protocol.

use super::{compute, no_port, postgres, redis};
use crate::image::Service;
use std::collections::BTreeSet;
use std::io::{self, BufReader, Read, Write};

/// One connection over which the numbers 1, 2, 3 … are written one at a time, and read back at the end.
///
/// Every number is kept by itself, and beside them the service keeps the *head*, the last that was written: each write is
/// answered with the head before it, so that a service that went back in time is caught at its next answer.
#[derive(Debug)]
pub struct Sequence<S> {
    service: Service,
    stream: BufReader<S>,
    /// Tells the numbers of one run from another's: lower-case letters, digits and `-`.
    run: String,
}

impl<S: Read + Write> Sequence<S> {
    /// Begins a conversation; returns when the service is ready for the first number.
    ///
    /// # Errors
    /// Those of the stream, and [`io::ErrorKind::InvalidData`] with the service's words if it is not ready.
    pub fn open(service: Service, stream: S, run: &str) -> io::Result<Self> {
        let mut sequence = Self {
            service,
            stream: BufReader::new(stream),
            run: run.to_owned(),
        };
        match service {
            Service::Redis => redis::open_sequence(&mut sequence.stream)?,
            Service::Postgres => postgres::open_sequence(&mut sequence.stream)?,
            Service::Compute => compute::open_sequence(&mut sequence.stream)?,
            Service::Shell => return Err(no_port()),
        }
        Ok(sequence)
    }

    /// Writes `number`; returns, once it is acknowledged, the head that it replaces (0 before the first).
    ///
    /// # Errors
    /// As [`Sequence::open`].
    pub fn write(&mut self, number: u64) -> io::Result<u64> {
        match self.service {
            Service::Redis => redis::write_number(&mut self.stream, &self.run, number),
            Service::Postgres => postgres::write_number(&mut self.stream, &self.run, number),
            Service::Compute => compute::write_number(&mut self.stream, &self.run, number),
            Service::Shell => Err(no_port()),
        }
    }

    /// The numbers that the service has, of those up to `last`.
    ///
    /// # Errors
    /// As [`Sequence::open`].
    pub fn kept(&mut self, last: u64) -> io::Result<BTreeSet<u64>> {
        match self.service {
            Service::Redis => redis::read_numbers(&mut self.stream, &self.run, last),
            Service::Postgres => postgres::read_numbers(&mut self.stream, &self.run),
            Service::Compute => compute::read_numbers(&mut self.stream, &self.run, last),
            Service::Shell => Err(no_port()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::talk::tests::Script;

    #[test]
    fn redis_keeps_numbers_and_tells_the_head_before() {
        let says = b"+PONG\r\n+OK\r\n$-1\r\n+OK\r\n$1\r\n1\r\n*2\r\n$1\r\n1\r\n$-1\r\n";
        let mut sequence = Sequence::open(Service::Redis, Script::new(says), "r").unwrap();
        assert_eq!(sequence.write(1).unwrap(), 0);
        assert_eq!(sequence.write(2).unwrap(), 1);
        let kept = sequence.kept(2).unwrap();
        assert_eq!(kept, BTreeSet::from([1]), "2 is gone");
        let heard = String::from_utf8_lossy(&sequence.stream.get_ref().heard).into_owned();
        assert!(
            heard.contains("$3\r\nSET\r\n$3\r\nr:2\r\n$1\r\n2\r\n"),
            "{heard:?}"
        );
        assert!(
            heard.contains("$4\r\nMGET\r\n$3\r\nr:1\r\n$3\r\nr:2\r\n"),
            "{heard:?}"
        );
    }

    #[test]
    fn a_wrong_value_is_not_kept_and_a_refusal_is_told() {
        let mut sequence = Sequence::open(
            Service::Redis,
            Script::new(b"+PONG\r\n*2\r\n$1\r\n1\r\n$1\r\n7\r\n-MISCONF no disk\r\n"),
            "r",
        )
        .unwrap();
        assert_eq!(sequence.kept(2).unwrap(), BTreeSet::from([1]));
        let error = sequence.write(3).unwrap_err();
        assert!(error.to_string().contains("MISCONF"), "{error}");
        let loading = Sequence::open(Service::Redis, Script::new(b"-LOADING\r\n"), "r");
        assert!(loading.is_err());
    }

    #[test]
    fn what_has_no_port_is_no_subject() {
        let error = Sequence::open(Service::Shell, Script::new(b""), "r").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    }
}
