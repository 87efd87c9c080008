//! The `newc` cpio archive of an initramfs (Linux, `Documentation/driver-api/early-userspace/buffer-format.rst`).
//!
//! ```text
//! entry:  "070701" ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
//!         (13 fields of 8 upper-case hex digits) · name · NUL · pad to 4 · data · pad to 4
//! end:    an entry named "TRAILER!!!"
//! ```
//! Deterministic: entries in order of their path, so parents come first; inodes numbered from 1 in that order; time,
//! owner and device are 0; no hard links. An [`Archive`] is a map from path to entry, so no path can occur twice and
//! the order of insertion leaves no trace.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;

/// What a path in the archive is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A directory.
    Directory {
        /// Permission bits.
        mode: u32,
    },
    /// A file with its bytes at hand.
    File {
        /// Permission bits.
        mode: u32,
        /// Contents.
        contents: Vec<u8>,
    },
    /// A file copied from the host when the archive is written.
    HostFile {
        /// Permission bits.
        mode: u32,
        /// Where it lies.
        source: PathBuf,
    },
    /// A symbolic link.
    Symlink {
        /// What it holds.
        target: String,
    },
    /// A character device node.
    CharacterDevice {
        /// Permission bits.
        mode: u32,
        /// Device number.
        major: u32,
        /// Device number.
        minor: u32,
    },
}

/// Paths (without a leading `/`) and what they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Archive {
    entries: BTreeMap<String, Entry>,
}

const TYPE_DIRECTORY: u32 = 0o040_000;
const TYPE_FILE: u32 = 0o100_000;
const TYPE_SYMLINK: u32 = 0o120_000;
const TYPE_CHARACTER_DEVICE: u32 = 0o020_000;

impl Archive {
    /// An archive that holds nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds or replaces an entry; missing parents become directories of mode 755.
    pub fn insert(&mut self, path: &str, entry: Entry) {
        let path = path.trim_matches('/');
        for (end, _) in path.match_indices('/') {
            self.entries
                .entry(path[..end].to_owned())
                .or_insert(Entry::Directory { mode: 0o755 });
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// Adds a directory of mode 755.
    pub fn directory(&mut self, path: &str) {
        self.insert(path, Entry::Directory { mode: 0o755 });
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, mode: u32, contents: impl Into<Vec<u8>>) {
        self.insert(
            path,
            Entry::File {
                mode,
                contents: contents.into(),
            },
        );
    }

    /// Adds a file of the host.
    pub fn host_file(&mut self, path: &str, mode: u32, source: impl Into<PathBuf>) {
        self.insert(
            path,
            Entry::HostFile {
                mode,
                source: source.into(),
            },
        );
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) {
        self.insert(
            path,
            Entry::Symlink {
                target: target.to_owned(),
            },
        );
    }

    /// What lies at `path`.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&Entry> {
        self.entries.get(path.trim_matches('/'))
    }

    /// Paths and entries in the order in which they are written.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(path, entry)| (path.as_str(), entry))
    }

    /// Writes the archive.
    ///
    /// # Errors
    ///
    /// Those of `output` and of reading files of the host; `InvalidInput` for a file of 4 GiB or more, which the format
    /// cannot hold.
    pub fn write(&self, mut output: impl Write) -> io::Result<()> {
        for ((path, entry), inode) in self.entries.iter().zip(1_u32..) {
            write_entry(&mut output, path, entry, inode).map_err(|error| {
                let subject = match entry {
                    Entry::HostFile { source, .. } => format!("{path} from {}", source.display()),
                    _ => path.clone(),
                };
                io::Error::new(error.kind(), format!("initramfs entry {subject}: {error}"))
            })?;
        }
        write_record(
            &mut output,
            &Header {
                links: 1,
                ..Header::default()
            },
            "TRAILER!!!",
            &[],
        )?;
        output.flush()
    }
}

#[derive(Default)]
struct Header {
    inode: u32,
    mode: u32,
    links: u32,
    device: (u32, u32),
}

fn write_entry(output: &mut impl Write, path: &str, entry: &Entry, inode: u32) -> io::Result<()> {
    let header = |kind: u32, mode: u32| Header {
        inode,
        mode: kind | mode,
        links: 1,
        device: (0, 0),
    };
    match entry {
        Entry::Directory { mode } => write_record(
            output,
            &Header {
                links: 2,
                ..header(TYPE_DIRECTORY, *mode)
            },
            path,
            &[],
        ),
        Entry::File { mode, contents } => write_record(output, &header(TYPE_FILE, *mode), path, contents),
        Entry::HostFile { mode, source } => {
            write_record(output, &header(TYPE_FILE, *mode), path, &std::fs::read(source)?)
        }
        Entry::Symlink { target } => {
            write_record(output, &header(TYPE_SYMLINK, 0o777), path, target.as_bytes())
        }
        Entry::CharacterDevice { mode, major, minor } => {
            let device = Header {
                device: (*major, *minor),
                ..header(TYPE_CHARACTER_DEVICE, *mode)
            };
            write_record(output, &device, path, &[])
        }
    }
}

fn write_record(output: &mut impl Write, header: &Header, name: &str, data: &[u8]) -> io::Result<()> {
    const HEADER_LENGTH: usize = 6 + 13 * 8;
    let length = |length: usize| {
        u32::try_from(length)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "4 GiB or more in one entry"))
    };
    let (major, minor) = header.device;
    let fields = [
        header.inode,
        header.mode,
        0,
        0,
        header.links,
        0,
        length(data.len())?,
        0,
        0,
        major,
        minor,
        length(name.len() + 1)?,
        0,
    ];
    output.write_all(b"070701")?;
    for field in fields {
        write!(output, "{field:08X}")?;
    }
    output.write_all(name.as_bytes())?;
    output.write_all(&[0])?;
    pad(output, HEADER_LENGTH + name.len() + 1)?;
    output.write_all(data)?;
    pad(output, data.len())
}

/// Fills up to a multiple of 4.
fn pad(output: &mut impl Write, length: usize) -> io::Result<()> {
    output.write_all(&[0; 3][..length.wrapping_neg() % 4])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(archive: &Archive) -> Vec<u8> {
        let mut output = Vec::new();
        archive.write(&mut output).expect("written to memory");
        output
    }

    /// Names, modes, inodes and data, read back by the format's own rules.
    fn parse(mut rest: &[u8]) -> Vec<(String, u32, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        loop {
            assert_eq!(&rest[..6], b"070701");
            let field = |index: usize| {
                let text = std::str::from_utf8(&rest[6 + index * 8..14 + index * 8]).expect("text");
                u32::from_str_radix(text, 16).expect("hex")
            };
            let (inode, mode, size, name_size) = (field(0), field(1), field(6) as usize, field(11) as usize);
            let name = String::from_utf8(rest[110..110 + name_size - 1].to_vec()).expect("text");
            assert_eq!(rest[110 + name_size - 1], 0, "the name ends with a NUL");
            let data_at = (110 + name_size).next_multiple_of(4);
            let data = rest[data_at..data_at + size].to_vec();
            rest = &rest[(data_at + size).next_multiple_of(4)..];
            if name == "TRAILER!!!" {
                assert!(rest.is_empty(), "nothing follows the trailer");
                return entries;
            }
            entries.push((name, mode, inode, data));
        }
    }

    fn fill(archive: &mut Archive, reverse: bool) {
        let mut steps: Vec<(&str, Entry)> = vec![
            (
                "init",
                Entry::File {
                    mode: 0o755,
                    contents: b"#!/bin/sh\n".to_vec(),
                },
            ),
            (
                "usr/lib/a.so",
                Entry::File {
                    mode: 0o644,
                    contents: vec![1, 2, 3],
                },
            ),
            (
                "lib",
                Entry::Symlink {
                    target: "usr/lib".to_owned(),
                },
            ),
            (
                "dev/console",
                Entry::CharacterDevice {
                    mode: 0o600,
                    major: 5,
                    minor: 1,
                },
            ),
            ("tmp", Entry::Directory { mode: 0o1777 }),
        ];
        if reverse {
            steps.reverse();
        }
        for (path, entry) in steps {
            archive.insert(path, entry);
        }
    }

    #[test]
    fn the_order_of_insertion_leaves_no_trace() {
        let (mut forward, mut backward) = (Archive::new(), Archive::new());
        fill(&mut forward, false);
        fill(&mut backward, true);
        assert_eq!(bytes(&forward), bytes(&backward));
    }

    #[test]
    fn entries_read_back_parents_first() {
        let mut archive = Archive::new();
        fill(&mut archive, false);
        let entries = parse(&bytes(&archive));
        let names: Vec<&str> = entries.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "dev",
                "dev/console",
                "init",
                "lib",
                "tmp",
                "usr",
                "usr/lib",
                "usr/lib/a.so"
            ]
        );
        let modes: Vec<u32> = entries.iter().map(|(_, mode, ..)| *mode).collect();
        assert_eq!(
            modes,
            [
                0o40755, 0o20600, 0o100_755, 0o120_777, 0o41777, 0o40755, 0o40755, 0o100_644
            ]
        );
        assert!(
            entries.iter().map(|(_, _, inode, _)| *inode).eq(1..=8),
            "inodes are numbered in order"
        );
        assert_eq!(entries[2].3, b"#!/bin/sh\n");
        assert_eq!(entries[3].3, b"usr/lib");
    }

    #[test]
    fn a_known_entry_has_known_bytes() {
        let mut archive = Archive::new();
        archive.file("a", 0o644, "hi");
        let expected = "07070100000001000081A400000000000000000000000100000000000000020000000000000000000000000000000000000002\
                        00000000a\0hi\0\0";
        assert!(bytes(&archive).starts_with(expected.as_bytes()));
    }

    #[test]
    fn a_missing_host_file_is_named() {
        let mut archive = Archive::new();
        archive.host_file("bin/x", 0o755, "/nonexistent/x");
        let error = archive.write(Vec::new()).expect_err("missing");
        assert!(
            error
                .to_string()
                .starts_with("initramfs entry bin/x from /nonexistent/x"),
            "{error}"
        );
    }

    proptest::proptest! {
        #[test]
        fn any_contents_read_back(files in proptest::collection::btree_map("[a-z]{1,9}", proptest::collection::vec(0_u8.., 0..40), 0..9)) {
            let mut archive = Archive::new();
            for (name, contents) in &files {
                archive.file(name, 0o600, contents.clone());
            }
            let read: BTreeMap<String, Vec<u8>> = parse(&bytes(&archive)).into_iter().map(|(name, _, _, data)| (name, data)).collect();
            proptest::prop_assert_eq!(read, files);
        }
    }
}
