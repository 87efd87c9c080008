//! A new replica.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

use super::{DiskError, Paths, SECTOR_BYTES, metadata_error};
use crate::image::{Access, FileImage, Image, OpenError};
use crate::replica::{Creation, FileStore, GenerationId, ReplicaId, VmId};

/// What a new replica shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDisk {
    /// Of which VM.
    pub vm: VmId,
    /// Its own name, drawn at random.
    pub replica: ReplicaId,
    /// What the image holds now, as a content of its own, drawn at random; none if it shall become a copy.
    pub content: Option<GenerationId>,
    /// Bytes of the image, if it is to be made.
    pub size: Option<u64>,
}

/// Makes a replica's metadata for an image, and the image too if its size is given: both, or neither.
///
/// # Errors
/// [`DiskError`].
pub fn create(paths: &Paths, new: NewDisk) -> Result<(), DiskError> {
    if paths.metadata.exists() {
        return Err(DiskError::Exists(paths.metadata.clone()));
    }
    let Some(bytes) = new.size else {
        return create_metadata(paths, new);
    };
    check_sectors(&paths.image, bytes)?;
    let made = OpenOptions::new().write(true).create_new(true).open(&paths.image);
    let file = made.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => DiskError::Exists(paths.image.clone()),
        _ => refused(paths, error),
    })?;
    let sized = file.set_len(bytes).and_then(|()| file.sync_all());
    let outcome = sized
        .map_err(|error| refused(paths, error))
        .and_then(|()| create_metadata(paths, new));
    if outcome.is_err() {
        // It was made here, and holds nothing; that it cannot be taken away is less than why it shall be.
        let _ = fs::remove_file(&paths.image);
    }
    outcome
}

fn refused(paths: &Paths, source: io::Error) -> DiskError {
    let path = paths.image.clone();
    OpenError::Refused { path, source }.into()
}

fn create_metadata(paths: &Paths, new: NewDisk) -> Result<(), DiskError> {
    let image = FileImage::open(&paths.image, Access::Write)?;
    check_sectors(&paths.image, image.length().bytes())?;
    let creation = Creation {
        vm: new.vm,
        replica: new.replica,
        length: image.length(),
        content: new.content,
        stamp: image.stamp().map_err(|error| refused(paths, error))?,
    };
    FileStore::create(&paths.metadata, &creation.encode()).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => DiskError::Exists(paths.metadata.clone()),
        _ => metadata_error(paths, error.into()),
    })
}

fn check_sectors(path: &Path, bytes: u64) -> Result<(), DiskError> {
    if bytes == 0 || !bytes.is_multiple_of(SECTOR_BYTES) {
        return Err(DiskError::Sectors {
            path: path.to_owned(),
            bytes,
        });
    }
    Ok(())
}
