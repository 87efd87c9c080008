//! Both ends against each other over a socket pair, running real programs of this machine.

use super::client::{Agent, Error, Event};
use super::message::{ExitStatus, Request, Run, TerminalSize, WINDOW_BYTES};
use super::server::serve;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(10);

fn agent() -> Agent {
    let (ours, theirs) = UnixStream::pair().unwrap();
    std::thread::spawn(move || serve(theirs.try_clone().unwrap(), theirs));
    Agent::connect(ours, SOON).unwrap()
}

fn shell(script: &str) -> Run {
    Run {
        argv: vec!["sh".into(), "-c".into(), script.into()],
        ..Run::default()
    }
}

#[test]
fn a_program_has_input_two_outputs_and_a_status() {
    let output = agent()
        .run_with_input(shell("cat; echo oops >&2; exit 3"), b"hello")
        .unwrap();
    assert_eq!(output.status, ExitStatus::Code(3));
    assert_eq!(
        (output.stdout.as_slice(), output.stderr.as_slice()),
        (&b"hello"[..], &b"oops\n"[..])
    );
}

#[test]
fn environment_and_directory_are_taken() {
    let mut run = shell("echo $X; pwd");
    run.env = vec![("X".into(), "y".into())];
    run.directory = Some("/tmp".into());
    assert_eq!(agent().run(run).unwrap().text(), "y\n/tmp");
}

#[test]
fn what_cannot_be_started_says_why() {
    let error = agent()
        .run(Run {
            argv: vec!["/no/such/program".into()],
            ..Run::default()
        })
        .unwrap_err();
    assert!(
        matches!(&error, Error::Failed(reason) if reason.contains("/no/such/program")),
        "{error}"
    );
    let error = agent().run(Run::default()).unwrap_err();
    assert!(matches!(error, Error::Failed(_)));
}

#[test]
fn channels_are_independent_and_a_signal_reaches_the_whole_group() {
    let agent = agent();
    let mut sleeper = agent.open(Request::Run(shell("sleep 100 | sleep 100"))).unwrap();
    assert_eq!(agent.run(shell("echo x")).unwrap().text(), "x");
    sleeper.input().signal(15).unwrap();
    assert_eq!(sleeper.collect().unwrap().status, ExitStatus::Signal(15));
}

#[test]
fn a_signal_that_overtakes_its_program_is_kept_for_it() {
    let agent = agent();
    for _ in 0..50 {
        let mut sleeper = agent.open(Request::Run(shell("exec sleep 1000"))).unwrap();
        sleeper.input().signal(15).unwrap();
        assert_eq!(sleeper.collect().unwrap().status, ExitStatus::Signal(15));
    }
}

#[test]
fn a_channel_nobody_reads_stops_its_program_only() {
    let agent = agent();
    let mut flood = agent
        .open(Request::Run(shell("head -c 3000000 /dev/zero")))
        .unwrap();
    assert_eq!(agent.run(shell("echo x")).unwrap().text(), "x");
    assert_eq!(flood.collect().unwrap().stdout.len(), 3_000_000);
}

#[test]
fn input_beyond_the_window_arrives_whole() {
    let input = vec![b'a'; 5 * WINDOW_BYTES + 7];
    let output = agent().run_with_input(shell("wc -c"), &input).unwrap();
    assert_eq!(output.text(), input.len().to_string());
}

#[test]
fn input_to_a_program_that_does_not_read_does_not_hang() {
    let input = vec![b'a'; 5 * WINDOW_BYTES];
    assert!(
        agent()
            .run_with_input(shell("exec true"), &input)
            .unwrap()
            .status
            .success()
    );
}

#[test]
fn dropping_a_channel_kills_what_runs_there() {
    let agent = agent();
    let directory = tempfile::tempdir().unwrap();
    let pid_file = directory.path().join("pid");
    let script = format!(
        "echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000",
        pid_file.display()
    );
    let channel = agent.open(Request::Run(shell(&script))).unwrap();
    while !pid_file.exists() {
        std::thread::yield_now();
    }
    let pid = std::fs::read_to_string(&pid_file).unwrap();
    drop(channel);
    let deadline = Instant::now() + SOON;
    while std::path::Path::new(&format!("/proc/{}/exe", pid.trim())).exists() {
        assert!(Instant::now() < deadline, "the program outlived its channel");
    }
}

#[test]
fn files_travel_both_ways_and_appear_whole() {
    let agent = agent();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("deep/er/file");
    let path = path.to_str().unwrap();
    let contents: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    agent.put(path, 0o750, contents.as_slice()).unwrap();
    let mut back = Vec::new();
    agent.get(path, &mut back).unwrap();
    assert!(back == contents);
    assert_eq!(
        agent.run(shell(&format!("stat -c %a {path}"))).unwrap().text(),
        "750"
    );
    let error = agent.get("/no/such/file", Vec::new()).unwrap_err();
    assert!(
        matches!(&error, Error::Failed(reason) if reason.contains("/no/such/file")),
        "{error}"
    );
}

#[test]
fn a_terminal_is_a_terminal_with_a_size() {
    let agent = agent();
    let mut run = shell("tty; read line; stty size; echo got $line");
    run.terminal = Some(TerminalSize {
        rows: 33,
        columns: 99,
    });
    let mut channel = agent.open(Request::Run(run)).unwrap();
    let Event::Data(_, first) = channel.next().unwrap() else {
        panic!("no output")
    };
    assert!(
        first.starts_with(b"/dev/pts/"),
        "{}",
        String::from_utf8_lossy(&first)
    );
    channel
        .input()
        .resize(TerminalSize {
            rows: 11,
            columns: 44,
        })
        .unwrap();
    channel.input().send(b"typed\n").unwrap();
    let output = channel.collect().unwrap();
    assert!(output.status.success());
    assert!(
        output.text().contains("11 44") && output.text().contains("got typed"),
        "{}",
        output.text()
    );
}

#[test]
fn another_process_may_use_the_agent_through_a_relay() {
    let agent = agent();
    let (near, far) = UnixStream::pair().unwrap();
    let relayed = agent.clone();
    let relay = std::thread::spawn(move || relayed.relay(far));
    let through = Agent::connect(near, SOON).unwrap();
    assert_eq!(agent.run(shell("echo direct")).unwrap().text(), "direct");
    assert_eq!(
        through
            .run_with_input(shell("cat"), &vec![b'x'; 1_000_000])
            .unwrap()
            .stdout
            .len(),
        1_000_000
    );
    assert!(matches!(through.run(Run::default()), Err(Error::Failed(_))));
    drop(through);
    relay.join().unwrap().unwrap();
}

#[test]
fn a_host_that_dies_ends_every_channel() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let dying = theirs.try_clone().unwrap();
    std::thread::spawn(move || serve(theirs.try_clone().unwrap(), theirs));
    let agent = Agent::connect(ours, SOON).unwrap();
    // It ends with its input, which this process holds: a sleeper would outlive the tests.
    let mut channel = agent.open(Request::Run(shell("exec cat"))).unwrap();
    dying.shutdown(std::net::Shutdown::Both).unwrap();
    assert!(matches!(channel.next(), Err(Error::Gone)));
    assert!(matches!(agent.run(shell("true")), Err(Error::Gone)));
}

#[test]
fn an_agent_that_says_nothing_is_given_up() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let wait = Duration::from_millis(20);
    assert!(matches!(Agent::connect(ours, wait), Err(Error::Silent(_))));
}
