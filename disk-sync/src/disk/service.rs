//! A replica under a guest: checked and locked, then in service, then closed.

use super::kept_tree::{Claim, Key};
use super::{DiskError, InUse, Opened, Paths, metadata_error, take_into_use};
use crate::image::{Access, FileImage};
use crate::online::{Live, LiveError, Position};
use crate::replica::{FileStore, Loaded, Recovery, State};

/// A clean replica that nobody uses, locked so that nobody will: what a guest may be started on. Dropped, it is as it
/// was.
pub struct Standby {
    paths: Paths,
    opened: Opened,
}

impl std::fmt::Debug for Standby {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Standby")
            .field("paths", &self.paths)
            .finish_non_exhaustive()
    }
}

impl Standby {
    /// Opens and locks a replica, which must be clean: no other may go live.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn open(paths: Paths) -> Result<Self, DiskError> {
        let opened = Opened::at(&paths, Access::Write, true)?;
        check_clean(&paths, &opened.idle.loaded)?;
        Ok(Self { paths, opened })
    }

    /// Its image.
    #[must_use]
    pub fn image(&self) -> &FileImage {
        &self.opened.image
    }

    /// Takes it into service under a guest (D1) that numbers its writes from `position` on.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn go_live(self, position: Position) -> Result<(LiveDisk, Recovery), DiskError> {
        let InUse {
            image,
            replica,
            recovery,
            claim,
        } = take_into_use(&self.paths, self.opened).map_err(|error| metadata_error(&self.paths, error))?;
        let live = Live::new(image, replica, position);
        Ok((LiveDisk { live, claim }, recovery))
    }
}

/// A replica that a guest runs on. One that is only dropped is found in use by whoever opens it next, as after a crash.
#[derive(Debug)]
pub struct LiveDisk {
    live: Live<FileImage, FileStore>,
    claim: Option<Claim>,
}

impl LiveDisk {
    /// The write hook.
    #[must_use]
    pub fn live(&self) -> &Live<FileImage, FileStore> {
        &self.live
    }

    /// Ends the service in good order: what was written is durable, and nothing is unsure.
    ///
    /// # Errors
    /// [`LiveError`]. The next to open the replica finds it in use.
    pub fn close(self) -> Result<(), LiveError> {
        let id = self.live.replica_id();
        let (image, sequence) = self.live.close()?;
        if let Some(claim) = self.claim {
            claim.renew(Key::now(id, sequence, &image), &image);
        }
        Ok(())
    }
}

/// Opens the image of a replica for a guest that only reads it.
///
/// # Errors
/// [`DiskError`]: also of a replica that is not clean.
pub fn open_to_read(paths: &Paths) -> Result<FileImage, DiskError> {
    let opened = Opened::at(paths, Access::Read, false)?;
    check_clean(paths, &opened.idle.loaded)?;
    Ok(opened.image)
}

fn check_clean(paths: &Paths, loaded: &Loaded) -> Result<(), DiskError> {
    if loaded.state() == State::Clean {
        return Ok(());
    }
    Err(DiskError::NotClean {
        path: paths.image.clone(),
        state: loaded.state().name(),
    })
}
