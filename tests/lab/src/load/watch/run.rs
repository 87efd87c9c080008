//! The sockets, the threads and the clock of a watch.

use super::ledger::{Ledger, Millis};
use super::probe::Probe;
use super::{Line, Plan, Progress, Report};
use crate::talk::Sequence;
use std::io::{self, Read};
use std::net::{TcpStream, ToSocketAddrs, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Between two attempts to reach a service that is not up yet.
const RETRY: Duration = Duration::from_millis(200);

/// How long one attempt to connect may take.
const CONNECT_PATIENCE: Duration = Duration::from_secs(3);

/// Between two lines of progress.
const SAY_EVERY: Duration = Duration::from_secs(1);

/// Longest sleep of a thread that must see the end soon.
const LOOK: Duration = Duration::from_millis(20);

struct Shared {
    begun: Instant,
    ended: AtomicBool,
    ledger: Mutex<Ledger>,
    probe: Mutex<Probe>,
}

impl Shared {
    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn is_over(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn probe(&self) -> MutexGuard<'_, Probe> {
        self.probe.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps until `at`, or until it is over.
    fn sleep_until(&self, at: Duration) {
        while !self.is_over() {
            match at.checked_sub(self.now()) {
                None | Some(Duration::ZERO) => return,
                Some(rest) => thread::sleep(rest.min(LOOK)),
            }
        }
    }
}

/// Watches until `stop` ends, and says how it goes.
///
/// # Errors
/// If the service never comes up, or there is no socket for the probe. What goes wrong later is in the report.
pub fn watch(plan: &Plan, mut stop: impl Read + Send, say: &(impl Fn(&Line) + Sync)) -> io::Result<Report> {
    let sequence = reach(plan)?;
    let datagrams = UdpSocket::bind("0.0.0.0:0")?;
    datagrams.connect((plan.address.as_str(), plan.probe_port))?;
    datagrams.set_read_timeout(Some(LOOK))?;
    say(&Line::Ready);
    let shared = Shared {
        begun: Instant::now(),
        ended: AtomicBool::new(false),
        ledger: Mutex::default(),
        probe: Mutex::default(),
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            // Whatever ends the input ends the watch.
            let _ = io::copy(&mut stop, &mut io::sink());
            shared.ended.store(true, Ordering::SeqCst);
        });
        let prober = scope.spawn(|| {
            while !shared.is_over() {
                let next = shared.now() + plan.probe_every;
                let datagram = shared.probe().send(shared.now());
                // A host that has no route, or a guest whose echo is not up: it was sent and not answered.
                let _ = datagrams.send(&datagram);
                shared.sleep_until(next);
            }
        });
        scope.spawn(|| {
            let mut buffer = [0; 64];
            while !shared.is_over() {
                if let Ok(length) = datagrams.recv(&mut buffer) {
                    shared.probe().receive(&buffer[..length], shared.now());
                }
            }
        });
        scope.spawn(|| tell(&shared, say));
        let written = write(plan, &shared, sequence);
        // A connection that broke ends nothing: the probe goes on until the watch is told to stop.
        let _ = prober.join();
        let report = conclude(plan, &shared, written);
        Ok(report)
    })
}

/// Tries until the service answers.
fn reach(plan: &Plan) -> io::Result<Sequence<TcpStream>> {
    let begun = Instant::now();
    loop {
        match connect(plan, CONNECT_PATIENCE) {
            Ok(sequence) => return Ok(sequence),
            Err(error) if begun.elapsed() > plan.ready_within => {
                let waited = plan.ready_within.as_secs();
                return Err(io::Error::new(
                    error.kind(),
                    format!(
                        "{} at {} was not ready within {waited} s: {error}",
                        plan.service, plan.address
                    ),
                ));
            }
            Err(_) => thread::sleep(RETRY),
        }
    }
}

fn connect(plan: &Plan, patience: Duration) -> io::Result<Sequence<TcpStream>> {
    let port = plan
        .service
        .port()
        .ok_or_else(|| io::Error::other(format!("{} has no port", plan.service)))?;
    let mut addresses = (plan.address.as_str(), port).to_socket_addrs()?;
    let address = addresses
        .next()
        .ok_or_else(|| io::Error::other(format!("{} is no address", plan.address)))?;
    let stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(plan.patience))?;
    stream.set_write_timeout(Some(plan.patience))?;
    Sequence::open(plan.service, stream, &plan.run)
}

/// Writes until it is over or the connection breaks.
fn write(
    plan: &Plan,
    shared: &Shared,
    mut sequence: Sequence<TcpStream>,
) -> Result<Sequence<TcpStream>, io::Error> {
    while !shared.is_over() {
        let next = shared.now() + plan.every;
        let number = shared.ledger().begin();
        let head = sequence.write(number)?;
        shared.ledger().acknowledge(head, shared.now());
        shared.sleep_until(next);
    }
    Ok(sequence)
}

/// Reads everything back.
fn conclude(plan: &Plan, shared: &Shared, written: Result<Sequence<TcpStream>, io::Error>) -> Report {
    let milliseconds = shared.now().as_millis_u64();
    let mut ledger = shared.ledger();
    let last = ledger.begun();
    let broken = written.as_ref().err().map(ToString::to_string);
    let kept = match written {
        Ok(mut sequence) => sequence.kept(last),
        // What a client was told must hold for whoever asks afterwards.
        Err(_) => connect(plan, plan.patience).and_then(|mut sequence| sequence.kept(last)),
    };
    let connection_survived = broken.is_none() && kept.is_ok();
    let error = match kept {
        Ok(kept) => {
            ledger.compare(&kept);
            broken
        }
        Err(error) => Some(broken.map_or_else(
            || error.to_string(),
            |broken| format!("{broken}; and afterwards: {error}"),
        )),
    };
    Report {
        sequence: ledger.verdict(),
        connection_survived,
        error,
        probe: shared.probe().verdict(),
        milliseconds,
    }
}

fn tell(shared: &Shared, say: &impl Fn(&Line)) {
    let mut before = 0;
    let mut at = SAY_EVERY;
    while !shared.is_over() {
        shared.sleep_until(at);
        let now = shared.now();
        let (ledger, probe) = (shared.ledger(), shared.probe());
        let progress = Progress {
            at_ms: now.as_millis_u64(),
            acked: ledger.acknowledged(),
            acked_per_second: ledger.acknowledged() - before,
            silent_ms: ledger.silence().present(now).as_millis_u64(),
            gap_ms_max: ledger.silence().longest().as_millis_u64(),
            probes_answered: probe.answered(),
            probe_silent_ms: probe.silence().present(now).as_millis_u64(),
            probe_gap_ms_max: probe.silence().longest().as_millis_u64(),
        };
        before = progress.acked;
        drop((ledger, probe));
        say(&Line::Progress(progress));
        at += SAY_EVERY;
    }
}

#[cfg(test)]
mod tests {
    use super::super::probe;
    use super::*;
    use crate::image::Service;
    use std::collections::BTreeMap;
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::os::unix::net::UnixStream;

    /// What a stand-in for Redis does wrong.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Fault {
        None,
        /// The fifth write is acknowledged and not kept.
        Loses,
        /// The head is put back at the fifth write.
        GoesBack,
        /// The connection ends at the fifth write.
        HangsUp,
    }

    fn words(reader: &mut impl BufRead) -> Option<Vec<String>> {
        let mut line = || {
            let mut text = String::new();
            reader.read_line(&mut text).ok().filter(|length| *length > 0)?;
            Some(text.trim_end().to_owned())
        };
        let count = line()?.strip_prefix('*')?.parse::<usize>().ok()?;
        (0..count)
            .map(|_| {
                line()?;
                line()
            })
            .collect()
    }

    fn bulk(value: Option<&String>) -> String {
        value.map_or("$-1\r\n".to_owned(), |value| {
            format!("${}\r\n{value}\r\n", value.len())
        })
    }

    fn serve(mut stream: &TcpStream, kept: &mut BTreeMap<String, String>, fault: Fault) -> Option<()> {
        let mut reader = BufReader::new(stream);
        while let Some(words) = words(&mut reader) {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let answer = match words[..] {
                ["PING"] => "+PONG\r\n".to_owned(),
                ["SET", _, "5"] if fault == Fault::Loses => "+OK\r\n".to_owned(),
                ["SET", _, "5"] if fault == Fault::HangsUp && kept.contains_key("r:4") => {
                    kept.insert("r:5".to_owned(), "5".to_owned());
                    return None;
                }
                ["SET", key, value] => {
                    kept.insert(key.to_owned(), value.to_owned());
                    "+OK\r\n".to_owned()
                }
                ["SET", key, value, "GET"] => {
                    let value = if fault == Fault::GoesBack && value == "5" {
                        "2"
                    } else {
                        value
                    };
                    bulk(kept.insert(key.to_owned(), value.to_owned()).as_ref())
                }
                ["MGET", ref keys @ ..] => {
                    let values: String = keys.iter().map(|key| bulk(kept.get(*key))).collect();
                    format!("*{}\r\n{values}", keys.len())
                }
                _ => return None,
            };
            stream.write_all(answer.as_bytes()).ok()?;
        }
        Some(())
    }

    fn watched(fault: Fault) -> Report {
        let port = Service::Redis.port().unwrap();
        // An address of its own for each, so that tests may run side by side.
        let address = format!("127.77.{}.{}", std::process::id() % 250, fault as u8 + 1);
        let listener = TcpListener::bind((address.as_str(), port)).unwrap();
        thread::spawn(move || {
            let mut kept = BTreeMap::new();
            for stream in listener.incoming().flatten() {
                serve(&stream, &mut kept, fault);
            }
        });
        let echo = UdpSocket::bind((address.as_str(), 0)).unwrap();
        let plan = Plan {
            service: Service::Redis,
            address,
            run: "r".to_owned(),
            every: Duration::from_millis(2),
            ready_within: Duration::from_secs(10),
            probe_port: echo.local_addr().unwrap().port(),
            probe_every: Duration::from_millis(5),
            patience: Duration::from_secs(10),
        };
        thread::spawn(move || probe::echo(&echo));
        let (stop, stopped) = UnixStream::pair().unwrap();
        let (stop, enough) = (
            Mutex::new(Some(stop)),
            if fault == Fault::HangsUp { 4 } else { 6 },
        );
        let say = |line: &Line| {
            if let Line::Progress(progress) = line
                && progress.acked >= enough
                && progress.probes_answered > 5
            {
                drop(stop.lock().unwrap().take());
            }
        };
        watch(&plan, stopped, &say).unwrap()
    }

    #[test]
    fn a_sound_service_passes_and_is_probed() {
        let report = watched(Fault::None);
        assert_eq!(report.violations(), Vec::<String>::new());
        assert!(
            report.sequence.acked > 5 && report.probe.answered > 5,
            "{report:?}"
        );
    }

    #[test]
    fn a_planted_lost_write_is_found() {
        let report = watched(Fault::Loses);
        assert_eq!(report.sequence.first_lost, [5], "{report:?}");
    }

    #[test]
    fn a_planted_step_back_is_found() {
        assert_eq!(watched(Fault::GoesBack).sequence.regressed, 1);
    }

    #[test]
    fn a_planted_broken_connection_is_found_and_everything_is_read_back_over_another() {
        let report = watched(Fault::HangsUp);
        assert!(!report.connection_survived, "{report:?}");
        assert_eq!((report.sequence.acked, report.sequence.lost), (4, Some(0)));
    }
}
