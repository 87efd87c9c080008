//! The store on disk. The one place that knows sled.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
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
    tree: Tree,
    witness: File,
    batches: u64,
    journal: Journal,
}

/// sled's tree. sled answers some damage with a panic, when it opens, reads, writes or is closed: here alone that becomes an
/// error.
#[derive(Debug)]
struct Tree {
    /// Here until it is closed.
    sled: Option<sled::Db>,
    /// sled's file, opened once more to sync it.
    file: File,
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
        let sled = guarded(folder, || open_tree(&unfinished))?;
        let file = File::open(unfinished.join(SLED_FILE)).map_err(failed)?;
        let tree = Tree {
            sled: Some(sled),
            file,
        };
        tree.work(folder, |sled| write_tree(sled, layout::beginning(owner, content)))?;
        // sled writes its last word when it is closed.
        drop(tree);
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
    /// Where there is none, it is in use, of another, damaged, or the host fails. It is not mended: what is refused once
    /// is refused again. sled alone does away with what it takes for a torn end, before anything can be read.
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
        let sled = guarded(folder, || open_tree(&path))?;
        let tree = Tree {
            sled: Some(sled),
            file,
        };
        let pairs = tree.work(folder, |sled| {
            let pairs = sled.iter();
            let owned = pairs.map(|pair| pair.map(|(key, value)| (key.to_vec(), value.to_vec())));
            owned.collect::<Result<Vec<_>, _>>()
        })?;
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
            tree,
            witness,
            batches,
            journal,
        };
        // What is read here is acted on, so it must not vanish: a crash may have left it in the page cache alone.
        store.sync()?;
        Ok((store, owner, content))
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.tree
            .file
            .sync_data()
            .map_err(|error| failed(&self.folder, error))
    }
}

impl Store for DiskStore {
    fn write(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let number = self.batches + 1;
        let write = self.journal.take(layout::of_batch(batch, number), number);
        self.tree.work(&self.folder, |sled| match write {
            Write::One(key, value) => sled.insert(key, value).and_then(|_| sled.flush()).map(drop),
            Write::All(writes) => write_tree(sled, writes),
        })?;
        self.sync()?;
        self.batches = number;
        self.witness
            .write_all_at(&witness_bytes(number), 0)
            .map_err(|error| failed(&self.folder, error))
    }
}

impl Tree {
    fn work<T>(
        &self,
        folder: &Path,
        work: impl FnOnce(&sled::Db) -> sled::Result<T>,
    ) -> Result<T, StoreError> {
        let sled = self.sled.as_ref().expect("a tree that is closed is gone");
        guarded(folder, || work(sled))
    }
}

/// Closes sled, and waits until it has let go of its file: its own threads may hold that for a moment longer, and whoever
/// opens the store next would be told that it is in use.
impl Drop for Tree {
    fn drop(&mut self) {
        const PATIENCE: Duration = Duration::from_secs(5);
        const PAUSE: Duration = Duration::from_millis(1);
        let sled = self.sled.take();
        // Whoever needed its last word has waited for it.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(sled)));
        let mut waited = Duration::ZERO;
        while self.file.try_lock().is_err() && waited < PATIENCE {
            std::thread::park_timeout(PAUSE);
            waited += PAUSE;
        }
        // A lock that was not taken need not be given back.
        let _ = self.file.unlock();
    }
}

/// After a panic nothing is read from what sled held: it is given up as a whole.
fn guarded<T>(folder: &Path, work: impl FnOnce() -> sled::Result<T>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or(Err(sled::Error::Corruption { at: None, bt: () }))
        .map_err(|error| sled_failed(folder, error))
}

fn open_tree(path: &Path) -> sled::Result<sled::Db> {
    sled::Config::new()
        .path(path)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(None)
        .open()
}

fn write_tree(tree: &sled::Db, writes: Writes) -> sled::Result<()> {
    let mut batch = sled::Batch::default();
    if writes.clears {
        for key in tree.iter().keys() {
            let key = key?;
            if layout::is_cleared(&key) {
                batch.remove(key);
            }
        }
    }
    for key in writes.removed {
        batch.remove(key);
    }
    // Each goes as it is taken over: a node that is filled anew writes all that there is.
    for (key, value) in writes.put {
        batch.insert(key, value);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_sled_is_damage() {
        let folder = Path::new("/data");
        let told = guarded::<()>(folder, || panic!("a segment that cannot be"));
        assert!(matches!(told, Err(StoreError::Corrupt { path, .. }) if path == folder));
        assert_eq!(guarded(folder, || Ok(5)).unwrap(), 5);
    }
}
