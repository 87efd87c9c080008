//! What may be asked of a guest, as a line of text.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Longest load: a mistyped one must not hang a benchmark.
pub const SPAN_MAX: Duration = Duration::from_secs(60);

/// Most requests under way at once.
pub const DEPTH_MAX: u32 = 64;

/// One load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Requests to the disk; the answer is the bytes done.
    Disk {
        /// Reads or writes.
        direction: Direction,
        /// Which blocks.
        pattern: Pattern,
        /// Requests under way at once.
        depth: u32,
        /// For how long.
        span: Duration,
    },
    /// The guest sends for so long and closes.
    Send(Duration),
    /// The guest receives until the other end closes; the answer is the bytes that came.
    Receive,
}

/// Which way data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the disk.
    Read,
    /// To the disk.
    Write,
}

/// Which blocks are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// 1 MiB after 1 MiB.
    Sequential,
    /// 4 KiB here and there.
    Random,
}

impl Pattern {
    /// Bytes of one request of the program; a driver may split it.
    #[must_use]
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::Sequential => 1 << 20,
            Self::Random => 4 << 10,
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk {
                direction,
                pattern,
                depth,
                span,
            } => {
                let direction = match direction {
                    Direction::Read => "read",
                    Direction::Write => "write",
                };
                let pattern = match pattern {
                    Pattern::Sequential => "sequential",
                    Pattern::Random => "random",
                };
                write!(
                    formatter,
                    "disk {direction} {pattern} {depth} {}",
                    span.as_millis()
                )
            }
            Self::Send(span) => write!(formatter, "send {}", span.as_millis()),
            Self::Receive => formatter.write_str("receive"),
        }
    }
}

impl FromStr for Order {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || format!("`{}` is no order", text.escape_debug());
        let words: Vec<&str> = text.split_whitespace().collect();
        match words[..] {
            ["disk", direction, pattern, depth, span] => Ok(Self::Disk {
                direction: match direction {
                    "read" => Direction::Read,
                    "write" => Direction::Write,
                    _ => return Err(unknown()),
                },
                pattern: match pattern {
                    "sequential" => Pattern::Sequential,
                    "random" => Pattern::Random,
                    _ => return Err(unknown()),
                },
                depth: match depth.parse() {
                    Ok(depth @ 1..=DEPTH_MAX) => depth,
                    _ => return Err(unknown()),
                },
                span: parse_span(span).ok_or_else(unknown)?,
            }),
            ["send", span] => parse_span(span).map(Self::Send).ok_or_else(unknown),
            ["receive"] => Ok(Self::Receive),
            _ => Err(unknown()),
        }
    }
}

fn parse_span(milliseconds: &str) -> Option<Duration> {
    let span = Duration::from_millis(milliseconds.parse().ok()?);
    (span <= SPAN_MAX).then_some(span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_reads_back_as_it_was_written() {
        let span = Duration::from_millis(1_500);
        for direction in [Direction::Read, Direction::Write] {
            for pattern in [Pattern::Sequential, Pattern::Random] {
                let order = Order::Disk {
                    direction,
                    pattern,
                    depth: 4,
                    span,
                };
                assert_eq!(order.to_string().parse(), Ok(order));
            }
        }
        for order in [Order::Send(span), Order::Receive] {
            assert_eq!(order.to_string().parse(), Ok(order));
        }
    }

    #[test]
    fn nonsense_and_the_endless_are_refused() {
        for text in [
            "",
            "disk",
            "disk read random 0 1",
            "disk read random 65 1",
            "disk read random 1 60001",
            "disk erase random 1 1",
            "send",
            "send -1",
            "receive 1",
        ] {
            assert!(text.parse::<Order>().is_err(), "{text}");
        }
    }
}
