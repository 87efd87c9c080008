//! Who was live, by the frames that the switch saw.
//!
//! A *reign* is the time from a site's first frame to its last before the other's. Between two reigns there was a
//! change of the live site; which changes there may have been is what the tiebreaker granted, in that order. A frame of
//! a site whose reign is over *splits* the brain, unless the winner has made it in replay, byte for byte: then it was let
//! out before the reign ended, and was on its way. It is an *echo*. What the winner has made since it is live excuses
//! nothing: the loser's copy had no part in that. Each frame that was made excuses one that is seen.
//!
//! ```text
//!   frames   a a a a   b b b b b   a         granted: a, b          the last `a` is split, or an echo
//!            └─ a ─┘   └─── b ───┘           granted: a, b, a       it begins a third reign
//! ```
//!
//! Where the winner has followed from before the first frame, every frame of the loser must be one that the winner has
//! made in replay: one that is not was let out without being held by whoever took over (P1), and is *unbacked*. A winner that
//! was repaired became the machine that had made what it left out (H2): what it was told of there counts as made, and nothing
//! else. What a site
//! says by itself in its reign, that the VM is there now (reverse ARP), no guest makes.

use super::frames::Sighting;
use super::made::Made;

/// One site's time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reign {
    /// Its port.
    pub port: String,
    /// Of its first frame, since 1970.
    pub first_nanos: u64,
    /// Of its last frame.
    pub last_nanos: u64,
    /// How many there were.
    pub frames: u64,
}

/// What the frames say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Who was live, in order.
    pub reigns: Vec<Reign>,
    /// Frames of a site whose reign was over, which the winner has not made in replay.
    pub split_frames: u64,
    /// Frames of a site in its reign that the winner has not made in replay, though it followed.
    pub unbacked_frames: u64,
    /// The first of either.
    pub first_wrong: Option<Sighting>,
    /// Frames of a site whose reign was over that the winner has made in replay.
    pub echoes: u64,
    /// Frames of other sites that the winner was told of, and counted as made.
    pub told: u64,
}

impl Judgement {
    /// Changes of the live site that the switch saw.
    #[must_use]
    pub fn changes(&self) -> u64 {
        (self.reigns.len() as u64).saturating_sub(1)
    }

    /// What of it breaks a promise, for people.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        let told = [
            (self.split_frames, "came from a site that was live no more"),
            (
                self.unbacked_frames,
                "were let out that the site which took over had not made",
            ),
        ];
        let first = self.first_wrong.as_ref().map(|wrong| {
            let frame: String = wrong.frame.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("the first from {} at {} ns: {frame}", wrong.port, wrong.nanos)
        });
        told.into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} frames {what}; {}", first.as_deref().unwrap_or_default()))
            .collect()
    }
}

/// What is known of the winner: the site that was granted last to be live.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Winner {
    /// What it has made.
    pub made: Made,
    /// Whether it has followed from before the first frame that was seen, if it was not live.
    pub follows_throughout: bool,
}

/// Judges frames in the order of their times; `granted` names the ports of the sites that may have been live, in the
/// order in which they may, the `winner`'s last. A site that reigns twice is named twice.
#[must_use]
pub fn judge(sightings: &[Sighting], granted: &[&str], winner: Winner) -> Judgement {
    let Winner {
        mut made,
        follows_throughout,
    } = winner;
    let checks_all = follows_throughout && made.is_whole();
    let winner = granted.last().copied().unwrap_or_default();
    let others = sightings.iter().filter(|sighting| sighting.port != winner);
    let mut judgement = Judgement {
        told: made.recognise(&others.map(|sighting| &*sighting.frame).collect::<Vec<_>>()),
        ..Judgement::default()
    };
    let mut ahead = granted.iter();
    for sighting in sightings {
        let reigns = judgement.reigns.last_mut();
        let on_time = match reigns.filter(|reign| reign.port == sighting.port) {
            Some(reign) => {
                reign.last_nanos = sighting.nanos;
                reign.frames += 1;
                true
            }
            // A live site may have been silent throughout, so grants may be passed over.
            None if ahead.any(|port| *port == sighting.port) => {
                judgement.reigns.push(Reign {
                    port: sighting.port.clone(),
                    first_nanos: sighting.nanos,
                    last_nanos: sighting.nanos,
                    frames: 1,
                });
                true
            }
            // Nothing is granted any more, now or later: this is of a reign that is over, or of nobody's.
            None => false,
        };
        if on_time && (sighting.port == winner || !checks_all || is_announcement(&sighting.frame)) {
            continue;
        }
        let has_made = made.take_replayed(&sighting.frame);
        match (on_time, has_made) {
            (true, true) => continue,
            (false, true) => {
                judgement.echoes += 1;
                continue;
            }
            (true, false) => judgement.unbacked_frames += 1,
            (false, false) => judgement.split_frames += 1,
        }
        judgement.first_wrong.get_or_insert_with(|| sighting.clone());
    }
    judgement
}

/// Whether it is a reverse ARP request (RFC 903).
fn is_announcement(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[0x80, 0x35])
}

#[cfg(test)]
mod tests {
    use super::super::made::tests::{file, tell};
    use super::*;

    /// One letter a site, one character a frame: `a1` is frame 1 of a.
    fn seen(text: &str) -> Vec<Sighting> {
        text.split_whitespace()
            .zip(1..)
            .map(|(word, nanos)| {
                let (port, frame) = word.split_at(1);
                Sighting {
                    port: port.to_owned(),
                    nanos,
                    frame: frame.as_bytes().to_vec(),
                }
            })
            .collect()
    }

    /// A winner that has made the frames of the first word in replay, and those of the second as the live copy.
    fn winner(replayed: &str, live: &str) -> Winner {
        let one = |byte: &'static u8| std::slice::from_ref(byte);
        let frames = |text: &str, in_replay| -> Vec<(bool, &'static [u8])> {
            let digits = b"0123456789";
            let named = text
                .bytes()
                .map(|byte| digits.iter().find(|digit| **digit == byte));
            named.map(|digit| (in_replay, one(digit.unwrap()))).collect()
        };
        let all = [frames(replayed, true), frames(live, false)].concat();
        Winner {
            made: Made::read(None, &file(0, &all)).unwrap(),
            follows_throughout: false,
        }
    }

    fn judged(text: &str, granted: &[&str]) -> (u64, u64, u64) {
        let judgement = judge(&seen(text), granted, Winner::default());
        (judgement.changes(), judgement.split_frames, judgement.echoes)
    }

    #[test]
    fn a_failover_is_one_change_and_splits_nothing() {
        assert_eq!(judged("a1 a2 b3 b4", &["a", "b"]), (1, 0, 0));
        let judgement = judge(&seen("a1 a2 b3"), &["a", "b"], Winner::default());
        let first = &judgement.reigns[0];
        assert_eq!((first.first_nanos, first.last_nanos, first.frames), (1, 2, 2));
    }

    #[test]
    fn a_planted_frame_of_the_loser_is_found() {
        assert_eq!(judged("a1 b2 a3 b4", &["a", "b"]), (1, 1, 0));
        let judgement = judge(&seen("a1 b2 b3 a4 b5 a6"), &["a", "b"], Winner::default());
        let first = judgement.first_wrong.as_ref().map(|wrong| wrong.nanos);
        assert_eq!((judgement.split_frames, first), (2, Some(4)));
        let told = judgement.violations().concat();
        assert!(
            told.starts_with("2 frames came") && told.ends_with("from a at 4 ns: 34"),
            "{told}"
        );
    }

    #[test]
    fn what_a_site_announces_in_its_reign_nobody_else_has_made() {
        let mut frames = seen("a1 b2 a3 b4");
        frames[1].frame = [&[0; 12][..], &[0x80, 0x35]].concat();
        let follows_throughout = true;
        let judged = |frames: &[Sighting], granted: &[&str]| {
            let winner = Winner {
                follows_throughout,
                ..winner("1", "3")
            };
            let judgement = judge(frames, granted, winner);
            (judgement.unbacked_frames, judgement.split_frames)
        };
        assert_eq!(judged(&frames[..3], &["a", "b", "a"]), (0, 0));
        frames[3].frame = frames[1].frame.clone();
        assert_eq!(judged(&frames, &["a", "b", "a"]), (0, 1), "its reign is over");
        assert_eq!(judged(&seen("a1 b2 a3"), &["a", "b", "a"]), (1, 0));
    }

    #[test]
    fn two_sites_that_answer_at_once_are_found_whoever_may_be_live() {
        assert_eq!(judged("a1 b2 a3 b4 a5 b6", &["a"]).1, 3, "b may not");
        assert_eq!(judged("a1 b2 a3 b4 a5 b6", &["a", "b"]).1, 2, "a's reign is over");
        assert_eq!(
            judged("b1 a2", &["a"]).1,
            2,
            "b was never granted, and nothing after it is"
        );
    }

    #[test]
    fn a_late_frame_that_the_winner_has_replayed_is_an_echo_once() {
        let judged = |text, replayed, live| {
            let judgement = judge(&seen(text), &["a", "b"], winner(replayed, live));
            (judgement.echoes, judgement.split_frames)
        };
        assert_eq!(judged("a1 b4 a2 a3", "123", "4"), (2, 0));
        assert_eq!(judged("a1 b4 a3 a2", "123", "4"), (2, 0), "queues may part them");
        assert_eq!(judged("a1 b4 a3", "123", "4"), (1, 0), "and lose one");
        assert_eq!(judged("a1 b4 a2 a2", "123", "4"), (1, 1), "made once, seen twice");
        assert_eq!(judged("a1 b4 a2 a2", "1223", "4"), (2, 0), "made twice");
    }

    #[test]
    fn planted_frames_that_the_winner_has_not_replayed_split() {
        let split = |text| judge(&seen(text), &["a", "b"], winner("12", "4")).split_frames;
        assert_eq!(split("a1 b4 a2"), 0);
        assert_eq!(split("a1 b4 a3"), 1, "one byte is another");
        assert_eq!(split("a1 b4 a22"), 1, "one byte is added");
        assert_eq!(split("a1 b4 a9"), 1, "the winner has never made it");
        assert_eq!(
            split("a1 b4 a4"),
            1,
            "the winner made it alone, and so did the loser"
        );
    }

    #[test]
    fn a_planted_frame_that_nobody_held_is_found() {
        let unbacked = |text, follows_throughout| {
            let winner = Winner {
                follows_throughout,
                ..winner("123", "4")
            };
            judge(&seen(text), &["a", "b"], winner).unbacked_frames
        };
        assert_eq!(
            unbacked("a1 a2 b4 b5", true),
            0,
            "what the winner lets out is its own"
        );
        assert_eq!(unbacked("a1 a7 a2 b4", true), 1);
        assert_eq!(unbacked("a7 b4", true), 1, "the first counts too");
        assert_eq!(unbacked("a1 a1 b4", true), 1, "let out twice");
        assert_eq!(
            unbacked("a1 a7 a2 b4", false),
            0,
            "it may be of before the lockstep"
        );
    }

    #[test]
    fn what_a_winner_that_was_repaired_was_told_of_counts_and_nothing_else() {
        let judged = |text, told: &str| {
            let mut kept = file(0, &[(true, b"1"), (false, b"4")]);
            for frame in told.bytes() {
                tell(&mut kept, &[&[0; 12][..], &[frame]].concat());
            }
            let winner = Winner {
                made: Made::read(None, &kept).unwrap(),
                follows_throughout: true,
            };
            let judgement = judge(&seen(text), &["a", "b"], winner);
            let (split, echoes) = (judgement.split_frames, judgement.echoes);
            (judgement.told, judgement.unbacked_frames, split, echoes)
        };
        assert_eq!(judged("a1 a2 a3 b4", "23"), (2, 0, 0, 0));
        assert_eq!(judged("a1 a2 b4 a3", "23"), (2, 0, 0, 1), "it was on its way");
        assert_eq!(judged("a1 a2 a3 b4", "2"), (1, 1, 0, 0), "in neither");
        assert_eq!(judged("a1 a2 b4 a3", "2"), (1, 0, 1, 0), "in neither, and late");
        assert_eq!(judged("a1 a2 a2 b4 a2", "2"), (1, 1, 1, 0), "told of once");
        assert_eq!(
            judged("a1 b4 a4", "2"),
            (0, 0, 1, 0),
            "the winner's own excuses nothing"
        );
    }

    #[test]
    fn there_and_back_is_two_changes_if_both_were_granted() {
        assert_eq!(judged("a1 b2 a3", &["a", "b", "a"]), (2, 0, 0));
        assert_eq!(judged("a1 a3", &["a", "b", "a"]), (0, 0, 0), "b was silent");
    }

    #[test]
    fn silence_is_no_reign() {
        assert_eq!(judge(&[], &["a"], Winner::default()), Judgement::default());
    }
}
