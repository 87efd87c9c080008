//! Whole nodes over mutual TLS on loopback addresses of their own, and the parts of a node that need no network.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use antipode_certs::tls::LiveCredentials;
use antipode_certs::{
    Authority, AuthorityDays, Existing, Identity, LeafDays, Name, Paths, PeerRule, Role, TRUST_FILE,
    UnixTime, WallClock,
};
use protobuf::Message as _;
use raft::eraftpb::Message;
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::outbound::Outbound;
use super::*;
use crate::client::{Client, ClientError, Cluster};
use crate::limits::{FRAME_BYTES_MAX, RECORDS_MAX};
use crate::node::{
    Batch, Demand, Event, Impossible, Node, NodeId, NodeSettings, NodeStatus, Query, Recovered, Reply, Seats,
    Standing, Ticket,
};
use crate::store::{DiskStore, Store};
use crate::wire::{Head, Hello, Kind, Listener, dial};
use crate::{Boot, Flush, Generation, Operation, PairingId, Reason, Refusal, Request, RequestId};

mod peers;

const NOW: UnixTime = UnixTime::from_seconds(1_795_249_800);
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug)]
struct Still;

impl WallClock for Still {
    fn now(&self) -> UnixTime {
        NOW
    }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// An address of this test alone: no two processes have one number, no two tests of a process one count.
fn address(node: u8) -> SocketAddr {
    static TESTS: AtomicU8 = AtomicU8::new(0);
    thread_local! {
        static TEST: u8 = TESTS.fetch_add(1, Ordering::Relaxed);
    }
    let process = std::process::id().to_be_bytes();
    let host = TEST.with(|test| 4 * test) + node;
    SocketAddr::new(
        IpAddr::V4(Ipv4Addr::new(127, process[2] | 0x40, process[3], host)),
        7600,
    )
}

/// How a node is ended, and what becomes of it.
type Running = (oneshot::Sender<()>, JoinHandle<Result<(), ServiceError>>);

/// A CA, three nodes' settings, and the nodes that run.
struct Town {
    folder: TempDir,
    authority: Authority,
    running: BTreeMap<Name, Running>,
    seed: u64,
}

impl Town {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(AuthorityDays::default(), NOW).unwrap();
        authority.save(folder.path()).unwrap();
        Self {
            folder,
            authority,
            running: BTreeMap::new(),
            seed: 0,
        }
    }

    fn paths(&self, uri: &str) -> Paths {
        let identity = Identity::from_uri(uri).unwrap();
        let issued = self.authority.issue(&identity, LeafDays::default(), NOW).unwrap();
        let credentials = self.folder.path().join(issued.file_name());
        issued.save(&credentials, Existing::Replace).unwrap();
        Paths {
            credentials,
            trust: self.folder.path().join(TRUST_FILE),
        }
    }

    fn data(&self, node: &str) -> PathBuf {
        self.folder.path().join(format!("data-{node}"))
    }

    fn settings(&self, node: &str) -> ServiceSettings {
        let seats = ["a", "b", "c"].into_iter().zip(1..).map(|(seat, number)| {
            let settings = SeatSettings {
                address: address(number).to_string(),
                priority: u32::from(number == 3),
            };
            (name(seat), settings)
        });
        let seats: BTreeMap<Name, SeatSettings> = seats.collect();
        ServiceSettings {
            cluster: name("town"),
            name: name(node),
            listen: seats[&name(node)].address.parse().unwrap(),
            data: self.data(node),
            credentials: self.paths(&format!("antipode://tiebreaker/{node}")),
            seats,
            heartbeat_ms: 20,
        }
    }

    fn surroundings(&mut self) -> Surroundings {
        self.seed += 1;
        Surroundings {
            clock: Arc::new(Still),
            seed: self.seed,
        }
    }

    async fn init(&mut self, node: &str) -> Result<crate::store::Owner, SetupError> {
        let surroundings = self.surroundings();
        init(&self.settings(node), &surroundings).await
    }

    async fn start(&mut self, node: &str) {
        let (settings, surroundings) = (self.settings(node), self.surroundings());
        let ((ready, is_ready), (end, is_over)) = (oneshot::channel(), oneshot::channel());
        let over = async move {
            let _ = is_over.await;
        };
        let task = tokio::spawn(serve(settings, surroundings, ready, over));
        assert_eq!(is_ready.await.unwrap(), self.settings(node).listen);
        self.running.insert(name(node), (end, task));
    }

    async fn stop(&mut self, node: &str) {
        let (end, task) = self.running.remove(&name(node)).unwrap();
        end.send(()).unwrap();
        task.await.unwrap().unwrap();
    }

    async fn all(&mut self) {
        for node in ["a", "b", "c"] {
            self.init(node).await.unwrap();
        }
        for node in ["a", "b", "c"] {
            self.start(node).await;
        }
    }

    fn credentials(&self, uri: &str) -> Arc<LiveCredentials> {
        let anyone = PeerRule::AnyOf(Role::ALL.to_vec());
        LiveCredentials::open(self.paths(uri), &anyone, Arc::new(Still)).unwrap()
    }

    fn client(&self, path: &str) -> Client {
        self.client_of("town", path)
    }

    fn client_of(&self, cluster: &str, path: &str) -> Client {
        let seats = self.settings("a").seats.into_iter();
        let cluster = Cluster {
            name: name(cluster),
            nodes: seats.map(|(name, seat)| (name, seat.address)).collect(),
        };
        Client::new(cluster, self.credentials(&format!("antipode://{path}")))
    }

    /// Asks `node` until what it says of itself is as wanted.
    async fn wait_for(&self, node: &str, wanted: impl Fn(&NodeStatus) -> bool) -> NodeStatus {
        let mut client = self.client("operator/o");
        let search = async {
            loop {
                if let Ok(status) = client.status(&name(node), Duration::from_secs(1)).await
                    && wanted(&status)
                {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, search).await.unwrap()
    }
}

fn request(id: u64, expected: u64, operation: Operation) -> Request {
    Request {
        id: RequestId(id),
        expected: Generation(expected),
        operation,
        at_unix_seconds: 0,
    }
}

fn pair() -> Operation {
    Operation::Pair {
        boot: Boot(1),
        backup: name("b"),
        pairing: PairingId(7),
        flush: Flush::Site,
    }
}

fn claim() -> Operation {
    Operation::Claim {
        pairing: PairingId(7),
        boot: Boot(2),
    }
}

#[tokio::test]
async fn two_sites_contend_and_the_loser_learns_by_whom() {
    let mut town = Town::new();
    town.all().await;
    let (mut a, mut b) = (town.client("site/a"), town.client("site/b"));
    let vm = name("vm");
    let register = request(1, 0, Operation::Register { boot: Boot(1) });
    assert_eq!(a.change(&vm, &register, PATIENCE).await.unwrap().verdict, Ok(()));
    a.change(&vm, &request(2, 1, pair()), PATIENCE).await.unwrap();
    let (claim_a, claim_b) = (request(3, 2, claim()), request(1, 2, claim()));
    let (of_a, of_b) = tokio::join!(
        a.change(&vm, &claim_a, PATIENCE),
        b.change(&vm, &claim_b, PATIENCE)
    );
    let (of_a, of_b) = (of_a.unwrap(), of_b.unwrap());
    assert_eq!((of_a.generation, of_b.generation), (Generation(3), Generation(3)));
    assert_eq!(of_a.state, of_b.state);
    let verdicts: BTreeSet<bool> = [of_a.verdict.is_ok(), of_b.verdict.is_ok()].into();
    assert_eq!(verdicts.len(), 2, "{of_a:?} {of_b:?}");
    // The same again gets the same answer.
    assert_eq!(b.change(&vm, &claim_b, PATIENCE).await.unwrap(), of_b);
    let record = a.show(&vm, PATIENCE).await.unwrap().unwrap();
    assert_eq!(
        (Some(&record.state), record.history.len()),
        (of_a.state.as_ref(), 3)
    );
    assert_eq!(record.history[2].at_unix_seconds, NOW.seconds());
    let summaries = a.list(PATIENCE).await.unwrap();
    assert_eq!((summaries.len(), summaries[0].generation), (1, Generation(3)));
    assert_eq!(a.show(&name("other"), PATIENCE).await.unwrap(), None);
}

#[tokio::test]
async fn answers_go_on_without_the_leader_and_outlive_a_restart() {
    let mut town = Town::new();
    town.all().await;
    let mut site = town.client("site/a");
    let vm = name("vm");
    site.change(
        &vm,
        &request(1, 0, Operation::Register { boot: Boot(1) }),
        PATIENCE,
    )
    .await
    .unwrap();
    town.wait_for("c", |status| status.role == "leader").await;
    town.stop("c").await;
    assert_eq!(
        site.change(&vm, &request(2, 1, pair()), PATIENCE)
            .await
            .unwrap()
            .verdict,
        Ok(())
    );
    for node in ["a", "b"] {
        town.stop(node).await;
    }
    let unreachable = site
        .change(&vm, &request(3, 2, claim()), Duration::from_millis(300))
        .await;
    assert!(matches!(unreachable, Err(ClientError::Unreachable { ref tried, .. }) if !tried.is_empty()));
    for node in ["a", "b", "c"] {
        town.start(node).await;
    }
    let record = site.show(&vm, PATIENCE).await.unwrap().unwrap();
    assert_eq!(record.generation, Generation(2));
    // The third site's node leads again by itself.
    town.wait_for("c", |status| status.role == "leader").await;
}

#[tokio::test]
async fn a_node_without_its_disk_returns_under_a_new_id() {
    let mut town = Town::new();
    town.all().await;
    let mut site = town.client("site/a");
    let vm = name("vm");
    site.change(
        &vm,
        &request(1, 0, Operation::Register { boot: Boot(1) }),
        PATIENCE,
    )
    .await
    .unwrap();
    let surroundings = town.surroundings();
    let early = rejoin(&town.settings("b"), &surroundings, PATIENCE)
        .await
        .unwrap_err();
    assert!(early.to_string().contains("there is data"), "{early}");
    town.stop("b").await;
    std::fs::rename(town.data("b"), town.data("old")).unwrap();
    let as_new = town.init("b").await.unwrap_err();
    assert!(matches!(as_new, SetupError::Runs { .. }), "{as_new}");
    let surroundings = town.surroundings();
    let owner = rejoin(&town.settings("b"), &surroundings, PATIENCE)
        .await
        .unwrap();
    assert_eq!(owner.id, NodeId(4));
    town.start("b").await;
    let votes = |status: &NodeStatus| {
        status.id == NodeId(4)
            && status.records == 1
            && status.peers.iter().all(|peer| peer.standing == Standing::Voter)
    };
    town.wait_for("b", votes).await;
    // It counts: one of the others may go.
    town.stop("a").await;
    assert_eq!(
        site.change(&vm, &request(2, 1, pair()), PATIENCE)
            .await
            .unwrap()
            .verdict,
        Ok(())
    );
    // Should the old data turn up again, whoever starts it is told.
    town.start("a").await;
    town.stop("b").await;
    std::fs::rename(town.data("b"), town.data("new")).unwrap();
    std::fs::rename(town.data("old"), town.data("b")).unwrap();
    town.start("b").await;
    let told = town.wait_for("b", |status| status.stalled.is_some()).await;
    let why = told.stalled.unwrap();
    assert!(told.id == NodeId(2) && why.contains("given to node 4"), "{why}");
}

#[tokio::test]
async fn what_breaks_the_protocol_ends_its_session_and_is_counted() {
    let mut town = Town::new();
    town.all().await;
    let node = PeerRule::Exactly(Identity::from_uri("antipode://tiebreaker/a").unwrap());
    let place = town.settings("a").listen.to_string();
    let hello = serde_json::to_vec(&Hello::of_client(name("town"))).unwrap();
    let good = Head::frame(Kind::Hello, &hello);
    let too_long = [
        &u32::try_from(FRAME_BYTES_MAX + 1).unwrap().to_be_bytes()[..],
        &[Kind::Demand as u8],
    ]
    .concat();
    let of_node = Hello {
        node: Some((0, NodeId(2))),
        ..Hello::of_client(name("town"))
    };
    let pretender = Head::frame(Kind::Hello, &serde_json::to_vec(&of_node).unwrap());
    let faults: [Vec<u8>; 6] = [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        Head::frame(Kind::Hello, b"{\"version\":"),
        [good.clone(), too_long].concat(),
        [good.clone(), Head::frame(Kind::Demand, b"[[[[[[[[[[")].concat(),
        [good.clone(), Head::frame(Kind::Message, b"x")].concat(),
        pretender,
    ];
    for (count, fault) in (1..).zip(faults) {
        let mut stream = dial(&place, &town.credentials("antipode://site/a"), node.clone())
            .await
            .unwrap();
        stream.send(&fault).await.unwrap();
        let mut rest = Vec::new();
        stream.receive(&mut rest).await.unwrap_err();
        town.wait_for("a", |status| status.faulty_sessions == count).await;
    }
    let mut site = town.client("site/a");
    let register = request(1, 0, Operation::Register { boot: Boot(1) });
    assert!(
        site.change(&name("vm"), &register, PATIENCE)
            .await
            .unwrap()
            .verdict
            .is_ok()
    );
}

/// A follower that was restarted while nobody had anything to say to it is still asked for its vote.
#[tokio::test]
async fn what_is_said_first_after_the_other_end_came_back_arrives() {
    let town = Town::new();
    let everyone = PeerRule::AnyOf(Role::ALL.to_vec());
    let credentials = town.credentials("antipode://tiebreaker/a");
    let listener = Listener::bind(address(1), credentials, everyone).await.unwrap();
    let (queue, messages) = mpsc::channel(8);
    let outbound = Outbound {
        name: name("a"),
        address: address(1).to_string(),
        credentials: town.credentials("antipode://tiebreaker/b"),
        hello: Hello::of_client(name("town")),
        inbox: inbox::pair().0,
    };
    tokio::spawn(outbound.run(messages));
    let say = |term| {
        let message = Message {
            term,
            ..Message::default()
        };
        queue.try_send(message).unwrap();
    };
    for life in 0..3 {
        let (first, second) = (2 * life + 1, 2 * life + 2);
        say(first);
        let (tcp, _) = listener.accept().await.unwrap();
        let mut stream = listener.welcome(tcp).await.unwrap();
        let mut heard = Vec::new();
        assert_eq!(stream.receive(&mut heard).await.unwrap(), Kind::Hello);
        assert_eq!(stream.receive(&mut heard).await.unwrap(), Kind::Message);
        assert_eq!(Message::parse_from_bytes(&heard).unwrap().term, first);
        // Who sends a second time was not refused.
        say(second);
        assert_eq!(stream.receive(&mut heard).await.unwrap(), Kind::Message);
        assert_eq!(Message::parse_from_bytes(&heard).unwrap().term, second);
        drop(stream);
        // The news is there at once, and is taken before this is over.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn strangers_and_other_roles_are_told_apart_from_silence() {
    let mut town = Town::new();
    town.all().await;
    let vm = name("vm");
    let mut site = town.client("site/a");
    site.change(
        &vm,
        &request(1, 0, Operation::Register { boot: Boot(1) }),
        PATIENCE,
    )
    .await
    .unwrap();
    let reason = Reason::new("a test").unwrap();
    let force = Operation::Force {
        site: name("b"),
        reason,
    };
    let refused = site.change(&vm, &request(2, 1, force.clone()), PATIENCE).await;
    // The guard is asked before the record is: a site that asks is in touch.
    assert!(matches!(refused, Err(ClientError::PeerReachable(site)) if site == name("a")));
    let refused = site.export(PATIENCE).await;
    assert!(matches!(refused, Err(ClientError::Forbidden(why)) if why.contains("operator")));
    let mut operator = town.client("operator/o");
    assert_eq!(operator.export(PATIENCE).await.unwrap().len(), 1);
    let answer = operator
        .change(&vm, &request(1, 1, claim()), PATIENCE)
        .await
        .unwrap();
    assert_eq!(answer.verdict, Err(Refusal::Role));
    let of_node = operator.change(&vm, &request(2, 1, force), PATIENCE).await;
    assert!(matches!(of_node, Err(ClientError::PeerReachable(_))));
    let elsewhere = town.client_of("other", "operator/o").list(PATIENCE).await;
    let Err(ClientError::Forbidden(why)) = elsewhere else {
        panic!("{elsewhere:?}")
    };
    assert!(why.contains("is of cluster town, not of other"), "{why}");

    let stranger = Town::new()
        .client("operator/o")
        .export(Duration::from_millis(400))
        .await;
    let Err(ClientError::Unreachable {
        tried, maybe_done, ..
    }) = stranger
    else {
        panic!("{stranger:?}")
    };
    assert!(
        tried.values().any(|what| what.contains("not signed by the CA")),
        "{tried:?}"
    );
    assert!(!maybe_done);
}

#[tokio::test]
async fn a_backup_begins_a_cluster_anew_that_grants_nothing_old() {
    let mut town = Town::new();
    town.all().await;
    let vm = name("vm");
    let mut site = town.client("site/a");
    site.change(
        &vm,
        &request(1, 0, Operation::Register { boot: Boot(1) }),
        PATIENCE,
    )
    .await
    .unwrap();
    site.change(&vm, &request(2, 1, pair()), PATIENCE).await.unwrap();
    let records = town.client("operator/o").export(PATIENCE).await.unwrap();
    let text = Backup::new(name("town"), 77, records).to_json();
    for node in ["a", "b", "c"] {
        town.stop(node).await;
        std::fs::remove_dir_all(town.data(node)).unwrap();
        let backup = Backup::from_json(&text).unwrap();
        assert_eq!(restore(&town.settings(node), backup).unwrap().era, 77);
        town.start(node).await;
    }
    let answer = site.change(&vm, &request(3, 2, claim()), PATIENCE).await.unwrap();
    assert_eq!(answer.verdict, Err(Refusal::Generation));
    let known = answer.generation.0;
    assert!(known > 1 << 32);
    assert!(
        site.change(&vm, &request(4, known, claim()), PATIENCE)
            .await
            .unwrap()
            .verdict
            .is_ok()
    );
}

#[test]
fn what_is_no_backup_is_refused() {
    let whole = Backup::new(name("town"), 1, BTreeMap::new()).to_json();
    for end in 0..whole.len() {
        assert!(Backup::from_json(&whole[..end]).is_err());
    }
    let newer = whole.replace("\"format\":1", "\"format\":2");
    assert_eq!(Backup::from_json(&newer), Err(BackupError::Newer));
    let mut record = crate::decide(
        None,
        &request(1, 0, Operation::Register { boot: Boot(1) }),
        &Identity::from_uri("antipode://site/a").unwrap(),
    )
    .record
    .unwrap();
    let with = |record: &crate::Record, count: usize| {
        let records = (0..count).map(|number| (name(&format!("vm-{number}")), record.clone()));
        Backup::from_json(&Backup::new(name("town"), 1, records.collect()).to_json())
    };
    assert!(with(&record, 2).is_ok());
    assert_eq!(
        with(&record, RECORDS_MAX + 1),
        Err(BackupError::TooMany(RECORDS_MAX + 1))
    );
    let damaged = |told| matches!(told, Err(BackupError::Record { vm, .. }) if vm == name("vm-0"));
    let generation = std::mem::replace(&mut record.generation, Generation(u64::MAX));
    assert!(damaged(with(&record, 1)));
    record.generation = generation;
    record.history = vec![record.history[0].clone(); 33];
    assert!(damaged(with(&record, 1)));
    let town = Town::new();
    let foreign = Backup::new(name("other"), 1, BTreeMap::new());
    assert!(matches!(
        restore(&town.settings("a"), foreign),
        Err(SetupError::Backup(BackupError::Foreign(_)))
    ));
}

#[test]
fn who_may_ask_what() {
    let vm = || name("vm");
    let demands = [
        (
            Demand::Change {
                vm: vm(),
                request: request(1, 0, claim()),
            },
            "site operator",
        ),
        (Demand::Read(Query::Show { vm: vm() }), "site tiebreaker operator"),
        (
            Demand::Read(Query::List { after: None }),
            "site tiebreaker operator",
        ),
        (Demand::Read(Query::Export { after: None }), "operator"),
        (Demand::Status, "site tiebreaker operator"),
        (
            Demand::Reseat {
                lost: NodeId(1),
                nonce: 1,
            },
            "tiebreaker",
        ),
    ];
    for (demand, roles) in demands {
        for role in Role::ALL {
            let from = Identity {
                role,
                name: name("x"),
            };
            let allowed = roles.split(' ').any(|allowed| allowed == role.name());
            assert_eq!(authorise(&from, &demand).is_ok(), allowed, "{role} {demand:?}");
        }
    }
}

/// A store that takes so many batches and then fails.
#[derive(Debug)]
struct Failing {
    takes: usize,
}

impl Store for Failing {
    fn write(&mut self, _batch: &Batch) -> Result<(), StoreError> {
        match self.takes.checked_sub(1) {
            None => Err(StoreError::Full("/full".into())),
            Some(left) => {
                self.takes = left;
                Ok(())
            }
        }
    }
}

#[derive(Debug, Default)]
struct Said {
    answers: Vec<Reply>,
}

impl Outbox for Said {
    fn send(&mut self, message: Message) {
        panic!("a lone node sent {message:?}");
    }

    async fn depart(&mut self) {}

    fn answer(&mut self, _ticket: Ticket, reply: Reply) {
        self.answers.push(reply);
    }

    fn refuse(&mut self, from: NodeId, why: Impossible) {
        panic!("a lone node refuses {from}: {why}");
    }
}

fn lone_node(content: Recovered) -> Node {
    let settings = NodeSettings {
        name: name("a"),
        id: NodeId(1),
        era: 0,
        priorities: [(name("a"), 1)].into(),
        site_silent_ticks: 500,
        seed: 1,
    };
    Node::new(settings, content)
}

fn register() -> Event {
    Event::Request {
        ticket: Ticket(1),
        from: Identity::from_uri("antipode://site/a").unwrap(),
        at_unix_seconds: 0,
        demand: Demand::Change {
            vm: name("vm"),
            request: request(1, 0, Operation::Register { boot: Boot(1) }),
        },
    }
}

async fn with_room_for(takes: usize) -> (Result<(), Stop>, Vec<Reply>) {
    let content = Recovered::first(Seats::first([name("a")]), BTreeMap::new());
    let mut driver = Driver::new(lone_node(content), Failing { takes });
    let mut said = Said::default();
    for event in (0..60).map(|_| Event::Tick).chain([register()]) {
        if let Err(stop) = driver.take([event], &mut said).await {
            return (Err(stop), said.answers);
        }
    }
    (Ok(()), said.answers)
}

#[tokio::test]
async fn nothing_is_said_that_a_full_disk_did_not_take() {
    let mut whole = 0;
    while with_room_for(whole).await.0.is_err() {
        whole += 1;
    }
    assert!(whole > 1);
    assert!(matches!(with_room_for(whole).await.1[..], [Reply::Answer(_)]));
    for takes in 0..whole {
        let (outcome, answers) = with_room_for(takes).await;
        assert!(matches!(outcome, Err(Stop::Store(StoreError::Full(_)))));
        assert!(
            answers.iter().all(|reply| !matches!(reply, Reply::Answer(_))),
            "{takes}: {answers:?}"
        );
    }
}

/// As when the disk is full for a while: the same folder, opened anew, has all that was answered.
#[tokio::test]
async fn what_was_answered_is_there_after_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    let owner = crate::store::Owner {
        cluster: name("town"),
        era: 0,
        name: name("a"),
        id: NodeId(1),
    };
    let seats = Seats::first([name("a")]);
    DiskStore::create(folder.path(), &owner, &Recovered::first(seats, BTreeMap::new())).unwrap();
    let open = || DiskStore::open(folder.path(), &name("town"), &name("a")).unwrap();
    let (store, _, content) = open();
    let mut driver = Driver::new(lone_node(content), store);
    let mut said = Said::default();
    let ticks = (0..60).map(|_| Event::Tick);
    driver.take(ticks, &mut said).await.unwrap();
    driver.take([register()], &mut said).await.unwrap();
    assert!(matches!(said.answers[..], [Reply::Answer(_)]));
    drop(driver);
    let (_store, _, content) = open();
    let mut node = lone_node(content);
    for _ in 0..60 {
        node.step([Event::Tick]);
    }
    assert_eq!(node.machine().records[&name("vm")].generation, Generation(1));
}
