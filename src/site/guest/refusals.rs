//! What was refused: of the other site, of whoever came in its place, and of this site by the other. By a word each, counted
//! for the status: what is refused harms nothing, but whoever operates the sites must be able to see it.

use std::collections::BTreeMap;

use antipode_disk_sync::protocol::LinkError;

use crate::channel::{Dropped, Misbehaviour, TransportError};
use crate::protocol::status::Refusal;
use crate::site::peer::PrepareError;
use crate::transfer::{FrameError, SourceError, TargetError, Unfit};

/// Why something could not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// By which name it is shown that something was refused; none where a host or a wire failed.
    pub(crate) refusal: Option<&'static str>,
    /// In words.
    pub(crate) why: String,
}

impl Fault {
    /// Something that was refused.
    pub(crate) fn refused(refusal: &'static str, why: impl ToString) -> Self {
        Self {
            refusal: Some(refusal),
            why: why.to_string(),
        }
    }

    /// The host or the network failed.
    pub(crate) fn failed(why: impl ToString) -> Self {
        Self {
            refusal: None,
            why: why.to_string(),
        }
    }
}

impl From<&TransportError> for Fault {
    fn from(error: &TransportError) -> Self {
        Self {
            refusal: error.refusal(),
            why: error.to_string(),
        }
    }
}

impl From<Misbehaviour> for Fault {
    fn from(fault: Misbehaviour) -> Self {
        Self::refused(fault.name(), fault)
    }
}

impl From<&LinkError> for Fault {
    fn from(error: &LinkError) -> Self {
        match error {
            LinkError::Io(_) => Self::failed(error),
            LinkError::Tls(_) | LinkError::Nameless(_) => Self::refused("certificate", error),
        }
    }
}

impl From<&FrameError> for Fault {
    fn from(error: &FrameError) -> Self {
        match error {
            FrameError::Io(_) => Self::failed(error),
            FrameError::Malformed(_) => Self::refused("no-frame", error),
            FrameError::OutOfTurn(_) => Self::refused("out-of-place", error),
            FrameError::Refused(unfit) => Self {
                why: error.to_string(),
                ..unfit.into()
            },
        }
    }
}

impl From<&Unfit> for Fault {
    fn from(unfit: &Unfit) -> Self {
        Self {
            refusal: unfit.kind.name(),
            why: unfit.why.clone(),
        }
    }
}

impl From<&SourceError> for Fault {
    fn from(error: &SourceError) -> Self {
        match error {
            SourceError::Frame(error) => error.into(),
            error => Self::failed(error),
        }
    }
}

impl From<&TargetError> for Fault {
    fn from(error: &TargetError) -> Self {
        match error {
            TargetError::Frame(error) => error.into(),
            TargetError::Refused(unfit) => unfit.into(),
        }
    }
}

impl From<&PrepareError> for Fault {
    fn from(error: &PrepareError) -> Self {
        let refusal = match error {
            PrepareError::Link(_, error) => Self::from(error).refusal,
            PrepareError::Failed(_) => None,
            PrepareError::Refused(unready) => unready.name(),
        };
        Self {
            refusal,
            why: error.to_string(),
        }
    }
}

/// Everything that was refused, by name.
#[derive(Debug, Default)]
pub(crate) struct Refusals(BTreeMap<&'static str, Refusal>);

impl Refusals {
    /// Counts `fault`, if something was refused.
    pub(crate) fn note(&mut self, now_unix_seconds: i64, fault: &Fault) {
        if let Some(what) = fault.refusal {
            self.count(now_unix_seconds, what, &fault.why, 1);
        }
    }

    /// Counts `times` more of what is refused without a word.
    pub(crate) fn count(&mut self, now_unix_seconds: i64, what: &'static str, because: &str, times: u64) {
        if times == 0 {
            return;
        }
        let refusal = self.0.entry(what).or_insert_with(|| Refusal {
            what,
            because: String::new(),
            count: 0,
            last: 0,
        });
        because.clone_into(&mut refusal.because);
        refusal.count += times;
        refusal.last = now_unix_seconds;
    }

    /// Counts the datagrams that were dropped between `before` and `after`.
    pub(crate) fn dropped(&mut self, now_unix_seconds: i64, before: Dropped, after: Dropped) {
        let because = "datagrams that are no heartbeats of the other site were dropped";
        for ((what, after), (_, before)) in after.by_name().into_iter().zip(before.by_name()) {
            self.count(now_unix_seconds, what, because, after - before);
        }
    }

    /// For the status.
    pub(crate) fn shown(&self) -> Vec<Refusal> {
        self.0.values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use antipode_certs::{CertificateFault, Identity, Role};

    use super::*;
    use crate::base::units::{ExitOrdinal, LogSeq};
    use crate::channel::{ByeReason, FrameError as ChannelFrameError, Refusal as HelloRefusal};
    use crate::site::peer::Unready;
    use crate::transfer::UnfitKind;

    fn name(fault: impl Into<Fault>) -> Option<&'static str> {
        fault.into().refusal
    }

    #[test]
    fn everything_that_a_peer_can_do_wrong_has_a_name() {
        let gap = Misbehaviour::Gap {
            expected: LogSeq::new(2),
            found: LogSeq::new(4),
        };
        let impossible = Misbehaviour::Impossible {
            what: "replayed",
            claimed: ExitOrdinal::new(9),
            reached: ExitOrdinal::new(3),
        };
        assert_eq!(name(gap), Some("log-gap"));
        assert_eq!(name(impossible), Some("impossible-position"));
        let wrong_role = CertificateFault::WrongRole {
            expected: vec![Role::Site],
            found: Identity::from_uri("antipode://operator/ann").unwrap(),
        };
        for (error, expected) in [
            (TransportError::Certificate(wrong_role), Some("certificate")),
            (
                TransportError::Refused(HelloRefusal::CpuProfile),
                Some("cpu-profile"),
            ),
            (
                TransportError::Left(ByeReason::Refused(HelloRefusal::Pairing)),
                Some("pairing"),
            ),
            (
                TransportError::Frame(ChannelFrameError::Kind(9)),
                Some("no-frame"),
            ),
            (TransportError::Misbehaviour(gap), Some("log-gap")),
            (TransportError::Left(ByeReason::Ended), None),
            (TransportError::Closed, None),
            (TransportError::Late, None),
        ] {
            assert_eq!(name(&error), expected, "{error}");
        }
    }

    #[test]
    fn what_the_other_site_refuses_keeps_its_name_and_its_words() {
        let unfit = Unfit::new(UnfitKind::OtherDisk, "the disk there is of another VM");
        let fault = Fault::from(&SourceError::Frame(FrameError::Refused(unfit.clone())));
        assert_eq!(
            fault,
            Fault::refused("other-disk", "the other site: the disk there is of another VM")
        );
        assert_eq!(
            Fault::from(&TargetError::Refused(unfit)),
            Fault::refused("other-disk", "the disk there is of another VM")
        );
        let busy = PrepareError::Refused(Unready::Busy {
            vm: "redis-1".parse().unwrap(),
            role: "unprotected".to_owned(),
        });
        assert_eq!(
            Fault::from(&busy),
            Fault::refused("role", "the other site: VM redis-1 is unprotected there")
        );
    }

    #[test]
    fn the_same_is_counted_and_told_as_it_was_last() {
        let mut refusals = Refusals::default();
        refusals.note(5, &Fault::refused("log-gap", "frame 4 came where 2 is due"));
        refusals.note(6, &Fault::failed("the cable"));
        refusals.note(7, &Fault::refused("log-gap", "frame 9 came where 8 is due"));
        let seen = |forged, replayed| Dropped {
            forged,
            replayed,
            ..Dropped::default()
        };
        refusals.dropped(8, seen(2, 4), seen(5, 4));
        let shown: Vec<_> = refusals
            .shown()
            .into_iter()
            .map(|refusal| (refusal.what, refusal.count, refusal.last, refusal.because))
            .collect();
        let expected = [
            (
                "heartbeat-forged",
                3,
                8,
                "datagrams that are no heartbeats of the other site were dropped",
            ),
            ("log-gap", 2, 7, "frame 9 came where 8 is due"),
        ];
        assert_eq!(
            shown,
            expected.map(|(what, count, last, because)| (what, count, last, because.to_owned()))
        );
    }
}
