//! The thread behind the socket, and what the lab has it do.

use super::cache::Cache;
use super::wire::{self, EINVAL, EIO, What};
use crate::switch::random::Random;
use std::fs::File;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How a disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It does what it is asked.
    Well,
    /// Each request takes so much longer, one after the other.
    Slow(Duration),
    /// It answers nothing, until it is well again.
    Hung,
    /// It fails every request.
    Failing,
}

/// A disk that is served. Dropping it ends that.
#[derive(Debug)]
pub struct Medium {
    socket: PathBuf,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    cache: Cache,
    health: Health,
    /// How often the power went: what a host asked for before that is not done after it.
    cuts: u64,
    is_over: bool,
}

impl Medium {
    /// Serves the file at `path` to whoever connects to `socket`, one host after the other.
    ///
    /// # Errors
    /// A file that cannot be used, or a socket that cannot be made.
    pub fn serve(path: &Path, socket: PathBuf) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        let state = State {
            cache: Cache::above(file)?,
            health: Health::Well,
            cuts: 0,
            is_over: false,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let listener = UnixListener::bind(&socket)?;
        let server = Arc::clone(&shared);
        thread::spawn(move || server.serve(&listener));
        Ok(Self { socket, shared })
    }

    /// Where QEMU finds it.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// From now on it is like that.
    pub fn be(&self, health: Health) {
        self.shared.state().health = health;
        self.shared.changed.notify_all();
    }

    /// How it is.
    #[must_use]
    pub fn health(&self) -> Health {
        self.shared.state().health
    }

    /// All that was written is in the file, though nobody has flushed it.
    ///
    /// # Errors
    /// The file's.
    pub fn settle(&self) -> io::Result<()> {
        self.shared.state().cache.flush()
    }

    /// Its host has lost its power; with `random`, what was not flushed is lost with it, as chance has it. How many sectors
    /// are lost.
    ///
    /// # Errors
    /// The file's.
    pub fn lose_power(&self, random: Option<&mut Random>) -> io::Result<u64> {
        let mut state = self.shared.state();
        state.cuts += 1;
        self.shared.changed.notify_all();
        match random {
            Some(random) => state.cache.lose(random),
            None => state.cache.flush().map(|()| 0),
        }
    }
}

impl Drop for Medium {
    fn drop(&mut self) {
        self.shared.state().is_over = true;
        self.shared.changed.notify_all();
        // It waits for a host. If the socket's folder is gone, it waits until this process ends.
        drop(UnixStream::connect(&self.socket));
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, listener: &UnixListener) {
        for stream in listener.incoming() {
            if self.state().is_over {
                return;
            }
            // A host that loses its power does not say goodbye.
            let _ = stream.and_then(|stream| self.serve_host(stream));
        }
    }

    fn serve_host(&self, mut stream: UnixStream) -> io::Result<()> {
        let (cuts, byte_count) = {
            let state = self.state();
            (state.cuts, state.cache.byte_count())
        };
        if !wire::greet(&mut stream, byte_count)? {
            return Ok(());
        }
        let mut from = io::BufReader::new(stream.try_clone()?);
        loop {
            let request = wire::request(&mut from)?;
            if request.what == What::End {
                return Ok(());
            }
            let Some(outcome) = self.perform(cuts, request.what) else {
                return Ok(());
            };
            wire::answer(&mut stream, request.cookie, outcome)?;
        }
    }

    /// What comes of it; nothing if the power went meanwhile.
    fn perform(&self, cuts: u64, what: What) -> Option<Result<Vec<u8>, u32>> {
        let mut state = self.state();
        if let Health::Slow(span) = state.health {
            drop(state);
            thread::sleep(span);
            state = self.state();
        }
        let mut state = self
            .changed
            .wait_while(state, |state| {
                state.health == Health::Hung && state.cuts == cuts && !state.is_over
            })
            .unwrap_or_else(PoisonError::into_inner);
        if state.cuts != cuts || state.is_over {
            return None;
        }
        if state.health == Health::Failing {
            return Some(Err(EIO));
        }
        let done = match what {
            What::Read { offset, byte_count } => state.cache.read(offset, byte_count),
            What::Write { offset, data } => state.cache.write(offset, &data).map(|()| Vec::new()),
            What::Flush => state.cache.flush().map(|()| Vec::new()),
            What::End | What::Unknown => Err(io::ErrorKind::InvalidInput.into()),
        };
        Some(done.map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput => EINVAL,
            _ => EIO,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use tempfile::TempDir;

    const SECTOR: usize = super::super::cache::SECTOR_BYTES;

    /// What QEMU is to a disk.
    struct Host(UnixStream);

    impl Host {
        fn boot(medium: &Medium) -> Self {
            let mut stream = UnixStream::connect(medium.socket()).unwrap();
            let mut greeting = [0; 18];
            stream.read_exact(&mut greeting).unwrap();
            stream.write_all(&3_u32.to_be_bytes()).unwrap();
            // An option that is not offered, and the one that is.
            for (option, length) in [(8_u32, 20), (7, 26)] {
                stream.write_all(b"IHAVEOPT").unwrap();
                stream.write_all(&option.to_be_bytes()).unwrap();
                stream.write_all(&0_u32.to_be_bytes()).unwrap();
                let mut answer = vec![0; length];
                stream.read_exact(&mut answer).unwrap();
                if option == 7 {
                    let mut rest = [0; 26];
                    stream.read_exact(&mut rest).unwrap();
                    assert_eq!(answer[20..22], [0, 0], "of the export");
                }
            }
            Self(stream)
        }

        fn ask(&mut self, command: u16, offset: u64, length: usize, data: &[u8]) {
            let mut request = 0x2560_9513_u32.to_be_bytes().to_vec();
            request.extend([0, 0]);
            request.extend(command.to_be_bytes());
            request.extend(9_u64.to_be_bytes());
            request.extend(offset.to_be_bytes());
            request.extend(u32::try_from(length).unwrap().to_be_bytes());
            request.extend(data);
            self.0.write_all(&request).unwrap();
        }

        fn error(&mut self) -> u32 {
            let mut reply = [0; 16];
            self.0.read_exact(&mut reply).unwrap();
            assert_eq!(reply[8..], 9_u64.to_be_bytes());
            u32::from_be_bytes(reply[4..8].try_into().unwrap())
        }

        fn write(&mut self, byte: u8) -> u32 {
            self.ask(1, 0, SECTOR, &vec![byte; SECTOR]);
            self.error()
        }

        fn flush(&mut self) -> u32 {
            self.ask(3, 0, 0, &[]);
            self.error()
        }

        fn read(&mut self) -> Result<u8, u32> {
            self.ask(0, 0, SECTOR, &[]);
            match self.error() {
                0 => {
                    let mut data = vec![0; SECTOR];
                    self.0.read_exact(&mut data).unwrap();
                    Ok(data[0])
                }
                error => Err(error),
            }
        }
    }

    fn medium() -> (Medium, TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        File::create(&path).unwrap().set_len(8 * SECTOR as u64).unwrap();
        let medium = Medium::serve(&path, folder.path().join("socket")).unwrap();
        (medium, folder)
    }

    #[test]
    fn one_host_after_the_other_finds_what_was_flushed_and_perhaps_more() {
        let (medium, _folder) = medium();
        let mut host = Host::boot(&medium);
        assert_eq!((host.write(7), host.flush(), host.write(8)), (0, 0, 0));
        assert_eq!(host.read(), Ok(8));
        drop(host);
        medium.lose_power(None).unwrap();
        assert_eq!(Host::boot(&medium).read(), Ok(8));
        let mut found = std::collections::BTreeSet::new();
        for seed in 0..20 {
            let mut host = Host::boot(&medium);
            assert_eq!((host.write(7), host.flush(), host.write(8)), (0, 0, 0));
            drop(host);
            medium.lose_power(Some(&mut Random::new(seed, "cut"))).unwrap();
            found.insert(Host::boot(&medium).read().unwrap());
        }
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [7, 8]);
    }

    #[test]
    fn a_disk_that_fails_says_so_and_one_that_hangs_nothing() {
        let (medium, _folder) = medium();
        let mut host = Host::boot(&medium);
        medium.be(Health::Failing);
        assert_eq!((host.write(1), host.flush(), host.read()), (5, 5, Err(5)));
        medium.be(Health::Hung);
        host.ask(1, 0, SECTOR, &vec![2; SECTOR]);
        host.0.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert!(host.0.read(&mut [0]).is_err());
        host.0.set_read_timeout(None).unwrap();
        medium.be(Health::Slow(Duration::from_millis(1)));
        assert_eq!(host.error(), 0);
        assert_eq!(host.read(), Ok(2));
    }

    #[test]
    fn what_waited_when_the_power_went_is_never_done() {
        let (medium, _folder) = medium();
        let mut host = Host::boot(&medium);
        medium.be(Health::Hung);
        host.ask(1, 0, SECTOR, &vec![3; SECTOR]);
        drop(host);
        medium.lose_power(None).unwrap();
        medium.be(Health::Well);
        assert_eq!(Host::boot(&medium).read(), Ok(0));
    }

    #[test]
    fn one_that_hangs_is_dropped_all_the_same() {
        let (medium, _folder) = medium();
        let mut host = Host::boot(&medium);
        medium.be(Health::Hung);
        host.ask(3, 0, 0, &[]);
        drop(medium);
        assert!(host.0.read(&mut [0]).is_ok_and(|count| count == 0));
    }
}
