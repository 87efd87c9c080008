//! Between the devices and the workers: what arrived goes in, what the devices ask for goes out.

use super::epoch::roll_disk_writes;
use super::{HeldOutput, Output, Outside, RunError, Timeline, Vm};
use crate::base::units::GuestPhys;
use crate::devices::board::Moment;
use crate::devices::{DiskOperation, Effect, Input};
use crate::machine::outcome::Outcome;
use crate::machine::workers::Network;

/// The BIOS data area's reset flag, and the value by which Linux asks for a warm boot. The command line makes a
/// panicking kernel, and only that, reboot warm.
const RESET_FLAG: GuestPhys = GuestPhys(0x472);
const RESET_FLAG_WARM: [u8; 2] = [0x34, 0x12];

impl Vm {
    pub(super) fn carry_out_effects(
        &mut self,
        timeline: &mut dyn Timeline,
        outside: &mut Outside,
    ) -> Result<Option<Outcome>, RunError> {
        self.return_console_credits(outside);
        self.follow_receive_offloads(outside);
        loop {
            let effects = self.board.take_effects();
            if effects.is_empty() {
                return Ok(None);
            }
            let mut requests = Vec::new();
            let mut outcome = None;
            for effect in effects {
                match effect {
                    Effect::ConsoleOutput(byte) => self.console_bytes.push(byte),
                    Effect::Disk(request) => {
                        if request.operation == DiskOperation::Flush {
                            timeline.flush(self.standing())?;
                        }
                        requests.push(request);
                    }
                    Effect::Transmit(frame) => {
                        let release = timeline.output(self.standing(), Output::Frame(&frame))?;
                        outside.put_out(self.totals.exit_count, release, HeldOutput::Frame(frame));
                    }
                    Effect::EntropyWanted { byte_count } => self.provide_entropy(byte_count, timeline)?,
                    Effect::PowerOff => {
                        timeline.output(self.standing(), Output::PowerOff)?;
                        outcome = outcome.or(Some(Outcome::PowerOff));
                    }
                    Effect::Reset => outcome = outcome.or_else(|| Some(self.name_reset())),
                    Effect::Fault(fault) => outcome = Some(Outcome::DeviceFault(fault)),
                }
            }
            self.disk_writes = roll_disk_writes(self.disk_writes, &requests);
            for bytes in requests.iter().filter_map(|request| request.operation.written()) {
                self.history.wrote(&bytes);
            }
            if let (Some(disk), false) = (&outside.disk, requests.is_empty()) {
                disk.submit(self.totals.exit_count, requests);
            }
            self.show_console_lines(timeline, outside)?;
            if outcome.is_some() {
                return Ok(outcome);
            }
        }
    }

    /// Console bytes go out by lines, so that a guest that prints does not cost a wake-up a byte.
    fn show_console_lines(
        &mut self,
        timeline: &mut dyn Timeline,
        outside: &mut Outside,
    ) -> Result<(), RunError> {
        if self.console_bytes.ends_with(b"\n") || self.console_bytes.len() >= 256 {
            self.show_console(timeline, outside)?;
        }
        Ok(())
    }

    /// Lets out what the guest has written to its console so far.
    pub(super) fn show_console(
        &mut self,
        timeline: &mut dyn Timeline,
        outside: &mut Outside,
    ) -> Result<(), RunError> {
        if !self.console_bytes.is_empty() {
            let release = timeline.output(self.standing(), Output::Console(&self.console_bytes))?;
            let bytes = std::mem::take(&mut self.console_bytes);
            outside.put_out(self.totals.exit_count, release, HeldOutput::Console(bytes));
        }
        Ok(())
    }

    fn return_console_credits(&mut self, outside: &Outside) {
        let room = self.board.console_input_room();
        if room > self.console_room {
            outside.console.input_taken(room - self.console_room);
        }
        self.console_room = room;
    }

    /// Tells a network that is attached late what the guest's driver takes.
    pub(in crate::machine) fn show_receive_offloads(&mut self, network: &Network) {
        self.receive_offloads = self.board.receive_offloads();
        network.set_receive_offloads(self.receive_offloads);
    }

    fn follow_receive_offloads(&mut self, outside: &Outside) {
        let wanted = self.board.receive_offloads();
        if wanted != self.receive_offloads {
            self.receive_offloads = wanted;
            if let Some(network) = &outside.network {
                network.set_receive_offloads(wanted);
            }
        }
    }

    fn provide_entropy(&mut self, byte_count: usize, timeline: &mut dyn Timeline) -> Result<(), RunError> {
        let bytes = timeline.random_bytes(self.standing(), byte_count)?;
        let moment = Moment {
            now: self.now,
            memory: self.kvm.memory(),
        };
        self.board.deliver([Input::Entropy(bytes)], moment);
        Ok(())
    }

    /// A reset is a panic if the kernel left the warm-boot flag, else a reboot.
    fn name_reset(&self) -> Outcome {
        let mut flag = [0; 2];
        match self.kvm.memory().read(RESET_FLAG, &mut flag) {
            Ok(()) if flag == RESET_FLAG_WARM => Outcome::Panic,
            _ => Outcome::Reboot,
        }
    }
}
