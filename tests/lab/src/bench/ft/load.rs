//! What is asked of a guest, and how fast it is done.

use super::super::replay::progress;
use super::super::summary::Bound;
use crate::host::Host;
use crate::image::Service;
use crate::load::clients::Amount;
use crate::load::order::Order;
use crate::scenario::Connection;
use crate::scenario::clients::{Clients, ask};
use anyhow::{Context, Result, ensure};
use serde::Serialize;
use std::thread;
use std::time::{Duration, Instant};

/// How long clients write values and read them back: both guests of a baseline are loaded to the end of it.
const TALKING: Duration = Duration::from_secs(30);

/// Clients without any way between the sites, and for how many milliseconds of it there is one more: what a guest does in
/// that time, of some hundred requests a second, must be less than what they can ask for.
const CLIENTS: u64 = 16;
const MILLISECONDS_A_CLIENT: u64 = 2;

/// How long a stream lasts, and what of it counts as one request.
const STREAM: Duration = Duration::from_secs(10);
const STREAM_REQUEST_BYTES: u32 = 64 << 10;

/// How long a guest that computes is watched at least.
const COMPUTING: Duration = Duration::from_secs(20);

/// Between two looks for the end of a round.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Pings meanwhile, and seconds between two.
const PINGS: u32 = 100;
const PING_EVERY_SECONDS: &str = "0.2";

/// What a guest does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(super) enum Load {
    /// Values are written to Redis, each forced to the disk, and read back
    Redis,
    /// A TCP stream to the guest
    Receive,
    /// A TCP stream from the guest
    Transmit,
    /// Rounds of a computation
    Compute,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Done {
    pub(super) requests: f64,
    pub(super) seconds: f64,
}

impl Done {
    pub(super) fn per_second(self) -> f64 {
        self.requests / self.seconds
    }
}

impl Load {
    /// Every load.
    pub(super) const ALL: [Self; 4] = [Self::Redis, Self::Receive, Self::Transmit, Self::Compute];

    /// The name in results.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Receive => "receive",
            Self::Transmit => "transmit",
            Self::Compute => "compute",
        }
    }

    /// The guest that it takes.
    pub(super) const fn service(self) -> Service {
        match self {
            Self::Redis | Self::Receive | Self::Transmit => Service::Redis,
            Self::Compute => Service::Compute,
        }
    }

    /// What must be left of the unprotected rate.
    pub(super) const fn bound(self) -> Bound {
        Bound::AtLeast(match self {
            Self::Redis | Self::Transmit => 0.9,
            Self::Receive => 0.6,
            Self::Compute => 0.85,
        })
    }

    /// Lets the guest at `address` do it, asked from `client`.
    pub(super) fn carry_out(self, client: &Host, address: &str, rtt: Duration) -> Result<Done> {
        let stream = |order| -> Result<Done> {
            let answer = ask(client, address, order, STREAM)?;
            ensure!(answer.bytes > 0, "nothing was streamed");
            #[expect(clippy::cast_precision_loss, reason = "bytes of seconds are far below 2^52")]
            let requests = answer.bytes as f64 / f64::from(STREAM_REQUEST_BYTES);
            Ok(Done {
                requests,
                seconds: answer.seconds,
            })
        };
        match self {
            Self::Redis => {
                let talked = clients_of(self.service(), client, address)?.talk(
                    Amount::Span(TALKING),
                    clients(rtt),
                    "ft",
                )?;
                #[expect(clippy::cast_precision_loss, reason = "thousands")]
                let requests = talked.values as f64;
                Ok(Done {
                    requests,
                    seconds: talked.seconds,
                })
            }
            Self::Receive => stream(Order::Receive),
            Self::Transmit => stream(Order::Send(STREAM)),
            Self::Compute => compute(client, address),
        }
    }
}

/// So many clients keep the guest busy although each waits for every answer.
fn clients(rtt: Duration) -> usize {
    let milliseconds = u64::try_from(rtt.as_millis()).unwrap_or(u64::MAX);
    let clients = CLIENTS.saturating_add(milliseconds / MILLISECONDS_A_CLIENT);
    usize::try_from(clients).unwrap_or(usize::MAX)
}

fn clients_of<'a>(service: Service, client: &'a Host, address: &'a str) -> Result<Clients<'a>> {
    Clients::of(client, service, address).with_context(|| format!("{service} serves no port"))
}

/// Waits until the guest at `address` serves.
pub(super) fn wait_ready(service: Service, client: &Host, address: &str, patience: Duration) -> Result<()> {
    let deadline = Instant::now() + patience;
    let clients = clients_of(service, client, address)?;
    loop {
        match clients.talk(Amount::Values(1), 1, "ready") {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                let seconds = patience.as_secs();
                return Err(error.context(format!("{service} at {address} is not ready within {seconds} s")));
            }
            Err(_) => thread::sleep(LOOK_EVERY),
        }
    }
}

fn compute(client: &Host, address: &str) -> Result<Done> {
    let port = Service::Compute.port().context("the service has no port")?;
    let mut connection = Connection::open(client, address, port)?;
    thread::scope(|scope| {
        let pinging = scope.spawn(|| {
            let script =
                format!("ping -q -i {PING_EVERY_SECONDS} -c {PINGS} {address} > /dev/null 2>&1 || true");
            client.shell(&script)
        });
        let (begun, first) = next_round(&mut connection)?;
        thread::sleep(COMPUTING);
        let (ended, last) = next_round(&mut connection)?;
        pinging
            .join()
            .map_err(|_| anyhow::anyhow!("the thread of the pings has died"))??;
        Ok(Done {
            requests: last - first,
            seconds: (ended - begun).as_secs_f64(),
        })
    })
}

/// When the guest next begins a round, and which.
fn next_round(connection: &mut Connection) -> Result<(Instant, f64)> {
    let before = progress(connection)?;
    let deadline = Instant::now() + COMPUTING;
    loop {
        let round = progress(connection)?;
        if round > before {
            return Ok((Instant::now(), round));
        }
        ensure!(Instant::now() < deadline, "the guest computes nothing");
        thread::sleep(LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_clients_wait_over_a_longer_way() {
        let at = |milliseconds| clients(Duration::from_millis(milliseconds));
        assert_eq!((at(0), at(10), at(80)), (16, 21, 56));
    }

    #[test]
    fn a_rate_is_requests_by_seconds() {
        let done = Done {
            requests: 6.0,
            seconds: 1.5,
        };
        assert!((done.per_second() - 4.0).abs() < 1e-9);
    }
}
