//! A copy that was found to be another machine becomes the same again (H2): on the side that leads, and on its own.

use antipode_disk_sync::image::Image;
use antipode_disk_sync::units::Run;

use super::{Course, Thread};
use crate::base::limits::REPAIR_BYTES_MAX;
use crate::base::units::{ExitOrdinal, GuestPhys, PAGE_SIZE};
use crate::machine::launch::{LaunchError, RunReport};
use crate::machine::started::StartedVm;
use crate::machine::{
    CodeAround, Differing, EpochDigests, NoCapture, RunError, TimelineError, Touched, WHOLE_VCPU,
};
use crate::protocol::repair::{Cause, Done, Evidence};
use crate::replay::{MachineDigests, OutputKind, Repair, differences};
use crate::site::guest::kept_differences::{KeepDifferences, Noted};
use crate::site::guest::orders::{Differs, FromVcpu, Order};

/// This copy is another machine, and stays one.
pub(super) fn differs(exit: ExitOrdinal, what: &str) -> LaunchError {
    RunError::from(TimelineError::Diverged {
        exit,
        what: what.to_owned(),
        state: None,
    })
    .into()
}

pub(super) fn disk_failed(what: &'static str) -> impl Fn(String) -> LaunchError {
    move |error| LaunchError::Host {
        what,
        source: std::io::Error::other(error),
    }
}

/// All that a VM is where it is held.
pub(super) fn digests_of(vm: &mut StartedVm) -> Result<EpochDigests, LaunchError> {
    let mut digests = vm.stand()?;
    let mut vcpu = [0; 8];
    vcpu.copy_from_slice(&MachineDigests::vcpu_of(vm)?[..8]);
    digests
        .parts
        .push((WHOLE_VCPU.to_owned(), u64::from_le_bytes(vcpu)));
    Ok(digests)
}

impl Thread {
    /// What `ran` came to; none if this copy was found to differ and is the same again.
    pub(super) fn be_repaired_if_it_differs(
        &mut self,
        ran: Result<RunReport, LaunchError>,
    ) -> Result<Option<RunReport>, LaunchError> {
        match ran {
            Err(LaunchError::Run(RunError::Timeline(TimelineError::Diverged { exit, what, state }))) => {
                self.be_repaired(exit, &what, state.as_deref()).map(|()| None)
            }
            ran => ran.map(Some),
        }
    }

    pub(super) fn be_repaired(
        &mut self,
        exit: ExitOrdinal,
        what: &str,
        state: Option<&Differing>,
    ) -> Result<(), LaunchError> {
        let Course::Following(standby) = &mut self.course else {
            return Err(differs(exit, what));
        };
        let Some(touched) = self.vm.touched()? else {
            return Err(differs(exit, what));
        };
        self.differed += 1;
        let number = self.differed;
        let code = self.vm.code_around()?;
        let cause = cause_of(state, &code, false);
        let _ = self.ways.reports.send(FromVcpu::Differs(Box::new(Differs {
            number,
            position: exit,
            what: what.to_owned(),
            cause,
            touched,
        })));
        let (vm, mut first_output) = (&mut self.vm, None);
        let staged = standby.await_repair(number, &mut |exit, kind, digest| {
            first_output = first_output.or(Some(exit));
            if kind == OutputKind::Frame {
                vm.left_out(exit, digest);
            }
        });
        let (position, repair) = match staged {
            Ok(staged) => staged,
            Err(TimelineError::Ended(_) | TimelineError::Stopped) => {
                let _ = self.ways.reports.send(FromVcpu::Unrepaired { first_output });
                return Err(differs(exit, what));
            }
            Err(error) => return Err(RunError::from(error).into()),
        };
        let _ = self.ways.reports.send(FromVcpu::Staged { number });
        if !self.is_to_be_repaired() {
            return Err(differs(exit, what));
        }
        let only_accessed = state.is_some_and(|state| only_accessed_bits(&self.vm, state, &repair));
        let cause = cause_of(state, &code, only_accessed);
        let noted = self.note_difference((exit, what, cause), (position, &repair));
        self.become_the_same(position, &repair)?;
        let _ = self.ways.reports.send(FromVcpu::Repaired(Done {
            number,
            position: position.get(),
            byte_count: repair.byte_count(),
            cause,
        }));
        if let (Some(keep), Some(noted)) = (&self.ways.checks.keep_differences, noted) {
            keep.write(noted);
        }
        Ok(())
    }

    /// In what it differs, if that is asked for.
    fn note_difference(
        &mut self,
        (exit, what, cause): (ExitOrdinal, &str, Cause),
        repair: (ExitOrdinal, &Repair),
    ) -> Option<Noted> {
        self.ways.checks.keep_differences.as_ref()?;
        let noted = KeepDifferences::note(&mut self.vm, (exit, what, &cause), repair);
        noted
            .inspect_err(|error| tracing::warn!(%error, "in what the copy differs is not kept"))
            .ok()
    }

    /// Waits for the word to go on. False if the VM is to end instead.
    fn is_to_be_repaired(&self) -> bool {
        loop {
            match self.ways.orders.recv() {
                Ok(Order::BeRepaired) => return true,
                Ok(Order::End) | Err(_) => return false,
                // Of another course.
                Ok(_) => {}
            }
        }
    }

    /// Disk first, all of it durable; then the rest, and all that it is then is compared.
    pub(super) fn become_the_same(
        &mut self,
        position: ExitOrdinal,
        repair: &Repair,
    ) -> Result<(), LaunchError> {
        if let Some(disk) = self.vm.disk() {
            // What is written below nobody has seen the guest write: such a leaf is not as it was, and not to be mended any more.
            disk.touch(repair.leaves.iter().map(|(number, _)| *number));
        }
        self.vm.drain_disk();
        if let Course::Following(standby) = &mut self.course {
            standby.begin_anew_at(position);
        }
        if let Some(disk) = self.vm.disk() {
            let length = disk.image().length();
            for (number, content) in &repair.leaves {
                if *number >= length.leaves() {
                    return Err(differs(
                        position,
                        "a repair names a leaf that the disk does not have",
                    ));
                }
                let range = length.bytes_of(&Run::new(*number, 1));
                if range.end - range.start != content.len() as u64 {
                    return Err(differs(position, "a leaf of a repair is of another length"));
                }
                let written = disk
                    .write(range.start, content)
                    .map_err(|error| error.to_string());
                written.map_err(disk_failed("writing a leaf of a repair"))?;
            }
            let flushed = disk.flush().map_err(|error| error.to_string());
            flushed.map_err(disk_failed("making the disk of a repaired copy durable"))?;
        }
        self.vm.be_repaired(&repair.capture)?;
        match differences(&repair.digests, &digests_of(&mut self.vm)?) {
            None => Ok(()),
            Some(what) => Err(differs(position, &format!("after its repair, {what}"))),
        }
    }

    /// A VM that leads puts it into its log where it is held what makes its copy the same again, which may have written
    /// what `theirs` says.
    pub(super) fn repair_the_other(&mut self, number: u64, theirs: &Touched) -> Result<(), LaunchError> {
        if !matches!(self.course, Course::Leading(_)) {
            return Ok(());
        }
        let position = self.vm.totals().exit_count;
        let captured = self.capture(number, theirs)?;
        let outcome = match (captured, &mut self.course) {
            (Ok(repair), Course::Leading(recorder)) => {
                let byte_count = repair.byte_count();
                recorder.repair(position, &repair).map_err(RunError::from)?;
                Ok((position, byte_count))
            }
            (Ok(_), _) => return Ok(()),
            (Err(why), _) => Err(why),
        };
        let _ = self.ways.reports.send(FromVcpu::Captured { number, outcome });
        Ok(())
    }

    pub(super) fn capture(
        &mut self,
        number: u64,
        theirs: &Touched,
    ) -> Result<Result<Repair, String>, LaunchError> {
        self.vm.drain_disk();
        let Some(mut touched) = self.vm.touched_since(theirs.since)? else {
            return Ok(Err(NoCapture::TooLongAgo(theirs.since).to_string()));
        };
        touched.unite(theirs);
        let byte_count = touched.byte_count();
        if byte_count > REPAIR_BYTES_MAX {
            return Ok(Err(NoCapture::TooMuch(byte_count).to_string()));
        }
        let leaves = match self.read_leaves(&touched) {
            Ok(leaves) => leaves,
            Err(why) => return Ok(Err(why)),
        };
        let capture = match self.vm.capture(&touched.pages)? {
            Ok(capture) => capture,
            Err(why) => return Ok(Err(why.to_string())),
        };
        Ok(Ok(Repair {
            number,
            capture,
            leaves,
            digests: digests_of(&mut self.vm)?,
        }))
    }

    fn read_leaves(&self, touched: &Touched) -> Result<Vec<(u64, Vec<u8>)>, String> {
        let Some(disk) = self.vm.disk() else {
            return Ok(Vec::new());
        };
        let length = disk.image().length();
        let read = |number: &u64| {
            if *number >= length.leaves() {
                return Err(format!("it names leaf {number} of a disk that has none such"));
            }
            let range = length.bytes_of(&Run::new(*number, 1));
            let mut content = vec![0; usize::try_from(range.end - range.start).unwrap_or_default()];
            let read = disk.image().read_at(range.start, &mut content);
            read.map_err(|error| format!("the disk cannot be read: {error}"))?;
            Ok((*number, content))
        };
        touched.leaves.iter().map(read).collect()
    }
}

fn cause_of(state: Option<&Differing>, code: &CodeAround, only_accessed_bits: bool) -> Cause {
    Cause::found(&Evidence {
        code: &code.before,
        is_user: code.is_user,
        state,
        only_accessed_bits,
    })
}

/// Whether the pages that differ do so in nothing but accessed bits of page tables, as far as the guest has not written to
/// them since.
fn only_accessed_bits(vm: &StartedVm, state: &Differing, repair: &Repair) -> bool {
    let differs_so = |address: &u64| {
        let theirs = repair.capture.pages.iter().find(|(page, _)| page == address);
        let mut own = [0; PAGE_SIZE];
        let read = vm.memory().read(GuestPhys(*address), &mut own);
        theirs.is_some_and(|(_, theirs)| read.is_ok() && Evidence::is_only_accessed_bits(&own, theirs))
    };
    !state.pages.is_empty() && state.pages.iter().all(differs_so)
}
