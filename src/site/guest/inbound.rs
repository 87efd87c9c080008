//! A machine on its way to this site, on a thread of its own.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use antipode_certs::tls::LiveCredentials;
use antipode_certs::{Identity, Name, PeerRule, Role};
use antipode_disk_sync::decision::Consent;
use antipode_disk_sync::disk::{DiskError, Origin, Paths, SyncTarget};
use antipode_disk_sync::protocol::Link;
use antipode_disk_sync::replica::{Lineage, ReplicaId};
use tokio::sync::mpsc::UnboundedSender;

use super::begin::Begin;
use super::happening::Happening;
use super::refusals::Fault;
use crate::base::clock::{HostClock, SystemClock};
use crate::machine::launch::Birth;
use crate::site::boot_files;
use crate::site::definition;
use crate::site::peer::Prepare;
use crate::site::store::VmFolder;
use crate::transfer::{
    Arriving, BootFile, DiskOffer, FileOffer, Offer, Reception, SentFiles, Stream, Unfit, UnfitKind, receive,
};

/// How often the driver is told that something comes.
const TELL_EVERY_NS: u64 = 20_000_000;

/// What it takes to become another site's machine.
pub(super) struct Inbound {
    pub(super) listener: TcpListener,
    pub(super) credentials: Arc<LiveCredentials>,
    pub(super) peer: Name,
    pub(super) folder: VmFolder,
    /// What the other site's supervisor has asked for.
    pub(super) asked: Prepare,
    pub(super) begin: Sender<Begin>,
    pub(super) happenings: UnboundedSender<Happening>,
    /// Told once the machine stands as it was sent, or why it does not.
    pub(super) restored: Receiver<Result<(), String>>,
    /// Set by the driver: nothing more is wanted.
    pub(super) is_given_up: Arc<AtomicBool>,
}

impl Inbound {
    /// Waits for the other site's call, and receives its machine.
    pub(super) fn start(self) -> std::io::Result<()> {
        std::thread::Builder::new()
            .name("transfer".into())
            .spawn(move || {
                let happenings = self.happenings.clone();
                // Without a driver the process ends.
                let _ = happenings.send(Happening::Received(self.run()));
            })?;
        Ok(())
    }

    fn run(self) -> Result<(), Fault> {
        let rule = PeerRule::Exactly(Identity {
            role: Role::Site,
            name: self.peer.clone(),
        });
        let link = loop {
            let (stream, from) = self.listener.accept().map_err(Fault::failed)?;
            match Link::accept(stream, &self.credentials, rule.clone()) {
                Ok(link) => break link,
                Err(error) => {
                    tracing::warn!(%from, "a call was turned away: {error}");
                    // Without a driver the process ends.
                    let _ = self.happenings.send(Happening::Refused((&error).into()));
                }
            }
        };
        let (reader, writer) = link.into_streams();
        let mut stream = Stream::over(reader, writer);
        let mut desk = Desk {
            inbound: &self,
            birth: None,
            pieces: None,
            told_at: 0,
        };
        receive(&mut stream, &mut desk).map_err(|error| (&error).into())
    }
}

struct Desk<'a> {
    inbound: &'a Inbound,
    /// What the machine was born as, once that is known.
    birth: Option<Box<Birth>>,
    /// Its pieces, once the first has come: until then the host's processor is the disk's.
    pieces: Option<Sender<Arriving>>,
    /// When the driver was last told that something has come.
    told_at: u64,
}

/// The replica that this site has of the VM, or a new one in its folder.
fn make_disk(paths: &Paths, offered: &DiskOffer, vm: &str) -> Result<SyncTarget, Unfit> {
    let failed = |why: String| Unfit::new(UnfitKind::Host, why);
    definition::ensure_replica(paths, vm, None, Some(offered.byte_count)).map_err(failed)?;
    let origin = Origin {
        vm: vm.parse().map_err(|error| failed(format!("{vm}: {error}")))?,
        replica: ReplicaId(offered.replica),
        lineage: offered.lineage.as_ref().map(Lineage::from),
        byte_count: offered.byte_count,
    };
    let consent = Consent {
        discard: offered.discard,
        ..Consent::default()
    };
    let begun = SyncTarget::begin(paths.clone(), &origin, consent).map_err(|error| {
        let kind = match error {
            DiskError::Refused { .. } | DiskError::OtherLength { .. } => UnfitKind::OtherDisk,
            _ => UnfitKind::Host,
        };
        Unfit::new(kind, error)
    })?;
    let decision = begun.decision();
    tracing::info!(outcome = decision.outcome.word(), "the disk: {}", decision.reason);
    Ok(begun)
}

/// Makes the VM's `folder` that of the machine that is offered, which must be the one that was asked for.
fn make_ready(
    folder: &VmFolder,
    asked: &Prepare,
    offer: &Offer,
    files: &SentFiles,
) -> Result<Option<SyncTarget>, Unfit> {
    let failed = |error: std::io::Error| {
        let why = format!("the VM's files cannot be written there: {error}");
        Unfit::new(UnfitKind::Host, why)
    };
    if definition::recipe_of(offer) != asked.recipe {
        let why = "the machine that is offered is not the one that was asked for";
        return Err(Unfit::new(UnfitKind::OtherMachine, why));
    }
    folder.make().map_err(failed)?;
    // First what may be refused: until then nothing of what is there is touched.
    let paths = definition::replica_of(folder);
    let disk = match &offer.disk {
        Some(disk) => Some(make_disk(&paths, disk, &offer.vm)?),
        None => None,
    };
    if let Some(kernel) = &files.kernel {
        boot_files::keep(folder, BootFile::Kernel, kernel, offer.kernel).map_err(failed)?;
    }
    if let (Some(initrd), Some(offered)) = (&files.initrd, offer.initrd) {
        boot_files::keep(folder, BootFile::Initrd, initrd, offered).map_err(failed)?;
    }
    let definition = definition::text_of(offer, &paths);
    folder.write("vm.toml", definition.as_bytes()).map_err(failed)?;
    Ok(disk)
}

impl Reception for Desk<'_> {
    fn kept(&self, file: BootFile) -> Option<FileOffer> {
        // What cannot be read is sent.
        boot_files::find(&self.inbound.folder, file).ok()
    }

    fn prepare(&mut self, offer: &Offer, files: SentFiles) -> Result<Option<SyncTarget>, Unfit> {
        let Inbound { folder, asked, .. } = self.inbound;
        let disk = make_ready(folder, asked, offer, &files)?;
        let birth = Box::new(offer.birth.clone());
        let _ = self.inbound.happenings.send(Happening::Prepared(birth.clone()));
        self.birth = Some(birth);
        Ok(disk)
    }

    fn take(&mut self, piece: Arriving) -> bool {
        if let Some(birth) = self.birth.take() {
            let (send, pieces) = channel();
            // One that is taken by nobody is not sent either.
            let _ = self.inbound.begin.send(Begin::Receive { birth, pieces });
            self.pieces = Some(send);
        }
        self.pieces
            .as_ref()
            .is_some_and(|pieces| pieces.send(piece).is_ok())
    }

    fn heard(&mut self) -> Result<(), Unfit> {
        if self.inbound.is_given_up.load(Ordering::Relaxed) {
            let why = "it has given the transfer up; its status says why";
            return Err(Unfit::new(UnfitKind::GivenUp, why));
        }
        let now = SystemClock.monotonic_ns();
        if now - self.told_at >= TELL_EVERY_NS {
            self.told_at = now;
            let _ = self.inbound.happenings.send(Happening::TransferHeard);
        }
        Ok(())
    }

    fn restored(&mut self) -> Result<(), Unfit> {
        let told = self.inbound.restored.recv().map_err(|_| ends())?;
        told.map_err(|why| Unfit::new(UnfitKind::OtherMachine, why))
    }
}

fn ends() -> Unfit {
    Unfit::new(UnfitKind::Host, "the process there ends")
}

#[cfg(test)]
mod tests {
    use antipode_disk_sync::disk::{State, state_of};
    use antipode_disk_sync::replica::GenerationId;
    use antipode_tiebreaker::{Generation, Incarnation, PairingId};

    use super::*;
    use crate::machine::config::Kept;
    use crate::transfer::LineageOffer;

    const DISK_BYTES: u64 = 1 << 20;

    fn offer(disk: DiskOffer) -> Offer {
        Offer {
            vm: "redis-1".to_owned(),
            memory_bytes: 64 << 20,
            cmdline: "quiet".to_owned(),
            kernel: FileOffer::of(b"theirs"),
            initrd: None,
            disk: Some(disk),
            network: None,
            verifies_output: false,
            kept: Kept::Replay,
            birth: Birth {
                random_seed: Default::default(),
                wall_clock_unix_seconds: 0,
                offloads: None,
            },
        }
    }

    fn disk(content: u8, byte_count: u64) -> DiskOffer {
        DiskOffer {
            byte_count,
            replica: [5; 16],
            lineage: Some(LineageOffer {
                current: [content; 16],
                base: None,
                history: Vec::new(),
            }),
            discard: false,
        }
    }

    fn asked(offer: &Offer) -> Prepare {
        Prepare {
            vm: "redis-1".parse().unwrap(),
            incarnation: Incarnation(1),
            pairing: PairingId(9),
            generation: Generation(7),
            heartbeat_port: 7410,
            recipe: definition::recipe_of(offer),
        }
    }

    fn made_ready(folder: &VmFolder, asked: &Prepare, offer: &Offer) -> Option<UnfitKind> {
        let files = SentFiles {
            kernel: Some(b"theirs".to_vec()),
            initrd: None,
        };
        let made = make_ready(folder, asked, offer, &files);
        made.err().map(|unfit| unfit.kind)
    }

    #[test]
    fn a_replica_of_another_vm_is_refused_and_left_as_it_was() {
        let state = tempfile::tempdir().unwrap();
        let folder = VmFolder::of(state.path(), "redis-1");
        folder.make().unwrap();
        folder.write("kernel", b"ours").unwrap();
        let paths = definition::replica_of(&folder);
        let ours = Some(GenerationId([1; 16]));
        definition::ensure_replica(&paths, "redis-1", ours, Some(DISK_BYTES)).unwrap();
        std::fs::write(&paths.image, vec![7; usize::try_from(DISK_BYTES).unwrap()]).unwrap();
        let unrelated = offer(disk(2, DISK_BYTES));
        let refused = made_ready(&folder, &asked(&unrelated), &unrelated);
        assert_eq!(refused, Some(UnfitKind::OtherDisk));
        assert_eq!(state_of(&paths).unwrap(), State::Clean);
        assert!(std::fs::read(&paths.image).unwrap().iter().all(|byte| *byte == 7));
        assert_eq!(std::fs::read(folder.file("kernel")).unwrap(), b"ours");
        assert!(!folder.definition().exists());
        let related = offer(disk(1, DISK_BYTES));
        assert_eq!(made_ready(&folder, &asked(&related), &related), None);
        assert!(matches!(state_of(&paths).unwrap(), State::Syncing(_)));
        assert_eq!(std::fs::read(folder.file("kernel")).unwrap(), b"theirs");
    }

    #[test]
    fn a_machine_that_was_not_asked_for_is_refused_before_anything_is_made() {
        let state = tempfile::tempdir().unwrap();
        let folder = VmFolder::of(state.path(), "redis-1");
        let good = offer(disk(1, DISK_BYTES));
        let larger = Offer {
            memory_bytes: 128 << 20,
            ..good.clone()
        };
        let other = Offer {
            vm: "redis-2".to_owned(),
            ..good.clone()
        };
        for offer in [larger, other] {
            let refused = made_ready(&folder, &asked(&good), &offer);
            assert_eq!(refused, Some(UnfitKind::OtherMachine), "{offer:?}");
        }
        assert!(!folder.file("kernel").exists());
    }
}
