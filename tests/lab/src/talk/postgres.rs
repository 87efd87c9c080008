//! PostgreSQL: protocol 3.0 (manual of version 15, chapter 55), simple queries, trust authentication.
//!
//! ```text
//!   client                         server
//!    ─ StartupMessage ────────────▶   ◀─ R (authentication ok), S…, K, Z (ready)
//!    ─ Q (query) ─────────────────▶   ◀─ T, D… (rows), C (done), Z      E (error) at any time
//! ```

use super::{Pair, as_number, compare, refused};
use std::collections::BTreeSet;
use std::io::{self, BufReader, Read, Write};

const PROTOCOL: i32 = 3 << 16;

/// Longest message that a question of ours can bring.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

pub(super) fn write(stream: &mut (impl Read + Write), pairs: &[Pair]) -> io::Result<()> {
    start(stream)?;
    query(
        stream,
        "CREATE TABLE IF NOT EXISTS lab (key text PRIMARY KEY, value text NOT NULL)",
    )?;
    for Pair { key, value } in pairs {
        // One statement, one transaction: acknowledged is durable.
        query(
            stream,
            &format!(
                "INSERT INTO lab VALUES ('{key}', '{value}') ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value"
            ),
        )?;
    }
    Ok(())
}

pub(super) fn read(stream: &mut (impl Read + Write), pairs: &[Pair]) -> io::Result<()> {
    start(stream)?;
    for pair in pairs {
        let rows = query(
            stream,
            &format!("SELECT value FROM lab WHERE key = '{}'", pair.key),
        )?;
        match &rows[..] {
            [value] => compare(pair, value)?,
            _ => return Err(refused(format!("{}: {} rows", pair.key, rows.len()))),
        }
    }
    Ok(())
}

/// A server that is starting up answers with an error.
pub(super) fn open_sequence(stream: &mut BufReader<impl Read + Write>) -> io::Result<()> {
    let mut stream = Whole(stream);
    start(&mut stream)?;
    query(
        &mut stream,
        "CREATE TABLE IF NOT EXISTS sequence (run text, number bigint, PRIMARY KEY (run, number))",
    )
    .map(drop)
}

/// Commits `number`; returns the highest before, as the same transaction saw it.
pub(super) fn write_number(
    stream: &mut BufReader<impl Read + Write>,
    run: &str,
    number: u64,
) -> io::Result<u64> {
    let text = format!(
        "INSERT INTO sequence VALUES ('{run}', {number}) \
         RETURNING (SELECT coalesce(max(number), 0) FROM sequence WHERE run = '{run}')"
    );
    match &query(&mut Whole(stream), &text)?[..] {
        [before] => as_number(before),
        rows => Err(refused(format!("INSERT brought {} rows", rows.len()))),
    }
}

/// Every number of the run.
pub(super) fn read_numbers(
    stream: &mut BufReader<impl Read + Write>,
    run: &str,
) -> io::Result<BTreeSet<u64>> {
    let text = format!("SELECT number FROM sequence WHERE run = '{run}'");
    let rows = query(&mut Whole(stream), &text)?;
    rows.iter().map(|row| as_number(row)).collect()
}

/// Reads through the buffer, writes past it.
struct Whole<'a, S>(&'a mut BufReader<S>);

impl<S: Read> Read for Whole<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<S: Write> Write for Whole<'_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.get_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.get_mut().flush()
    }
}

fn start(stream: &mut (impl Read + Write)) -> io::Result<()> {
    let mut body = PROTOCOL.to_be_bytes().to_vec();
    body.extend(b"user\0postgres\0database\0postgres\0\0");
    stream.write_all(&length_of(&body)?)?;
    stream.write_all(&body)?;
    loop {
        match receive(stream)? {
            (b'R', body) if body != [0; 4] => return Err(refused("it wants a password")),
            (b'Z', _) => return Ok(()),
            _ => {}
        }
    }
}

/// Carries a query out and returns the first column of its rows.
fn query(stream: &mut (impl Read + Write), text: &str) -> io::Result<Vec<String>> {
    let mut body = text.as_bytes().to_vec();
    body.push(0);
    let mut message = vec![b'Q'];
    message.extend(length_of(&body)?);
    message.extend(body);
    stream.write_all(&message)?;
    let mut rows = Vec::new();
    loop {
        match receive(stream)? {
            (b'D', body) => rows.push(first_column(&body)?),
            (b'Z', _) => return Ok(rows),
            _ => {}
        }
    }
}

/// A length counts itself.
fn length_of(body: &[u8]) -> io::Result<[u8; 4]> {
    let length = u32::try_from(body.len() + 4).map_err(io::Error::other)?;
    Ok(length.to_be_bytes())
}

/// The next message's type and body; an error message is an error.
fn receive(stream: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    let [kind, length @ ..] = head;
    let length = u32::from_be_bytes(length) as usize;
    if !(4..=MESSAGE_BYTES_MAX).contains(&length) {
        return Err(refused(format!("a message of {length} bytes")));
    }
    let mut body = vec![0; length - 4];
    stream.read_exact(&mut body)?;
    if kind == b'E' {
        return Err(refused(error_text(&body)));
    }
    Ok((kind, body))
}

/// The fields of an error are a letter and a text each; `M` is for people.
fn error_text(body: &[u8]) -> String {
    let mut fields = body.split(|byte| *byte == 0);
    let message = fields.find_map(|field| field.strip_prefix(b"M"));
    String::from_utf8_lossy(message.unwrap_or(b"an error without a text")).into_owned()
}

/// A row: the number of columns in two bytes, then each column's length in four and its bytes; -1 is NULL.
fn first_column(body: &[u8]) -> io::Result<String> {
    let column = body.get(2..6).and_then(|length| {
        let length = u32::from_be_bytes(length.try_into().ok()?) as usize;
        body.get(6..6_usize.checked_add(length)?)
    });
    let column = column.ok_or_else(|| refused("a row without a value"))?;
    Ok(String::from_utf8_lossy(column).into_owned())
}

#[cfg(test)]
mod tests {
    use super::super::tests::Script;
    use super::*;
    use crate::image::Service;
    use crate::talk::{Sequence, pairs};

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind];
        bytes.extend(length_of(body).unwrap());
        bytes.extend(body);
        bytes
    }

    fn row(value: &str) -> Vec<u8> {
        let mut body = vec![0, 1];
        body.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
        body.extend(value.as_bytes());
        message(b'D', &body)
    }

    fn ready() -> Vec<u8> {
        message(b'Z', b"I")
    }

    fn greeting() -> Vec<u8> {
        [message(b'R', &[0; 4]), ready()].concat()
    }

    #[test]
    fn a_value_is_written_and_read() {
        let pairs = pairs(1..=1, "s");
        let mut service = Script::new(&[greeting(), ready(), ready()].concat());
        write(&mut service, &pairs).unwrap();
        let heard = String::from_utf8_lossy(&service.heard).into_owned();
        assert!(heard.contains("user\0postgres\0"), "{heard:?}");
        assert!(heard.contains("VALUES ('key-1', 'value-1-s')"), "{heard:?}");
        read(
            &mut Script::new(&[greeting(), row("value-1-s"), ready()].concat()),
            &pairs,
        )
        .unwrap();
    }

    #[test]
    fn numbers_are_committed_and_read_back() {
        let says = [
            greeting(),
            ready(),
            row("0"),
            ready(),
            row("1"),
            row("3"),
            ready(),
        ]
        .concat();
        let mut sequence = Sequence::open(Service::Postgres, Script::new(&says), "r").unwrap();
        assert_eq!(sequence.write(1).unwrap(), 0);
        assert_eq!(sequence.kept(3).unwrap(), BTreeSet::from([1, 3]));
    }

    #[test]
    fn wrong_answers_are_named() {
        let said = |bytes: &[u8]| {
            let error = read(&mut Script::new(bytes), &pairs(1..=1, "s")).unwrap_err();
            error.to_string()
        };
        let error = message(b'E', b"SFATAL\0Mthe database system is starting up\0\0");
        assert_eq!(said(&error), "the database system is starting up");
        assert_eq!(said(&message(b'R', &[0, 0, 0, 3])), "it wants a password");
        let wrong = [greeting(), row("other"), ready()].concat();
        assert!(said(&wrong).contains("read \"other\""));
        assert!(said(&[greeting(), ready()].concat()).contains("0 rows"));
        let null = message(b'D', &[0, 1, 255, 255, 255, 255]);
        assert_eq!(said(&[greeting(), null].concat()), "a row without a value");
        assert!(said(&[b'Z', 255, 255, 255, 255]).contains("bytes"));
    }
}
