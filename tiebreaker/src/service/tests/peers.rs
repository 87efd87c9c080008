//! The other end of a connection misbehaves, forgets, or refuses.

use super::*;
use crate::wire::Stream;

/// A node that takes a change and falls silent, and refuses the copies of it: what a client is told then.
async fn told_after(refusal: Reply, silences: usize, place: SocketAddr) -> ClientError {
    let town = Town::new();
    let everyone = PeerRule::AnyOf(Role::ALL.to_vec());
    let credentials = town.credentials("antipode://tiebreaker/a");
    let listener = Listener::bind(place, credentials, everyone).await.unwrap();
    let node = tokio::spawn(async move {
        for session in 0.. {
            let (tcp, _) = listener.accept().await.unwrap();
            let mut stream: Stream = listener.welcome(tcp).await.unwrap();
            let _: Hello = stream.receive_json(Kind::Hello, 1000).await.unwrap();
            while let Ok(Demand::Change { .. }) = stream.receive_json(Kind::Demand, 1000).await {
                if session < silences {
                    break;
                }
                stream.send_json(Kind::Reply, &refusal).await.unwrap();
            }
        }
    });
    let cluster = Cluster {
        name: name("town"),
        nodes: [(name("a"), place.to_string())].into(),
    };
    let mut client = Client::new(cluster, town.credentials("antipode://operator/o"));
    let change = request(1, 0, Operation::Register { boot: Boot(1) });
    let told = client
        .change(&name("vm"), &change, Duration::from_millis(600))
        .await;
    node.abort();
    told.unwrap_err()
}

/// The first copy may have been granted: nobody may be told that nothing was done.
#[tokio::test]
async fn a_guard_that_refuses_a_copy_says_nothing_of_the_first_one() {
    let reachable = Reply::PeerReachable { site: name("b") };
    let full = Reply::Forbidden("there are too many".to_owned());
    let refusals = [(1, reachable, "site b is in touch"), (3, full, "too many")];
    for (number, refusal, words) in refusals {
        let told = told_after(refusal.clone(), 1, address(number)).await;
        let ClientError::Unreachable {
            tried,
            maybe_done: true,
            ..
        } = told
        else {
            panic!("{told:?}")
        };
        assert!(tried[&name("a")].contains(words), "{tried:?}");
        let told = told_after(refusal, 0, address(number + 1)).await;
        assert!(
            matches!(told, ClientError::PeerReachable(_) | ClientError::Forbidden(_)),
            "{told:?}"
        );
    }
}

/// What would stop the process of whoever believes it ends a session, and is counted.
#[tokio::test]
async fn a_node_that_says_what_cannot_be_loses_its_session_alone() {
    let mut town = Town::new();
    for node in ["a", "b", "c"] {
        town.init(node).await.unwrap();
    }
    town.start("a").await;
    town.start("c").await;
    town.wait_for("c", |status| status.role == "leader").await;
    let place = town.settings("a").listen.to_string();
    let of_b = Hello {
        node: Some((0, NodeId(2))),
        ..Hello::of_client(name("town"))
    };
    let node = PeerRule::Exactly(Identity::from_uri("antipode://tiebreaker/a").unwrap());
    for count in 1..=2 {
        let credentials = town.credentials("antipode://tiebreaker/b");
        let mut stream = dial(&place, &credentials, node.clone()).await.unwrap();
        stream.send_json(Kind::Hello, &of_b).await.unwrap();
        let mut message = Message {
            from: 2,
            to: 1,
            term: 1000 * count,
            commit: 1 << 20,
            ..Message::default()
        };
        message.set_msg_type(raft::eraftpb::MessageType::MsgHeartbeat);
        let bytes = message.write_to_bytes().unwrap();
        stream.send(&Head::frame(Kind::Message, &bytes)).await.unwrap();
        let mut rest = Vec::new();
        stream.receive(&mut rest).await.unwrap_err();
        town.wait_for("a", |status| status.faulty_sessions == count).await;
    }
    let mut site = town.client("site/a");
    let register = request(1, 0, Operation::Register { boot: Boot(1) });
    let told = site.change(&name("vm"), &register, PATIENCE).await.unwrap();
    assert_eq!(told.verdict, Ok(()));
}

#[tokio::test]
async fn a_node_that_runs_does_not_rejoin_and_is_told_why() {
    let mut town = Town::new();
    town.all().await;
    town.wait_for("c", |status| status.role == "leader").await;
    // A follower, and the leader itself.
    for node in ["b", "c"] {
        let surroundings = town.surroundings();
        let elsewhere = ServiceSettings {
            data: town.data("other"),
            ..town.settings(node)
        };
        let told = rejoin(&elsewhere, &surroundings, Duration::from_secs(1)).await;
        assert!(
            matches!(told, Err(SetupError::Client(ClientError::SeatTaken))),
            "{node}: {told:?}"
        );
        assert!(!town.data("other").exists());
    }
}
