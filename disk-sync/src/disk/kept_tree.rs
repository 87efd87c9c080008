//! The tree of a replica's last digest, kept beside its metadata: the next digest reads only what changed.
//!
//! ```text
//!   "antitree" 8 │ version 4 │ key 32 │ image length 8 │ plain values 0/1
//!   │ changed leaves, a word of 8 for each extent │ value of each region 32 │ BLAKE3's of each region 32, if there
//!   │ BLAKE3 of all before 32
//! ```
//!
//! A kept value is worth something only if nothing was written that it does not know of. So it holds under one **key**:
//! the replica, the number of its metadata's last update, what its image looked like, and the host's boot.
//!
//! - Whoever takes the replica into use updates its metadata, so the key fits no more. If it ends in good order it adds
//!   what it wrote to the changed leaves and puts the new key in place ([`Claim::renew`]); after a crash nobody does.
//! - Whoever writes to the image without us changes its time of change. A write in the same tick of the host's clock would
//!   not: a tree is not kept as long as the image changed in the tick in which it would be.
//! - A power cut may lose a time of change and keep what was written: no key outlives a boot.
//!
//! The file is written over in place and never made durable. One that is cut short or damaged fails its checksum, and then
//! everything is hashed: it can be lost, and never be wrong.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::image::{FileImage, Image};
use crate::leaf_set::LeafSet;
use crate::replica::ReplicaId;
use crate::tree::{Tree, Value};
use crate::units::ImageLength;

use super::Paths;

const MAGIC: &[u8; 8] = b"antitree";
const VERSION: u32 = 1;

/// What is appended to the metadata's path.
const ENDING: &str = ".tree";

/// Changes at each boot of the host.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Under what circumstances a tree holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key([u8; 32]);

impl Key {
    /// The key of a replica that nobody uses: `sequence` is the number of its metadata's last update.
    pub(super) fn now(replica: ReplicaId, sequence: u64, image: &FileImage) -> io::Result<Self> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&replica.0).update(&sequence.to_le_bytes());
        // Of a device nothing can be seen: as everywhere, nobody else may write to it.
        hasher.update(&image.stamp()?.unwrap_or_default());
        hasher.update(&fs::read(BOOT_ID)?);
        Ok(Self(hasher.finalize().into()))
    }
}

pub(super) fn path_of(paths: &Paths) -> PathBuf {
    let mut name = paths.metadata.clone().into_os_string();
    name.push(ENDING);
    PathBuf::from(name)
}

/// Reads what is kept under `key`, and which leaves have changed since; none if there is no such thing.
pub(super) fn read(path: &Path, key: &Key, length: ImageLength) -> Option<(Tree, LeafSet)> {
    let mut from = Hashed::new(BufReader::new(File::open(path).ok()?));
    if !has_head(&mut from, key, length)? {
        return None;
    }
    let has_plain = from.array::<1>()? == [1];
    let mut changed = LeafSet::none(length);
    for extent in 0..length.extents() {
        changed.unite_word(extent, u64::from_le_bytes(from.array()?));
    }
    let regions = 0..length.regions();
    let values: Vec<Value> = regions
        .clone()
        .map(|_| from.array().map(Value))
        .collect::<Option<_>>()?;
    let plain: Option<Vec<[u8; 32]>> = if has_plain {
        Some(regions.map(|_| from.array()).collect::<Option<_>>()?)
    } else {
        None
    };
    let checksum = from.hasher.finalize();
    if from.array()? != *checksum.as_bytes() {
        tracing::info!(path = %path.display(), "the kept tree is damaged; everything is hashed");
        return None;
    }
    Some((Tree::of_regions(length, values, plain), changed))
}

fn has_head(from: &mut Hashed<impl Read>, key: &Key, length: ImageLength) -> Option<bool> {
    let fits = from.array()? == *MAGIC && from.array()? == VERSION.to_le_bytes();
    Some(fits && from.array()? == key.0 && from.array()? == length.bytes().to_le_bytes())
}

/// Keeps `tree`, in which `changed` is not yet seen to, under `key`. What was kept before is lost, whatever comes of it.
pub(super) fn write(
    path: &Path,
    key: &Key,
    tree: &Tree,
    changed: &LeafSet,
    image: &FileImage,
) -> io::Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    // Two digests at once: one of them is kept.
    if file.try_lock().is_err() {
        return Ok(());
    }
    file.set_len(0)?;
    let mut to = Hashed::new(BufWriter::new(&file));
    let (regions, plain) = tree.region_values();
    to.put(MAGIC)?;
    to.put(&VERSION.to_le_bytes())?;
    to.put(&key.0)?;
    to.put(&tree.length().bytes().to_le_bytes())?;
    to.put(&[u8::from(plain.is_some())])?;
    changed
        .words()
        .iter()
        .try_for_each(|word| to.put(&word.to_le_bytes()))?;
    regions.iter().try_for_each(|value| to.put(&value.0))?;
    plain.into_iter().flatten().try_for_each(|value| to.put(value))?;
    let checksum = to.hasher.finalize();
    to.put(checksum.as_bytes())?;
    to.inner.flush()?;
    drop(to);
    let seen = file.metadata()?;
    let is_settled = image
        .modified()?
        .is_none_or(|at| at < (seen.mtime(), seen.mtime_nsec()));
    if is_settled { Ok(()) } else { file.set_len(0) }
}

/// A kept tree that fitted when its replica was taken into use.
#[derive(Debug)]
pub(super) struct Claim {
    path: PathBuf,
    key: Key,
}

impl Claim {
    /// Sees whether a tree is kept under `key`. Then `image` notes what is written to it.
    pub(super) fn stake(paths: &Paths, key: Key, image: &FileImage) -> Option<Self> {
        let path = path_of(paths);
        let mut from = Hashed::new(File::open(&path).ok()?);
        if !has_head(&mut from, &key, image.length())? {
            return None;
        }
        image.note_writes();
        Some(Self { path, key })
    }

    /// The replica was closed in good order; its key is `key` now, and `image` knows what was written.
    pub(super) fn renew(&self, key: io::Result<Key>, image: &FileImage) {
        let renewed = key.and_then(|key| {
            let Some((tree, mut changed)) = read(&self.path, &self.key, image.length()) else {
                return Ok(());
            };
            changed.unite(&image.noted());
            write(&self.path, &key, &tree, &changed, image)
        });
        told(&self.path, renewed);
    }
}

/// That a tree cannot be kept costs time later, and nothing else.
pub(super) fn told(path: &Path, kept: io::Result<()>) {
    if let Err(error) = kept {
        tracing::info!(path = %path.display(), %error, "the tree is not kept; the next digest reads everything");
    }
}

/// Hashes what goes through.
struct Hashed<T> {
    inner: T,
    hasher: blake3::Hasher,
}

impl<T> Hashed<T> {
    fn new(inner: T) -> Self {
        Self {
            inner,
            hasher: blake3::Hasher::new(),
        }
    }
}

impl<T: Read> Hashed<T> {
    /// The next bytes; none at the end, or if the host fails.
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.inner.read_exact(&mut bytes).ok()?;
        self.hasher.update(&bytes);
        Some(bytes)
    }
}

impl<T: Write> Hashed<T> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.inner.write_all(bytes)
    }
}
