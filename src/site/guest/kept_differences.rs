//! In what a copy differed, kept in a folder for whoever looks into it (H2; `[check]` of the site's configuration).
//!
//! ```text
//!   differences/1/what.txt    where it differed and became the same again, why, and which pages and leaves are others
//!                 vcpu.txt    the copy's registers where it differed
//!                 pages.bin   of each page that is another: address (8), the copy's content (4096), the other's (4096)
//! ```
//!
//! The copy is told of as it was where it differed, and the other as it was some exits later, where it was captured: what the
//! guest has written between is among the pages too. Addresses are little-endian. The first so many differences are kept,
//! each in the first folder that is free: whoever has looked into one removes it.
//!
//! A repair waits for no file: what is kept is [noted](KeepDifferences::note) in memory before it, and written by a thread of its
//! own.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::base::guest_memory::GuestMemory;
use crate::base::limits::KEPT_PAGES_MAX;
use crate::base::units::{ExitOrdinal, GuestPhys, PAGE_SIZE};
use crate::machine::started::StartedVm;
use crate::replay::{Repair, registers};

/// Where they are to be kept, and how many of them.
#[derive(Debug, Clone)]
pub(crate) struct KeepDifferences {
    folder: PathBuf,
    most: u64,
    /// One is written at a time.
    turn: Arc<Mutex<()>>,
}

/// What is kept of one.
#[derive(Debug)]
pub(super) struct Noted {
    what: String,
    registers: String,
    pages: Vec<u8>,
}

impl KeepDifferences {
    /// So many, in `folder`.
    pub(crate) fn within(folder: PathBuf, most: u64) -> Self {
        Self {
            folder,
            most,
            turn: Arc::default(),
        }
    }

    /// In what `vm`, which stands at exit `at` and differs as `what` and `cause` say, is another machine than `repair` makes it,
    /// which is of `position`.
    ///
    /// # Errors
    /// When the host does not show it.
    pub(super) fn note(
        vm: &mut StartedVm,
        (at, what, cause): (ExitOrdinal, &str, &dyn std::fmt::Display),
        (position, repair): (ExitOrdinal, &Repair),
    ) -> io::Result<Noted> {
        let mut text = format!(
            "The copy differs at exit {at}: {what}\ncause: {cause}\nIt became the same again as the other was at exit {position}.\n\n\
             Pages that are others, up to {KEPT_PAGES_MAX} of them:\n"
        );
        let pages = other_pages(vm.memory(), repair, &mut text)?;
        text.push_str("\nLeaves of the disk that were carried:\n");
        for (number, content) in &repair.leaves {
            let _ = writeln!(text, "{number}: {} bytes", content.len());
        }
        Ok(Noted {
            what: text,
            registers: registers(vm).map_err(io::Error::other)?,
            pages,
        })
    }

    /// Writes it, on a thread of its own, if there is room for one more. That it cannot be written harms nobody.
    pub(super) fn write(&self, noted: Noted) {
        let keep = self.clone();
        let written = std::thread::Builder::new()
            .name("difference".to_owned())
            .spawn(move || match keep.write_now(&noted) {
                Ok(Some(folder)) => {
                    tracing::warn!(folder = %folder.display(), "in what the copy differed is kept");
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "in what the copy differed is not kept"),
            });
        if let Err(error) = written {
            tracing::warn!(%error, "in what the copy differed is not kept");
        }
    }

    fn write_now(&self, noted: &Noted) -> io::Result<Option<PathBuf>> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let numbered = (1..=self.most).map(|number| self.folder.join(number.to_string()));
        let mut numbered = numbered.filter(|folder| !folder.exists());
        let Some(folder) = numbered.next() else {
            return Ok(None);
        };
        // One that is not whole takes nobody's place.
        let unfinished = self.folder.join("unfinished");
        match fs::remove_dir_all(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&unfinished)?;
        fs::write(unfinished.join("what.txt"), &noted.what)?;
        fs::write(unfinished.join("vcpu.txt"), &noted.registers)?;
        fs::write(unfinished.join("pages.bin"), &noted.pages)?;
        fs::rename(&unfinished, &folder)?;
        Ok(Some(folder))
    }
}

/// Those of the carried pages that are others in `memory`; which they are, and in how many bytes, goes into `text`.
fn other_pages(memory: &GuestMemory, repair: &Repair, text: &mut String) -> io::Result<Vec<u8>> {
    let mut found = Vec::new();
    for (address, theirs) in &repair.capture.pages {
        let mut own = [0; PAGE_SIZE];
        memory
            .read(GuestPhys(*address), &mut own)
            .map_err(io::Error::other)?;
        let bytes = own
            .iter()
            .zip(theirs.iter())
            .filter(|(own, theirs)| own != theirs);
        let bytes = bytes.count();
        if bytes == 0 {
            continue;
        }
        if found.len() >= KEPT_PAGES_MAX * (8 + 2 * PAGE_SIZE) {
            break;
        }
        let _ = writeln!(text, "{address:#x}: {bytes} bytes");
        found.extend_from_slice(&address.to_le_bytes());
        found.extend_from_slice(&own);
        found.extend_from_slice(&theirs[..]);
    }
    Ok(found)
}
