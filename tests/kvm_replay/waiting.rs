//! A replay whose log arrives while it runs waits for each batch, and for no batch that is there. What somebody waits for
//! is on its way at once.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use antipode::base::units::{ExitOrdinal, VirtualTime};
use antipode::machine::kvm::VcpuWaker;
use antipode::machine::workers::{Event, HostEntropy};
use antipode::machine::{Release, Standing, Timeline, TimelineError, Totals};
use antipode::replay::{Batch, Cadence, Entry, Feed, LogReader, LogSink, LogSource, Recorder, Replayer};

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

    fn is_given_up(&self) -> bool {
        self.log.is_given_up()
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

const STANDING: Standing = Standing {
    exit: ExitOrdinal::new(7),
    now: VirtualTime::ZERO,
    deadline: None,
    is_between_exits: false,
    awaits_window: false,
    is_at_exit: true,
};

/// What a recorder has closed.
#[derive(Debug)]
struct Closed {
    batches: std::sync::mpsc::Sender<Batch>,
    at_flushes: bool,
}

impl LogSink for Closed {
    fn append(&mut self, batch: &Batch, _: Duration) -> std::io::Result<()> {
        self.batches.send(batch.clone()).map_err(std::io::Error::other)
    }

    fn cadence(&self) -> Cadence {
        Cadence {
            at_outputs: true,
            at_flushes: self.at_flushes,
            awake: PATIENCE,
            asleep: PATIENCE,
        }
    }

    fn release(&self) -> Release {
        Release::Now
    }
}

/// One batch, and nobody asks for another.
#[derive(Debug)]
struct Alone(Option<Batch>);

impl LogSource for Alone {
    fn begins_at(&self) -> ExitOrdinal {
        STANDING.exit
    }

    fn next(&mut self) -> Result<Feed, TimelineError> {
        let batch = self.0.take().expect("the flush is here, and needs no more");
        Ok(Feed::Batch(Box::new(batch)))
    }

    fn is_given_up(&self) -> bool {
        false
    }
}

#[test]
fn kvm_a_flush_that_the_other_site_must_hear_of_is_told_at_once_and_needs_nothing_that_follows() {
    if record().is_none() {
        return;
    }
    let vm = machine();
    let begun = Totals {
        exit_count: STANDING.exit,
        ..Totals::default()
    };
    for at_flushes in [false, true] {
        let (batches, closed) = channel();
        let live = vm
            .live(HostEntropy::open().unwrap(), Duration::from_micros(10))
            .unwrap();
        let mut recorder = Recorder::new(live, Closed { batches, at_flushes }, &begun);
        recorder.flush(STANDING).unwrap();
        recorder.enter_guest(STANDING).unwrap();
        recorder.leave_guest();
        let batch = closed.try_recv().ok();
        assert_eq!(batch.is_some(), at_flushes);
        let Some(batch) = batch else { continue };
        assert_eq!(batch.entries, [(STANDING.exit, Entry::Flush)]);
        assert_eq!(batch.through, STANDING.exit);
        let mut replayer = Replayer::new(Alone(Some(batch)), vm.kicker(), vm.inbox().clone());
        assert!(!replayer.begins_epoch(STANDING).unwrap());
        replayer.flush(STANDING).unwrap();
    }
}
