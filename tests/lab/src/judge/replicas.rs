//! Two disks, compared byte for byte and not by digests of ours.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// What is counted: pieces of so many bytes.
pub const LEAF_BYTES: usize = 64 * 1024;

/// Leaves in which two files differ. A file that is longer differs in every leaf that only it has.
///
/// # Errors
/// A file that cannot be read.
pub fn differing(one: &Path, other: &Path) -> io::Result<u64> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    let (mut ours, mut theirs) = (vec![0; LEAF_BYTES], vec![0; LEAF_BYTES]);
    let mut differing = 0;
    loop {
        let lengths = [fill(&mut one, &mut ours)?, fill(&mut other, &mut theirs)?];
        if lengths == [0, 0] {
            return Ok(differing);
        }
        differing += u64::from(ours[..lengths[0]] != theirs[..lengths[1]]);
    }
}

fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..])? {
            0 => break,
            count => length += count,
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_planted_byte_is_found_and_so_is_a_longer_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let bytes = vec![7; 3 * LEAF_BYTES + 5];
        std::fs::write(path("a"), &bytes).unwrap();
        std::fs::write(path("b"), &bytes).unwrap();
        assert_eq!(differing(&path("a"), &path("b")).unwrap(), 0);
        for at in [0, LEAF_BYTES, 3 * LEAF_BYTES + 4] {
            let mut spoilt = bytes.clone();
            spoilt[at] ^= 1;
            std::fs::write(path("b"), &spoilt).unwrap();
            assert_eq!(differing(&path("a"), &path("b")).unwrap(), 1, "byte {at}");
        }
        std::fs::write(path("b"), [&bytes[..], &[7]].concat()).unwrap();
        assert_eq!(differing(&path("a"), &path("b")).unwrap(), 1);
        assert!(differing(&path("a"), &path("c")).is_err());
    }
}
