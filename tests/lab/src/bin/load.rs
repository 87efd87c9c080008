//! `antipode-lab-load`: work for a guest's devices. See `antipode_lab::load`.

use antipode_lab::image::Service;
use antipode_lab::load::clients::{Amount, talk};
use antipode_lab::load::disk::Region;
use antipode_lab::load::ends;
use antipode_lab::load::guest;
use antipode_lab::load::leak::leak;
use antipode_lab::load::order::Order;
use antipode_lab::load::watch::{self, Line, probe};
use clap::Parser;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Work for a guest's devices
#[derive(Debug, Parser)]
enum Cli {
    /// In the guest: carries orders out
    Serve {
        /// The TCP port
        port: u16,
        /// The disk to load
        disk: PathBuf,
        /// First byte of it that may be overwritten
        start: u64,
        /// How many bytes
        length: u64,
    },
    /// In the host: asks for one load and prints what it came to as JSON
    Ask {
        /// The guest, as ADDRESS:PORT
        address: String,
        /// How long to send, for `receive`
        #[arg(long, value_name = "MILLISECONDS", default_value_t = 1_000)]
        send: u64,
        /// `disk read|write sequential|random DEPTH MILLISECONDS`, `send MILLISECONDS` or `receive`
        order: Vec<String>,
    },
    /// In the guest: sends every datagram back
    Echo {
        /// The UDP port
        port: u16,
    },
    /// In the guest: does what no copy of it repeats, once in so many milliseconds
    Leak {
        /// Milliseconds
        #[arg(value_name = "MILLISECONDS")]
        every: u64,
    },
    /// In the client's host: writes values to a service and reads them back, and prints what it took as JSON
    Talk {
        /// What serves
        service: Service,
        /// The guest, as ADDRESS:PORT
        address: String,
        /// How many values
        #[arg(long, value_name = "N", required_unless_present = "span")]
        values: Option<usize>,
        /// As many as come through in this time
        #[arg(long, value_name = "MILLISECONDS", conflicts_with = "values")]
        span: Option<u64>,
        /// So many clients at once
        #[arg(long, value_name = "N", default_value_t = 1)]
        clients: usize,
        /// Goes into every value
        #[arg(long, default_value = "")]
        salt: String,
    },
    /// On a client: writes a checked sequence over one TCP connection, with a probe beside it, until the input ends
    Watch(WatchArgs),
}

#[derive(Debug, clap::Args)]
struct WatchArgs {
    /// The service
    #[arg(value_enum)]
    service: Service,
    /// The guest's address
    address: String,
    /// Tells this run's numbers from others': lower-case letters, digits and `-`
    #[arg(long)]
    run: String,
    /// From one write to the next
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 20)]
    every: u64,
    /// How long the service may take to come up
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    ready_within: u64,
    /// The port of the guest's echo
    #[arg(long, default_value_t = guest::ECHO_PORT)]
    probe_port: u16,
    /// From one datagram to the next
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 20)]
    probe_every: u64,
    /// An answer that takes longer is none
    #[arg(long, value_name = "SECONDS", default_value_t = 90)]
    patience: u64,
}

impl WatchArgs {
    fn carry_out(self) -> io::Result<()> {
        let plan = watch::Plan {
            service: self.service,
            address: self.address,
            run: self.run,
            every: Duration::from_millis(self.every),
            ready_within: Duration::from_secs(self.ready_within),
            probe_port: self.probe_port,
            probe_every: Duration::from_millis(self.probe_every),
            patience: Duration::from_secs(self.patience),
        };
        let say = |line: &Line| {
            // Text and numbers always become JSON.
            println!("{}", serde_json::to_string(line).unwrap_or_default());
        };
        let report = watch::watch(&plan, io::stdin(), &say)?;
        say(&Line::Report(report));
        Ok(())
    }
}

fn main() -> ExitCode {
    let done = match Cli::parse() {
        Cli::Echo { port } => UdpSocket::bind(("0.0.0.0", port)).and_then(|socket| probe::echo(&socket)),
        Cli::Leak { every } => leak(Duration::from_millis(every)),
        Cli::Watch(args) => args.carry_out(),
        Cli::Serve {
            port,
            disk,
            start,
            length,
        } => {
            let region = Region {
                path: disk,
                start,
                length,
            };
            TcpListener::bind(("0.0.0.0", port)).and_then(|listener| ends::serve(&listener, &region))
        }
        Cli::Ask { address, send, order } => {
            let order = order.join(" ").parse::<Order>().map_err(io::Error::other);
            order
                .and_then(|order| ends::ask(&address, order, Duration::from_millis(send)))
                .and_then(|answer| {
                    println!("{}", serde_json::to_string(&answer)?);
                    Ok(())
                })
        }
        Cli::Talk {
            service,
            address,
            values,
            span,
            clients,
            salt,
        } => {
            let span = span.map(|span| Amount::Span(Duration::from_millis(span)));
            // One of both is required.
            let amount = span.unwrap_or(Amount::Values(values.unwrap_or_default()));
            talk(service, &address, amount, clients, &salt).and_then(|talked| {
                println!("{}", serde_json::to_string(&talked)?);
                Ok(())
            })
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("antipode-lab-load: {error}");
            ExitCode::FAILURE
        }
    }
}
