//! Redis: RESP2 (redis.io, "Redis serialization protocol specification"), pipelined in batches.

use super::{Pair, compare, refused};
use std::io::{self, BufRead, BufReader, Read, Write};

/// Commands sent before their answers are read: few enough that neither side's buffers fill.
const BATCH: usize = 64;

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
    use crate::scenario::talk::pairs;

    #[test]
    fn values_are_written_and_read_in_one_batch() {
        let pairs = pairs(2, "s");
        let mut service = Script::new(b"+OK\r\n+OK\r\n");
        write(&mut service, &pairs).unwrap();
        let first = "*3\r\n$3\r\nSET\r\n$5\r\nkey-1\r\n$9\r\nvalue-1-s\r\n";
        assert!(String::from_utf8(service.heard).unwrap().starts_with(first));
        let mut service = Script::new(b"$9\r\nvalue-1-s\r\n$9\r\nvalue-2-s\r\n");
        read(&mut service, &pairs).unwrap();
    }

    #[test]
    fn a_lost_or_changed_value_and_an_error_are_named() {
        let pairs = pairs(1, "s");
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
