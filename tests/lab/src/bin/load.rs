//! `antipode-lab-load`: work for a guest's devices. See `antipode_lab::load`.

use antipode_lab::image::Service;
use antipode_lab::load::clients::talk;
use antipode_lab::load::disk::Region;
use antipode_lab::load::ends;
use antipode_lab::load::order::Order;
use antipode_lab::scenario::talk::pairs;
use clap::Parser;
use std::net::TcpListener;
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
    /// In the client's host: writes values to a service and reads them back, and prints what it took as JSON
    Talk {
        /// What serves
        service: Service,
        /// The guest, as ADDRESS:PORT
        address: String,
        /// How many values
        #[arg(long, value_name = "N")]
        values: usize,
        /// So many clients at once
        #[arg(long, value_name = "N", default_value_t = 1)]
        clients: usize,
        /// Goes into every value
        #[arg(long, default_value = "")]
        salt: String,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse() {
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
            let order = order.join(" ").parse::<Order>().map_err(std::io::Error::other);
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
            clients,
            salt,
        } => talk(service, &address, &pairs(values, &salt), clients).and_then(|talked| {
            println!("{}", serde_json::to_string(&talked)?);
            Ok(())
        }),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("antipode-lab-load: {error}");
            ExitCode::FAILURE
        }
    }
}
