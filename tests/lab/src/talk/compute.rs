//! The compute service: a line comes back as "ROUND DIGEST LINE", and numbers are kept in memory.

use super::{Pair, as_number, compare, refused};
use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Read, Write};

/// A round, 64 digits and a line of ours, or [`NUMBERS_MAX`] of 12 digits at the most.
const LINE_BYTES_MAX: u64 = 4_096;

/// Numbers that are asked for at once.
const NUMBERS_MAX: u64 = 300;

pub(super) fn echo(stream: &mut (impl Read + Write), pairs: &[Pair]) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    for pair in pairs {
        compare(pair, &ask(&mut reader, &pair.value)?)?;
    }
    Ok(())
}

/// What `line` is answered with, behind the progress.
fn ask(stream: &mut BufReader<impl Read + Write>, line: &str) -> io::Result<String> {
    stream.get_mut().write_all(format!("{line}\n").as_bytes())?;
    let mut answer = String::new();
    stream.by_ref().take(LINE_BYTES_MAX).read_line(&mut answer)?;
    let Some(answer) = answer.strip_suffix('\n') else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    let mut words = answer.splitn(3, ' ');
    let round = words.next().and_then(|word| word.parse::<u64>().ok());
    match (round, words.next(), words.next()) {
        (Some(_), Some(_), Some(value)) => Ok(value.to_owned()),
        _ => Err(refused(format!("no progress in the answer {answer:?}"))),
    }
}

pub(super) fn open_sequence(stream: &mut BufReader<impl Read + Write>) -> io::Result<()> {
    match ask(stream, "ping")?.as_str() {
        "ping" => Ok(()),
        other => Err(refused(format!("ping was answered {other:?}"))),
    }
}

/// Keeps `number`; returns the head before.
pub(super) fn write_number(
    stream: &mut BufReader<impl Read + Write>,
    run: &str,
    number: u64,
) -> io::Result<u64> {
    as_number(&ask(stream, &format!("keep {run} {number}"))?)
}

/// The numbers up to `last` that are kept.
pub(super) fn read_numbers(
    stream: &mut BufReader<impl Read + Write>,
    run: &str,
    last: u64,
) -> io::Result<BTreeSet<u64>> {
    let mut kept = BTreeSet::new();
    for first in (1..=last).step_by(usize::try_from(NUMBERS_MAX).unwrap_or(1)) {
        let upto = last.min(first + NUMBERS_MAX - 1);
        let answer = ask(stream, &format!("kept {run} {first} {upto}"))?;
        for number in answer.split(',').filter(|number| !number.is_empty()) {
            kept.insert(as_number(number)?);
        }
    }
    Ok(kept)
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

    #[test]
    fn numbers_are_kept_and_read_in_parts() {
        let script = |says: &'static [u8]| BufReader::new(Script::new(says));
        assert_eq!(write_number(&mut script(b"3 ab 6\n"), "r", 7).unwrap(), 6);
        assert!(write_number(&mut script(b"3 ab keep r 7\n"), "r", 7).is_err());
        let kept = read_numbers(&mut script(b"3 ab 1,3,300\n4 cd 301\n"), "r", 302).unwrap();
        assert_eq!(kept, BTreeSet::from([1, 3, 300, 301]));
        assert_eq!(
            read_numbers(&mut script(b"3 ab \n"), "r", 2).unwrap(),
            BTreeSet::new()
        );
        assert!(read_numbers(&mut script(b"3 ab 1,x\n"), "r", 2).is_err());
    }
}
