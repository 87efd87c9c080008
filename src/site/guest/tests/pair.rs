//! Two copies of which the first one's log is handed to the second one.

use super::super::kept_differences::KeepDifferences;
use super::super::kept_frames::KeepFrames;
use super::*;
use crate::replay::Entry;
use crate::site::store::VmFolder;

pub(super) struct Pair {
    pub(super) leader: Copy,
    pub(super) follower: Copy,
    pub(super) feeder: Feeder,
    deframer: Deframer,
    /// The leader waits for it, so that it is not at its end before its copy is where it differs.
    pub(super) room: Arc<Room>,
    /// The last frame that was handed on.
    pub(super) fed: LogSeq,
    /// Where the follower keeps its guest's frames, and in what it differed.
    state: tempfile::TempDir,
}

impl Pair {
    pub(super) fn of(rounds: u64) -> Self {
        let leader = started(rounds);
        let room = Arc::<Room>::default();
        let state = tempfile::tempdir().expect("there is room");
        let folder = folder_in(&state);
        folder.make().expect("there is room");
        let checks = Checks {
            keep_differences: Some(KeepDifferences::within(folder.file("differences"), 1)),
            keep_frames: Some(KeepFrames {
                folder,
                bytes_max: 1 << 20,
            }),
            ..Checks::default()
        };
        let (follower, feeder, deframer) = cloned(&leader, &room, checks);
        Self {
            leader,
            follower,
            feeder,
            deframer,
            room,
            fed: LogSeq::NONE,
            state,
        }
    }

    /// Hands on what is logged, with `change` made to each batch's entries, until the leader has ended or done what it was
    /// ordered, which is answered, or `change` answers false.
    pub(super) fn hand_on(
        &mut self,
        mut change: impl FnMut(&mut Vec<(ExitOrdinal, Entry)>) -> bool,
    ) -> Option<FromVcpu> {
        loop {
            match self.leader.next() {
                FromVcpu::Logged { seq, frame, .. } => {
                    let mut batch = self.deframer.batch(&frame).expect("the frame is whole");
                    let goes_on = change(&mut batch.entries);
                    self.feeder.feed(seq, batch);
                    self.fed = seq;
                    if !goes_on {
                        return None;
                    }
                }
                done @ (FromVcpu::Captured { .. } | FromVcpu::Checkpointed { .. } | FromVcpu::Ended(_)) => {
                    return Some(done);
                }
                _ => {}
            }
        }
    }

    /// What the follower has kept, by the name of the file.
    pub(super) fn kept(&self, name: &str) -> Vec<u8> {
        std::fs::read(folder_in(&self.state).file(name)).expect("it is kept")
    }

    /// Whether it has kept something by this name.
    pub(super) fn keeps(&self, name: &str) -> bool {
        folder_in(&self.state).file(name).exists()
    }

    /// Both come to the guest's end, at the same place.
    pub(super) fn end(mut self) {
        let Some(FromVcpu::Ended(here)) = self.hand_on(|_| true) else {
            panic!("it ends");
        };
        let (shown, there) = self.follower.ended();
        assert_eq!(shown, b"", "a copy shows nothing");
        assert!(matches!(here, Ok((Outcome::PowerOff, _))), "{here:?}");
        assert_eq!(here.unwrap(), there.unwrap());
    }
}

fn folder_in(state: &tempfile::TempDir) -> VmFolder {
    VmFolder::of(state.path(), "copy")
}
