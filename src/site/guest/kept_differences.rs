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

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::orders::Differs;
use crate::base::guest_memory::GuestMemory;
use crate::base::units::{ExitOrdinal, GuestPhys, PAGE_SIZE};
use crate::machine::started::StartedVm;
use crate::protocol::repair::Cause;
use crate::replay::{Repair, registers};

/// Where they are to be kept, and how many of them.
#[derive(Debug, Clone)]
pub(crate) struct KeepDifferences {
    pub(crate) folder: PathBuf,
    pub(crate) most: u64,
}

impl KeepDifferences {
    /// Keeps of `vm`, which stands where it `differs` for that `cause`, in what it is another machine than `repair` makes it,
    /// which is of `position`. Answers with where, if there is room for one more.
    ///
    /// # Errors
    /// When the host refuses.
    pub(super) fn keep(
        &self,
        vm: &mut StartedVm,
        differs: &Differs,
        cause: Cause,
        (position, repair): (ExitOrdinal, &Repair),
    ) -> io::Result<Option<PathBuf>> {
        let Some(folder) = self.next_folder()? else {
            return Ok(None);
        };
        let pages = write_pages(vm.memory(), repair, &folder.join("pages.bin"))?;
        let registers = registers(vm).map_err(io::Error::other)?;
        fs::write(folder.join("vcpu.txt"), registers)?;
        let Differs {
            position: at, what, ..
        } = differs;
        let mut text = format!(
            "The copy differs at exit {at}: {what}\ncause: {cause}\nIt became the same again as the other was at exit {position}.\n\n\
             Pages that are others:\n"
        );
        for (address, bytes) in pages {
            let _ = writeln!(text, "{address:#x} {bytes} bytes");
        }
        text.push_str("\nLeaves of the disk that were carried:\n");
        for (number, content) in &repair.leaves {
            let _ = writeln!(text, "{number} {} bytes", content.len());
        }
        fs::write(folder.join("what.txt"), text)?;
        Ok(Some(folder))
    }

    fn next_folder(&self) -> io::Result<Option<PathBuf>> {
        let mut builder = DirBuilder::new();
        builder.mode(0o700);
        builder.recursive(true).create(&self.folder)?;
        builder.recursive(false);
        for number in 1..=self.most {
            let folder = self.folder.join(number.to_string());
            match builder.create(&folder) {
                Ok(()) => return Ok(Some(folder)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

/// Writes those of the carried pages that are others in `memory`; their addresses, and in how many bytes.
fn write_pages(memory: &GuestMemory, repair: &Repair, to: &Path) -> io::Result<Vec<(u64, usize)>> {
    let mut file = BufWriter::new(File::create(to)?);
    let mut found = Vec::new();
    for (address, theirs) in &repair.capture.pages {
        let mut own = [0; PAGE_SIZE];
        memory
            .read(GuestPhys(*address), &mut own)
            .map_err(io::Error::other)?;
        let bytes = own
            .iter()
            .zip(theirs.iter())
            .filter(|(own, theirs)| own != theirs)
            .count();
        if bytes > 0 {
            file.write_all(&address.to_le_bytes())?;
            file.write_all(&own)?;
            file.write_all(&theirs[..])?;
            found.push((*address, bytes));
        }
    }
    file.flush()?;
    Ok(found)
}
