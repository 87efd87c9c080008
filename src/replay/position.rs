//! A position as a person writes it (E5).

use std::fmt;
use std::str::FromStr;

use crate::base::units::ExitOrdinal;

/// A counted exit, all that belongs there handled, and instructions completed after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The exit.
    pub exit: ExitOrdinal,
    /// Instructions since.
    pub instructions: u64,
}

impl Position {
    /// At an exit.
    #[must_use]
    pub const fn at(exit: ExitOrdinal) -> Self {
        Self {
            exit,
            instructions: 0,
        }
    }
}

/// It is no position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a position is the number of an exit, or `EXIT+INSTRUCTIONS`")]
pub struct NoPosition;

impl FromStr for Position {
    type Err = NoPosition;

    fn from_str(text: &str) -> Result<Self, NoPosition> {
        let number = |text: &str| text.parse().map_err(|_| NoPosition);
        let (exit, instructions) = match text.split_once('+') {
            Some((exit, instructions)) => (exit, number(instructions)?),
            None => (text, 0),
        };
        Ok(Self {
            exit: ExitOrdinal::new(number(exit)?),
            instructions,
        })
    }
}

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.instructions {
            0 => write!(formatter, "exit {}", self.exit),
            some => write!(formatter, "exit {} and {some} instructions", self.exit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let at = |exit, instructions| Position {
            exit: ExitOrdinal::new(exit),
            instructions,
        };
        assert_eq!("7".parse(), Ok(at(7, 0)));
        assert_eq!("7+12".parse(), Ok(at(7, 12)));
        for wrong in ["", "+", "7+", "+3", "7-1", "7+1+1", "x"] {
            assert_eq!(wrong.parse::<Position>(), Err(NoPosition), "{wrong}");
        }
    }
}
