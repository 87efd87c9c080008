//! The store on disk. The one place that knows sled.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use antipode_certs::Name;

use super::journal::{Journal, Write};
use super::layout::{self, Writes};
use super::{ContentError, Owner, Store, StoreError};
use crate::node::{Batch, Recovered};

const STORE: &str = "store";
/// What `STORE` is called until it is complete.
const UNFINISHED: &str = "store.unfinished";
const WITNESS: &str = "witness";
/// sled's own file, inside `STORE`.
const SLED_FILE: &str = "db";
/// Everything of interest is in memory anyway.
const CACHE_BYTES: u64 = 4 * 1024 * 1024;

/// A node's store in a folder.
#[derive(Debug)]
pub struct DiskStore {
    folder: PathBuf,
    /// Here until the store is closed.
    tree: Option<sled::Db>,
    /// sled's file, opened once more to sync it.
    file: File,
    witness: File,
    batches: u64,
    journal: Journal,
}

impl DiskStore {
    /// Makes a store in `folder`. After a crash in the middle there is none.
    ///
    /// # Errors
    /// Where there is one, or the host fails.
    pub fn create(folder: &Path, owner: &Owner, content: &Recovered) -> Result<(), StoreError> {
        let failed = |source| failed(folder, source);
        Self::require_room(folder)?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(failed)?;
        let unfinished = folder.join(UNFINISHED);
        match fs::remove_dir_all(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let tree = open_tree(&unfinished).map_err(|error| sled_failed(folder, error))?;
        write_tree(&tree, &layout::beginning(owner, content)).map_err(|error| sled_failed(folder, error))?;
        // sled writes its last word when it is closed.
        let file = File::open(unfinished.join(SLED_FILE)).map_err(failed)?;
        close_tree(Some(tree), &file);
        for file in [SLED_FILE, "conf", "blobs", "."] {
            sync(&unfinished.join(file)).map_err(failed)?;
        }
        let witness = open_witness(folder).map_err(failed)?;
        witness.write_all_at(&witness_bytes(1), 0).map_err(failed)?;
        witness.sync_all().map_err(failed)?;
        fs::rename(&unfinished, folder.join(STORE)).map_err(failed)?;
        sync(folder).map_err(failed)?;
        let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
        sync(parent.unwrap_or(Path::new("."))).map_err(failed)
    }

    /// Makes sure that there is no store in `folder`.
    ///
    /// # Errors
    /// Where there is one.
    pub fn require_room(folder: &Path) -> Result<(), StoreError> {
        if folder.join(STORE).exists() {
            return Err(StoreError::Exists(folder.to_owned()));
        }
        Ok(())
    }

    /// Opens the store in `folder`, which must be of the node `name` of `cluster`.
    ///
    /// # Errors
    /// Where there is none, it is in use, of another, damaged, or the host fails. It stays as it is.
    pub fn open(folder: &Path, cluster: &Name, name: &Name) -> Result<(Self, Owner, Recovered), StoreError> {
        if !folder.join(STORE).is_dir() {
            return Err(StoreError::Missing(folder.to_owned()));
        }
        let path = folder.join(STORE);
        let corrupt = |what: String| StoreError::Corrupt {
            path: folder.to_owned(),
            what,
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path.join(SLED_FILE));
        let file = file.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => corrupt("sled's file is missing".to_owned()),
            _ => failed(folder, error),
        })?;
        let tree = open_tree(&path).map_err(|error| sled_failed(folder, error))?;
        let pairs = tree
            .iter()
            .map(|pair| pair.map(|(key, value)| (key.to_vec(), value.to_vec())))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| sled_failed(folder, error))?;
        let read = Journal::replay(pairs)
            .and_then(|(journal, pairs)| layout::read(pairs).map(|content| (journal, content)));
        let (journal, (owner, batches, content)) = read.map_err(|error| match error {
            ContentError::Newer => StoreError::Newer(folder.to_owned()),
            damage => corrupt(damage.to_string()),
        })?;
        if (&owner.cluster, &owner.name) != (cluster, name) {
            return Err(StoreError::Foreign {
                path: folder.to_owned(),
                found: format!("node {} of cluster {}", owner.name, owner.cluster),
                expected: format!("node {name} of cluster {cluster}"),
            });
        }
        let mut witness = open_witness(folder).map_err(|error| failed(folder, error))?;
        let seen = read_witness(&mut witness).map_err(|error| failed(folder, error))?;
        let seen = seen.ok_or_else(|| corrupt("its witness cannot be read".to_owned()))?;
        if seen > batches {
            let lost = seen - batches;
            return Err(corrupt(format!("the last {lost} of {seen} batches are lost")));
        }
        let store = Self {
            folder: folder.to_owned(),
            tree: Some(tree),
            file,
            witness,
            batches,
            journal,
        };
        // What is read here is acted on, so it must not vanish: a crash may have left it in the page cache alone.
        store.sync()?;
        Ok((store, owner, content))
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.file.sync_data().map_err(|error| failed(&self.folder, error))
    }
}

impl Store for DiskStore {
    fn write(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let number = self.batches + 1;
        let tree = self.tree.as_ref().expect("a store that is closed is gone");
        let written = match self.journal.take(layout::of_batch(batch, number), number) {
            Write::One(key, value) => tree.insert(key, value).and_then(|_| tree.flush()).map(drop),
            Write::All(writes) => write_tree(tree, &writes),
        };
        written.map_err(|error| sled_failed(&self.folder, error))?;
        self.sync()?;
        self.batches = number;
        self.witness
            .write_all_at(&witness_bytes(number), 0)
            .map_err(|error| failed(&self.folder, error))
    }
}

impl Drop for DiskStore {
    fn drop(&mut self) {
        close_tree(self.tree.take(), &self.file);
    }
}

/// Closes sled, and waits until it has let go of its file: its own threads may hold that for a moment longer, and whoever
/// opens the store next would be told that it is in use.
fn close_tree(tree: Option<sled::Db>, file: &File) {
    const PATIENCE: Duration = Duration::from_secs(5);
    const PAUSE: Duration = Duration::from_millis(1);
    drop(tree);
    let mut waited = Duration::ZERO;
    while file.try_lock().is_err() && waited < PATIENCE {
        std::thread::park_timeout(PAUSE);
        waited += PAUSE;
    }
    // A lock that was not taken need not be given back.
    let _ = file.unlock();
}

fn open_tree(path: &Path) -> sled::Result<sled::Db> {
    sled::Config::new()
        .path(path)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(None)
        .open()
}

fn write_tree(tree: &sled::Db, writes: &Writes) -> sled::Result<()> {
    let mut batch = sled::Batch::default();
    if writes.clears {
        for key in tree.iter().keys() {
            let key = key?;
            if layout::is_cleared(&key) {
                batch.remove(key);
            }
        }
    }
    for key in &writes.removed {
        batch.remove(key.as_slice());
    }
    for (key, value) in &writes.put {
        batch.insert(key.as_slice(), value.as_slice());
    }
    tree.apply_batch(batch)?;
    tree.flush().map(|_| ())
}

fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn open_witness(folder: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600);
    options.open(folder.join(WITNESS))
}

/// The number, and once more inverted: half of a write is no witness.
fn witness_bytes(number: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes[8..].copy_from_slice(&(!number).to_be_bytes());
    bytes
}

fn read_witness(file: &mut File) -> io::Result<Option<u64>> {
    let mut bytes = Vec::new();
    file.take(17).read_to_end(&mut bytes)?;
    let number = bytes.first_chunk::<8>().map(|number| u64::from_be_bytes(*number));
    Ok(number.filter(|number| bytes == witness_bytes(*number)))
}

fn failed(folder: &Path, source: io::Error) -> StoreError {
    let path = folder.to_owned();
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            StoreError::Full(path)
        }
        _ => StoreError::Io { path, source },
    }
}

fn sled_failed(folder: &Path, error: sled::Error) -> StoreError {
    match error {
        sled::Error::Io(source) if source.to_string().contains("could not acquire lock") => {
            StoreError::Locked(folder.to_owned())
        }
        sled::Error::Io(source) => failed(folder, source),
        sled::Error::Corruption { .. } => StoreError::Corrupt {
            path: folder.to_owned(),
            what: "what sled has written there does not fit together".to_owned(),
        },
        damage => StoreError::Corrupt {
            path: folder.to_owned(),
            what: damage.to_string(),
        },
    }
}
