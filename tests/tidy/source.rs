//! Tells Rust code from comments and literals.

/// A source text twice, each with the same bytes and lines, but for what is blanked with spaces.
#[derive(Debug)]
pub(crate) struct View {
    /// Without comments and without what stands inside string and character literals.
    pub(crate) code: String,
    /// Comments alone.
    pub(crate) comments: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Code,
    Comment,
    Literal,
}

impl View {
    pub(crate) fn of(text: &str) -> Self {
        let parts = classify(text.as_bytes());
        Self {
            code: keep(text, &parts, Part::Code),
            comments: keep(text, &parts, Part::Comment),
        }
    }
}

fn keep(text: &str, parts: &[Part], wanted: Part) -> String {
    let bytes: Vec<u8> = text
        .bytes()
        .zip(parts)
        .map(|(byte, &part)| {
            if part == wanted || byte == b'\n' {
                byte
            } else {
                b' '
            }
        })
        .collect();
    String::from_utf8(bytes).unwrap()
}

fn classify(bytes: &[u8]) -> Vec<Part> {
    let mut parts = vec![Part::Code; bytes.len()];
    let mut at = 0;
    while at < bytes.len() {
        let (part, end) = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => (Part::Comment, find(bytes, at, b"\n")),
            b'/' if bytes[at..].starts_with(b"/*") => (Part::Comment, end_of_block(bytes, at)),
            b'"' => (Part::Literal, end_of_string(bytes, at)),
            b'r' if !follows_word(bytes, at) => (Part::Literal, end_of_raw_string(bytes, at)),
            b'\'' => (Part::Literal, end_of_character(bytes, at)),
            _ => (Part::Code, at + 1),
        };
        let end = end.clamp(at + 1, bytes.len());
        // A raw identifier or a lifetime is code after all: it spans one byte here.
        let part = if end == at + 1 { Part::Code } else { part };
        parts[at..end].fill(part);
        at = end;
    }
    parts
}

/// Whether the byte before `at` continues a name, but for the `b` and `c` of `br"…"` and `cr"…"`.
fn follows_word(bytes: &[u8], at: usize) -> bool {
    let before = |count: usize| at.checked_sub(count).map(|index| bytes[index]);
    match before(1) {
        Some(b'b' | b'c') => before(2).is_some_and(super::repository::is_word_byte),
        Some(byte) => super::repository::is_word_byte(byte),
        None => false,
    }
}

/// Where `wanted` begins at or after `from`, or the end.
fn find(bytes: &[u8], from: usize, wanted: &[u8]) -> usize {
    bytes[from..]
        .windows(wanted.len())
        .position(|window| window == wanted)
        .map_or(bytes.len(), |offset| from + offset)
}

fn end_of_block(bytes: &[u8], start: usize) -> usize {
    let mut depth = 0_usize;
    let mut at = start;
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    at
}

/// The end of `r"…"` or `r#"…"#`; `start + 1` where no raw string begins.
fn end_of_raw_string(bytes: &[u8], start: usize) -> usize {
    let hashes = bytes[start + 1..]
        .iter()
        .take_while(|&&byte| byte == b'#')
        .count();
    let quote = start + 1 + hashes;
    if bytes.get(quote) != Some(&b'"') {
        return start + 1;
    }
    let mut closing = vec![b'"'];
    closing.resize(1 + hashes, b'#');
    find(bytes, quote + 1, &closing) + closing.len()
}

/// The end of `'x'`, `'\n'` or `'…'`; `start + 1` for a lifetime.
fn end_of_character(bytes: &[u8], start: usize) -> usize {
    match bytes.get(start + 1) {
        Some(b'\\') => find(bytes, start + 3, b"'") + 1,
        Some(_) => {
            let character_bytes = std::str::from_utf8(&bytes[start + 1..])
                .ok()
                .and_then(|rest| rest.chars().next())
                .map_or(1, char::len_utf8);
            let closing = start + 1 + character_bytes;
            if bytes.get(closing) == Some(&b'\'') {
                closing + 1
            } else {
                start + 1
            }
        }
        None => start + 1,
    }
}

#[test]
fn literals_and_comments_are_not_code() {
    let text = r##"let a = "x // y"; // said "so"
/* one /* two */ still */ let b = 'c'; let d: &'static str = r#"q " q"#; let e = '\'';
let r#type = b"unsafe"; let f = '"'; g()"##;
    let view = View::of(text);
    assert_eq!(
        view.code.split_whitespace().collect::<Vec<_>>().join(" "),
        "let a = ; let b = ; let d: &'static str = ; let e = ; let r#type = b ; let f = ; g()"
    );
    assert_eq!(
        view.comments.split_whitespace().collect::<Vec<_>>().join(" "),
        "// said \"so\" /* one /* two */ still */"
    );
    assert_eq!(view.code.lines().count(), text.lines().count());
}
