//! Both ends over a socket pair: a machine that is written to while it is copied, and ends that break the rules.

mod disk;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;

use antipode_disk_sync::decision::Consent;
use antipode_disk_sync::disk::{
    DiskError, NewDisk, Origin, Paths, Standby, State, SyncTarget, create, state_of,
};
use antipode_disk_sync::image::Image;
use antipode_disk_sync::online::Position;
use antipode_disk_sync::replica::{GenerationId, ReplicaId};
use antipode_disk_sync::units::{EXTENT_BYTES, LEAF_BYTES};

use super::disk::parse_hashes;
use super::frame::Head;
use super::*;
use crate::base::clock::{HostClock, SystemClock};
use crate::base::guest_memory::GuestMemory;
use crate::base::limits::KERNEL_FILE_BYTES_MAX;
use crate::base::parts::Part;
use crate::base::units::{ExitOrdinal, GuestPhys, PAGE_SIZE};
use crate::machine::config::Kept;
use crate::machine::launch::Birth;
use crate::machine::workers::{Disk, DiskFile};
use crate::machine::{RamCopy, RamDigest, RamSums};

static KERNEL: [u8; 3_000_000] = [3; 3_000_000];

fn offer() -> Offer {
    Offer {
        vm: "redis".into(),
        memory_bytes: 64 << 20,
        cmdline: "quiet".into(),
        kernel: FileOffer::of(&KERNEL),
        initrd: None,
        disk: None,
        network: None,
        verifies_output: false,
        kept: Kept::Replay,
        birth: Birth {
            random_seed: [0; 32],
            wall_clock_unix_seconds: 7,
            offloads: None,
        },
    }
}

fn streams() -> (Stream, Stream) {
    let (one, other) = UnixStream::pair().unwrap();
    let stream = |socket: UnixStream| Stream::over(Box::new(socket.try_clone().unwrap()), Box::new(socket));
    (stream(one), stream(other))
}

/// A machine of whose RAM a page is written to in each round.
struct Machine {
    memory: GuestMemory,
    rounds: Cell<u8>,
    adopted: Cell<Option<RamSums>>,
}

/// The page that is written to in each round.
const WRITTEN: u64 = 5 * PAGE_SIZE as u64;

impl Machine {
    fn new() -> Self {
        let memory = GuestMemory::allocate(8 << 20).unwrap();
        for page in 1..=1000 {
            memory
                .write(GuestPhys(page * PAGE_SIZE as u64), &[1; PAGE_SIZE])
                .unwrap();
        }
        Self {
            memory,
            rounds: Cell::default(),
            adopted: Cell::default(),
        }
    }

    fn write(&self) -> Vec<u64> {
        self.rounds.set(self.rounds.get() + 1);
        let content = [100 + self.rounds.get(); PAGE_SIZE];
        self.memory.write(GuestPhys(WRITTEN), &content).unwrap();
        vec![WRITTEN]
    }

    /// A byte of each page that is not zeros.
    fn pages(&self) -> BTreeMap<u64, u8> {
        let mut page = [0; PAGE_SIZE];
        let mut read = |address: u64| {
            self.memory.read(GuestPhys(address), &mut page).unwrap();
            page[77]
        };
        (0..self.memory.byte_count())
            .step_by(PAGE_SIZE)
            .map(|address| (address, read(address)))
            .filter(|(_, byte)| *byte != 0)
            .collect()
    }
}

/// A machine that stands still at exit 42.
fn stunned(written: Vec<u64>) -> Stunned {
    let parts = Part {
        name: "vcpu".into(),
        version: 3,
        content: vec![9; 100],
    };
    Stunned {
        written,
        parts: std::iter::once(parts).collect(),
        position: ExitOrdinal::new(42),
        vcpu: [8; 32],
    }
}

impl RunningMachine for Machine {
    fn begin_copy(&self) -> Option<RamCopy> {
        Some(RamCopy::of(self.memory.reader()))
    }

    fn take_written(&self) -> Option<Vec<u64>> {
        Some(self.write())
    }

    fn rest(&self, _: Duration) -> Option<()> {
        panic!("it writes little");
    }

    fn stun(&self) -> Option<Stunned> {
        Some(stunned(self.write()))
    }

    fn adopt(&self, digest: RamDigest) -> Option<()> {
        self.adopted.set(Some(digest.sums()));
        Some(())
    }
}

/// Keeps what arrives.
#[derive(Default)]
struct Desk {
    pages: BTreeMap<u64, u8>,
    machine: Option<Box<Arrived>>,
    refuses: Option<Unfit>,
    kernel_bytes: Option<usize>,
    has_enough: bool,
    kept: Option<FileOffer>,
}

impl Reception for Desk {
    fn kept(&self, _: BootFile) -> Option<FileOffer> {
        self.kept
    }

    fn prepare(&mut self, _: &Offer, files: SentFiles) -> Result<Option<SyncTarget>, Unfit> {
        self.kernel_bytes = files.kernel.map(|kernel| kernel.len());
        self.refuses.clone().map_or(Ok(None), Err)
    }

    fn take(&mut self, piece: Arriving) -> bool {
        match piece {
            Arriving::Pages(pages) => self.pages.extend(pages.iter().map(|(at, page)| (*at, page[77]))),
            Arriving::Machine(machine) => self.machine = Some(machine),
        }
        true
    }

    fn heard(&mut self) -> Result<(), Unfit> {
        if self.has_enough {
            return Err(Unfit::new(UnfitKind::GivenUp, "nothing more is wanted"));
        }
        Ok(())
    }

    fn restored(&mut self) -> Result<(), Unfit> {
        Ok(())
    }
}

/// The other end on a thread of its own: what it has in the end.
fn receiving(mut stream: Stream, mut desk: Desk) -> JoinHandle<Result<Desk, TargetError>> {
    std::thread::spawn(move || receive(&mut stream, &mut desk).map(|()| desk))
}

/// Why the other end took nothing.
fn refusal(receiving: JoinHandle<Result<Desk, TargetError>>) -> String {
    let Err(error) = receiving.join().unwrap() else {
        panic!("it has taken all");
    };
    error.to_string()
}

fn sent(stream: Stream, machine: &dyn RunningMachine) -> (Result<(), SourceError>, Vec<News>) {
    sent_by(stream, machine, &SystemClock)
}

fn sent_by(
    mut stream: Stream,
    machine: &dyn RunningMachine,
    clock: &dyn HostClock,
) -> (Result<(), SourceError>, Vec<News>) {
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join("kernel");
    std::fs::write(&kernel, &KERNEL[..]).unwrap();
    let sending = Sending {
        offer: offer(),
        kernel: &kernel,
        initrd: None,
        disk: None,
    };
    let (go, may_go) = channel();
    let mut news = Vec::new();
    let mut tell = |told: News| {
        match told {
            News::DiskInSync => go.send(Go::Ram).unwrap(),
            News::RamInSync => go.send(Go::Stun).unwrap(),
            _ => {}
        }
        news.push(told);
    };
    let outcome = send(&mut stream, &sending, machine, clock, &mut tell, &may_go);
    (outcome, news)
}

#[test]
fn a_machine_arrives_as_it_is_when_it_stands_still() {
    let (here, there) = streams();
    let receiving = receiving(there, Desk::default());
    let machine = Machine::new();
    let (outcome, news) = sent(here, &machine);
    outcome.unwrap();
    let desk = receiving.join().unwrap().unwrap();
    assert!(machine.rounds.get() >= 2, "it was written to while it was copied");
    assert_eq!(desk.pages, machine.pages());
    assert_eq!(desk.kernel_bytes, Some(3_000_000));
    let arrived = desk.machine.unwrap();
    assert_eq!((arrived.position, arrived.vcpu), (ExitOrdinal::new(42), [8; 32]));
    assert_eq!(
        Some(arrived.ram),
        machine.adopted.get(),
        "both ends go on with one digest"
    );
    assert_eq!(
        arrived.parts.iter().map(|part| part.version).collect::<Vec<_>>(),
        [3]
    );
    let told: Vec<News> = news
        .into_iter()
        .filter(|news| !matches!(news, News::Progress { .. }))
        .collect();
    let [
        News::DiskInSync,
        News::RamInSync,
        News::Stunned,
        News::Memory(memory),
        News::PeerReady,
    ] = told[..]
    else {
        panic!("{told:?}");
    };
    assert!(
        memory.once_bytes > 0 && memory.sent_bytes > memory.once_bytes,
        "what was written meanwhile was sent once more: {memory:?}"
    );
}

/// A clock by which whatever is looked at takes a tenth of a second.
#[derive(Default)]
struct Ticking(Cell<u64>);

impl HostClock for Ticking {
    fn monotonic_ns(&self) -> u64 {
        self.0.set(self.0.get() + 100_000_000);
        self.0.get()
    }
}

/// A machine that writes to three pages in each millisecond that it runs, over and over the same thousand.
struct Busy<'a> {
    machine: Machine,
    clock: &'a Ticking,
    /// Whether it stands still when it shall.
    rests: bool,
    looked_at_ms: Cell<u64>,
    rested: Cell<Duration>,
}

impl<'a> Busy<'a> {
    fn new(clock: &'a Ticking, rests: bool) -> Self {
        Self {
            machine: Machine::new(),
            clock,
            rests,
            looked_at_ms: Cell::default(),
            rested: Cell::default(),
        }
    }

    fn write(&self) -> Vec<u64> {
        let now = self.clock.0.get() / 1_000_000;
        let span = Duration::from_millis(now - self.looked_at_ms.replace(now));
        let ran = span.saturating_sub(self.rested.take());
        let pages = u64::try_from(ran.as_millis()).unwrap() * 3;
        let addresses: Vec<u64> = (1..=pages.min(1000))
            .map(|page| page * PAGE_SIZE as u64)
            .collect();
        for address in &addresses {
            let content = [u8::try_from(now % 251).unwrap() + 1; PAGE_SIZE];
            self.machine.memory.write(GuestPhys(*address), &content).unwrap();
        }
        addresses
    }
}

impl RunningMachine for Busy<'_> {
    fn begin_copy(&self) -> Option<RamCopy> {
        self.machine.begin_copy()
    }

    fn take_written(&self) -> Option<Vec<u64>> {
        Some(self.write())
    }

    fn rest(&self, span: Duration) -> Option<()> {
        if self.rests {
            self.rested.set(self.rested.get() + span);
        }
        Some(())
    }

    fn stun(&self) -> Option<Stunned> {
        Some(stunned(self.write()))
    }

    fn adopt(&self, digest: RamDigest) -> Option<()> {
        self.machine.adopt(digest)
    }
}

#[test]
fn a_guest_that_writes_faster_than_the_line_is_slowed_until_it_fits() {
    let (here, there) = streams();
    let receiving = receiving(there, Desk::default());
    let clock = Ticking::default();
    let busy = Busy::new(&clock, true);
    let (outcome, _) = sent_by(here, &busy, &clock);
    outcome.unwrap();
    let desk = receiving.join().unwrap().unwrap();
    assert_eq!(desk.pages, busy.machine.pages());
}

#[test]
fn a_guest_that_nothing_slows_is_not_stunned_for_it() {
    let (here, there) = streams();
    let receiving = receiving(there, Desk::default());
    let clock = Ticking::default();
    let (outcome, news) = sent_by(here, &Busy::new(&clock, false), &clock);
    assert!(
        matches!(
            outcome,
            Err(SourceError::NeverCalm {
                left_bytes: 4_096_000
            })
        ),
        "{outcome:?}"
    );
    assert!(!news.contains(&News::RamInSync));
    assert!(receiving.join().unwrap().is_err());
}

#[test]
fn files_that_nothing_boots_from_are_not_waited_for() {
    let too_long = KERNEL_FILE_BYTES_MAX + 1;
    let of = |byte_count| FileOffer {
        byte_count,
        ..offer().kernel
    };
    for (kernel, initrd) in [(of(too_long), None), (of(1), Some(of(offer().memory_bytes + 1)))] {
        let (mut here, there) = streams();
        let receiving = receiving(there, Desk::default());
        let offer = Offer {
            kernel,
            initrd,
            ..offer()
        };
        here.put(&Head::Offer(Box::new(offer)), &[]).unwrap();
        let said = refusal(receiving);
        assert!(said.contains("files that long"), "{said}");
    }
}

#[test]
fn a_file_that_is_there_is_not_sent_again() {
    let mut changed = KERNEL.to_vec();
    changed[1_234_567] ^= 1;
    for (kept, wants) in [
        (None, true),
        (Some(&KERNEL[..]), false),
        (Some(&changed), true),
        (Some(&KERNEL[1..]), true),
    ] {
        let (mut here, there) = streams();
        let desk = Desk {
            kept: kept.map(FileOffer::of),
            ..Desk::default()
        };
        let receiving = receiving(there, desk);
        here.put(&Head::Offer(Box::new(offer())), &[]).unwrap();
        let want = Head::Want {
            kernel: wants,
            initrd: false,
        };
        assert_eq!(here.take().unwrap().0, want);
        if !wants {
            assert_eq!(here.take().unwrap().0, Head::Accept { resync: None });
        }
        drop(here);
        assert!(receiving.join().unwrap().is_err());
    }
}

#[test]
fn a_file_that_is_not_the_one_that_was_offered_is_refused() {
    for content in [vec![4; KERNEL.len()], vec![3; KERNEL.len() + 1]] {
        let (mut here, there) = streams();
        let receiving = receiving(there, Desk::default());
        here.put(&Head::Offer(Box::new(offer())), &[]).unwrap();
        here.take().unwrap();
        for piece in content.chunks(1 << 20) {
            here.put(&Head::Kernel, piece).unwrap();
        }
        let said = refusal(receiving);
        assert!(said.contains("not the one that was offered"), "{said}");
    }
}

#[test]
fn a_site_that_refuses_says_why() {
    let (here, there) = streams();
    let desk = Desk {
        refuses: Some(Unfit::new(UnfitKind::Host, "no room here")),
        ..Desk::default()
    };
    let receiving = receiving(there, desk);
    let (outcome, _) = sent(here, &Machine::new());
    let said = outcome.unwrap_err().to_string();
    assert!(said.contains("no room here"), "{said}");
    assert_eq!(refusal(receiving), "no room here");
}

#[test]
fn a_target_that_gives_up_ends_the_transfer_and_says_why() {
    let (here, there) = streams();
    let desk = Desk {
        has_enough: true,
        ..Desk::default()
    };
    let receiving = receiving(there, desk);
    let (outcome, _) = sent(here, &Machine::new());
    assert!(outcome.is_err());
    assert_eq!(refusal(receiving), "nothing more is wanted");
}

#[test]
fn a_source_that_vanishes_ends_the_reception() {
    let (here, mut there) = streams();
    drop(here);
    let outcome = receive(&mut there, &mut Desk::default());
    assert!(
        matches!(outcome, Err(TargetError::Frame(FrameError::Io(_)))),
        "{outcome:?}"
    );
}

/// What a target makes of raw bytes.
fn received(bytes: &[u8]) -> Result<(), TargetError> {
    let (mut one, other) = UnixStream::pair().unwrap();
    other.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let bytes = bytes.to_vec();
    let writing = std::thread::spawn(move || {
        // The other end may leave early.
        let _ = one.write_all(&bytes);
        let _ = one.shutdown(std::net::Shutdown::Write);
        let _ = one.read_to_end(&mut Vec::new());
    });
    let mut stream = Stream::over(Box::new(other.try_clone().unwrap()), Box::new(other));
    let outcome = receive(&mut stream, &mut Desk::default());
    drop(stream);
    writing.join().unwrap();
    outcome
}

#[test]
fn hostile_bytes_are_refused_and_never_believed() {
    let over_long = [u32::MAX, 0, 0].map(u32::to_le_bytes).concat();
    let huge_body = [1, u32::MAX, u32::MAX].map(u32::to_le_bytes).concat();
    let lies = [1_u32, 10, 0].map(u32::to_le_bytes).concat();
    for bytes in [over_long, huge_body, lies] {
        let outcome = received(&bytes);
        assert!(
            matches!(outcome, Err(TargetError::Frame(FrameError::Malformed(_)))),
            "{outcome:?}"
        );
    }
    let mut random = 1_u64;
    for length in 0..200 {
        let bytes: Vec<u8> = (0..length)
            .map(|_| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                random.to_le_bytes()[7]
            })
            .collect();
        assert!(received(&bytes).is_err(), "{length}");
    }
}

#[test]
fn a_target_says_syncing_until_all_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let paths = Paths::new(folder.path().join("disk.img"), None);
    let new = NewDisk {
        vm: "redis".parse().unwrap(),
        replica: ReplicaId([1; 16]),
        content: None,
        size: Some(200_000 / 512 * 512),
    };
    create(&paths, new).unwrap();
    let bytes = 200_000 / 512 * 512;
    let offered = LineageOffer {
        current: [7; 16],
        base: None,
        history: vec![[6; 16]],
    };
    let origin = |vm: &str, byte_count| Origin {
        vm: vm.parse().unwrap(),
        replica: ReplicaId([2; 16]),
        lineage: Some((&offered).into()),
        byte_count,
    };
    assert!(matches!(
        SyncTarget::begin(paths.clone(), &origin("redis", bytes + 512), Consent::default()),
        Err(DiskError::OtherLength { .. })
    ));
    assert!(matches!(
        SyncTarget::begin(paths.clone(), &origin("other", bytes), Consent::default()),
        Err(DiskError::Refused { .. })
    ));
    let mut target = SyncTarget::begin(paths.clone(), &origin("redis", bytes), Consent::default()).unwrap();
    target.write_leaf(0, &[5; 65_536]).unwrap();
    for (index, bytes) in [(0, 65_535), (4, 1), (u64::MAX, 65_536)] {
        assert!(target.write_leaf(index, &vec![0; bytes]).is_err(), "{index}");
    }
    drop(target);
    assert!(matches!(state_of(&paths), Ok(State::Syncing(_))));
    let mut target = SyncTarget::begin(paths.clone(), &origin("redis", bytes), Consent::default()).unwrap();
    assert!(!target.is_blank() && target.marks().count() == 4);
    let seen = std::fs::read(&paths.image).unwrap();
    assert!(seen[..65_536] == [5; 65_536] && seen[65_536..].iter().all(|byte| *byte == 0));
    target.write_leaf(1, &[6; 65_536]).unwrap();
    target.finish([7; 16], vec![[6; 16]]).unwrap();
    assert!(matches!(state_of(&paths), Ok(State::Clean)));
    assert_eq!(std::fs::read(&paths.image).unwrap()[..3], [5; 3]);
}

#[test]
fn hashes_that_end_within_one_or_name_no_leaf_are_refused() {
    assert_eq!(parse_hashes(&[7; 80]).unwrap().len(), 2);
    assert!(parse_hashes(&[7; 79]).is_err());
    assert!(parse_hashes(&vec![7; 40 * 257]).is_err());
    let (mut here, there) = streams();
    let receiving = receiving(there, Desk::default());
    here.put(&Head::Hashes, &[0; 40]).unwrap();
    assert!(receiving.join().unwrap().is_err(), "before an offer");
}
