//! A machine on its way to this site, on a thread of its own.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use antipode_certs::tls::LiveCredentials;
use antipode_certs::{Identity, Name, PeerRule, Role};
use antipode_disk_sync::decision::Consent;
use antipode_disk_sync::disk::{Origin, Paths, SyncTarget};
use antipode_disk_sync::protocol::Link;
use antipode_disk_sync::replica::{Lineage, ReplicaId};
use tokio::sync::mpsc::UnboundedSender;

use super::begin::Begin;
use super::happening::Happening;
use crate::base::clock::{HostClock, SystemClock};
use crate::site::definition;
use crate::site::store::VmFolder;
use crate::transfer::{Arriving, DiskOffer, Offer, Reception, Stream, receive};

/// How often the driver is told that something comes.
const TELL_EVERY_NS: u64 = 20_000_000;

/// What it takes to become another site's machine.
pub(super) struct Inbound {
    pub(super) listener: TcpListener,
    pub(super) credentials: Arc<LiveCredentials>,
    pub(super) peer: Name,
    pub(super) folder: VmFolder,
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

    fn run(self) -> Result<(), String> {
        let rule = PeerRule::Exactly(Identity {
            role: Role::Site,
            name: self.peer.clone(),
        });
        let link = loop {
            let (stream, from) = self.listener.accept().map_err(|error| error.to_string())?;
            match Link::accept(stream, &self.credentials, rule.clone()) {
                Ok(link) => break link,
                Err(error) => tracing::warn!(%from, "a call was turned away: {error}"),
            }
        };
        let (reader, writer) = link.into_streams();
        let mut stream = Stream::over(reader, writer);
        let mut desk = Desk {
            inbound: &self,
            pieces: None,
            told_at: 0,
        };
        receive(&mut stream, &mut desk).map_err(|error| error.to_string())
    }
}

struct Desk<'a> {
    inbound: &'a Inbound,
    pieces: Option<Sender<Arriving>>,
    /// When the driver was last told that something has come.
    told_at: u64,
}

impl Desk<'_> {
    /// The replica that this site has of the VM, or a new one in its folder.
    fn make_disk(&self, paths: &Paths, offered: &DiskOffer, vm: &str) -> Result<SyncTarget, String> {
        definition::ensure_replica(paths, vm, None, Some(offered.byte_count))?;
        let origin = Origin {
            vm: vm.parse().map_err(|error| format!("{vm}: {error}"))?,
            replica: ReplicaId(offered.replica),
            lineage: offered.lineage.as_ref().map(Lineage::from),
            byte_count: offered.byte_count,
        };
        let consent = Consent {
            discard: offered.discard,
            ..Consent::default()
        };
        let begun = SyncTarget::begin(paths.clone(), &origin, consent).map_err(|error| error.to_string())?;
        tracing::info!(
            outcome = begun.decision().outcome.word(),
            "the disk: {}",
            begun.decision().reason
        );
        Ok(begun)
    }
}

impl Reception for Desk<'_> {
    fn prepare(
        &mut self,
        offer: &Offer,
        kernel: Vec<u8>,
        initrd: Option<Vec<u8>>,
    ) -> Result<Option<SyncTarget>, String> {
        let folder = &self.inbound.folder;
        let failed = |error: std::io::Error| format!("the VM's files cannot be written there: {error}");
        folder.make().map_err(failed)?;
        folder.write("kernel", &kernel).map_err(failed)?;
        if let Some(initrd) = &initrd {
            folder.write("initrd", initrd).map_err(failed)?;
        }
        let paths = definition::replica_of(folder);
        let disk = match &offer.disk {
            Some(disk) => Some(self.make_disk(&paths, disk, &offer.vm)?),
            None => None,
        };
        let definition = definition::text_of(offer, initrd.is_some(), &paths);
        folder.write("vm.toml", definition.as_bytes()).map_err(failed)?;
        let (send, pieces) = channel();
        let birth = Box::new(offer.birth.clone());
        let _ = self.inbound.happenings.send(Happening::Prepared(birth.clone()));
        let begun = self.inbound.begin.send(Begin::Receive { birth, pieces });
        begun.map_err(|_| "the process there ends".to_owned())?;
        self.pieces = Some(send);
        Ok(disk)
    }

    fn take(&mut self, piece: Arriving) -> bool {
        self.pieces
            .as_ref()
            .is_some_and(|pieces| pieces.send(piece).is_ok())
    }

    fn heard(&mut self) -> Result<(), String> {
        if self.inbound.is_given_up.load(Ordering::Relaxed) {
            return Err("it has given the transfer up; its status says why".to_owned());
        }
        let now = SystemClock.monotonic_ns();
        if now - self.told_at >= TELL_EVERY_NS {
            self.told_at = now;
            let _ = self.inbound.happenings.send(Happening::TransferHeard);
        }
        Ok(())
    }

    fn restored(&mut self) -> Result<(), String> {
        let told = self.inbound.restored.recv();
        told.unwrap_or_else(|_| Err("the process there ends".to_owned()))
    }
}
