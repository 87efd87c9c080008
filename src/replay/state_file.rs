//! The file of a saved machine: everything but its disk's content, at one position.
//!
//! ```text
//!   head    magic (8), version (u32), length (u32), what it is of (JSON)
//!   frame   kind (u8), length before compression (u32), length (u32), content compressed by zstd
//!           kind 1: a part: its name, its version, its content
//!           kind 2: pages of RAM that are not all zeros: address (u64) and bytes of each
//!   end     kind 0, BLAKE3 of all before it (32)
//! ```
//!
//! A file is read whole and its digest compared before anything of it is believed, and the digest names the state in the
//! log of whatever goes on from it.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::codec::{CodecError, Reader, put_bytes, put_number};
use super::framing::length_field;
use super::machine::for_each_chunk;
use super::recipe::Recipe;
use crate::base::guest_memory::GuestMemory;
use crate::base::limits::{LOG_RECIPE_BYTES_MAX, STATE_PART_BYTES_MAX};
use crate::base::parts::{Part, PartError, Parts};
use crate::base::units::{ExitOrdinal, GuestPhys, PAGE_SIZE};
use crate::machine::RestoreError;
use crate::machine::launch::{LaunchError, StartedVm};

const MAGIC: [u8; 8] = *b"ANTIPSTA";
const VERSION: u32 = 1;
const COMPRESSION_LEVEL: i32 = 1;

const END: u8 = 0;
const PART: u8 = 1;
const RAM: u8 = 2;

/// Bytes of a page and its address.
const PAGE_RECORD: usize = 8 + PAGE_SIZE;

/// What a saved machine is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateHead {
    /// What it was made of; the disk is as it was when the machine was saved.
    pub recipe: Recipe,
    /// The last counted exit, all that belongs there handled.
    pub exit: ExitOrdinal,
}

/// Why a saved machine cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file cannot be read or written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// It is something else.
    #[error("it is no saved machine of antipode")]
    Foreign,
    /// It is of another version.
    #[error("it is a saved machine of version {found}; this antipode reads version {VERSION}")]
    Version {
        /// The version found.
        found: u32,
    },
    /// It was changed or cut since it was written.
    #[error("it is damaged: {0}")]
    Damaged(String),
}

impl From<CodecError> for StateError {
    fn from(error: CodecError) -> Self {
        Self::Damaged(error.to_string())
    }
}

/// Writes what passes through it to a file and into a digest.
struct Digesting<W> {
    sink: W,
    hasher: blake3::Hasher,
}

impl<W: Write> Digesting<W> {
    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.hasher.update(bytes);
        self.sink.write_all(bytes)
    }

    fn put_frame(&mut self, kind: u8, content: &[u8]) -> std::io::Result<()> {
        let compressed = zstd::bulk::compress(content, COMPRESSION_LEVEL)?;
        self.put(&[kind])?;
        self.put(&length_field(content.len())?)?;
        self.put(&length_field(compressed.len())?)?;
        self.put(&compressed)
    }
}

/// Saves `vm`, which is held, as a new file at `path`.
///
/// # Errors
/// When KVM refuses, or the file exists or cannot be written.
pub fn save_machine(vm: &mut StartedVm, recipe: Recipe, path: &Path) -> Result<StateHead, LaunchError> {
    let failed = |source| LaunchError::Host {
        what: "writing the saved machine",
        source,
    };
    let parts = vm.save()?;
    let exit = vm.totals().exit_count;
    let head = StateHead { recipe, exit };
    let file = File::create_new(path).map_err(failed)?;
    write(BufWriter::new(&file), &head, &parts, vm.memory()).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    Ok(head)
}

fn write(sink: impl Write, head: &StateHead, parts: &Parts, memory: &GuestMemory) -> std::io::Result<()> {
    let mut sink = Digesting {
        sink,
        hasher: blake3::Hasher::new(),
    };
    let head = serde_json::to_vec(head)?;
    sink.put(&MAGIC)?;
    sink.put(&VERSION.to_le_bytes())?;
    sink.put(&length_field(head.len())?)?;
    sink.put(&head)?;
    for part in parts.iter() {
        let mut content = Vec::with_capacity(part.content.len() + 32);
        put_bytes(&mut content, part.name.as_bytes());
        put_number(&mut content, u64::from(part.version));
        put_bytes(&mut content, &part.content);
        sink.put_frame(PART, &content)?;
    }
    let written = for_each_chunk(memory, |address, chunk| {
        let mut content = Vec::new();
        for (index, page) in chunk.chunks_exact(PAGE_SIZE).enumerate() {
            if page.iter().any(|byte| *byte != 0) {
                content.extend_from_slice(&(address + (index * PAGE_SIZE) as u64).to_le_bytes());
                content.extend_from_slice(page);
            }
        }
        if content.is_empty() {
            Ok(())
        } else {
            sink.put_frame(RAM, &content)
        }
    });
    written.map_err(std::io::Error::other)?;
    sink.put(&[END])?;
    let digest = sink.hasher.finalize();
    sink.sink.write_all(digest.as_bytes())?;
    sink.sink.flush()
}

/// A saved machine whose file is sound.
#[derive(Debug)]
pub struct SavedMachine {
    head: StateHead,
    digest: blake3::Hash,
    frames: BufReader<File>,
}

impl SavedMachine {
    /// Opens the file at `path`.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let digest = verified_digest(&mut BufReader::new(File::open(path)?))?;
        let mut frames = BufReader::new(File::open(path)?);
        let head = read_head(&mut frames)?;
        Ok(Self { head, digest, frames })
    }

    /// What it is.
    #[must_use]
    pub fn head(&self) -> &StateHead {
        &self.head
    }

    /// The name by which a log refers to it: its file's BLAKE3, in hex.
    #[must_use]
    pub fn name(&self) -> String {
        self.digest.to_hex().to_string()
    }

    /// Fills `memory`, which is zeros, and answers the other parts.
    ///
    /// # Errors
    /// When a frame is not what it should be, or holds RAM that the machine does not have.
    pub fn restore(mut self, memory: &GuestMemory) -> Result<Parts, RestoreError> {
        let refused = |error: &dyn std::fmt::Display| PartError::refused("ram", error);
        let mut parts = Vec::new();
        loop {
            match read_frame(&mut self.frames).map_err(|error| refused(&error))? {
                None => return Ok(parts.into_iter().collect()),
                Some((PART, content)) => parts.push(decode_part(&content).map_err(|error| refused(&error))?),
                Some((_, content)) => {
                    for record in content.chunks(PAGE_RECORD) {
                        let (address, page) = record.split_first_chunk().unwrap_or((&[0xFF; 8], record));
                        let written = memory.write(GuestPhys(u64::from_le_bytes(*address)), page);
                        written.map_err(|error| refused(&error))?;
                    }
                }
            }
        }
    }
}

/// The digest of the whole file, if it is the one at its end.
fn verified_digest(source: &mut impl Read) -> Result<blake3::Hash, StateError> {
    let cut = || StateError::Damaged("the file is cut off".into());
    let mut whole = blake3::Hasher::new();
    let mut before_end = blake3::Hasher::new();
    // The last bytes are held back, because they may be the digest itself.
    let mut tail: Vec<u8> = Vec::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = match source.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        whole.update(&buffer[..count]);
        tail.extend_from_slice(&buffer[..count]);
        let settled = tail.len().saturating_sub(blake3::OUT_LEN);
        before_end.update(&tail[..settled]);
        tail.drain(..settled);
    }
    if tail.len() < blake3::OUT_LEN {
        return Err(StateError::Foreign);
    }
    if before_end.finalize().as_bytes() != tail.as_slice() {
        // What is foreign has no digest either, and deserves the better word.
        return Err(cut());
    }
    Ok(whole.finalize())
}

fn read_head(source: &mut impl Read) -> Result<StateHead, StateError> {
    let mut fixed = [0; 16];
    source.read_exact(&mut fixed)?;
    if fixed[..8] != MAGIC {
        return Err(StateError::Foreign);
    }
    let word = |at: usize| u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
    if word(8) != VERSION {
        return Err(StateError::Version { found: word(8) });
    }
    let length = usize::try_from(word(12)).unwrap_or(usize::MAX);
    if length > LOG_RECIPE_BYTES_MAX {
        return Err(StateError::Damaged(format!(
            "a head of {length} bytes is over-long"
        )));
    }
    let mut head = vec![0; length];
    source.read_exact(&mut head)?;
    serde_json::from_slice(&head).map_err(|error| StateError::Damaged(error.to_string()))
}

/// Kind and content of the next frame; `None` for the end.
fn read_frame(source: &mut impl Read) -> Result<Option<(u8, Vec<u8>)>, StateError> {
    let mut kind = [0];
    source.read_exact(&mut kind)?;
    if kind == [END] {
        return Ok(None);
    }
    if kind != [PART] && kind != [RAM] {
        return Err(StateError::Damaged(format!(
            "there is no frame of kind {}",
            kind[0]
        )));
    }
    let mut lengths = [[0; 4]; 2];
    source.read_exact(lengths.as_flattened_mut())?;
    let [raw, length] = lengths.map(|field| usize::try_from(u32::from_le_bytes(field)).unwrap_or(usize::MAX));
    if raw.max(length) > STATE_PART_BYTES_MAX {
        return Err(StateError::Damaged(format!(
            "a frame of {raw} bytes is over-long"
        )));
    }
    let mut compressed = vec![0; length];
    source.read_exact(&mut compressed)?;
    let content = zstd::bulk::decompress(&compressed, raw)?;
    Ok(Some((kind[0], content)))
}

fn decode_part(content: &[u8]) -> Result<Part, StateError> {
    let mut reader = Reader::new(content);
    let name = String::from_utf8_lossy(reader.bytes(64)?).into_owned();
    let version = reader.number()?;
    let part = Part {
        name,
        version: u16::try_from(version).unwrap_or(u16::MAX),
        content: reader.bytes(STATE_PART_BYTES_MAX)?.to_vec(),
    };
    reader.end()?;
    Ok(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits::GUEST_RAM_BYTES_MIN;

    fn saved() -> (Vec<u8>, StateHead, Parts) {
        let memory = GuestMemory::allocate(GUEST_RAM_BYTES_MIN).unwrap();
        memory.write(GuestPhys(0x5000), &[7; 10]).unwrap();
        let mut parts = Parts::default();
        parts.put("clock", 3, &5_u64);
        let head = StateHead {
            recipe: Recipe::example(),
            exit: ExitOrdinal::new(9),
        };
        let mut bytes = Vec::new();
        write(&mut bytes, &head, &parts, &memory).unwrap();
        (bytes, head, parts)
    }

    fn open(bytes: &[u8]) -> Result<SavedMachine, StateError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        std::fs::write(&path, bytes).unwrap();
        SavedMachine::open(&path)
    }

    #[test]
    fn a_machine_comes_back() {
        let (bytes, head, parts) = saved();
        let machine = open(&bytes).unwrap();
        assert_eq!(*machine.head(), head);
        assert_eq!(machine.name(), blake3::hash(&bytes).to_hex().to_string());
        let memory = GuestMemory::allocate(GUEST_RAM_BYTES_MIN).unwrap();
        assert_eq!(machine.restore(&memory).unwrap(), parts);
        let mut page = [0; 12];
        memory.read(GuestPhys(0x5000), &mut page).unwrap();
        assert_eq!(page, [7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 0, 0]);
    }

    #[test]
    fn no_prefix_and_no_changed_byte_is_one() {
        let (bytes, ..) = saved();
        for end in 0..bytes.len() {
            assert!(open(&bytes[..end]).is_err(), "{end} of {}", bytes.len());
        }
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 0x10;
            assert!(open(&changed).is_err(), "byte {place}");
        }
    }

    #[test]
    fn another_version_is_named() {
        let (mut bytes, ..) = saved();
        bytes[8] = 9;
        let end = bytes.len() - blake3::OUT_LEN;
        let digest = *blake3::hash(&bytes[..end]).as_bytes();
        bytes[end..].copy_from_slice(&digest);
        assert!(matches!(open(&bytes), Err(StateError::Version { found: 9 })));
    }
}
