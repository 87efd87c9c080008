//! Recording and replaying tiny guests of our own on this machine's `/dev/kvm`, and every planted fault caught (R2, R3).
//! Where KVM is missing, each test says so and is skipped.
#![expect(clippy::unwrap_used, reason = "a test: what fails is shown where it fails")]

mod step;
mod waiting;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use antipode::base::clock::SystemClock;
use antipode::base::guest_memory::GuestMemory;
use antipode::base::limits::GUEST_RAM_BYTES_MIN;
use antipode::base::units::{ExitOrdinal, GuestPhys, VirtualTime};
use antipode::devices::Input;
use antipode::machine::kvm::KvmHost;
use antipode::machine::launch::{Beginning, Birth, LaunchError, StartedVm};
use antipode::machine::probe::{CODE, DATA, probe_kvm, tiny_program};
use antipode::machine::workers::{Event, HostEntropy};
use antipode::machine::{Outcome, RamSums, RunError, TimelineError};
use antipode::replay::{
    Batch, Entry, LogReader, LogWriter, Logged, MachineDigests, NoiseCounts, Origin, Position, Recipe,
    Recorder, Replayer, SavedMachine, save_machine,
};
use iced_x86::IcedError;
use iced_x86::code_asm::{CodeAssembler, ax, dx, eax, ptr, rax, rbx, rcx};

/// Reads the time-stamp counter and the ACPI timer, keeps both in memory, writes to the console, and powers off.
fn program(a: &mut CodeAssembler) -> Result<(), IcedError> {
    const ROUNDS: u64 = 2_000;
    let mut again = a.create_label();
    a.mov(rcx, ROUNDS)?;
    a.set_label(&mut again)?;
    a.in_(eax, 0xF7_i32)?;
    a.add(rbx, rax)?;
    a.mov(ptr(DATA + rcx * 8), rbx)?;
    a.mov(dx, 0x3F8_i32)?;
    a.out(dx, iced_x86::code_asm::al)?;
    a.mov(dx, 0x608_i32)?;
    a.in_(eax, dx)?;
    a.xor(rbx, rax)?;
    a.dec(rcx)?;
    a.jne(again)?;
    power_off(a)
}

fn power_off(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(dx, 0x604_i32)?;
    a.mov(ax, 0x3400_i32)?;
    a.out(dx, ax)?;
    a.hlt()
}

/// Computes over a few pages of memory, without an exit, for so many rounds.
fn compute(a: &mut CodeAssembler, rounds: u64) -> Result<(), IcedError> {
    let mut again = a.create_label();
    a.mov(rcx, rounds)?;
    a.set_label(&mut again)?;
    a.imul_3(rbx, rbx, 0x4D_i32)?;
    a.add(rbx, rcx)?;
    a.mov(rax, rcx)?;
    a.and(rax, 0x3FF8_i32)?;
    a.mov(ptr(rax + DATA), rbx)?;
    a.dec(rcx)?;
    a.jne(again)
}

/// What the serial port holds is bounded.
const KEYS_MAX: u32 = 1_000;

/// Instructions of a round of [`compute`].
const ROUND_INSTRUCTIONS: u64 = 7;

/// A machine that runs what `write_code` assembles.
fn machine_of(write_code: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> StartedVm {
    let (memory, entry) = tiny_program(write_code).unwrap();
    StartedVm::bare(&KvmHost::open().unwrap(), memory, Beginning::Boot(&entry)).unwrap()
}

/// A machine that computes for `rounds` first, then runs [`program`].
fn computing_machine(rounds: u64) -> StartedVm {
    machine_of(|a| {
        if rounds > 0 {
            compute(a, rounds)?;
        }
        program(a)
    })
}

fn machine() -> StartedVm {
    machine_of(program)
}

fn recipe() -> Recipe {
    Recipe {
        cpu_table: "deterministic-1".into(),
        memory_bytes: 64 << 20,
        kernel: String::new(),
        initrd: None,
        cmdline: String::new(),
        disk: None,
        mac: None,
        birth: Birth {
            random_seed: [0; 32],
            wall_clock_unix_seconds: 0,
            offloads: None,
        },
        from: None,
    }
}

struct Record {
    _folder: tempfile::TempDir,
    log: PathBuf,
    /// Makes the machine again.
    make: Box<dyn Fn() -> StartedVm>,
    digests: MachineDigests,
}

/// A record of [`program`] alone, or `None` with a note where there is no KVM.
fn record() -> Option<Record> {
    record_of(machine, |_| {}).map(|ended| ended.unwrap().0)
}

/// A record of a machine that `make` makes while what `meanwhile` has started goes on, and what was logged; or how else
/// than by power-off it ended. `None` with a note where there is no KVM.
fn record_of(
    make: impl Fn() -> StartedVm + 'static,
    meanwhile: impl FnOnce(&StartedVm),
) -> Option<Result<(Record, Logged), Outcome>> {
    if let Err(error) = KvmHost::open() {
        eprintln!("skipped: {error}");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut vm = make();
    meanwhile(&vm);
    let live = vm.live(HostEntropy::open().unwrap(), Duration::ZERO).unwrap();
    let mut recorder = Recorder::new(live, LogWriter::create(&log, &recipe()).unwrap(), &vm.totals());
    let report = vm.run(&mut recorder).unwrap();
    if report.outcome != Outcome::PowerOff {
        return Some(Err(report.outcome));
    }
    let digests = MachineDigests::of(&mut vm).unwrap();
    let time = report.totals.virtual_time;
    let (_, logged) = recorder.finish("power_off", time, digests.clone()).unwrap();
    let record = Record {
        _folder: folder,
        log,
        make: Box::new(make),
        digests,
    };
    Some(Ok((record, logged)))
}

/// Replays `log`, a record of [`program`], on a machine that `tamper` has changed.
fn replay(log: &Path, tamper: impl FnOnce(&mut StartedVm)) -> Result<MachineDigests, LaunchError> {
    let mut vm = machine();
    tamper(&mut vm);
    let log = LogReader::open(log).unwrap();
    let replayer = Replayer::new(log, vm.kicker(), vm.inbox().clone());
    finish(&mut vm, replayer).map(|(digests, _)| digests)
}

/// The same under noise: what the machine is at the end, and what was done to it.
fn disturbed_replay(record: &Record, seed: u64) -> (MachineDigests, NoiseCounts) {
    let mut vm = (record.make)();
    let log = LogReader::open(&record.log).unwrap();
    let replayer = Replayer::new(log, vm.kicker(), vm.inbox().clone());
    let (digests, noise) = finish(&mut vm, replayer.disturbed_by(seed).unwrap()).unwrap();
    (digests, noise.unwrap())
}

fn finish<S: antipode::replay::LogSource>(
    vm: &mut StartedVm,
    mut replayer: Replayer<S>,
) -> Result<(MachineDigests, Option<NoiseCounts>), LaunchError> {
    let report = vm.run(&mut replayer)?;
    assert_eq!(report.outcome, Outcome::PowerOff);
    assert_eq!(replayer.end().unwrap().virtual_time, report.totals.virtual_time);
    Ok((MachineDigests::of(vm)?, replayer.noise()))
}

/// The log of `record` with `change` made to its entries, as a new log beside it.
fn changed(record: &Record, change: impl Fn(&mut Vec<Batch>)) -> PathBuf {
    let mut reader = LogReader::open(&record.log).unwrap();
    let mut batches = Vec::new();
    while let Some(batch) = reader.next_batch().unwrap() {
        batches.push(batch);
    }
    change(&mut batches);
    let path = record.log.with_extension("changed");
    let mut writer = LogWriter::create(&path, reader.recipe()).unwrap();
    for batch in &batches {
        writer.append(batch).unwrap();
    }
    path
}

fn divergence(ended: Result<MachineDigests, LaunchError>) -> String {
    match ended {
        Err(LaunchError::Run(RunError::Timeline(error @ TimelineError::Diverged { .. }))) => {
            error.to_string()
        }
        other => panic!("not noticed: {other:?}"),
    }
}

#[test]
fn kvm_a_replay_is_the_same_machine_with_noise_and_without() {
    let Some(record) = record() else { return };
    for _ in 0..3 {
        assert_eq!(replay(&record.log, |_| {}).unwrap(), record.digests);
    }
    let (digests, noise) = disturbed_replay(&record, 7);
    assert_eq!(digests, record.digests);
    assert!(noise.cut_batches > 0, "{noise:?}");
}

/// A record of [`program`] by a release build, on another machine than yours.
const RELEASE_LOG: &[u8] = include_bytes!("release.log");

/// Where a release build of the next test writes its record, when the format of logs has changed.
const RELEASE_LOG_VARIABLE: &str = "ANTIPODE_NEW_RELEASE_LOG";

/// Every digest of a replay is the one that a release build took: of each exit, of each epoch, of RAM in the end. The vCPU
/// as a whole is left out, as what a processor has besides general registers differs between makers.
#[test]
fn kvm_a_record_of_a_release_build_is_replayed_the_same_by_any() {
    let Some(record) = record() else { return };
    if let (Some(path), false) = (std::env::var_os(RELEASE_LOG_VARIABLE), cfg!(debug_assertions)) {
        std::fs::copy(&record.log, path).unwrap();
    }
    let log = record.log.with_extension("release");
    std::fs::write(&log, RELEASE_LOG).unwrap();
    let mut vm = machine();
    let log = LogReader::open(&log).unwrap();
    let mut replayer = Replayer::new(log, vm.kicker(), vm.inbox().clone());
    assert_eq!(vm.run(&mut replayer).unwrap().outcome, Outcome::PowerOff);
    let digests = MachineDigests::of(&mut vm).unwrap();
    assert_eq!(digests.ram, replayer.end().unwrap().digests.ram);
}

#[test]
fn kvm_a_guest_that_computes_is_preempted_and_replays_the_same() {
    let is_over = Arc::new(AtomicBool::new(false));
    let type_on = |vm: &StartedVm| {
        let (inbox, is_over) = (vm.inbox().clone(), Arc::clone(&is_over));
        std::thread::spawn(move || {
            let (_never, wait) = std::sync::mpsc::channel::<()>();
            for _ in 0..KEYS_MAX {
                // A receiver that times out is a sleep.
                let _ = wait.recv_timeout(Duration::from_millis(30));
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                inbox.post([Event::Device(Input::Console(vec![b'x']))]);
            }
        });
    };
    // Half a second of computing, however fast this host's KVM runs a guest's kernel.
    let speed = match probe_kvm(&SystemClock) {
        Ok(findings) => findings.kernel_instructions_per_second,
        Err(error) => return eprintln!("skipped: {error}"),
    };
    let rounds = speed / (2 * ROUND_INSTRUCTIONS);
    let Some(recorded) = record_of(move || computing_machine(rounds), type_on) else {
        return;
    };
    let (record, logged) = recorded.unwrap();
    is_over.store(true, Ordering::Relaxed);
    assert!(logged.preemptions > 0, "{logged:?}");
    for _ in 0..3 {
        let mut vm = (record.make)();
        let log = LogReader::open(&record.log).unwrap();
        let replayer = Replayer::new(log, vm.kicker(), vm.inbox().clone());
        let (digests, _) = finish(&mut vm, replayer).unwrap();
        assert_eq!(digests, record.digests);
    }
    let mut all = NoiseCounts::default();
    for seed in 0..4 {
        let (digests, noise) = disturbed_replay(&record, seed);
        assert_eq!(digests, record.digests, "{noise:?}");
        all.page_log_restarts += noise.page_log_restarts;
        all.cut_batches += noise.cut_batches;
    }
    assert!(all.page_log_restarts > 0 && all.cut_batches > 0, "{all:?}");
}

/// A machine of `record` held at exit `position`.
fn held(record: &Record, position: u64) -> StartedVm {
    let mut vm = (record.make)();
    let log = LogReader::open(&record.log).unwrap();
    let until = Some(Position::at(ExitOrdinal::new(position)));
    let mut replayer = Replayer::new(log, vm.kicker(), vm.inbox().clone()).until(until);
    assert_eq!(vm.run(&mut replayer).unwrap().outcome, Outcome::Held);
    assert_eq!(vm.totals().exit_count.get(), position);
    vm
}

/// A machine that was saved as the file at `path`.
fn restored(path: &Path) -> StartedVm {
    let saved = SavedMachine::open(path).unwrap();
    let memory = GuestMemory::allocate(GUEST_RAM_BYTES_MIN).unwrap();
    let parts = saved.restore(&memory).unwrap();
    StartedVm::bare(&KvmHost::open().unwrap(), memory, Beginning::Saved(parts)).unwrap()
}

#[test]
fn kvm_a_saved_machine_is_restored_and_goes_on_as_any_other() {
    let Some(record) = record() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut whole = LogReader::open(&record.log).unwrap();
    let mut exits = 0;
    while let Some(batch) = whole.next_batch().unwrap() {
        exits = batch.through.get();
    }
    for position in [1, exits / 3, exits / 2, exits - 1] {
        let path = folder.path().join(format!("state-{position}"));
        let mut vm = held(&record, position);
        let head = save_machine(&mut vm, recipe(), &path).unwrap();
        assert_eq!(head.exit.get(), position);
        let (digests, parts) = (MachineDigests::of(&mut vm).unwrap(), vm.save().unwrap());
        drop(vm);
        let mut twin = restored(&path);
        assert_eq!(MachineDigests::of(&mut twin).unwrap(), digests);
        assert_eq!(twin.save().unwrap(), parts);

        let recipe = Recipe {
            from: Some(Origin {
                state: SavedMachine::open(&path).unwrap().name(),
                exit: head.exit,
            }),
            ..recipe()
        };
        let log = folder.path().join(format!("log-{position}"));
        let live = twin.live(HostEntropy::open().unwrap(), Duration::ZERO).unwrap();
        let mut recorder = Recorder::new(live, LogWriter::create(&log, &recipe).unwrap(), &twin.totals());
        let report = twin.run(&mut recorder).unwrap();
        assert_eq!(report.outcome, Outcome::PowerOff);
        let digests = MachineDigests::of(&mut twin).unwrap();
        recorder
            .finish("power_off", report.totals.virtual_time, digests.clone())
            .unwrap();

        drop(twin);

        let mut again = restored(&path);
        let mut replayer = Replayer::new(
            LogReader::open(&log).unwrap(),
            again.kicker(),
            again.inbox().clone(),
        );
        assert_eq!(again.run(&mut replayer).unwrap().outcome, Outcome::PowerOff);
        assert_eq!(MachineDigests::of(&mut again).unwrap(), digests);
    }
}

#[test]
fn kvm_a_changed_register_is_noticed_at_the_first_exit() {
    let Some(record) = record() else { return };
    let said = divergence(replay(&record.log, |vm| {
        let mut registers = vm.vcpu().registers().unwrap();
        registers.r15 ^= 1;
        vm.vcpu().set_registers(&registers).unwrap();
    }));
    assert!(said.contains("at exit #1:"), "{said}");
}

#[test]
fn kvm_a_changed_byte_of_ram_is_noticed_by_the_next_epoch_whether_the_guest_meets_it_or_not() {
    let Some(record) = record() else { return };
    let flip = |address: u64| {
        move |vm: &mut StartedVm| {
            let mut byte = [0];
            vm.memory().read(GuestPhys(address), &mut byte).unwrap();
            vm.memory().write(GuestPhys(address), &[byte[0] ^ 1]).unwrap();
        }
    };
    // The count of rounds, the operand of the first instruction, is in RCX at the first exit.
    let met = divergence(replay(&record.log, flip(CODE + 3)));
    assert!(met.contains("at exit #1:"), "{met}");
    let unused = divergence(replay(&record.log, flip(DATA + 0x10_0000)));
    let named = format!(
        "at exit #1: at the end of an epoch, RAM differs in the page at {:#x}",
        DATA + 0x10_0000
    );
    assert!(unused.ends_with(&named), "{unused}");
}

#[test]
fn kvm_what_differs_at_the_end_of_an_epoch_is_named() {
    let Some(record) = record() else { return };
    let other = changed(&record, |batches| {
        for (_, entry) in batches.iter_mut().flat_map(|batch| &mut batch.entries) {
            if let Entry::Epoch(digests) = entry {
                digests.registers[15] ^= 1;
                digests.ram = RamSums::default();
                let serial = digests.parts.iter_mut().find(|(name, _)| name == "serial");
                serial.unwrap().1 ^= 1;
                return;
            }
        }
    });
    let said = divergence(replay(&other, |_| {}));
    assert!(
        said.contains("R15 was 0x1 and is 0x0, serial differs, RAM differs in "),
        "{said}"
    );
}

#[test]
fn kvm_a_changed_missing_or_added_entry_is_noticed() {
    let Some(record) = record() else { return };
    let is_sample = |entry: &Entry| matches!(entry, Entry::TimeRead(_));
    let later = changed(&record, |batches| {
        for (_, entry) in batches.iter_mut().flat_map(|batch| &mut batch.entries) {
            if let Entry::TimeRead(time) = entry {
                // A few ticks of the slowest clock that the guest reads.
                *time = VirtualTime::from_nanos(time.as_nanos() + 1_000);
                return;
            }
        }
    });
    divergence(replay(&later, |_| {}));
    std::fs::remove_file(&later).unwrap();

    let without = changed(&record, |batches| {
        for batch in batches {
            if let Some(place) = batch.entries.iter().position(|(_, entry)| is_sample(entry)) {
                batch.entries.remove(place);
                return;
            }
        }
    });
    divergence(replay(&without, |_| {}));
    std::fs::remove_file(&without).unwrap();

    let with_another = changed(&record, |batches| {
        let first = &mut batches[0];
        let entry = Entry::Entropy(vec![1, 2, 3]);
        first.entries.insert(0, (first.first, entry));
    });
    let said = divergence(replay(&with_another, |_| {}));
    assert!(said.contains("did not ask for the entropy"), "{said}");
    std::fs::remove_file(&with_another).unwrap();

    let with_a_flush = changed(&record, |batches| {
        let first = &mut batches[0];
        first.entries.insert(0, (first.first, Entry::Flush));
    });
    let said = divergence(replay(&with_a_flush, |_| {}));
    assert!(said.contains("did not ask for the flush"), "{said}");
}

#[test]
fn kvm_another_output_is_noticed() {
    let Some(record) = record() else { return };
    let other = changed(&record, |batches| {
        for (_, entry) in batches.iter_mut().flat_map(|batch| &mut batch.entries) {
            if let Entry::Output { digest, .. } = entry {
                *digest ^= 1;
                return;
            }
        }
    });
    let said = divergence(replay(&other, |_| {}));
    assert!(said.contains("puts out console output"), "{said}");
}

#[test]
fn kvm_a_log_that_was_cut_off_is_replayed_to_its_end() {
    let Some(record) = record() else { return };
    let half = changed(&record, |batches| {
        let last = batches.last_mut().unwrap();
        last.end = None;
        let middle = last.checks.len() / 2;
        last.checks.truncate(middle);
        last.through = ExitOrdinal::new(last.first.get() + middle as u64 - 1);
        let through = last.through;
        last.entries.retain(|(exit, _)| *exit < through);
    });
    let ended = replay(&half, |_| {});
    assert!(
        matches!(
            &ended,
            Err(LaunchError::Run(RunError::Timeline(TimelineError::Ended(_))))
        ),
        "{ended:?}"
    );
}
