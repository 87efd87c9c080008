//! Our cluster under the clock.

use super::{CLIENTS, PRESSURE};
use crate::tiebreaker::town::{self, Town};
use antipode_certs::Name;
use antipode_tiebreaker::client::Client;
use antipode_tiebreaker::{Answer, Boot, Flush, Generation, Operation, PairingId, Request, RequestId};
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

const PATIENCE: Duration = Duration::from_secs(30);

/// One site with one VM, whose record it changes again and again.
struct Site {
    client: Client,
    vm: Name,
    last_id: u64,
    generation: Generation,
}

impl Site {
    async fn register(client: Client, vm: &str) -> Result<Self> {
        let mut site = Self {
            client,
            vm: vm.parse()?,
            last_id: 0,
            generation: Generation::NONE,
        };
        site.change(Operation::Register { boot: Boot(1) }).await?;
        Ok(site)
    }

    /// Asks for a change that must be granted; answers with how long that took.
    async fn change(&mut self, operation: Operation) -> Result<Duration> {
        self.last_id += 1;
        let request = Request {
            id: RequestId(self.last_id),
            expected: self.generation,
            operation,
            at_unix_seconds: 0,
        };
        let begun = Instant::now();
        let answer: Answer = self.client.change(&self.vm, &request, PATIENCE).await?;
        let took = begun.elapsed();
        ensure!(
            answer.verdict.is_ok(),
            "{:?} is refused: {answer:?}",
            request.operation
        );
        self.generation = answer.generation;
        Ok(took)
    }

    async fn pair(&mut self) -> Result<PairingId> {
        let pairing = PairingId(self.last_id);
        let pair = Operation::Pair {
            boot: Boot(1),
            backup: "b".parse()?,
            pairing,
            flush: Flush::Site,
        };
        self.change(pair).await?;
        Ok(pairing)
    }

    async fn claim(&mut self, pairing: PairingId) -> Result<Duration> {
        self.change(Operation::Claim {
            pairing,
            boot: Boot(1),
        })
        .await
    }
}

/// How a leader is lost.
#[derive(Debug, Clone, Copy)]
pub(super) enum Loss {
    /// It is killed: its connections end.
    Kill,
    /// It is frozen, as by a power cut: nothing ends, and nothing comes.
    Freeze,
}

/// Our cluster and its clients.
pub(super) struct Ours {
    town: Town,
    runtime: Runtime,
    first: Site,
    many: Vec<Site>,
}

impl Ours {
    /// Takes a cluster that has just been made.
    pub(super) fn new(town: Town) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let register = |vm: &str| runtime.block_on(Site::register(town.client("site/a")?, vm));
        let first = register("vm")?;
        let many = (0..CLIENTS)
            .map(|number| register(&format!("vm-{number}")))
            .collect::<Result<_>>()?;
        Ok(Self {
            town,
            runtime,
            first,
            many,
        })
    }

    /// How long each of so many claims took, one after another.
    pub(super) fn claims(&mut self, count: u64) -> Result<Vec<Duration>> {
        let Self { runtime, first, .. } = self;
        runtime.block_on(async {
            let mut took = Vec::new();
            for _ in 0..count {
                let pairing = first.pair().await?;
                took.push(first.claim(pairing).await?);
            }
            Ok(took)
        })
    }

    /// Changes a second with all clients at once.
    pub(super) fn pressed(&mut self) -> Result<f64> {
        let sites = std::mem::take(&mut self.many);
        self.runtime.block_on(async {
            let begun = Instant::now();
            let mut working = JoinSet::new();
            for mut site in sites {
                working.spawn(async move {
                    let mut changes = 0_u32;
                    while begun.elapsed() < PRESSURE {
                        site.change(Operation::CancelPair { boot: Boot(1) }).await?;
                        changes += 1;
                    }
                    anyhow::Ok((site, changes))
                });
            }
            let mut all = 0;
            while let Some(worked) = working.join_next().await {
                let (site, changes) = worked??;
                self.many.push(site);
                all += changes;
            }
            Ok(f64::from(all) / begun.elapsed().as_secs_f64())
        })
    }

    /// Loses the leader and brings it back later; answers with how long a claim waited that was asked at that moment.
    pub(super) fn lose_leader(&mut self, how: Loss) -> Result<Duration> {
        let Self {
            town, runtime, first, ..
        } = self;
        let (leader, pairing) = runtime.block_on(async {
            // Until everyone is back and the third site's node leads.
            tokio::time::sleep(Duration::from_secs(3)).await;
            let leader = town::leader(&mut first.client, PATIENCE).await?;
            anyhow::Ok((leader, first.pair().await?))
        })?;
        match how {
            Loss::Kill => town.kill(leader)?,
            Loss::Freeze => town.freeze(leader, true)?,
        }
        let took = runtime.block_on(first.claim(pairing))?;
        match how {
            Loss::Kill => town.start(leader)?,
            Loss::Freeze => town.freeze(leader, false)?,
        }
        Ok(took)
    }
}
