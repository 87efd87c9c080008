//! The compute service: a line comes back as "ROUND DIGEST LINE".

use super::{Pair, compare, refused};
use std::io::{self, BufRead, BufReader, Read, Write};

/// A round, 64 digits and a line of ours.
const LINE_BYTES_MAX: u64 = 4_096;

pub(super) fn echo(stream: &mut (impl Read + Write), pairs: &[Pair]) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    for pair in pairs {
        writeln!(reader.get_mut(), "{}", pair.value)?;
        let mut line = String::new();
        reader.by_ref().take(LINE_BYTES_MAX).read_line(&mut line)?;
        let Some(line) = line.strip_suffix('\n') else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let mut words = line.splitn(3, ' ');
        let round = words.next().and_then(|word| word.parse::<u64>().ok());
        match (round, words.next(), words.next()) {
            (Some(_), Some(_), Some(value)) => compare(pair, value)?,
            _ => return Err(refused(format!("no progress in the answer {line:?}"))),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::Script;
    use super::*;
    use crate::talk::pairs;

    #[test]
    fn a_line_comes_back_behind_the_progress() {
        let pairs = pairs(1..=1, "s");
        echo(&mut Script::new(b"12 ab value-1-s\n"), &pairs).unwrap();
        for wrong in ["12 ab value-2-s\n", "value-1-s\n", "x ab value-1-s\n"] {
            let error = echo(&mut Script::new(wrong.as_bytes()), &pairs).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{wrong}");
        }
    }
}
