//! A sync over a long line: 80 ms there and back, 100 Mbit/s each way, by a proxy of this process.
//!
//! The proxy ends both TCP connections on this machine: what is measured is the protocol and its line, not what TCP makes of
//! such a distance. `cargo lab disk` has that too: two kernels, and a switch that delays their frames.
//!
//! What it may take, from what was measured in the same run: hashing both ends at once, and the bytes on the line at
//! its rate. The larger counts nearly whole, the smaller a tenth, and eight round trips are given for the exchange.

use super::{Bench, timed};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

const ONE_WAY: Duration = Duration::from_millis(40);
const BYTES_PER_SECOND: u64 = 100_000_000 / 8;

/// Bytes that are read at once, and pieces that may be in flight: 4 MiB, three times what the line holds.
const PIECE_BYTES: usize = 8 * 1024;
const PIECES_MAX: usize = 512;

/// What a sync over the line took.
pub(super) struct Crossing {
    /// Seconds that hashing both ends at once takes.
    pub(super) hashing: f64,
    /// Seconds of the sync.
    pub(super) took: f64,
    /// Its time by what it may take.
    pub(super) time_ratio: f64,
    /// Its bytes on the line by what must travel.
    pub(super) wire_ratio: f64,
}

impl Bench {
    /// Syncs `source` to `target`, which differ in some leaves, over the line.
    pub(super) fn cross(&self, source: &str, target: &str) -> Result<Crossing> {
        for arguments in [
            &["init"][..],
            &["issue", "site", "here"],
            &["issue", "site", "there"],
        ] {
            let mut command = Command::new(&self.antipode);
            timed(command.arg("certs").args(arguments).current_dir(&self.folder))?;
        }
        // Once for the host's cache, once for the figure; all of it each time, whatever is known from the first.
        self.hash_both(source, target)?;
        let hashing = self.hash_both(source, target)?;
        let mut far = Command::new(&self.antipode)
            .args([
                "disk",
                "serve",
                target,
                "--as",
                "target",
                "--listen",
                "127.0.0.1:0",
                "--once",
            ])
            .args(["--cert", "site-there.pem", "--json"])
            .current_dir(&self.folder)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut output = BufReader::new(far.stdout.take().context("its output is a pipe")?);
        let mut line = String::new();
        output.read_line(&mut line)?;
        let said: Value = serde_json::from_str(&line)?;
        let address = said["listening"]
            .as_str()
            .context("it says where it listens")?
            .parse()?;
        let proxy = long_line(address)?;
        let begun = Instant::now();
        let near = Command::new(&self.antipode)
            .args(["disk", "sync", source, &format!("tls://{proxy}")])
            .args(["--cert", "site-here.pem", "--json"])
            .current_dir(&self.folder)
            .output()?;
        let took = begun.elapsed().as_secs_f64();
        output.read_to_string(&mut line)?;
        ensure!(
            near.status.success() && far.wait()?.success(),
            "the sync failed: {}",
            String::from_utf8_lossy(&near.stdout)
        );
        let said: Value = serde_json::from_slice(&near.stdout)?;
        let number = |name: &str| said[name].as_f64().unwrap_or(f64::NAN);
        let wire = number("bytes_sent") + number("bytes_received");
        let leaves = number("bytes_compared") / 65_536.0;
        #[expect(clippy::cast_precision_loss, reason = "megabytes")]
        let travel = wire / BYTES_PER_SECOND as f64;
        let round_trips = 8.0 * 2.0 * ONE_WAY.as_secs_f64();
        let allowed = 1.15 * hashing.max(travel) + hashing.min(travel) / 10.0 + round_trips;
        Ok(Crossing {
            hashing,
            took,
            time_ratio: took / allowed,
            wire_ratio: wire / (1.05 * number("data_bytes_packed") + 12.0 * leaves),
        })
    }

    /// Both content trees at once, as a sync has them hashed.
    fn hash_both(&self, source: &str, target: &str) -> Result<f64> {
        let begun = Instant::now();
        thread::scope(|scope| {
            let other = scope.spawn(|| self.disk(&["digest", target, "--content", "--full"]));
            self.disk(&["digest", source, "--content", "--full"])?;
            other
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        Ok(begun.elapsed().as_secs_f64())
    }
}

/// An address behind which is `far`, a long line away, for one connection.
fn long_line(far: SocketAddr) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || -> Result<()> {
        let (near, _) = listener.accept()?;
        let far = TcpStream::connect(far)?;
        for (from, to) in [(&near, &far), (&far, &near)] {
            to.set_nodelay(true)?;
            one_way(from.try_clone()?, to.try_clone()?);
        }
        Ok(())
    });
    Ok(address)
}

/// Carries bytes at the line's rate, each as late as its length says.
fn one_way(mut from: TcpStream, mut to: TcpStream) {
    let (enter, leave) = sync_channel::<(Instant, Vec<u8>)>(PIECES_MAX);
    thread::spawn(move || {
        let mut free_at = Instant::now();
        let mut piece = vec![0; PIECE_BYTES];
        while let Ok(count @ 1..) = from.read(&mut piece) {
            let nanoseconds = count as u64 * 1_000_000_000 / BYTES_PER_SECOND;
            free_at = free_at.max(Instant::now()) + Duration::from_nanos(nanoseconds);
            if enter.send((free_at + ONE_WAY, piece[..count].to_vec())).is_err() {
                break;
            }
        }
    });
    thread::spawn(move || {
        for (due, piece) in leave {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&piece).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
}
