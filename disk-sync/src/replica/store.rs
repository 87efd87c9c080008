//! Where metadata is kept: a small file beside the image.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A file as far as metadata needs one.
pub trait Store {
    /// Reads all of `buffer` from `offset` on.
    ///
    /// # Errors
    /// The host's.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Writes all of `bytes` from `offset` on. Durable only after [`Store::sync`].
    ///
    /// # Errors
    /// The host's. Part of it may have been written.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// The host's. It is not known what is durable then.
    fn sync(&mut self) -> io::Result<()>;
}

/// The metadata's file.
#[derive(Debug)]
pub struct FileStore(File);

impl FileStore {
    /// Makes the file at `path` with `content`, durably and at once: after a crash it is there whole or not at all.
    ///
    /// # Errors
    /// The host's; [`io::ErrorKind::AlreadyExists`] if there is one.
    pub fn create(path: &Path, content: &[u8]) -> io::Result<()> {
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        let (part, folder) = (PathBuf::from(name), folder_of(path));
        match fs::remove_file(&part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&part)?;
        let made = file
            .write_all(content)
            .and_then(|()| file.sync_all())
            // A rename would go over a file that is there; a second name does not.
            .and_then(|()| fs::hard_link(&part, path));
        let removed = fs::remove_file(&part);
        made.and(removed)?;
        File::open(folder)?.sync_all()
    }

    /// Opens the file at `path`: to write, it must be open nowhere else.
    ///
    /// # Errors
    /// The host's; [`io::ErrorKind::WouldBlock`] if another process has it.
    pub fn open(path: &Path, writable: bool) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(writable).open(path)?;
        if writable {
            file.try_lock().map_err(|error| match error {
                TryLockError::WouldBlock => io::ErrorKind::WouldBlock.into(),
                TryLockError::Error(error) => error,
            })?;
        }
        Ok(Self(file))
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

impl Store for FileStore {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }
}
