//! The rounds, and the judgement of each.

use super::fault::{Fault, Plan};
use super::town::{self, Town};
use crate::switch::random::Random;
use antipode_certs::Name;
use antipode_tiebreaker::client::Client;
use antipode_tiebreaker::{
    Answer, Boot, Flush, Generation, Operation, PairingId, Refusal, Request, RequestId, State,
};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::time::{Duration, Instant, UNIX_EPOCH};
use tokio::runtime::{Builder, Runtime};

/// A claim that is not answered in this time has found no tiebreaker.
const PATIENCE: Duration = Duration::from_secs(30);

/// Microseconds after a round's beginning within which each site claims.
const CLAIM_AFTER_US_MAX: u64 = 4_000;

/// What the rounds have shown.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) rounds: u64,
    pub(super) double_wins: u64,
    /// Grants that a later read did not show.
    pub(super) lost_acked: u64,
    /// Rounds with no winner, or a loser that was not told by whom.
    pub(super) unexplained: u64,
    /// How often each fault happened.
    pub(super) faults: BTreeMap<Fault, u64>,
    /// The longest that a claim waited, by the fault of its round, if it had one.
    pub(super) longest: BTreeMap<Option<Fault>, Duration>,
    /// How long each claim of a round without a fault took that had no contender before it.
    pub(super) calm: Vec<Duration>,
    /// Wins of each site.
    pub(super) wins: [u64; 2],
}

impl Tally {
    /// Notes how long the claims of one round took, the longer and the shorter.
    fn note_waits(&mut self, fault: Option<Plan>, longest: Duration, shortest: Duration) {
        let seen = self.longest.entry(fault.map(|plan| plan.fault)).or_default();
        *seen = longest.max(*seen);
        match fault {
            None => self.calm.push(shortest),
            Some(plan) => *self.faults.entry(plan.fault).or_default() += 1,
        }
    }

    /// Judges one round: what both were told, and what a read shows then.
    fn judge(&mut self, answers: [&Answer; 2], seen: (Generation, &State)) {
        self.rounds += 1;
        let won = answers.map(|answer| answer.verdict.is_ok());
        match won {
            [true, true] => self.double_wins += 1,
            [false, false] => self.unexplained += 1,
            _ => {}
        }
        for (wins, won) in self.wins.iter_mut().zip(won) {
            *wins += u64::from(won);
        }
        for answer in answers {
            let shown = (answer.generation, answer.state.as_ref()) == (seen.0, Some(seen.1));
            match answer.verdict {
                Ok(()) => self.lost_acked += u64::from(!shown),
                Err(refusal) => {
                    self.unexplained += u64::from(!shown || refusal != Refusal::Generation);
                }
            }
        }
    }
}

struct Contender {
    site: &'static str,
    client: Client,
    last_id: u64,
}

impl Contender {
    fn request(&mut self, expected: Generation, operation: Operation) -> Request {
        self.last_id += 1;
        Request {
            id: RequestId(self.last_id),
            expected,
            operation,
            at_unix_seconds: 0,
        }
    }

    async fn ask(&mut self, vm: &Name, request: &Request) -> Result<(Answer, Duration)> {
        let begun = Instant::now();
        let answer = self.client.change(vm, request, PATIENCE).await?;
        Ok((answer, begun.elapsed()))
    }
}

/// Two sites and a cluster, round after round.
pub(super) struct Contest<'t> {
    town: &'t mut Town,
    runtime: Runtime,
    contenders: [Contender; 2],
    vm: Name,
    random: Random,
    pub(super) tally: Tally,
}

impl<'t> Contest<'t> {
    pub(super) fn new(town: &'t mut Town, seed: u64) -> Result<Self> {
        let contender = |site, client| Contender {
            site,
            client,
            last_id: 0,
        };
        let contenders = [
            contender("a", town.client("site/a")?),
            contender("b", town.client("site/b")?),
        ];
        Ok(Self {
            town,
            runtime: Builder::new_current_thread().enable_all().build()?,
            contenders,
            vm: "vm".parse()?,
            random: Random::new(seed, "tiebreaker"),
            tally: Tally::default(),
        })
    }

    /// Plays `rounds`, every `fault_every`th with a fault.
    pub(super) fn play(&mut self, rounds: u64, fault_every: u64) -> Result<()> {
        let register = Operation::Register { boot: Boot(1) };
        let (mut live, mut boot) = (0, 1);
        let mut generation = self.ask(live, Generation::NONE, register)?.generation;
        for round in 1..=rounds {
            let pairing = PairingId(round);
            let pair = Operation::Pair {
                boot: Boot(boot),
                backup: self.contenders[1 - live].site.parse()?,
                pairing,
                flush: Flush::Site,
            };
            let paired = self.ask(live, generation, pair)?;
            ensure!(
                paired.verdict.is_ok(),
                "round {round}: `pair` is refused: {paired:?}"
            );
            generation = paired.generation;
            let fault = round
                .is_multiple_of(fault_every)
                .then(|| Plan::draw(&mut self.random));
            boot = round + 1;
            let claims = self.claim(generation, pairing, boot, fault)?;
            let seen = self.read()?;
            self.tally.judge([&claims[0].0, &claims[1].0], (seen.0, &seen.1));
            let longest = claims[0].1.max(claims[1].1);
            if longest > self.town.bound() {
                // With the time of day that the nodes' logs have.
                let at = UNIX_EPOCH.elapsed().unwrap_or_default().as_secs_f64();
                eprintln!("lab: round {round}, {fault:?}, over at {at:.3}: a claim waited {longest:?}");
            }
            self.tally
                .note_waits(fault, longest, claims[0].1.min(claims[1].1));
            generation = seen.0;
            let State::Solo { site, .. } = seen.1 else {
                anyhow::bail!("round {round}: nobody is alone: {seen:?}")
            };
            live = usize::from(site.as_str() == "b");
        }
        Ok(())
    }

    fn ask(&mut self, who: usize, expected: Generation, operation: Operation) -> Result<Answer> {
        let contender = &mut self.contenders[who];
        let request = contender.request(expected, operation);
        Ok(self.runtime.block_on(contender.ask(&self.vm, &request))?.0)
    }

    /// Both claim at once, while the fault happens, if there is one.
    fn claim(
        &mut self,
        expected: Generation,
        pairing: PairingId,
        boot: u64,
        fault: Option<Plan>,
    ) -> Result<[(Answer, Duration); 2]> {
        let leader = match fault {
            None => None,
            Some(_) => {
                let asking = town::leader(&mut self.contenders[1].client, PATIENCE);
                Some(self.runtime.block_on(asking)?)
            }
        };
        // Either may be first, and a fault hits the claims at any moment of theirs.
        let waits = [(); 2].map(|()| self.random.up_to(CLAIM_AFTER_US_MAX));
        let Self {
            town,
            runtime,
            contenders: [a, b],
            vm,
            ..
        } = self;
        std::thread::scope(|scope| {
            let happening = fault
                .zip(leader)
                .map(|(plan, leader)| scope.spawn(move || plan.happen(town, leader)));
            let claim = || Operation::Claim {
                pairing,
                boot: Boot(boot),
            };
            let requests = (a.request(expected, claim()), b.request(expected, claim()));
            let after = |wait| tokio::time::sleep(Duration::from_micros(wait));
            let (of_a, of_b) = runtime.block_on(async {
                tokio::join!(
                    async {
                        after(waits[0]).await;
                        a.ask(vm, &requests.0).await
                    },
                    async {
                        after(waits[1]).await;
                        b.ask(vm, &requests.1).await
                    }
                )
            });
            if let Some(happening) = happening {
                happening
                    .join()
                    .map_err(|_| anyhow::anyhow!("the fault's thread has died"))??;
            }
            Ok([of_a?, of_b?])
        })
    }

    fn read(&mut self) -> Result<(Generation, State)> {
        let client = &mut self.contenders[0].client;
        let record = self.runtime.block_on(client.show(&self.vm, PATIENCE))?;
        record
            .map(|record| (record.generation, record.state))
            .context("the VM's record is gone")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(won: bool, generation: u64, site: &str) -> Answer {
        Answer {
            verdict: if won { Ok(()) } else { Err(Refusal::Generation) },
            generation: Generation(generation),
            state: Some(solo(site)),
        }
    }

    fn solo(site: &str) -> State {
        State::Solo {
            site: site.parse().unwrap(),
            boot: Some(Boot(2)),
        }
    }

    fn judged(a: &Answer, b: &Answer, seen: (u64, &str)) -> [u64; 3] {
        let mut tally = Tally::default();
        tally.judge([a, b], (Generation(seen.0), &solo(seen.1)));
        [tally.double_wins, tally.lost_acked, tally.unexplained]
    }

    #[test]
    fn a_round_is_judged_by_what_both_were_told_and_a_read() {
        let (won, lost) = (answer(true, 3, "a"), answer(false, 3, "a"));
        assert_eq!(judged(&won, &lost, (3, "a")), [0, 0, 0]);
        assert_eq!(judged(&won, &answer(true, 3, "b"), (3, "a")), [1, 1, 0]);
        assert_eq!(judged(&won, &lost, (2, "a")), [0, 1, 1], "the grant was lost");
        assert_eq!(
            judged(&won, &answer(false, 2, "a"), (3, "a")),
            [0, 0, 1],
            "the loser does not know by whom"
        );
        assert_eq!(judged(&lost, &lost, (3, "a")), [0, 0, 1], "nobody has won");
    }
}
