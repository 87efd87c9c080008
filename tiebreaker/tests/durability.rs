//! Nothing is answered before it is on the disk: watched where it counts, in the system calls.
//!
//! The test starts itself once more as a node that answers requests on standard output, one line each, and follows it with
//! `ptrace`. Between a write to the store's file and the next line of answer there must be an `fdatasync` or `fsync` of that
//! file which has returned 0; writes that came after it began do not count as synced. `sync_file_range`, in which sled's
//! own flush ends, is no sync.
#![expect(clippy::unwrap_used, reason = "a test: what fails is shown where it fails")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use antipode_certs::{Identity, Name};
use antipode_tiebreaker::node::{
    Demand, Event, Impossible, Node, NodeId, NodeSettings, Recovered, Reply, Seats, Ticket,
};
use antipode_tiebreaker::service::{Driver, Outbox};
use antipode_tiebreaker::store::{DiskStore, Owner};
use antipode_tiebreaker::{Boot, Flush, Generation, Operation, Request, RequestId};
use nix::libc;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use raft::eraftpb::Message;

/// Where the child keeps its store; set for the child alone.
const FOLDER: &str = "ANTIPODE_DURABILITY_FOLDER";
const ANSWERS: u64 = 50;
/// What the child says when all its threads are there and it waits to be let go.
const READY: &str = "ready to be followed";

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// The child: says each answer on standard output as soon as the driver hands it over.
struct Speaker;

impl Outbox for Speaker {
    fn send(&mut self, message: Message) {
        panic!("a lone node sent {message:?}");
    }

    async fn depart(&mut self) {}

    fn answer(&mut self, ticket: Ticket, reply: Reply) {
        assert!(matches!(reply, Reply::Answer(_)), "{reply:?}");
        let line = format!("answer {}\n", ticket.0);
        assert_eq!(
            nix::unistd::write(std::io::stdout(), line.as_bytes()).unwrap(),
            line.len()
        );
    }

    fn refuse(&mut self, from: NodeId, why: Impossible) {
        panic!("a lone node refuses {from}: {why}");
    }
}

async fn serve(folder: &Path) {
    println!("{READY}");
    std::io::stdin().read_exact(&mut [0]).unwrap();
    let (store, _, content) = DiskStore::open(folder, &name("c"), &name("a")).unwrap();
    let settings = NodeSettings {
        name: name("a"),
        id: NodeId(1),
        era: 0,
        priorities: BTreeMap::new(),
        site_silent_ticks: 500,
        seed: 1,
    };
    let mut driver = Driver::new(Node::new(settings, content), store);
    let ticks = (0..80).map(|_| Event::Tick);
    driver.take(ticks, &mut Speaker).await.unwrap();
    for number in 0..ANSWERS {
        let (path, operation) = match number {
            0 => ("site/s", Operation::Register { boot: Boot(1) }),
            _ => (
                "operator/o",
                Operation::Configure {
                    preferred: None,
                    flush: Flush::Site,
                },
            ),
        };
        let request = Request {
            id: RequestId(number + 1),
            expected: Generation(u64::from(number > 0)),
            operation,
            at_unix_seconds: 0,
        };
        let event = Event::Request {
            ticket: Ticket(number),
            from: Identity::from_uri(&format!("antipode://{path}")).unwrap(),
            at_unix_seconds: 0,
            demand: Demand::Change {
                vm: name("vm"),
                request,
            },
        };
        driver.take([event], &mut Speaker).await.unwrap();
    }
}

/// A call of interest, as it began or as it returned.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Call {
    /// Bytes go to the store's file.
    StoreWrite,
    /// A sync of the store's file has returned 0; it began when so many writes had been made.
    StoreSynced { writes_before: usize },
    /// An answer is on its way.
    Answer,
}

/// The first answer that something unsynced came before, if there is one.
fn first_early_answer(calls: &[Call]) -> Option<usize> {
    let (mut written, mut synced) = (0, 0);
    for (index, call) in calls.iter().enumerate() {
        match call {
            Call::StoreWrite => written += 1,
            Call::StoreSynced { writes_before } => synced = synced.max(*writes_before),
            Call::Answer if synced < written => return Some(index),
            Call::Answer => {}
        }
    }
    None
}

/// Follows every thread of a child from system call to system call.
struct Tracer {
    child: Child,
    store_file: PathBuf,
    /// What each thread is in the middle of: the number of the call, its first argument, and how many writes had begun.
    inside: BTreeMap<i32, (u64, u64, usize)>,
    calls: Vec<Call>,
}

impl Tracer {
    fn writes(&self) -> usize {
        self.calls
            .iter()
            .filter(|call| **call == Call::StoreWrite)
            .count()
    }

    fn file_of(&self, descriptor: u64) -> PathBuf {
        let link = format!("/proc/{}/fd/{descriptor}", self.child.id());
        fs::read_link(link).unwrap_or_default()
    }

    /// A thread stopped at a call's beginning or end.
    fn at_call(&mut self, thread: Pid) {
        let registers = ptrace::getregs(thread).unwrap();
        if ptrace::syscall_info(thread).unwrap().op != libc::PTRACE_SYSCALL_INFO_ENTRY {
            let Some((call, descriptor, writes_before)) = self.inside.remove(&thread.as_raw()) else {
                return;
            };
            let is_sync = [libc::SYS_fdatasync, libc::SYS_fsync].contains(&call.cast_signed());
            if is_sync && registers.rax == 0 && self.file_of(descriptor) == self.store_file {
                self.calls.push(Call::StoreSynced { writes_before });
            }
            return;
        }
        let (call, descriptor) = (registers.orig_rax, registers.rdi);
        self.inside
            .insert(thread.as_raw(), (call, descriptor, self.writes()));
        let writes = [
            libc::SYS_write,
            libc::SYS_pwrite64,
            libc::SYS_writev,
            libc::SYS_pwritev,
        ];
        if !writes.contains(&call.cast_signed()) {
            return;
        }
        if self.file_of(descriptor) == self.store_file {
            self.calls.push(Call::StoreWrite);
        } else if descriptor == 1 && self.begins_with_answer(thread, registers.rsi) {
            self.calls.push(Call::Answer);
        }
    }

    fn begins_with_answer(&self, thread: Pid, address: u64) -> bool {
        let word = ptrace::read(thread, address as ptrace::AddressType).unwrap_or(0);
        word.to_ne_bytes().starts_with(b"answer ")
    }

    /// Takes hold of every thread of the child, which waits.
    fn seize(&self) {
        let options = ptrace::Options::PTRACE_O_TRACESYSGOOD
            | ptrace::Options::PTRACE_O_TRACECLONE
            | ptrace::Options::PTRACE_O_EXITKILL;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap() {
            let thread = Pid::from_raw(task.unwrap().file_name().to_str().unwrap().parse().unwrap());
            ptrace::seize(thread, options).unwrap();
            ptrace::interrupt(thread).unwrap();
            assert!(matches!(
                waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap(),
                WaitStatus::PtraceEvent(..)
            ));
            ptrace::syscall(thread, None).unwrap();
        }
    }

    /// Until the child is gone.
    fn follow(mut self) -> Vec<Call> {
        let mut said = BufReader::new(self.child.stdout.take().unwrap()).lines();
        assert!(said.any(|line| line.unwrap().ends_with(READY)));
        self.seize();
        self.child.stdin.take().unwrap().write_all(b"!").unwrap();
        let main = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        loop {
            let (thread, signal) = match waitpid(None, Some(WaitPidFlag::__WALL)).unwrap() {
                WaitStatus::Exited(thread, code) if thread == main => {
                    assert_eq!(code, 0, "the child failed");
                    return self.calls;
                }
                WaitStatus::Exited(..) => continue,
                WaitStatus::PtraceSyscall(thread) => {
                    self.at_call(thread);
                    (thread, None)
                }
                // A new thread's first stop, or the news of one.
                WaitStatus::PtraceEvent(thread, ..) => (thread, None),
                WaitStatus::Stopped(thread, Signal::SIGSTOP | Signal::SIGTRAP) => (thread, None),
                WaitStatus::Stopped(thread, signal) => (thread, Some(signal)),
                other => panic!("{other:?}"),
            };
            ptrace::syscall(thread, signal).unwrap();
        }
    }
}

#[test]
fn an_answer_follows_the_sync_of_what_it_depends_on() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        return runtime.block_on(serve(Path::new(&folder)));
    }
    let folder = tempfile::tempdir().unwrap();
    let owner = Owner {
        cluster: name("c"),
        era: 0,
        name: name("a"),
        id: NodeId(1),
    };
    let content = Recovered::first(Seats::first([name("a")]), BTreeMap::new());
    DiskStore::create(folder.path(), &owner, &content).unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "an_answer_follows_the_sync_of_what_it_depends_on",
            "--nocapture",
        ])
        .args(["--test-threads", "1"])
        .env(FOLDER, folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let tracer = Tracer {
        child,
        store_file: fs::canonicalize(folder.path().join("store/db")).unwrap(),
        inside: BTreeMap::new(),
        calls: Vec::new(),
    };
    let calls = tracer.follow();
    let count = |wanted: fn(&Call) -> bool| calls.iter().filter(|call| wanted(call)).count() as u64;
    assert_eq!(count(|call| *call == Call::Answer), ANSWERS);
    assert!(count(|call| *call == Call::StoreWrite) >= ANSWERS);
    assert!(count(|call| matches!(call, Call::StoreSynced { .. })) >= ANSWERS);
    let early = first_early_answer(&calls).map(|index| &calls[..=index]);
    assert_eq!(early, None, "an answer left before what it depends on was synced");
}

#[test]
fn planted_answers_before_the_sync_are_found() {
    let synced = |writes_before| Call::StoreSynced { writes_before };
    let write = || Call::StoreWrite;
    assert_eq!(first_early_answer(&[write(), Call::Answer]), Some(1));
    assert_eq!(first_early_answer(&[write(), synced(1), Call::Answer]), None);
    // The sync began before the second write did.
    assert_eq!(
        first_early_answer(&[write(), write(), synced(1), Call::Answer]),
        Some(3)
    );
}
