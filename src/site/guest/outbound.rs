//! The transfer of this VM to the other site, on a thread of its own.

use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use antipode_disk_sync::protocol::Link;
use tokio::sync::mpsc::UnboundedSender;

use super::happening::{Happening, TransferNews};
use super::orders::Order;
use super::refusals::Fault;
use super::vcpu::Handle;
use crate::base::clock::SystemClock;
use crate::machine::probe::HostKind;
use crate::machine::workers::DiskHandle;
use crate::machine::{RamCopy, RamDigest};
use crate::site::peer::{Caller, Prepare, PrepareError, Prepared, Unready};
use crate::transfer::{Go, News, Offer, RunningMachine, Sending, Stream, Stunned, send};

/// How long the other site may say nothing when it is its turn, or take nothing: as long as it takes to compare a part of a
/// disk, and to make it durable.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// How often the other site is asked while a copy joins there, and after what time again: as long as such a copy waits at most
/// for a source that is gone.
const JOINING_TRIES: u32 = 24;
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// What is sent, and to whom.
#[derive(Debug)]
pub(super) struct Outbound {
    /// It goes by this number in what it tells.
    pub(super) number: u64,
    pub(super) handle: Handle,
    pub(super) offer: Offer,
    pub(super) kernel: PathBuf,
    pub(super) initrd: Option<PathBuf>,
    pub(super) disk: Option<DiskHandle>,
    pub(super) prepare: Prepare,
    pub(super) caller: Caller,
    pub(super) happenings: UnboundedSender<Happening>,
}

impl Outbound {
    /// Begins; goes on when it is told so by what is answered, and ends when that is dropped.
    pub(super) fn start(self) -> std::io::Result<Sender<Go>> {
        let (go, may_go) = channel();
        std::thread::Builder::new()
            .name("transfer".into())
            .spawn(move || {
                if let Err(fault) = self.run(&may_go) {
                    self.tell(TransferNews::Failed(fault));
                }
            })?;
        Ok(go)
    }

    fn tell(&self, news: TransferNews) {
        // Without a driver the process ends.
        let _ = self.happenings.send(Happening::Transfer(self.number, news));
    }

    /// Has the other site made ready. A copy that was on its way there and was given up needs its time to be gone.
    fn have_prepared(&self, may_go: &Receiver<Go>) -> Result<Prepared, Fault> {
        let host = HostKind::of_this_host().map_err(Fault::failed)?;
        let mut tries = 0;
        loop {
            let error = match self.caller.prepare(self.prepare.clone(), host.clone()) {
                Ok(prepared) => return Ok(prepared),
                Err(error) => error,
            };
            tries += 1;
            let joins =
                matches!(&error, PrepareError::Refused(Unready::Busy { role, .. }) if role == "joining");
            let goes_on = joins
                && tries < JOINING_TRIES
                && may_go.recv_timeout(TRY_AGAIN) == Err(RecvTimeoutError::Timeout);
            if !goes_on {
                return Err(Fault::from(&error));
            }
        }
    }

    fn run(&self, may_go: &Receiver<Go>) -> Result<(), Fault> {
        let prepared = self.have_prepared(may_go)?;
        self.tell(TransferNews::Ports {
            log: prepared.log_port,
        });
        let address = &self.caller.address;
        let host = address.rsplit_once(':').map_or("", |(host, _)| host);
        let address = format!("{host}:{}", prepared.transfer_port);
        address
            .to_socket_addrs()
            .map_err(|error| Fault::failed(format!("{address}: {error}")))?;
        let link = Link::connect(&address, &self.caller.credentials, self.caller.rule());
        let link = link.map_err(|error| Fault {
            why: format!("{address}: {error}"),
            ..(&error).into()
        })?;
        link.limit_silence(SILENCE_MAX).map_err(Fault::failed)?;
        let (reader, writer) = link.into_streams();
        let mut stream = Stream::over(reader, writer);
        let machine = Machine(self);
        let sending = Sending {
            offer: self.offer.clone(),
            kernel: &self.kernel,
            initrd: self.initrd.as_deref(),
            disk: self.disk.as_deref(),
        };
        let mut tell = |news: News| self.tell(TransferNews::News(news));
        let sent = send(&mut stream, &sending, &machine, &SystemClock, &mut tell, may_go);
        if let Some(disk) = &self.disk {
            disk.limit_writes(None);
        }
        sent.map_err(|error| (&error).into())
    }
}

/// The VM on its thread, for the transfer.
struct Machine<'a>(&'a Outbound);

impl Machine<'_> {
    fn ask<T>(&self, order: impl FnOnce(Sender<T>) -> Order) -> Option<T> {
        let (reply, answer) = channel();
        self.0.handle.order(order(reply));
        answer.recv().ok()
    }
}

impl RunningMachine for Machine<'_> {
    fn begin_copy(&self) -> Option<RamCopy> {
        self.ask(|reply| Order::BeginCopy { reply })
    }

    fn take_written(&self) -> Option<Vec<u64>> {
        self.ask(|reply| Order::TakeWritten { reply })
    }

    fn rest(&self, span: Duration) -> Option<()> {
        self.0.handle.order(Order::Rest { span }).then_some(())
    }

    fn stun(&self) -> Option<Stunned> {
        let machine = self.ask(|reply| Order::Stun { reply })?;
        self.0.tell(TransferNews::StoodAt(machine.position));
        Some(machine)
    }

    fn adopt(&self, digest: RamDigest) -> Option<()> {
        self.0
            .handle
            .order(Order::Adopt {
                digest: Box::new(digest),
            })
            .then_some(())
    }
}
