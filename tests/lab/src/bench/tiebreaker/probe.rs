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
    let client = connect_through_link(number, &server)?;
    let inside = accepted(&server)?;
    thread::scope(|scope| {
        scope.spawn(move || echo(inside, || Ok(())));
        words(client, count)
    })
}

/// How long each of so many bare commits took: what Raft needs, done by nothing but sockets and files. A word goes to the
/// leader by a straight connection, is synced there, goes through a link to a follower, is synced there, and the answer
/// comes back all the way.
pub(super) fn bare_commits(folder: &Path, number: u8, count: u64) -> Result<Vec<Duration>> {
    let bind = || -> Result<TcpListener> { Ok(TcpListener::bind(address(number, 0, None, 0)?)?) };
    let (leader, follower) = (bind()?, bind()?);
    let client = TcpStream::connect(leader.local_addr()?)?;
    let (at_leader, mut to_follower) = (accepted(&leader)?, connect_through_link(number, &follower)?);
    to_follower.set_nodelay(true)?;
    let at_follower = accepted(&follower)?;
    let log = |name: &str| File::create(folder.join(name));
    let (mut leaders, mut followers) = (log("bare-leader")?, log("bare-follower")?);
    let store = |file: &mut File| {
        file.write_all(&[1; SYNCED_BYTES])?;
        file.sync_data()
    };
    thread::scope(|scope| {
        scope.spawn(move || echo(at_follower, || store(&mut followers)));
        let mut word = [0; SYNCED_BYTES];
        let commit = move || {
            store(&mut leaders)?;
            to_follower.write_all(&word)?;
            to_follower.read_exact(&mut word)
        };
        scope.spawn(move || echo(at_leader, commit));
        words(client, count)
    })
}

fn connect_through_link(number: u8, server: &TcpListener) -> Result<TcpStream> {
    let free = TcpListener::bind(address(number, 1, None, 0)?)?.local_addr()?;
    proxy::start(free, server.local_addr()?, ONE_WAY)?;
    Ok(TcpStream::connect(free)?)
}

fn accepted(server: &TcpListener) -> Result<TcpStream> {
    let (inside, _) = server.accept()?;
    inside.set_nodelay(true)?;
    Ok(inside)
}

/// Sends each word back once `first` is done. Ends when the other end does.
fn echo(mut inside: TcpStream, mut first: impl FnMut() -> std::io::Result<()>) {
    let mut word = [0; SYNCED_BYTES];
    while inside.read_exact(&mut word).is_ok() && first().is_ok() && inside.write_all(&word).is_ok() {}
}

/// How long the answer to each of so many words took.
fn words(mut client: TcpStream, count: u64) -> Result<Vec<Duration>> {
    client.set_nodelay(true)?;
    let mut took = Vec::new();
    let mut word = [1; SYNCED_BYTES];
    for _ in 0..count {
        let begun = Instant::now();
        client.write_all(&word)?;
        client.read_exact(&mut word)?;
        took.push(begun.elapsed());
    }
    Ok(took)
}
