//! A replay whose log arrives while it runs waits for each batch, and for no batch that is there.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use antipode::base::units::ExitOrdinal;
use antipode::machine::TimelineError;
use antipode::machine::kvm::VcpuWaker;
use antipode::machine::workers::Event;
use antipode::replay::{Feed, LogReader, LogSource, Replayer};

use super::{finish, machine, record};

/// A stalled replay is ended after this, far longer than a sound one takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Each batch of a log arrives, with a word to the vCPU's thread, right after it was found missing: never again is that
/// thread woken for it.
#[derive(Debug)]
struct Late {
    log: LogReader,
    waker: VcpuWaker,
    has_arrived: bool,
}

impl LogSource for Late {
    fn begins_at(&self) -> ExitOrdinal {
        self.log.begins_at()
    }

    fn next(&mut self) -> Result<Feed, TimelineError> {
        if !std::mem::take(&mut self.has_arrived) {
            self.has_arrived = true;
            self.waker.wake();
            return Ok(Feed::Waiting);
        }
        self.log.next()
    }
}

#[test]
fn kvm_a_batch_that_comes_while_it_is_asked_for_is_not_waited_for() {
    let Some(record) = record() else { return };
    let mut vm = machine();
    let log = Late {
        log: LogReader::open(&record.log).unwrap(),
        waker: vm.kicker().waker(),
        has_arrived: false,
    };
    let replayer = Replayer::new(log, vm.kicker(), vm.inbox().clone());
    let inbox = vm.inbox().clone();
    let (is_over, over) = channel::<()>();
    std::thread::spawn(move || {
        if over.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            inbox.post([Event::Stop]);
        }
    });
    let (digests, _) = finish(&mut vm, replayer).unwrap();
    drop(is_over);
    assert_eq!(digests, record.digests);
}
