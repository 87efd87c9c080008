//! Two copies of a tiny guest on two threads of this machine's `/dev/kvm`: one is copied while it runs, the other follows
//! its log and goes on when that ends. Where KVM is missing, each test says so and is skipped.

mod checkpoints;
mod pair;
mod repairing;
mod turning;
mod watching;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;

use iced_x86::IcedError;
use iced_x86::code_asm::{CodeAssembler, al, ax, dx, eax, ptr, rax, rbx, rcx};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::checks::Checks;
use super::log_ends::{Feeder, Room};
use super::orders::{Ending, FromVcpu, Order};
use super::vcpu::{Handle, Ways, boot, receive};
use crate::base::guest_memory::GuestMemory;
use crate::base::limits::GUEST_RAM_BYTES_MIN;
use crate::base::units::{ExitOrdinal, LogSeq};
use crate::machine::kvm::KvmHost;
use crate::machine::launch::{Beginning, StartedVm};
use crate::machine::probe::{DATA, tiny_program};
use crate::machine::{CopiedPage, HeldOutput, Outcome};
use crate::replay::Deframer;
use crate::transfer::{Arrived, Arriving};

const ANCHOR: &[u8] = b"a pairing";

/// Counts, keeps what the clocks showed, writes a line for each 16 rounds, and powers off.
fn program(a: &mut CodeAssembler, rounds: u64) -> Result<(), IcedError> {
    let mut again = a.create_label();
    let mut no_line = a.create_label();
    a.mov(rcx, rounds)?;
    a.set_label(&mut again)?;
    a.in_(eax, 0xF7_i32)?;
    a.add(rbx, rax)?;
    a.mov(rax, rcx)?;
    a.and(rax, 0xFFFF_i32)?;
    a.mov(ptr(DATA + rax * 8), rbx)?;
    a.mov(dx, 0x608_i32)?;
    a.in_(eax, dx)?;
    a.xor(rbx, rax)?;
    a.mov(dx, 0x3F8_i32)?;
    a.mov(rax, rbx)?;
    a.and(rax, 0x3F_i32)?;
    a.add(rax, 0x20_i32)?;
    a.out(dx, al)?;
    a.test(rcx, 0xF_i32)?;
    a.jne(no_line)?;
    a.mov(rax, 0x0A_u64)?;
    a.out(dx, al)?;
    a.set_label(&mut no_line)?;
    a.dec(rcx)?;
    a.jne(again)?;
    a.mov(dx, 0x604_i32)?;
    a.mov(ax, 0x3400_i32)?;
    a.out(dx, ax)?;
    a.hlt()
}

/// One copy on its thread.
struct Copy {
    handle: Handle,
    reports: UnboundedReceiver<FromVcpu>,
    thread: JoinHandle<()>,
}

impl Copy {
    fn next(&mut self) -> FromVcpu {
        self.reports
            .blocking_recv()
            .expect("the thread tells how it ended")
    }

    fn ended(mut self) -> (Vec<u8>, Result<(Outcome, ExitOrdinal), Ending>) {
        let mut shown = Vec::new();
        loop {
            match self.next() {
                FromVcpu::Output {
                    output: HeldOutput::Console(bytes),
                    ..
                } => shown.extend(bytes),
                FromVcpu::Ended(how) => {
                    self.thread.join().expect("it has ended");
                    return (shown, how);
                }
                _ => {}
            }
        }
    }
}

fn ways(reports: tokio::sync::mpsc::UnboundedSender<FromVcpu>) -> Ways {
    let (order_here, orders) = channel();
    Ways {
        orders,
        order_here,
        reports,
        position: Arc::default(),
        checks: Checks::default(),
    }
}

fn started(rounds: u64) -> Copy {
    let (sender, mut reports) = unbounded_channel();
    let thread = std::thread::spawn(move || {
        let make = || {
            let (memory, entry) = tiny_program(|a| program(a, rounds)).expect("it assembles");
            StartedVm::bare(&KvmHost::open()?, memory, Beginning::Boot(&entry))
        };
        boot(make, ways(sender));
    });
    let FromVcpu::Ready { handle, .. } = reports.blocking_recv().expect("it begins") else {
        panic!("the first report says how to reach it");
    };
    Copy {
        handle,
        reports,
        thread,
    }
}

/// A copy of what arrives from `pieces`, where it stands, and its log.
fn arrived(pieces: std::sync::mpsc::Receiver<Arriving>, checks: Checks) -> (Copy, ExitOrdinal, Feeder) {
    let (sender, mut reports) = unbounded_channel();
    let thread = std::thread::spawn(move || {
        let kvm = KvmHost::open().expect("there is a KVM");
        receive(
            |fill| {
                let memory = GuestMemory::allocate(GUEST_RAM_BYTES_MIN).expect("there is memory");
                let parts = fill(&memory)?;
                StartedVm::bare(&kvm, memory, Beginning::Saved(parts))
            },
            &pieces,
            Ways {
                checks,
                ..ways(sender)
            },
        );
    });
    let mut handle = None;
    loop {
        match reports.blocking_recv().expect("it tells") {
            FromVcpu::Ready { handle: here, .. } => handle = Some(here),
            FromVcpu::Restored { position, feeder } => {
                let handle = handle.expect("told before");
                return (
                    Copy {
                        handle,
                        reports,
                        thread,
                    },
                    position,
                    feeder,
                );
            }
            other => panic!("{other:?}"),
        }
    }
}

/// What the VM answers an order with.
fn asked<T>(copy: &Copy, order: impl FnOnce(std::sync::mpsc::Sender<T>) -> Order) -> T {
    let (reply, answer) = channel();
    assert!(copy.handle.order(order(reply)));
    answer.recv().expect("it is done")
}

/// Copies RAM while the guest runs, then the rest; answers the other copy, with what is done there for checks, its
/// log, and a deframer of it.
fn cloned(primary: &Copy, room: &Arc<Room>, checks: Checks) -> (Copy, Feeder, Deframer) {
    let (send, pieces) = channel();
    let ask_written = || asked(primary, |reply| Order::TakeWritten { reply });
    let mut copy = asked(primary, |reply| Order::BeginCopy { reply });
    let mut left: Vec<u64> = copy.addresses().collect();
    let mut copy_pages = |addresses: &[u64]| {
        let pages = addresses
            .iter()
            .filter_map(|address| copy.take(*address).expect("it is RAM"))
            .collect();
        send.send(Arriving::Pages(pages)).expect("it is taken");
    };
    for _ in 0..3 {
        copy_pages(&left);
        // How much that is depends on how fast this host's KVM is.
        left = ask_written();
    }
    let machine = asked(primary, |reply| Order::Stun { reply });
    let position = machine.position;
    left.extend(machine.written);
    copy_pages(&left);
    let digest = copy.finish();
    let arrived_machine = Arrived {
        parts: machine.parts,
        position,
        ram: digest.sums(),
        vcpu: machine.vcpu,
    };
    primary.handle.order(Order::Adopt {
        digest: Box::new(digest),
    });
    send.send(Arriving::Machine(Box::new(arrived_machine)))
        .expect("it is taken");
    let (backup, restored_at, feeder) = arrived(pieces, checks);
    assert_eq!(restored_at, position);
    primary.handle.order(Order::Lead {
        anchor: ANCHOR.to_vec(),
        room: Arc::clone(room),
        flushes_wait: false,
    });
    (backup, feeder, Deframer::anchored_to(ANCHOR, position))
}

fn has_kvm() -> bool {
    match KvmHost::open() {
        Ok(_) => true,
        Err(error) => {
            eprintln!("skipped: {error}");
            false
        }
    }
}

#[test]
fn kvm_a_backup_follows_to_the_end_and_shows_nothing() {
    if !has_kvm() {
        return;
    }
    let mut primary = started(60_000);
    let (backup, feeder, mut deframer) = cloned(&primary, &Arc::default(), Checks::default());
    let mut outputs = 0;
    let how = loop {
        match primary.next() {
            FromVcpu::Logged { seq, frame, .. } => {
                feeder.feed(seq, deframer.batch(&frame).expect("the frame is whole"));
            }
            FromVcpu::Output { seq, .. } => {
                outputs += u64::from(seq > LogSeq::default());
            }
            FromVcpu::Ended(how) => break how,
            _ => {}
        }
    };
    assert!(matches!(how, Ok((Outcome::PowerOff, _))), "{how:?}");
    assert!(outputs > 100, "{outputs}");
    let (shown, how) = backup.ended();
    assert!(matches!(how, Ok((Outcome::PowerOff, _))), "{how:?}");
    assert_eq!(shown, b"", "a backup shows nothing");
}

#[test]
fn kvm_a_backup_goes_on_where_the_log_ends_and_shows_what_was_not_released() {
    if !has_kvm() {
        return;
    }
    for frames in [0, 1, 2, 7, 40] {
        let mut primary = started(40_000);
        let (mut backup, feeder, mut deframer) = cloned(&primary, &Arc::default(), Checks::default());
        // The primary's outputs up to the last frame that the backup has, and what it would show after.
        let (mut held, mut lost) = (Vec::new(), Vec::new());
        let how = loop {
            match primary.next() {
                FromVcpu::Logged { seq, frame, .. } if seq.get() <= frames => {
                    feeder.feed(seq, deframer.batch(&frame).expect("the frame is whole"));
                }
                FromVcpu::Output {
                    seq,
                    output: HeldOutput::Console(bytes),
                } => {
                    if seq.get() <= frames {
                        held.extend(bytes)
                    } else {
                        lost.extend(bytes)
                    }
                }
                FromVcpu::Ended(how) => break how,
                _ => {}
            }
        };
        assert!(matches!(how, Ok((Outcome::PowerOff, _))), "{how:?}");
        feeder.end();
        loop {
            match backup.next() {
                FromVcpu::Live(_) => break,
                FromVcpu::Ended(how) => panic!("{frames}: {how:?}"),
                _ => {}
            }
        }
        let (shown, how) = backup.ended();
        assert!(matches!(how, Ok((Outcome::PowerOff, _))), "{frames}: {how:?}");
        // The other clock shows other times, so other bytes; but as many of them.
        assert!(
            shown.len() <= lost.len() && shown.len() + 17 >= lost.len(),
            "{frames}: {} of {}",
            shown.len(),
            lost.len()
        );
    }
}

#[test]
fn kvm_a_primary_waits_where_there_is_no_room_and_goes_on_alone() {
    if !has_kvm() {
        return;
    }
    let primary = started(200_000);
    let room = Arc::<Room>::default();
    let (backup, _, _) = cloned(&primary, &room, Checks::default());
    backup.handle.destroy();
    let (_, how) = backup.ended();
    assert!(matches!(how, Ok((Outcome::Stopped, _))), "{how:?}");
    room.set_used(usize::MAX / 2);
    primary.handle.order(Order::GoAlone);
    room.open();
    let (_, how) = primary.ended();
    assert!(matches!(how, Ok((Outcome::PowerOff, _))), "{how:?}");
}

#[test]
fn kvm_a_changed_machine_is_refused_by_what_differs() {
    if !has_kvm() {
        return;
    }
    let primary = started(60_000);
    let (send, pieces) = channel();
    let mut copy = asked(&primary, |reply| Order::BeginCopy { reply });
    let machine = asked(&primary, |reply| Order::Stun { reply });
    let addresses = copy.addresses();
    let mut pages: Vec<CopiedPage> = addresses
        .filter_map(|address| copy.take(address).expect("it is RAM"))
        .collect();
    let (address, page) = pages.last_mut().expect("it has memory");
    page[7] ^= 1;
    let address = *address;
    let machine = Arrived {
        parts: machine.parts,
        position: machine.position,
        ram: copy.finish().sums(),
        vcpu: machine.vcpu,
    };
    for piece in [Arriving::Pages(pages), Arriving::Machine(Box::new(machine))] {
        send.send(piece).expect("it is taken");
    }
    let (sender, mut reports) = unbounded_channel();
    let kvm = KvmHost::open().expect("there is a KVM");
    let thread = std::thread::spawn(move || {
        receive(
            |fill| {
                let memory = GuestMemory::allocate(GUEST_RAM_BYTES_MIN).expect("there is memory");
                let parts = fill(&memory)?;
                StartedVm::bare(&kvm, memory, Beginning::Saved(parts))
            },
            &pieces,
            Ways {
                position: Arc::new(AtomicU64::new(0)),
                ..ways(sender)
            },
        );
    });
    let Some(FromVcpu::Ended(Err(Ending::Failed(why)))) = reports.blocking_recv() else {
        panic!("it is refused");
    };
    assert!(why.contains(&format!("{address:#x}")), "{why}");
    thread.join().expect("it has ended");
    primary.handle.order(Order::GoAlone);
    let (_, how) = primary.ended();
    assert!(matches!(how, Ok((Outcome::PowerOff, _))), "{how:?}");
}
