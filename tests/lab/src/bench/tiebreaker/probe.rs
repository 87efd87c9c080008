//! What the disk and a link take by themselves.

use super::ONE_WAY;
use crate::tiebreaker::proxy;
use crate::tiebreaker::town::{NODES, address};
use anyhow::{Context, Result, anyhow};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of an entry and of what is written with it, about.
const SYNCED_BYTES: usize = 512;

/// How long each of so many syncs took, of as many files at once as there are nodes, in `folder`'s file system.
pub(super) fn syncs(folder: &Path, count: u64) -> Result<Vec<Duration>> {
    let writer = |number: usize| -> Result<Vec<Duration>> {
        let path = folder.join(format!("sync-{number}"));
        let mut file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        let mut took = Vec::new();
        for _ in 0..count {
            file.write_all(&[1; SYNCED_BYTES])?;
            let begun = Instant::now();
            file.sync_data()?;
            took.push(begun.elapsed());
        }
        Ok(took)
    };
    thread::scope(|scope| {
        let writers: Vec<_> = (0..NODES.len())
            .map(|number| scope.spawn(move || writer(number)))
            .collect();
        let mut all = Vec::new();
        for writer in writers {
            all.extend(writer.join().map_err(|_| anyhow!("a writer has died"))??);
        }
        Ok(all)
    })
}

/// How long each of so many echoes took through a link like those between nodes. `number` is of the addresses.
pub(super) fn round_trips(number: u8, count: u64) -> Result<Vec<Duration>> {
    // The kernel picks the ports: each round has a link of its own.
    let server = TcpListener::bind(address(number, 0, None, 0)?)?;
    let free = TcpListener::bind(address(number, 1, None, 0)?)?.local_addr()?;
    proxy::start(free, server.local_addr()?, ONE_WAY)?;
    let mut client = TcpStream::connect(free)?;
    client.set_nodelay(true)?;
    let (mut inside, _) = server.accept()?;
    inside.set_nodelay(true)?;
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut word = [0; SYNCED_BYTES];
            // Ends when the client does.
            while inside.read_exact(&mut word).is_ok() && inside.write_all(&word).is_ok() {}
        });
        let mut took = Vec::new();
        let mut word = [1; SYNCED_BYTES];
        for _ in 0..count {
            let begun = Instant::now();
            client.write_all(&word)?;
            client.read_exact(&mut word)?;
            took.push(begun.elapsed());
        }
        drop(client);
        Ok(took)
    })
}
