//! A datagram every so often, and what comes back of it.

use super::ledger::{Millis, Silence};
use serde::{Deserialize, Serialize};
use std::io;
use std::net::UdpSocket;
use std::time::Duration;

/// Bytes of a datagram: its number.
const DATAGRAM_BYTES: usize = 8;

/// Answers everything that comes to `socket`, for ever: what runs in the guest.
///
/// # Errors
/// The socket's.
pub fn echo(socket: &UdpSocket) -> io::Result<()> {
    let mut buffer = [0; 64];
    loop {
        let (length, from) = socket.recv_from(&mut buffer)?;
        match socket.send_to(&buffer[..length], from) {
            // Whoever asked is gone, and the network said so.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            sent => drop(sent?),
        }
    }
}

/// The account of a probe. Pure.
#[derive(Debug, Clone, Default)]
pub struct Probe {
    /// When each was sent.
    sent: Vec<Duration>,
    answered: u64,
    /// Answers that came again, or after a later one.
    late: u64,
    highest: Option<u64>,
    silence: Silence,
    round_trips_us: Vec<u64>,
}

impl Probe {
    /// The next datagram, which is sent at `at`.
    pub fn send(&mut self, at: Duration) -> [u8; DATAGRAM_BYTES] {
        let number = self.sent.len() as u64;
        self.sent.push(at);
        number.to_be_bytes()
    }

    /// An answer came at `at`. Bytes that are none are left aside.
    pub fn receive(&mut self, bytes: &[u8], at: Duration) {
        let Ok(number) = bytes.try_into().map(u64::from_be_bytes) else {
            return;
        };
        let Some(sent) = usize::try_from(number)
            .ok()
            .and_then(|index| self.sent.get(index))
        else {
            return;
        };
        // An old answer says nothing about now.
        if self.highest.is_some_and(|highest| number <= highest) {
            self.late += 1;
            return;
        }
        self.highest = Some(number);
        self.answered += 1;
        let round_trip = at.saturating_sub(*sent).as_micros();
        self.round_trips_us
            .push(u64::try_from(round_trip).unwrap_or(u64::MAX));
        self.silence.heard(at);
    }

    /// How many came back.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// Between answers.
    #[must_use]
    pub fn silence(&self) -> Silence {
        self.silence
    }

    /// What came of it.
    #[must_use]
    pub fn verdict(&self) -> ProbeVerdict {
        let mut sorted = self.round_trips_us.clone();
        sorted.sort_unstable();
        let at = |percent: usize| sorted.get(sorted.len() * percent / 100).copied();
        ProbeVerdict {
            sent: self.sent.len() as u64,
            answered: self.answered,
            late: self.late,
            round_trip_us_p50: at(50),
            round_trip_us_p99: at(99),
            gap_ms_max: self.silence.longest().as_millis_u64(),
            gap_at_ms: self.silence.longest_since().as_millis_u64(),
        }
    }
}

/// What came of a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeVerdict {
    /// Datagrams sent.
    pub sent: u64,
    /// Of them, so many were answered in order.
    pub answered: u64,
    /// And so many again or late.
    pub late: u64,
    /// From a datagram to its answer; absent if none was answered.
    pub round_trip_us_p50: Option<u64>,
    /// As that, for one of a hundred.
    pub round_trip_us_p99: Option<u64>,
    /// The longest time between two answers.
    pub gap_ms_max: u64,
    /// When it began, after the first write.
    pub gap_at_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_planted_gap_is_measured_between_answers() {
        let mut probe = Probe::default();
        for number in 0..10_u64 {
            let datagram = probe.send(at(number * 20));
            // Nobody answers from 60 to 140 ms.
            if !(3..=6).contains(&number) {
                probe.receive(&datagram, at(number * 20 + 5));
            }
        }
        let verdict = probe.verdict();
        assert_eq!((verdict.sent, verdict.answered, verdict.late), (10, 6, 0));
        assert_eq!((verdict.gap_ms_max, verdict.gap_at_ms), (100, 45));
        assert_eq!(verdict.round_trip_us_p50, Some(5_000));
    }

    #[test]
    fn an_old_answer_ends_no_silence() {
        let mut probe = Probe::default();
        let (first, second) = (probe.send(at(0)), probe.send(at(20)));
        probe.receive(&second, at(25));
        probe.receive(&first, at(900));
        probe.receive(&second, at(901));
        let verdict = probe.verdict();
        assert_eq!((verdict.answered, verdict.late, verdict.gap_ms_max), (1, 2, 0));
    }

    #[test]
    fn bytes_that_are_no_answer_are_left_aside() {
        let mut probe = Probe::default();
        probe.send(at(0));
        for bytes in [&b""[..], b"short", &7_u64.to_be_bytes(), b"much too long"] {
            probe.receive(bytes, at(1));
        }
        assert_eq!(probe.verdict().answered, 0);
        assert_eq!(probe.verdict().round_trip_us_p50, None);
    }
}
