//! What a site keeps of its VMs, in its state folder.
//!
//! ```text
//!   STATE/control.sock             the supervisor's
//!   STATE/vms/NAME/vm.toml         the definition, as `antipode run` reads it
//!   STATE/vms/NAME/kernel, initrd  what it boots, and beside each what it is: kernel.digest, initrd.digest
//!   STATE/vms/NAME/disk.img        its replica, if it came from the other site
//!   STATE/vms/NAME/notes.json      what must outlive a crash: numbers of requests, what was asked
//!   STATE/vms/NAME/intent.json     what shall become of it after an outage
//!   STATE/vms/NAME/control.sock    its process's
//!   STATE/vms/NAME/lock            held by its process, from before it listens until after it has stopped to
//!   STATE/vms/NAME/log, console    what its process logs, and what its guest shows
//!   STATE/vms/NAME/frames[.old]    what its guest sent, if that is kept for a check
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::control;
use crate::protocol::role::Notes;

/// How long a VM's process waits for the one before it to end.
const PREDECESSOR_PATIENCE: Duration = Duration::from_secs(10);

/// What shall become of a VM when the site has lost its power and is back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Intent {
    /// It ran here, or followed, and nobody has stopped it.
    pub runs: bool,
    /// It was protected, and nobody has ended that.
    pub is_protected: bool,
}

/// The folder of one VM.
#[derive(Debug, Clone)]
pub struct VmFolder(PathBuf);

impl VmFolder {
    /// That of VM `name` in the state folder `state`.
    #[must_use]
    pub fn of(state: &Path, name: &str) -> Self {
        Self(state.join("vms").join(name))
    }

    /// Every VM that the site knows, by name.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn all(state: &Path) -> io::Result<Vec<String>> {
        let folder = state.join("vms");
        if !folder.exists() {
            return Ok(Vec::new());
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.path().join("vm.toml").exists() {
                names.extend(entry.file_name().into_string());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Makes the folder, for its owner alone.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn make(&self) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0)
    }

    /// A file in it.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The definition.
    #[must_use]
    pub fn definition(&self) -> PathBuf {
        self.file("vm.toml")
    }

    /// The process's control socket.
    #[must_use]
    pub fn control(&self) -> PathBuf {
        self.file("control.sock")
    }

    /// Makes the calling process the VM's only one, for as long as the answer lives. Waits for one that is ending.
    ///
    /// # Errors
    /// When another one runs and does not end, or the host refuses.
    pub fn lock(&self) -> io::Result<File> {
        let path = self.file("lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)?;
        let locked = control::until(PREDECESSOR_PATIENCE, || match file.try_lock() {
            Ok(()) => Some(Ok(())),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Error(error)) => Some(Err(error)),
        });
        let taken = || io::Error::other(format!("{}: another process of this VM runs", path.display()));
        locked.unwrap_or_else(|| Err(taken()))?;
        Ok(file)
    }

    /// The file `name`, new and empty, for its owner alone.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn create(&self, name: &str) -> io::Result<File> {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(self.file(name))
    }

    /// Writes `bytes` as the file `name`: it is there whole, durably, or not at all.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let (path, new) = (self.file(name), self.file(&format!("{name}.new")));
        let mut file = self.create(&format!("{name}.new"))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(&self.0)?.sync_all()
    }

    /// What was noted last; nothing of a VM that is new.
    ///
    /// # Errors
    /// When the notes are there and cannot be read.
    pub fn notes(&self) -> io::Result<Notes> {
        self.read("notes.json")
    }

    /// What shall become of the VM; nothing of one that is new.
    ///
    /// # Errors
    /// When that was noted and cannot be read.
    pub fn intent(&self) -> io::Result<Intent> {
        self.read("intent.json")
    }

    /// Notes that durably.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn intend(&self, intent: &Intent) -> io::Result<()> {
        self.write("intent.json", &serde_json::to_vec(intent)?)
    }

    fn read<T: DeserializeOwned + Default>(&self, name: &str) -> io::Result<T> {
        match fs::read(self.file(name)) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(T::default()),
            Err(error) => Err(error),
        }
    }

    /// Notes durably.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn note(&self, notes: &Notes) -> io::Result<()> {
        self.write("notes.json", &serde_json::to_vec(notes)?)
    }
}
