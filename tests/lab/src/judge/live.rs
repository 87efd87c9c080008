//! Who was live, by the frames that the switch saw.
//!
//! A *reign* is the time from a site's first frame to its last before the other's. Between two reigns there was a
//! change of the live site; which changes there may have been is what the tiebreaker granted, in that order. A frame of
//! a site whose reign is over *splits* the brain, unless the winner's own history holds it byte for byte: then it is an
//! output that the winner has made too, on its way when the reign ended.
//!
//! ```text
//!   frames   a a a a   b b b b b   a         granted: a, b          the last `a` is split
//!            └─ a ─┘   └─── b ───┘           granted: a, b, a       it begins a third reign
//! ```

use super::frames::Sighting;
use std::collections::HashSet;

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
    /// Frames of a site whose reign was over, which the winner's history does not hold.
    pub split_frames: u64,
    /// When the first of them was seen.
    pub first_split_nanos: Option<u64>,
    /// Frames of a site whose reign was over that the winner has made too.
    pub echoes: u64,
}

impl Judgement {
    /// Changes of the live site that the switch saw.
    #[must_use]
    pub fn changes(&self) -> u64 {
        (self.reigns.len() as u64).saturating_sub(1)
    }
}

/// What sites have put out, beyond what the switch saw of them.
pub trait History {
    /// Whether the site at `port` has made this very frame, although it may not have sent it.
    fn holds(&self, port: &str, frame: &[u8]) -> bool;
}

/// Nothing is known beyond what the switch saw.
#[derive(Debug, Clone, Copy)]
pub struct SeenAlone;

impl History for SeenAlone {
    fn holds(&self, _: &str, _: &[u8]) -> bool {
        false
    }
}

/// Judges frames in the order of their times; `granted` names the ports of the sites that may have been live, in the
/// order in which they may. A site that reigns twice is named twice.
#[must_use]
pub fn judge(sightings: &[Sighting], granted: &[&str], history: &dyn History) -> Judgement {
    let sent: HashSet<(&str, &[u8])> = sightings
        .iter()
        .map(|sighting| (sighting.port.as_str(), sighting.frame.as_slice()))
        .collect();
    let mut judgement = Judgement::default();
    let mut ahead = granted.iter();
    for sighting in sightings {
        match judgement.reigns.last_mut() {
            Some(reign) if reign.port == sighting.port => {
                reign.last_nanos = sighting.nanos;
                reign.frames += 1;
                continue;
            }
            _ => {}
        }
        // A live site may have been silent throughout, so grants may be passed over.
        if ahead.any(|port| *port == sighting.port) {
            judgement.reigns.push(Reign {
                port: sighting.port.clone(),
                first_nanos: sighting.nanos,
                last_nanos: sighting.nanos,
                frames: 1,
            });
            continue;
        }
        // Nothing is granted any more, now or later: this is of a reign that is over, or of nobody's.
        let winner = judgement.reigns.last().map(|reign| reign.port.as_str());
        let held = winner.is_some_and(|winner| {
            sent.contains(&(winner, sighting.frame.as_slice())) || history.holds(winner, &sighting.frame)
        });
        if held {
            judgement.echoes += 1;
        } else {
            judgement.split_frames += 1;
            judgement.first_split_nanos.get_or_insert(sighting.nanos);
        }
    }
    judgement
}

#[cfg(test)]
mod tests {
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

    fn judged(text: &str, granted: &[&str]) -> (u64, u64, u64) {
        let judgement = judge(&seen(text), granted, &SeenAlone);
        (judgement.changes(), judgement.split_frames, judgement.echoes)
    }

    #[test]
    fn a_failover_is_one_change_and_splits_nothing() {
        assert_eq!(judged("a1 a2 b3 b4", &["a", "b"]), (1, 0, 0));
        let judgement = judge(&seen("a1 a2 b3"), &["a", "b"], &SeenAlone);
        let first = &judgement.reigns[0];
        assert_eq!((first.first_nanos, first.last_nanos, first.frames), (1, 2, 2));
    }

    #[test]
    fn a_planted_frame_of_the_loser_is_found() {
        assert_eq!(judged("a1 b2 a3 b4", &["a", "b"]), (1, 1, 0));
        let judgement = judge(&seen("a1 b2 b3 a4 b5 a6"), &["a", "b"], &SeenAlone);
        assert_eq!(
            (judgement.split_frames, judgement.first_split_nanos),
            (2, Some(4))
        );
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
    fn a_frame_that_the_winner_made_too_is_no_split() {
        assert_eq!(judged("a1 b2 a2", &["a", "b"]), (1, 0, 1), "it sent the same");
        struct Knows;
        impl History for Knows {
            fn holds(&self, port: &str, frame: &[u8]) -> bool {
                (port, frame) == ("b", b"9")
            }
        }
        let judgement = judge(&seen("a1 b2 a9 a8"), &["a", "b"], &Knows);
        assert_eq!((judgement.echoes, judgement.split_frames), (1, 1));
    }

    #[test]
    fn there_and_back_is_two_changes_if_both_were_granted() {
        assert_eq!(judged("a1 b2 a3", &["a", "b", "a"]), (2, 0, 0));
        assert_eq!(judged("a1 a3", &["a", "b", "a"]), (0, 0, 0), "b was silent");
    }

    #[test]
    fn silence_is_no_reign() {
        assert_eq!(judge(&[], &["a"], &SeenAlone), Judgement::default());
    }
}
