//! The channel's tests: formats, the two ends of the log, heartbeats, and both ends over real sockets and TLS.

use std::time::Duration;

use antipode_tiebreaker::{Generation, Incarnation, PairingId};

use super::{Common, Hello, LogSeq, Session, Side};

mod checks;
mod connections;
mod ends;
mod formats;
mod heartbeats;
mod hostile;
mod log;
mod turning;

fn session() -> Session {
    Session {
        vm: "web".parse().unwrap(),
        incarnation: Incarnation(1),
        generation: Generation(7),
        pairing: PairingId(0xC0FF_EE00),
    }
}

/// The same VM in another pairing.
fn other_session() -> Session {
    Session {
        pairing: PairingId(0xDECA_F000),
        ..session()
    }
}

fn hello(side: Side) -> Hello {
    Hello {
        session: session(),
        side,
        common: Common {
            cpu_profile: "deterministic-1".to_owned(),
            recipe: [7; 32],
        },
        reached: LogSeq::NONE,
        claimed: false,
    }
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
