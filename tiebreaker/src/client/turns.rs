//! Whose turn it is to be asked.

use std::collections::BTreeMap;
use std::time::Duration;

use antipode_certs::Name;
use tokio::time::Instant;

/// Nodes that have kept a client waiting, and until when others go first.
#[derive(Debug, Default)]
pub(super) struct Turns(BTreeMap<Name, Instant>);

impl Turns {
    /// Notes at `now` that a try with `name` took so long: it is passed over for as long again.
    pub(super) fn note(&mut self, name: &Name, now: Instant, took: Duration) {
        self.0.insert(name.clone(), now + took);
    }

    /// Whether others go before `name`.
    pub(super) fn passes_over(&self, name: &Name, now: Instant) -> bool {
        self.0.get(name).is_some_and(|until| now < *until)
    }

    /// The first of `nodes` behind `last`, in the order of names and round again, that is not passed over; where all are,
    /// the first.
    pub(super) fn next<'n>(
        &self,
        nodes: impl Iterator<Item = &'n Name>,
        last: Option<&Name>,
        now: Instant,
    ) -> Option<&'n Name> {
        let (mut round, before): (Vec<&Name>, Vec<&Name>) = nodes.partition(|name| Some(*name) > last);
        round.extend(before);
        let free = round.iter().find(|name| !self.passes_over(name, now));
        free.or_else(|| round.first()).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_go_round_and_pass_over_who_was_silent_for_as_long_again() {
        let nodes: Vec<Name> = ["a", "b", "c"].map(|name| name.parse().unwrap()).into();
        let [a, b, c] = [&nodes[0], &nodes[1], &nodes[2]];
        let now = Instant::now();
        let mut turns = Turns::default();
        let next = |turns: &Turns, last, now| turns.next(nodes.iter(), last, now);
        assert_eq!(next(&turns, None, now), Some(a));
        assert_eq!(next(&turns, Some(a), now), Some(b));
        assert_eq!(next(&turns, Some(c), now), Some(a));

        let (soon, later) = (now + Duration::from_millis(99), now + Duration::from_millis(100));
        turns.note(b, now, Duration::from_millis(100));
        assert_eq!(next(&turns, Some(a), now), Some(c));
        assert_eq!(next(&turns, Some(a), soon), Some(c));
        assert_eq!(next(&turns, Some(a), later), Some(b));
        turns.note(a, now, Duration::from_millis(100));
        turns.note(c, now, Duration::from_millis(100));
        assert_eq!(next(&turns, Some(a), soon), Some(b), "all are passed over");
        assert_eq!(turns.next([].iter(), None, now), None);
    }
}
