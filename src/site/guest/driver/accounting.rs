//! What keeping the other copy the same costs (H4), counted where it happens.

use std::time::Duration;

use super::Driver;
use crate::base::units::LogSeq;
use crate::machine::config;
use crate::protocol::mode::Account;
use crate::replay::Carried;

impl Driver {
    /// This site leads from here on.
    pub(super) fn account_begins(&mut self) {
        let moment = self.moment();
        if let Ok(defined) = config::load(&self.parts.folder.definition()) {
            self.keeping.choose(defined.kept);
        }
        self.account = Some(Account::from(moment));
        self.keeping.begin(moment);
    }

    /// Some time has passed. That of a VM without a backup is nobody's.
    pub(super) fn account_of_time(&mut self) {
        let moment = self.moment();
        if let (true, Some(account)) = (self.leads_log(), &mut self.account) {
            account.passed(moment);
        }
    }

    /// Frame `seq` of the log takes `sent` bytes of the connection.
    pub(super) fn account_of_log(&mut self, seq: LogSeq, sent: u64, carried: &Carried) {
        let moment = self.moment();
        if let Some(account) = &mut self.account {
            let state = account.logged(moment, seq, sent, carried);
            self.keeping.meter.carried(carried.preemptions.into(), state);
        }
    }

    /// The other site's copy is another machine, or is that no more.
    pub(super) fn account_of_repair(&mut self, differs: bool) {
        let moment = self.moment();
        if let Some(account) = &mut self.account {
            account.differs(moment, differs);
        }
        if differs {
            self.keeping.meter.differed();
        }
    }

    /// An output has left, which waited for that site if a frame of the log tells of it.
    pub(super) fn account_of_output(&mut self, written: LogSeq, held: Duration) {
        let moment = self.moment();
        if let Some(account) = self.account.as_mut().filter(|_| written != LogSeq::NONE) {
            account.let_out(moment, written, held);
            self.keeping.meter.let_out(moment, held);
        }
    }
}
