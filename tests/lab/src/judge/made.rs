//! What a copy's guest has made, by the frames that its site keeps (`[check]` of the site's configuration), as a cable
//! would carry them.
//!
//! A copy that was repaired has become, at some exit, the machine that the other one was there, and has left out what that had
//! made by then: of those frames its log has told it the digests. What was let out by the other site is recognised by them.

use super::cable::{as_made, as_on_a_cable};
use std::collections::HashMap;
use std::io::{self, Error};
use twox_hash::XxHash3_64;

const MAGIC: &[u8] = b"ANTIFRAM";
const HEAD_BYTES: usize = 16;
const RECORD_HEAD_BYTES: usize = 13;
const IN_REPLAY: u8 = 1;
const TOLD: u8 = 2;

/// As many as Linux hands over at once, 64 KiB, are cut into.
const SEGMENTS_MAX: usize = 46;

/// What a guest has made in replay, while another site's copy of it was live. How often counts: what has been let out
/// there once cannot be seen twice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Made {
    replayed: HashMap<Vec<u8>, u64>,
    /// Digests of what it was told of instead, as it was handed over.
    told: HashMap<u64, u64>,
    /// Nothing is lacking at the beginning.
    is_whole: bool,
}

impl Made {
    /// Reads what was kept: the file before the last one, if there is one, and the last.
    ///
    /// # Errors
    /// Files of another kind, or that do not follow each other. A last record that was cut short is none.
    pub fn read(old: Option<&[u8]>, last: &[u8]) -> io::Result<Self> {
        let mut made = Self::default();
        let before = old.map(|old| made.take_file(old)).transpose()?;
        let number = made.take_file(last)?;
        if before.is_some_and(|before| before + 1 != number) {
            return Err(Error::other(
                "the files of kept frames changed while they were fetched",
            ));
        }
        made.is_whole = before.unwrap_or(number) == 0;
        Ok(made)
    }

    /// Whether everything is known that the guest has made since this copy of it began.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Counts those of `frames`, which another site has let out in this order, as made in replay that this copy was told of
    /// instead; each as often as it was told of it. Answers how many these are.
    pub fn recognise(&mut self, frames: &[&[u8]]) -> u64 {
        let (mut rest, mut recognised) = (frames, 0);
        while !self.told.is_empty() && !rest.is_empty() {
            let count = self.take_told(rest);
            for frame in &rest[..count] {
                *self.replayed.entry(frame.to_vec()).or_default() += 1;
                recognised += 1;
            }
            rest = &rest[count.max(1)..];
        }
        recognised
    }

    /// How many of the first of `frames` are one that it was told of; takes that out.
    fn take_told(&mut self, frames: &[&[u8]]) -> usize {
        for count in 1..=frames.len().min(SEGMENTS_MAX) {
            let possible = as_made(&frames[..count]);
            if possible.is_empty() {
                return 0;
            }
            for made in possible {
                let digest = XxHash3_64::oneshot(&made);
                if let Some(left) = self.told.get_mut(&digest).filter(|left| **left > 0) {
                    *left -= 1;
                    return count;
                }
            }
        }
        0
    }

    /// How many frames were made in replay.
    #[must_use]
    pub fn replayed(&self) -> u64 {
        self.replayed.values().sum()
    }

    /// Takes one `frame` out of those that were made in replay. False if there is none such, or none left.
    pub fn take_replayed(&mut self, frame: &[u8]) -> bool {
        let left = self.replayed.get_mut(frame).filter(|left| **left > 0);
        left.map(|left| *left -= 1).is_some()
    }

    /// Takes the frames of one file; its number.
    fn take_file(&mut self, bytes: &[u8]) -> io::Result<u64> {
        let number = bytes
            .strip_prefix(MAGIC)
            .and_then(|rest| rest.first_chunk::<8>())
            .ok_or_else(|| Error::other("no file of kept frames"))?;
        let mut rest = &bytes[HEAD_BYTES..];
        while let Some((kind, content, after)) = record(rest) {
            rest = after;
            match kind {
                IN_REPLAY => {
                    for frame in as_on_a_cable(content) {
                        *self.replayed.entry(frame).or_default() += 1;
                    }
                }
                TOLD => {
                    let digest = content.try_into().map_err(Error::other)?;
                    *self.told.entry(u64::from_le_bytes(digest)).or_default() += 1;
                }
                _ => {}
            }
        }
        Ok(u64::from_le_bytes(*number))
    }
}

/// The first record's kind, its content, and what comes after; none if it is not whole.
fn record(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (head, rest) = bytes.split_at_checked(RECORD_HEAD_BYTES)?;
    let length = u32::from_le_bytes(*head.last_chunk()?);
    let (content, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    Some((head[8], content, after))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A file of these frames, made in replay or not, to which no work is left.
    pub(crate) fn file(number: u64, frames: &[(bool, &[u8])]) -> Vec<u8> {
        let mut file = [MAGIC, &number.to_le_bytes()].concat();
        for (position, (in_replay, frame)) in (1_u64..).zip(frames) {
            put(
                &mut file,
                position,
                u8::from(*in_replay),
                &[&[0; 12], *frame].concat(),
            );
        }
        file
    }

    /// Adds to `file` what it was told of: of a frame that was handed over as `made`.
    pub(crate) fn tell(file: &mut Vec<u8>, made: &[u8]) {
        put(file, 1, TOLD, &XxHash3_64::oneshot(made).to_le_bytes());
    }

    fn put(file: &mut Vec<u8>, position: u64, kind: u8, content: &[u8]) {
        let length = u32::try_from(content.len()).unwrap();
        file.extend(position.to_le_bytes());
        file.push(kind);
        file.extend(length.to_le_bytes());
        file.extend(content);
    }

    #[test]
    fn what_it_was_told_of_is_recognised_as_often_as_it_was_told() {
        let mut last = file(0, &[(true, b"a")]);
        let made = |frame: &[u8]| [&[0; 12], frame].concat();
        for frame in [b"a", b"b", b"b"] {
            tell(&mut last, &made(frame));
        }
        let mut known = Made::read(None, &last).unwrap();
        assert_eq!(known.recognise(&[b"a", b"b", b"c", b"b", b"b", b"a"]), 3);
        assert_eq!(known.replayed(), 4, "each a was made or told of, and two of b");
        let taken = [&b"a"[..], b"a", b"a", b"b", b"b", b"b", b"c"].map(|frame| known.take_replayed(frame));
        assert_eq!(taken, [true, true, false, true, true, false, false]);
        last[16 + 13 + 13 + 9] = 7;
        assert!(Made::read(None, &last).is_err(), "a digest has eight bytes");
    }

    #[test]
    fn what_was_made_in_replay_is_known_as_often_as_it_was_made() {
        let old = file(0, &[(true, b"a"), (true, b"a"), (false, b"b")]);
        let last = file(1, &[(true, b"c")]);
        let mut made = Made::read(Some(&old), &last).unwrap();
        assert!(made.is_whole());
        assert_eq!(made.replayed(), 3);
        let taken = [&b"a"[..], b"a", b"a", b"b", b"c", b"C"].map(|frame| made.take_replayed(frame));
        assert_eq!(taken, [true, true, false, false, true, false]);
    }

    #[test]
    fn what_lies_further_back_is_not_whole_and_a_record_may_be_cut_short() {
        let last = file(2, &[(true, b"c"), (true, b"d")]);
        let made = Made::read(None, &last[..last.len() - 1]).unwrap();
        assert!(!made.is_whole());
        assert_eq!(made.replayed(), 1);
        assert!(Made::read(None, b"something else, that is longer").is_err());
        assert!(Made::read(None, &last[..15]).is_err());
        assert!(Made::read(Some(&file(0, &[])), &last).is_err(), "one is missing");
    }
}
