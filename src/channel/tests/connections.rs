//! Two honest ends over TCP and TLS: the log goes out, acknowledgements come back, cuts are survived, and ends that do
//! not belong together find out why.

use std::collections::VecDeque;

use antipode_certs::CertificateFault;
use antipode_tiebreaker::{Generation, Incarnation};
use tokio::net::TcpListener;
use tokio::time::sleep;

use super::ends::{Town, cutting_proxy, name, now};
use super::{hello, other_session, session};
use crate::base::limits::LOG_FRAME_BYTES_MAX;
use crate::base::units::ExitOrdinal;
use crate::channel::{
    Arrival, ByeReason, Connection, Hello, LogSeq, Message, Opened, Receiver, Refusal, Sender, Session, Side,
    TransportError, dial,
};

const START: ExitOrdinal = ExitOrdinal::new(100);

/// A primary that has batches to send, over as many connections as it takes.
struct Primary {
    sender: Sender,
    to_push: VecDeque<Vec<u8>>,
    connections: usize,
}

impl Primary {
    fn new(batches: &[Vec<u8>]) -> Self {
        Self {
            sender: Sender::new(START),
            to_push: batches.iter().cloned().collect(),
            connections: 0,
        }
    }

    fn is_done(&self) -> bool {
        self.to_push.is_empty() && self.sender.acknowledged().received == self.sender.last()
    }

    /// Goes on over `connection` until everything is acknowledged or the connection is over.
    async fn go_on(&mut self, connection: Connection) -> Result<(), TransportError> {
        let ours = Hello {
            reached: self.sender.last(),
            ..hello(Side::Primary)
        };
        let Opened {
            mut reader,
            mut writer,
            theirs,
            ..
        } = connection.greet(&ours).await?;
        for frame in self.sender.resume(theirs.reached).unwrap() {
            writer.put(Message::Log(frame));
        }
        while !self.is_done() {
            if let Some(batch) = self.to_push.pop_front() {
                let number = self.sender.last().0 + 1;
                let through = ExitOrdinal::new(START.get() + number);
                let pushed = self.sender.push(now(), through, number.is_multiple_of(3), batch);
                writer.put(Message::Log(pushed.unwrap()));
            }
            tokio::select! {
                message = reader.next() => match message? {
                    Message::Ack(ack) => self.sender.acknowledge(ack).unwrap(),
                    other => panic!("{other:?}"),
                },
                drained = writer.drain(), if !writer.is_drained() => drained?,
            }
        }
        writer.leave(ByeReason::Ended).await
    }

    async fn run(&mut self, town: &Town, to: std::net::SocketAddr) {
        loop {
            self.connections += 1;
            let gone_on = match town.east_to(to).await {
                Ok(connection) => self.go_on(connection).await,
                Err(error) => Err(error),
            };
            match gone_on {
                Ok(()) => return,
                Err(TransportError::Io(_) | TransportError::Closed) => {}
                Err(other) => panic!("{other}"),
            }
        }
    }
}

/// A backup that takes what comes.
struct Backup {
    receiver: Receiver,
    arrived: Vec<Vec<u8>>,
}

impl Backup {
    const fn new() -> Self {
        Self {
            receiver: Receiver::new(START),
            arrived: Vec::new(),
        }
    }

    /// Goes on over `connection` until the primary leaves or the connection is over.
    async fn go_on(&mut self, connection: Connection) -> Result<ByeReason, TransportError> {
        let ours = Hello {
            reached: self.receiver.reached().received,
            ..hello(Side::Backup)
        };
        let Opened {
            mut reader,
            mut writer,
            ..
        } = connection.greet(&ours).await?;
        self.receiver.resumed(now());
        loop {
            if let Some(ack) = self.receiver.ack(now()) {
                writer.put(Message::Ack(ack));
            }
            let due = self.receiver.ack_due().map(|due| due.saturating_sub(now()));
            tokio::select! {
                message = reader.next() => match message? {
                    Message::Log(frame) => {
                        if self.receiver.log(now(), &frame)? == Arrival::New {
                            self.arrived.push(frame.batch.to_vec());
                            self.receiver.consumed(now(), frame.seq);
                            self.receiver.replayed(now(), ExitOrdinal::new(START.get() + frame.seq.0));
                        }
                    }
                    Message::Ping(stamp) => writer.put(Message::Pong(stamp)),
                    Message::Bye(reason) => return Ok(reason),
                    other => panic!("{other:?}"),
                },
                () = sleep(due.unwrap_or_default()), if due.is_some() => {}
                drained = writer.drain(), if !writer.is_drained() => drained?,
            }
        }
    }
}

#[tokio::test]
async fn the_log_goes_out_and_acknowledgements_come_back() {
    let town = Town::new();
    let mut batches: Vec<Vec<u8>> = (0..200_u8)
        .map(|number| vec![number; 1 + usize::from(number) * 7])
        .collect();
    batches.insert(100, vec![0xEE; LOG_FRAME_BYTES_MAX]);
    let (mut primary, mut backup) = (Primary::new(&batches), Backup::new());
    let (at_east, at_west) = town.connected().await;
    let (left, told) = tokio::join!(primary.go_on(at_east), backup.go_on(at_west));
    left.unwrap();
    assert_eq!(told.unwrap(), ByeReason::Ended);
    assert!(backup.arrived == batches);
    assert_eq!(backup.receiver.duplicates(), 0);
}

#[tokio::test]
async fn a_ping_comes_back_and_both_ends_have_the_same_keys() {
    let town = Town::new();
    let (east, west) = town.greeted(&hello(Side::Primary), &hello(Side::Backup)).await;
    let (mut east, west) = (east.unwrap(), west.unwrap());
    assert_eq!(east.theirs, hello(Side::Backup));
    assert_eq!(west.theirs, hello(Side::Primary));
    assert_eq!(east.keys, west.keys);
    assert_ne!(east.keys.primary, east.keys.backup);
    let Opened {
        mut reader,
        mut writer,
        ..
    } = west;
    let answering = async {
        let Message::Ping(stamp) = reader.next().await.unwrap() else {
            panic!()
        };
        writer.put(Message::Pong(stamp));
        writer.drain().await.unwrap();
    };
    let asking = async {
        east.writer.put(Message::Ping(0xABCD));
        east.writer.drain().await.unwrap();
        assert_eq!(east.reader.next().await.unwrap(), Message::Pong(0xABCD));
    };
    tokio::join!(asking, answering);
    // Another connection of the same session has other keys.
    let (again, _) = town.greeted(&hello(Side::Primary), &hello(Side::Backup)).await;
    assert_ne!(again.unwrap().keys.primary, east.keys.primary);
}

#[tokio::test]
async fn cut_connections_are_resumed_without_loss_or_duplicate() {
    let town = Town::new();
    let batches: Vec<Vec<u8>> = (0..300_u32)
        .map(|number| number.to_le_bytes().repeat(1 + (number as usize * 37) % 500))
        .collect();
    let (mut primary, mut backup) = (Primary::new(&batches), Backup::new());
    let mut west = town.west();
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (at, to) = (proxy.local_addr().unwrap(), west.address().unwrap());
    // In the handshake, in the Hello, and at odd places of the log.
    let mut budgets = vec![700, 4000];
    budgets.extend((0..12_usize).map(|number| 20_000 + number * 1_301));
    budgets.push(usize::MAX);
    let backing = async {
        loop {
            let gone_on = match west.accept().await {
                Ok(connection) => backup.go_on(connection).await,
                Err(error) => Err(error),
            };
            match gone_on {
                Ok(reason) => return reason,
                Err(TransportError::Io(_) | TransportError::Closed) => {}
                Err(other) => panic!("{other}"),
            }
        }
    };
    let ((), (), reason) = tokio::join!(
        primary.run(&town, at),
        cutting_proxy(&proxy, to, &budgets),
        backing
    );
    assert_eq!(reason, ByeReason::Ended);
    assert_eq!(primary.connections, budgets.len());
    assert!(backup.arrived == batches);
    assert_eq!(backup.receiver.duplicates(), 0);
    assert_eq!(primary.sender.lag(now()).exits, 0);
}

#[tokio::test]
async fn certificates_of_others_are_turned_away_by_their_fault() {
    let (town, elsewhere) = (Town::new(), Town::new());
    let strangers = [
        (town.credentials("antipode://operator/east"), "role"),
        (town.credentials("antipode://tiebreaker/east"), "role"),
        (town.credentials("antipode://site/paris"), "name"),
        (elsewhere.credentials("antipode://site/east"), "authority"),
    ];
    for (credentials, expected) in strangers {
        let mut west = town.west();
        let to = west.address().unwrap().to_string();
        let knocking = async {
            // A stranger's trust does not hold west's certificate either; its own end says so.
            let connection = dial(&to, &credentials, &name("west")).await?;
            connection.greet(&hello(Side::Primary)).await
        };
        let (knocked, accepted) = tokio::join!(knocking, west.accept());
        let fault = match accepted.unwrap_err() {
            TransportError::Certificate(CertificateFault::WrongRole { .. }) => "role",
            TransportError::Certificate(CertificateFault::WrongName { .. }) => "name",
            // The dialling end was first to find that the other's certificate is of another CA.
            TransportError::Tls(_) => "authority",
            other => panic!("{other}"),
        };
        assert_eq!(fault, expected);
        match knocked.unwrap_err() {
            TransportError::Tls(_) => assert_ne!(expected, "authority"),
            TransportError::Certificate(CertificateFault::WrongAuthority) => {
                assert_eq!(expected, "authority")
            }
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn a_dialler_turns_away_whoever_it_did_not_mean() {
    let town = Town::new();
    let mut west = town.west();
    let to = west.address().unwrap().to_string();
    let credentials = town.credentials("antipode://site/east");
    let north = name("north");
    let (dialled, accepted) = tokio::join!(dial(&to, &credentials, &north), west.accept());
    assert!(matches!(
        dialled.unwrap_err(),
        TransportError::Certificate(CertificateFault::WrongName { .. })
    ));
    assert!(matches!(accepted.unwrap_err(), TransportError::Tls(_)));
    drop(west);
    let refused = dial(&to, &credentials, &name("west")).await.unwrap_err();
    assert!(matches!(refused, TransportError::Io(_)), "{refused}");
}

#[tokio::test]
async fn ends_that_do_not_belong_together_both_learn_why() {
    let town = Town::new();
    let backup = hello(Side::Backup);
    let with = |session| Hello {
        session,
        ..hello(Side::Primary)
    };
    let mut other_profile = hello(Side::Primary);
    other_profile.common.cpu_profile = "deterministic-2".to_owned();
    let mut other_recipe = hello(Side::Primary);
    other_recipe.common.recipe = [8; 32];
    let cases = [
        (
            with(Session {
                vm: name("db"),
                ..session()
            }),
            Refusal::Vm,
        ),
        (
            with(Session {
                incarnation: Incarnation(2),
                ..session()
            }),
            Refusal::Incarnation,
        ),
        (
            with(Session {
                generation: Generation(6),
                ..session()
            }),
            Refusal::Generation,
        ),
        (with(other_session()), Refusal::Pairing),
        (hello(Side::Backup), Refusal::Side),
        (other_profile, Refusal::CpuProfile),
        (other_recipe, Refusal::Recipe),
        (
            Hello {
                claimed: true,
                ..hello(Side::Primary)
            },
            Refusal::Claimed,
        ),
    ];
    for (theirs, expected) in cases {
        let (east, west) = town.greeted(&theirs, &backup).await;
        for outcome in [east, west] {
            match outcome.unwrap_err() {
                TransportError::Refused(refusal) => assert_eq!(refusal, expected),
                other => panic!("{expected:?}: {other}"),
            }
        }
    }
}

#[tokio::test]
async fn a_primary_whose_log_ends_too_early_is_refused_and_told() {
    let town = Town::new();
    let ahead = Hello {
        reached: LogSeq(9),
        ..hello(Side::Backup)
    };
    let (east, west) = town.greeted(&hello(Side::Primary), &ahead).await;
    assert!(matches!(
        west.unwrap_err(),
        TransportError::Refused(Refusal::LogGone)
    ));
    // The primary sees it too, from what the backup has, and is told besides.
    let mut east = east.unwrap();
    assert_eq!(
        Sender::new(START).resume(east.theirs.reached),
        Err(Refusal::LogGone)
    );
    assert_eq!(
        east.reader.next().await.unwrap(),
        Message::Bye(ByeReason::Refused(Refusal::LogGone))
    );
    assert!(matches!(
        east.reader.next().await.unwrap_err(),
        TransportError::Closed
    ));
}
