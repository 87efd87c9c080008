//! What was written and not flushed, above a file.

use crate::switch::random::Random;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// What a disk writes whole or not at all.
pub(super) const SECTOR_BYTES: usize = 512;

/// A disk has so much memory; then it makes room.
const SECTORS_MAX: usize = (64 << 20) / SECTOR_BYTES;

/// A file, and the sectors above it.
#[derive(Debug)]
pub(super) struct Cache {
    file: File,
    byte_count: u64,
    waiting: BTreeMap<u64, [u8; SECTOR_BYTES]>,
}

impl Cache {
    /// Above `file`, which is a whole number of sectors.
    pub(super) fn above(file: File) -> io::Result<Self> {
        let byte_count = file.metadata()?.len();
        if !byte_count.is_multiple_of(SECTOR_BYTES as u64) {
            return Err(io::Error::other("the file ends within a sector"));
        }
        Ok(Self {
            file,
            byte_count,
            waiting: BTreeMap::new(),
        })
    }

    pub(super) const fn byte_count(&self) -> u64 {
        self.byte_count
    }

    /// The sectors of a request; none if it begins or ends within one, or beyond the end.
    fn sectors(&self, offset: u64, byte_count: usize) -> Option<std::ops::Range<u64>> {
        let (bytes, sector) = (byte_count as u64, SECTOR_BYTES as u64);
        let is_whole = offset.is_multiple_of(sector) && bytes.is_multiple_of(sector);
        let end = offset.checked_add(bytes).filter(|end| *end <= self.byte_count)?;
        is_whole.then_some(offset / sector..end / sector)
    }

    /// What is there now, flushed or not.
    pub(super) fn read(&self, offset: u64, byte_count: usize) -> io::Result<Vec<u8>> {
        let sectors = self.sectors(offset, byte_count).ok_or_else(out_of_place)?;
        let mut bytes = vec![0; byte_count];
        self.file.read_exact_at(&mut bytes, offset)?;
        let first = sectors.start;
        for (sector, content) in self.waiting.range(sectors) {
            let at = usize::try_from(sector - first).unwrap_or(usize::MAX) * SECTOR_BYTES;
            bytes[at..at + SECTOR_BYTES].copy_from_slice(content);
        }
        Ok(bytes)
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let sectors = self.sectors(offset, data.len()).ok_or_else(out_of_place)?;
        for (sector, content) in sectors.zip(data.chunks_exact(SECTOR_BYTES)) {
            let mut own = [0; SECTOR_BYTES];
            own.copy_from_slice(content);
            self.waiting.insert(sector, own);
        }
        if self.waiting.len() > SECTORS_MAX {
            self.flush()?;
        }
        Ok(())
    }

    /// All that was written is in the file.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        self.put(waiting)
    }

    /// The power goes: of what was not flushed each sector is on the disk or is not, as `random` has it. How many are not.
    pub(super) fn lose(&mut self, random: &mut Random) -> io::Result<u64> {
        let mut waiting = std::mem::take(&mut self.waiting);
        let before = waiting.len();
        // Not a coin alone: the disk may have got to nearly all of it, or to nearly nothing.
        let share = u32::try_from(random.up_to(1_000_000)).unwrap_or_default();
        waiting.retain(|_, _| random.chance(share));
        let lost = before - waiting.len();
        self.put(waiting)?;
        Ok(lost as u64)
    }

    /// Writes sectors, neighbours at once.
    fn put(&self, sectors: BTreeMap<u64, [u8; SECTOR_BYTES]>) -> io::Result<()> {
        let (mut begins, mut run) = (0, Vec::new());
        for (sector, content) in sectors {
            let at = sector * SECTOR_BYTES as u64;
            if at != begins + run.len() as u64 {
                self.file.write_all_at(&run, begins)?;
                run.clear();
                begins = at;
            }
            run.extend_from_slice(&content);
        }
        self.file.write_all_at(&run, begins)
    }
}

fn out_of_place() -> io::Error {
    io::Error::from(io::ErrorKind::InvalidInput)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECTOR: u64 = SECTOR_BYTES as u64;

    fn cache(sectors: u64) -> (Cache, File) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(sectors * SECTOR).unwrap();
        (Cache::above(file.try_clone().unwrap()).unwrap(), file)
    }

    fn in_file(file: &File, sector: u64) -> u8 {
        let mut byte = [0];
        file.read_exact_at(&mut byte, sector * SECTOR).unwrap();
        byte[0]
    }

    #[test]
    fn what_was_written_is_read_at_once_and_lies_in_the_file_only_after_a_flush() {
        let (mut cache, file) = cache(8);
        cache.write(2 * SECTOR, &[7; 2 * SECTOR_BYTES]).unwrap();
        cache.write(5 * SECTOR, &[9; SECTOR_BYTES]).unwrap();
        let read = cache.read(SECTOR, 5 * SECTOR_BYTES).unwrap();
        let seen: Vec<u8> = read.chunks(SECTOR_BYTES).map(|sector| sector[0]).collect();
        assert_eq!(seen, [0, 7, 7, 0, 9]);
        assert_eq!((in_file(&file, 2), in_file(&file, 5)), (0, 0));
        cache.flush().unwrap();
        let seen: Vec<u8> = (1..6).map(|sector| in_file(&file, sector)).collect();
        assert_eq!(seen, [0, 7, 7, 0, 9]);
    }

    #[test]
    fn a_cut_takes_what_was_not_flushed_and_nothing_else() {
        let mut partly = 0;
        for seed in 0..20 {
            let (mut cache, file) = cache(128);
            cache.write(0, &[1; 64 * SECTOR_BYTES]).unwrap();
            cache.flush().unwrap();
            cache.write(32 * SECTOR, &[2; 64 * SECTOR_BYTES]).unwrap();
            let lost = cache.lose(&mut Random::new(seed, "cut")).unwrap();
            let kept = (32..96).filter(|sector| in_file(&file, *sector) == 2).count() as u64;
            assert_eq!(kept + lost, 64);
            assert!((0..32).all(|sector| in_file(&file, sector) == 1));
            assert!((96..128).all(|sector| in_file(&file, sector) == 0));
            partly += u64::from(kept > 0 && lost > 0);
            assert_eq!(
                cache.read(32 * SECTOR, SECTOR_BYTES).unwrap()[0],
                in_file(&file, 32)
            );
        }
        assert!(partly > 10, "{partly} of 20 cuts fell between sectors");
    }

    #[test]
    fn a_memory_that_is_full_makes_room() {
        let sectors = SECTORS_MAX as u64 + 2;
        let (mut cache, file) = cache(sectors);
        let half = SECTORS_MAX / 2 + 1;
        cache.write(0, &vec![3; half * SECTOR_BYTES]).unwrap();
        assert_eq!(in_file(&file, 0), 0);
        cache
            .write(half as u64 * SECTOR, &vec![3; half * SECTOR_BYTES])
            .unwrap();
        assert_eq!(in_file(&file, 0), 3);
    }

    #[test]
    fn what_does_not_lie_on_sectors_of_the_disk_is_refused() {
        let (mut cache, _) = cache(4);
        assert!(cache.read(1, SECTOR_BYTES).is_err());
        assert!(cache.read(0, 100).is_err());
        assert!(cache.write(3 * SECTOR, &[0; 2 * SECTOR_BYTES]).is_err());
        assert!(cache.read(u64::MAX - 511, SECTOR_BYTES).is_err());
    }
}
