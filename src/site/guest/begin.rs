//! The main thread of a VM process: it becomes the vCPU's thread of what it is told to begin.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, channel};

use tokio::sync::mpsc::UnboundedSender;

use super::checks::Checks;
use super::orders::{Ending, FromVcpu};
use super::vcpu::{self, Ways};
use crate::base::entropy::EntropySource;
use crate::machine::config::VmConfig;
use crate::machine::launch::{Birth, Connection, PreparedVm};
use crate::machine::workers::HostEntropy;
use crate::transfer::Arriving;

/// What the main thread is to do.
#[derive(Debug)]
pub(super) enum Begin {
    /// Boot the VM from its disk.
    Boot,
    /// Become the machine that arrives.
    Receive {
        /// What it was born as.
        birth: Box<Birth>,
        /// Its pieces.
        pieces: Receiver<Arriving>,
    },
    /// The process ends.
    End,
}

/// Does what it is told until the process ends. `config` is read when it is needed: that of a copy arrives first.
pub(super) fn serve(
    begins: &Receiver<Begin>,
    config: impl Fn() -> Result<VmConfig, String>,
    reports: &UnboundedSender<FromVcpu>,
    position: &Arc<AtomicU64>,
    checks: &Checks,
) {
    while let Ok(begin) = begins.recv() {
        let (order_here, orders) = channel();
        let ways = Ways {
            orders,
            order_here,
            reports: reports.clone(),
            position: Arc::clone(position),
            checks: checks.clone(),
        };
        let config = match (&begin, config()) {
            (Begin::End, _) => return,
            (_, Ok(config)) => config,
            (_, Err(why)) => {
                let _ = reports.send(FromVcpu::Ended(Err(Ending::Failed(why))));
                continue;
            }
        };
        match begin {
            Begin::Boot => vcpu::boot(
                || {
                    let vm = PreparedVm::from_config(&config, Connection::Tap)?.preemptible();
                    let birth = vm.birth(&mut Entropy)?;
                    let _ = reports.send(FromVcpu::Born(Box::new(birth.clone())));
                    vm.start(&birth)
                },
                ways,
            ),
            Begin::Receive { birth, pieces } => {
                let prepared =
                    PreparedVm::from_config(&config, Connection::Later).map(PreparedVm::preemptible);
                vcpu::receive(|fill| prepared?.resume(&birth, fill), &pieces, ways);
            }
            Begin::End => return,
        }
    }
}

/// The host's random bytes, opened when they are asked for.
struct Entropy;

impl EntropySource for Entropy {
    fn fill(&mut self, buffer: &mut [u8]) -> std::io::Result<()> {
        HostEntropy::open()?.fill(buffer)
    }
}
