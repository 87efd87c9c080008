//! The log as a file.
//!
//! ```text
//!   head    magic (8), version (u32), length (u32), recipe (JSON), BLAKE3 of all that (32)
//!   frame   length (u32), length before compression (u32), link (16), batch compressed by zstd
//!   frame   …
//! ```
//!
//! Integers are little-endian; [`super::framing`] tells of the frames, whose chain is anchored to the head's digest. A file
//! that ends within a frame was cut off: it is a log up to the frame before.

use std::fs::File;
use std::io::{BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::Path;
use std::time::Duration;

use super::batch::Batch;
use super::feed::{Feed, LogSource};
use super::framing::{Deframer, FrameHead, Framer, HEAD_BYTES, length_field, word};
use super::recipe::{Recipe, RecipeError};
use super::recorder::{Cadence, LogSink};
use crate::base::limits::LOG_RECIPE_BYTES_MAX;
use crate::base::units::ExitOrdinal;
use crate::machine::{Release, TimelineError};

const MAGIC: [u8; 8] = *b"ANTIPLOG";
const VERSION: u32 = 6;

/// Virtual time that a power cut can take.
const BATCH_SPAN: Duration = Duration::from_secs(1);

/// Why a log cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file cannot be read or written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// It is no log.
    #[error("it is no log of Antipode: it does not begin with the log's magic bytes")]
    Foreign,
    /// It is of another version.
    #[error("it is a log of version {found}; this antipode reads version {VERSION}")]
    Version {
        /// The version found.
        found: u32,
    },
    /// Its recipe cannot be used.
    #[error("its recipe: {0}")]
    Recipe(#[from] RecipeError),
    /// It was changed since it was written.
    #[error("it is damaged at byte {offset}: {what}")]
    Damaged {
        /// Where the damaged part begins.
        offset: u64,
        /// How one can tell.
        what: String,
    },
}

/// A log being written.
#[derive(Debug)]
pub struct LogWriter {
    file: BufWriter<File>,
    framer: Framer,
    byte_count: u64,
}

impl LogWriter {
    /// Creates the log at `path`, which must not exist.
    ///
    /// # Errors
    /// When the file exists or cannot be written.
    pub fn create(path: &Path, recipe: &Recipe) -> std::io::Result<Self> {
        let recipe = recipe.to_bytes();
        let mut head = MAGIC.to_vec();
        head.extend_from_slice(&VERSION.to_le_bytes());
        head.extend_from_slice(&length_field(recipe.len())?);
        head.extend_from_slice(&recipe);
        let digest = blake3::hash(&head);
        head.extend_from_slice(digest.as_bytes());
        let mut file = BufWriter::new(File::create_new(path)?);
        file.write_all(&head)?;
        file.flush()?;
        Ok(Self {
            file,
            framer: Framer::anchored_to(digest.as_bytes()),
            byte_count: head.len() as u64,
        })
    }

    /// Appends `batch`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn append(&mut self, batch: &Batch) -> std::io::Result<()> {
        let frame = self.framer.frame(batch)?;
        self.file.write_all(&frame)?;
        self.byte_count += frame.len() as u64;
        self.file.flush()
    }

    /// Bytes written so far.
    #[must_use]
    pub fn byte_count(&self) -> u64 {
        self.byte_count
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    /// When the host cannot.
    pub fn sync(&mut self) -> std::io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_all()
    }
}

/// A log being read, a batch at a time.
#[derive(Debug)]
pub struct LogReader<R = BufReader<File>> {
    source: R,
    recipe: Recipe,
    deframer: Deframer,
    offset: u64,
    has_ended: bool,
    was_cut_off: bool,
}

impl LogReader {
    /// Opens the log at `path` and reads its recipe.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn open(path: &Path) -> Result<Self, LogError> {
        Self::new(BufReader::new(File::open(path)?))
    }
}

impl<R: Read> LogReader<R> {
    /// Reads a log from `source`.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn new(mut source: R) -> Result<Self, LogError> {
        let mut head = vec![0; 16];
        read_head(&mut source, &mut head, 0)?;
        if head[..8] != MAGIC {
            return Err(LogError::Foreign);
        }
        let found = word(&head[8..12]);
        if found != VERSION {
            return Err(LogError::Version { found });
        }
        let length = usize::try_from(word(&head[12..16])).unwrap_or(usize::MAX);
        if length > LOG_RECIPE_BYTES_MAX {
            return Err(damaged(12, format!("a recipe of {length} bytes is over-long")));
        }
        head.resize(16 + length, 0);
        read_head(&mut source, &mut head[16..], 16)?;
        let mut digest = [0; 32];
        read_head(&mut source, &mut digest, 16 + length as u64)?;
        if *blake3::hash(&head).as_bytes() != digest {
            return Err(damaged(0, "the head's digest is another".into()));
        }
        let recipe = Recipe::from_bytes(&head[16..])?;
        Ok(Self {
            source,
            deframer: Deframer::anchored_to(&digest, recipe.begins_at()),
            offset: (head.len() + digest.len()) as u64,
            recipe,
            has_ended: false,
            was_cut_off: false,
        })
    }

    /// What the recorded machine was made of.
    #[must_use]
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// Whether the log turned out to end within a frame, or before the execution did.
    #[must_use]
    pub fn was_cut_off(&self) -> bool {
        self.was_cut_off
    }

    /// The next whole batch, `None` after the last.
    ///
    /// # Errors
    /// [`LogError`] when the log was changed since it was written.
    pub fn next_batch(&mut self) -> Result<Option<Batch>, LogError> {
        if self.has_ended {
            return self.expect_nothing_more();
        }
        let Some((head, compressed)) = self.next_frame()? else {
            self.was_cut_off = true;
            return Ok(None);
        };
        let batch = self.deframer.batch_of(&head, &compressed);
        let batch = batch.map_err(|error| damaged(self.offset, error.to_string()))?;
        self.offset += (HEAD_BYTES + compressed.len()) as u64;
        self.has_ended = batch.end.is_some();
        Ok(Some(batch))
    }

    fn expect_nothing_more(&mut self) -> Result<Option<Batch>, LogError> {
        match read_up_to(&mut self.source, &mut [0])? {
            0 => Ok(None),
            _ => Err(damaged(
                self.offset,
                "something follows the end of the execution".into(),
            )),
        }
    }

    /// `None` if the file ends before the frame does.
    fn next_frame(&mut self) -> Result<Option<(FrameHead, Vec<u8>)>, LogError> {
        let mut head = [0; HEAD_BYTES];
        if read_up_to(&mut self.source, &mut head)? < head.len() {
            return Ok(None);
        }
        let head = FrameHead::parse(&head).map_err(|error| damaged(self.offset, error.to_string()))?;
        let mut compressed = vec![0; head.length];
        if read_up_to(&mut self.source, &mut compressed)? < head.length {
            return Ok(None);
        }
        Ok(Some((head, compressed)))
    }
}

impl LogSink for LogWriter {
    fn append(&mut self, batch: &Batch, _: Duration) -> std::io::Result<()> {
        Self::append(self, batch)
    }

    fn cadence(&self) -> Cadence {
        Cadence {
            at_outputs: false,
            at_flushes: false,
            awake: BATCH_SPAN,
            asleep: BATCH_SPAN,
        }
    }

    fn release(&self) -> Release {
        Release::Now
    }
}

impl<R: Read + std::fmt::Debug> LogSource for LogReader<R> {
    fn begins_at(&self) -> ExitOrdinal {
        self.recipe.begins_at()
    }

    fn next(&mut self) -> Result<Feed, TimelineError> {
        let batch = self.next_batch().map_err(|error| TimelineError::Host {
            what: "reading the log",
            source: match error {
                LogError::Io(error) => error,
                other => std::io::Error::other(other),
            },
        })?;
        Ok(batch.map_or(Feed::Ended, |batch| Feed::Batch(Box::new(batch))))
    }

    fn is_given_up(&self) -> bool {
        true
    }
}

fn damaged(offset: u64, what: String) -> LogError {
    LogError::Damaged { offset, what }
}

/// Fills `buffer` from the head, which a log always has whole.
fn read_head(source: &mut impl Read, buffer: &mut [u8], offset: u64) -> Result<(), LogError> {
    match source.read_exact(buffer) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof && offset == 0 => Err(LogError::Foreign),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
            Err(damaged(offset, "the file ends within its head".into()))
        }
        Err(error) => Err(error.into()),
    }
}

/// Reads until `buffer` is full or the source ends.
fn read_up_to(source: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::super::batch::End;
    use super::super::catalogue::Entry;
    use super::super::machine::MachineDigests;
    use super::*;
    use crate::base::units::VirtualTime;

    /// A log of three batches as bytes, and the batches.
    fn log() -> (Vec<u8>, Vec<Batch>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut writer = LogWriter::create(&path, &Recipe::example()).unwrap();
        let mut batches = Vec::new();
        for index in 0..3 {
            let mut batch = Batch::starting_at(ExitOrdinal::new(index * 10));
            batch.checks = vec![7; 10];
            batch.entries = vec![(ExitOrdinal::new(index * 10 + 4), Entry::Frame(vec![9; 50]))];
            batch.through = ExitOrdinal::new(index * 10 + 10);
            batch.end = (index == 2).then(|| End {
                outcome: "power_off".into(),
                virtual_time: VirtualTime::from_nanos(5),
                digests: MachineDigests {
                    ram: [1; 32],
                    vcpu: [2; 32],
                },
            });
            writer.append(&batch).unwrap();
            batches.push(batch);
        }
        writer.sync().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len() as u64, writer.byte_count());
        (bytes, batches)
    }

    fn read_all(bytes: &[u8]) -> Result<(Vec<Batch>, bool), LogError> {
        let mut reader = LogReader::new(bytes)?;
        let mut batches = Vec::new();
        while let Some(batch) = reader.next_batch()? {
            batches.push(batch);
        }
        Ok((batches, reader.was_cut_off()))
    }

    #[test]
    fn a_log_comes_back_whole() {
        let (bytes, batches) = log();
        assert_eq!(read_all(&bytes).unwrap(), (batches, false));
    }

    #[test]
    fn every_prefix_is_the_log_up_to_its_last_whole_batch_or_no_log() {
        let (bytes, batches) = log();
        let mut most = 0;
        for end in 0..bytes.len() {
            match read_all(&bytes[..end]) {
                Ok((read, was_cut_off)) => {
                    assert!(was_cut_off, "{end}");
                    assert_eq!(read, batches[..read.len()], "{end}");
                    most = most.max(read.len());
                }
                Err(error) => assert!(
                    matches!(error, LogError::Foreign | LogError::Damaged { .. }),
                    "{end}: {error}"
                ),
            }
        }
        assert_eq!(most, 2);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let (bytes, batches) = log();
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 1 << (place % 8);
            if let Ok((read, was_cut_off)) = read_all(&changed) {
                // A length that reaches past the end looks like a log that was cut off there.
                assert!(was_cut_off && read.len() < batches.len(), "byte {place}");
                assert_eq!(read, batches[..read.len()], "byte {place}");
            }
        }
    }

    #[test]
    fn foreign_files_and_other_versions_are_named() {
        assert!(matches!(LogReader::new(&[][..]), Err(LogError::Foreign)));
        assert!(matches!(LogReader::new(&[b'x'; 100][..]), Err(LogError::Foreign)));
        let (mut bytes, _) = log();
        bytes[8] = 9;
        assert!(matches!(
            LogReader::new(&bytes[..]),
            Err(LogError::Version { found: 9 })
        ));
    }

    #[test]
    fn a_batch_that_is_missing_or_repeated_is_noticed() {
        let (bytes, batches) = log();
        let mut reader = LogReader::new(&bytes[..]).unwrap();
        let mut starts = Vec::new();
        loop {
            starts.push(usize::try_from(reader.offset).unwrap());
            if reader.next_batch().unwrap().is_none() {
                break;
            }
        }
        assert_eq!(starts.len(), batches.len() + 1);
        let without_second = [&bytes[..starts[1]], &bytes[starts[2]..]].concat();
        assert!(matches!(read_all(&without_second), Err(LogError::Damaged { .. })));
        let first_twice = [&bytes[..starts[1]], &bytes[starts[0]..]].concat();
        assert!(matches!(read_all(&first_twice), Err(LogError::Damaged { .. })));
        let and_more = [&bytes[..], &[0]].concat();
        assert!(matches!(read_all(&and_more), Err(LogError::Damaged { .. })));
    }
}
