//! Redis: RESP2 (redis.io, "Redis serialization protocol specification"), pipelined in batches.

use super::{Pair, as_number, compare, refused};
use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Read, Write};

/// Commands sent before their answers are read: few enough that neither side's buffers fill.
const BATCH: usize = 64;

/// Keys read by one `MGET`.
const KEYS_MAX: u64 = 256;

/// Longest answer: a value of ours, or an error text.
const LINE_BYTES_MAX: u64 = 4_096;

pub(super) fn write(stream: &mut (impl Read + Write), pairs: &[Pair]) -> io::Result<()> {
    let command = |pair: &Pair| array(&["SET", &pair.key, &pair.value]);
    converse(stream, pairs, command, |_, line, _| match line {
        "+OK" => Ok(()),
        other => Err(refused(format!("SET was answered {other:?}"))),
    })
}

pub(super) fn read(stream: &mut (impl Read + Write), pairs: &[Pair]) -> io::Result<()> {
    let command = |pair: &Pair| array(&["GET", &pair.key]);
    converse(stream, pairs, command, |pair, line, rest| {
        let length = line.strip_prefix('$').and_then(|text| text.parse::<u64>().ok());
        match length {
            Some(_) => compare(pair, &take_line(rest)?),
            None => Err(refused(format!("GET {} was answered {line:?}", pair.key))),
        }
    })
}

/// A server that still loads its file answers with an error.
pub(super) fn open_sequence(stream: &mut BufReader<impl Read + Write>) -> io::Result<()> {
    stream.get_mut().write_all(array(&["PING"]).as_bytes())?;
    match take_line(stream)?.as_str() {
        "+PONG" => Ok(()),
        other => Err(refused(format!("PING was answered {other:?}"))),
    }
}

/// Keeps `number` under a key of its own, and as the head; returns the head before.
pub(super) fn write_number(
    stream: &mut BufReader<impl Read + Write>,
    run: &str,
    number: u64,
) -> io::Result<u64> {
    let value = number.to_string();
    let own = array(&["SET", &format!("{run}:{number}"), &value]);
    let head = array(&["SET", run, &value, "GET"]);
    stream.get_mut().write_all((own + &head).as_bytes())?;
    match take_line(stream)?.as_str() {
        "+OK" => {}
        other => return Err(refused(format!("SET was answered {other:?}"))),
    }
    take_bulk(stream)?.map_or(Ok(0), |before| as_number(&before))
}

/// The numbers up to `last` that are under their keys.
pub(super) fn read_numbers(
    stream: &mut BufReader<impl Read + Write>,
    run: &str,
    last: u64,
) -> io::Result<BTreeSet<u64>> {
    let mut kept = BTreeSet::new();
    for first in (1..=last).step_by(usize::try_from(KEYS_MAX).unwrap_or(1)) {
        let numbers = first..=last.min(first + KEYS_MAX - 1);
        let keys: Vec<String> = numbers.clone().map(|number| format!("{run}:{number}")).collect();
        let words: Vec<&str> = std::iter::once("MGET")
            .chain(keys.iter().map(String::as_str))
            .collect();
        stream.get_mut().write_all(array(&words).as_bytes())?;
        let line = take_line(stream)?;
        if line != format!("*{}", keys.len()) {
            return Err(refused(format!(
                "MGET of {} keys was answered {line:?}",
                keys.len()
            )));
        }
        for number in numbers {
            if take_bulk(stream)? == Some(number.to_string()) {
                kept.insert(number);
            }
        }
    }
    Ok(kept)
}

/// A value, or nothing where there is none.
fn take_bulk(reader: &mut dyn BufRead) -> io::Result<Option<String>> {
    let line = take_line(reader)?;
    match line.strip_prefix('$') {
        Some("-1") => Ok(None),
        Some(_) => take_line(reader).map(Some),
        None => Err(refused(format!("a value was expected, and {line:?} came"))),
    }
}

fn array(words: &[&str]) -> String {
    let mut text = format!("*{}\r\n", words.len());
    for word in words {
        text.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    text
}

/// Sends a command for each pair and gives the first line of each answer to `judge`, with the reader for the rest.
fn converse(
    stream: &mut (impl Read + Write),
    pairs: &[Pair],
    command: impl Fn(&Pair) -> String,
    judge: impl Fn(&Pair, &str, &mut dyn BufRead) -> io::Result<()>,
) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    for batch in pairs.chunks(BATCH) {
        let commands: String = batch.iter().map(&command).collect();
        reader.get_mut().write_all(commands.as_bytes())?;
        for pair in batch {
            let line = take_line(&mut reader)?;
            judge(pair, &line, &mut reader)?;
        }
    }
    Ok(())
}

fn take_line(reader: &mut dyn BufRead) -> io::Result<String> {
    let mut line = String::new();
    reader.take(LINE_BYTES_MAX).read_line(&mut line)?;
    let Some(text) = line.strip_suffix("\r\n") else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::tests::Script;
    use super::*;
    use crate::talk::pairs;

    #[test]
    fn values_are_written_and_read_in_one_batch() {
        let pairs = pairs(1..=2, "s");
        let mut service = Script::new(b"+OK\r\n+OK\r\n");
        write(&mut service, &pairs).unwrap();
        let first = "*3\r\n$3\r\nSET\r\n$5\r\nkey-1\r\n$9\r\nvalue-1-s\r\n";
        assert!(String::from_utf8(service.heard).unwrap().starts_with(first));
        let mut service = Script::new(b"$9\r\nvalue-1-s\r\n$9\r\nvalue-2-s\r\n");
        read(&mut service, &pairs).unwrap();
    }

    #[test]
    fn a_lost_or_changed_value_and_an_error_are_named() {
        let pairs = pairs(1..=1, "s");
        for (answer, expected) in [
            ("$9\r\nvalue-2-s\r\n", "wrote \"value-1-s\", read \"value-2-s\""),
            ("$-1\r\n", "GET key-1 was answered \"$-1\""),
            ("-LOADING\r\n", "-LOADING"),
        ] {
            let error = read(&mut Script::new(answer.as_bytes()), &pairs).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
        let error = write(&mut Script::new(b"-MISCONF no disk\r\n"), &pairs).unwrap_err();
        assert!(error.to_string().contains("MISCONF"), "{error}");
    }
}
