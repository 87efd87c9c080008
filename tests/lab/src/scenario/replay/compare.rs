//! What is left of two executions, compared byte for byte by this program, not by antipode's digests.

use super::super::{Error, RunSummary, VmEnd};
use anyhow::Result;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// What is left of an execution: files of this machine, and texts.
pub(super) struct Remains {
    pub(super) end: VmEnd,
    pub(super) summary: RunSummary,
    /// RAM, then the guest's disk.
    pub(super) bulk: PathBuf,
    pub(super) registers: Vec<u8>,
}

/// What of a recording is the same in its replay.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sameness {
    pub(super) exits: bool,
    pub(super) ram: bool,
    pub(super) registers: bool,
    pub(super) disk: bool,
    pub(super) console: bool,
}

impl Sameness {
    /// Compares what is left of both, of a guest with `memory_bytes` of RAM.
    pub(super) fn of(recorded: &Remains, replayed: &Remains, memory_bytes: u64) -> Result<Self> {
        let (ram, disk) = compare_bulk(&recorded.bulk, &replayed.bulk, memory_bytes)?;
        Ok(Self {
            exits: recorded.summary.exits == replayed.summary.exits,
            ram,
            registers: recorded.registers == replayed.registers,
            disk,
            console: console_of(&recorded.end) == console_of(&replayed.end),
        })
    }

    pub(super) fn is_whole(self) -> bool {
        self.exits && self.ram && self.registers && self.disk && self.console
    }
}

/// Everything on standard output but antipode's own last line.
fn console_of(end: &VmEnd) -> &str {
    RunSummary::split(&end.console).map_or(&end.console, |(console, _)| console)
}

/// Whether the first `memory_bytes` of both files are the same, and whether the rest is.
fn compare_bulk(one: &Path, other: &Path, memory_bytes: u64) -> Result<(bool, bool)> {
    let open = |path: &Path| {
        File::open(path)
            .map(BufReader::new)
            .map_err(Error::file("open", path))
    };
    let (one, other) = (open(one)?, open(other)?);
    let (mut one_ram, mut other_ram) = (one.take(memory_bytes), other.take(memory_bytes));
    let ram = are_equal(&mut one_ram, &mut other_ram)?;
    let disk = are_equal(&mut one_ram.into_inner(), &mut other_ram.into_inner())?;
    Ok((ram, disk))
}

/// Reads both to their ends.
fn are_equal(one: &mut impl Read, other: &mut impl Read) -> Result<bool> {
    let (mut one_part, mut other_part) = (Vec::new(), Vec::new());
    let mut is_same = true;
    loop {
        one_part.clear();
        other_part.clear();
        let taken = one.by_ref().take(1 << 20).read_to_end(&mut one_part)?;
        other.by_ref().take(1 << 20).read_to_end(&mut other_part)?;
        is_same &= one_part == other_part;
        if taken == 0 && other_part.is_empty() {
            return Ok(is_same);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The checker is given a planted difference in each part.
    #[test]
    fn one_byte_of_ram_or_disk_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, changed: Option<usize>| {
            let mut bytes = vec![7_u8; 3 << 20];
            if let Some(place) = changed {
                bytes[place] ^= 1;
            }
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let (plain, same) = (write("a", None), write("b", None));
        let (ram, disk) = (write("c", Some((2 << 20) - 1)), write("d", Some(2 << 20)));
        let compare = |other: &Path| compare_bulk(&plain, other, 2 << 20).unwrap();
        assert_eq!(compare(&same), (true, true));
        assert_eq!(compare(&ram), (false, true));
        assert_eq!(compare(&disk), (true, false));
    }
}
