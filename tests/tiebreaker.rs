//! `antipode tiebreaker` as operators meet it: three processes, exit codes, and what is said when something is wrong.
#![expect(clippy::unwrap_used, reason = "a test: what fails is shown where it fails")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use antipode::base::clock::wall_clock_unix_seconds;
use antipode_certs::{Authority, AuthorityDays, Existing, Identity, LeafDays, UnixTime};
use serde_json::Value;
use tempfile::TempDir;

const NODES: [&str; 3] = ["north", "east", "west"];

fn antipode(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_antipode"));
    command
        .arg("tiebreaker")
        .args(arguments)
        .current_dir(folder)
        .env_remove("ANTIPODE_LOG");
    command
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// A folder with a CA, certificates and configurations of three nodes, a site and an operator. Each process has
/// loopback addresses of its own.
struct Town {
    folder: TempDir,
    running: Vec<(&'static str, Child)>,
}

impl Town {
    fn new(test: u8) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let now = UnixTime::from_seconds(wall_clock_unix_seconds());
        let authority = Authority::create(AuthorityDays::default(), now).unwrap();
        authority.save(folder.path()).unwrap();
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let seats: String = (1..)
            .zip(NODES)
            .map(|(number, name)| {
                let address = format!("127.{}.{low}.{}:7600", high | 0x80, test * 4 + number);
                format!("[[node]]\nname = \"{name}\"\naddress = \"{address}\"\n")
            })
            .collect();
        let addresses: Vec<&str> = seats
            .lines()
            .filter_map(|line| line.strip_prefix("address = "))
            .collect();
        let roles = [
            "tiebreaker/north",
            "tiebreaker/east",
            "tiebreaker/west",
            "site/berlin",
            "operator/alice",
        ];
        for path in roles {
            let identity = Identity::from_uri(&format!("antipode://{path}")).unwrap();
            let issued = authority.issue(&identity, LeafDays::default(), now).unwrap();
            let file = issued.file_name();
            issued.save(&folder.path().join(&file), Existing::Keep).unwrap();
            let mut config = format!(
                "cluster = \"prod\"\n[certificates]\ncredentials = \"{file}\"\n[timing]\nheartbeat_ms = 20\n{seats}"
            );
            let name = identity.name.as_str();
            if let Some(index) = NODES.iter().position(|node| *node == name) {
                let listen = addresses[index];
                config += &format!("[here]\nname = \"{name}\"\nlisten = {listen}\ndata = \"data-{name}\"\n");
            }
            fs::write(folder.path().join(format!("{name}.toml")), config).unwrap();
        }
        Self {
            folder,
            running: Vec::new(),
        }
    }

    /// Writes the file `from` with `what` replaced, which it holds, as the file `to`.
    fn alter(&self, from: &str, what: &str, by: &str, to: &str) {
        let text = fs::read_to_string(self.path().join(from)).unwrap();
        assert!(text.contains(what), "{text}");
        fs::write(self.path().join(to), text.replace(what, by)).unwrap();
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        antipode(self.path(), arguments).output().unwrap()
    }

    /// A command that must succeed.
    #[track_caller]
    fn done(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{arguments:?}: {}",
            text(&output.stderr)
        );
        text(&output.stdout).to_owned()
    }

    /// A command with `--json`: its exit code and its last line.
    #[track_caller]
    fn json(&self, arguments: &[&str]) -> (i32, Value) {
        let output = self.run(&[arguments, &["--json"]].concat());
        let said: Value = serde_json::from_str(text(&output.stdout).lines().last().unwrap()).unwrap();
        assert_eq!(said["exit_code"], output.status.code().unwrap(), "{said}");
        (output.status.code().unwrap(), said)
    }

    /// A command that must fail with `code` and say `what`.
    #[track_caller]
    fn refused(&self, arguments: &[&str], code: i32, what: &str) {
        let output = self.run(arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(what) && said.contains("do:    "), "{said}");
    }

    fn start(&mut self, node: &'static str) {
        let command = antipode(self.path(), &["run", "--config", &format!("{node}.toml")]);
        self.start_as(node, command);
    }

    fn start_as(&mut self, node: &'static str, mut command: Command) {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert!(line.contains("listens on"), "{line}");
        self.running.push((node, child));
    }

    fn pid(&self, node: &str) -> u32 {
        let (_, child) = self.running.iter().find(|(name, _)| *name == node).unwrap();
        child.id()
    }

    fn stop(&mut self, node: &str) {
        let index = self.running.iter().position(|(name, _)| *name == node).unwrap();
        let (_, mut child) = self.running.remove(index);
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }

    fn all(&mut self) {
        for node in NODES {
            self.done(&["init", "--config", &format!("{node}.toml")]);
        }
        NODES.into_iter().for_each(|node| self.start(node));
    }

    /// `status` until it ends with `code`. Each try waits for a leader itself.
    #[track_caller]
    fn status(&self, code: i32) -> Value {
        let tries = std::iter::repeat_with(|| self.json(&["status", "--config", "alice.toml"])).take(40);
        let mut last = Value::Null;
        for (found, said) in tries {
            if found == code {
                return said;
            }
            last = said;
        }
        panic!("{last}");
    }
}

impl Drop for Town {
    fn drop(&mut self) {
        for (_, child) in &mut self.running {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn a_cluster_from_its_making_to_a_lost_disk() {
    let mut town = Town::new(0);
    town.refused(
        &["run", "--config", "north.toml"],
        60,
        "there is no tiebreaker's data",
    );
    town.all();
    let status = town.status(0);
    assert_eq!(status["nodes"].as_array().unwrap().len(), 3);
    assert_eq!(
        (&status["problems"], &status["vms"]),
        (&Value::Array(vec![]), &Value::Array(vec![]))
    );
    town.refused(&["init", "--config", "east.toml"], 60, "there is data");
    town.refused(
        &["run", "--config", "east.toml"],
        60,
        "another process uses the data",
    );

    town.stop("east");
    let gap = town.status(64);
    assert!(
        gap["problems"][0]["what"]
            .as_str()
            .unwrap()
            .contains("east does not answer"),
        "{gap}"
    );
    fs::rename(town.path().join("data-east"), town.path().join("lost")).unwrap();
    town.refused(&["run", "--config", "east.toml"], 60, "rejoin");
    town.refused(&["init", "--config", "east.toml"], 60, "runs already");
    assert!(
        town.done(&["rejoin", "--config", "east.toml"])
            .contains("has id 4")
    );
    town.start("east");
    let whole = town.status(0);
    let east = whole["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .find(|node| node["name"] == "east")
        .unwrap();
    assert_eq!(
        (&east["id"], &east["reached"]),
        (&Value::from(4), &Value::from(true))
    );

    town.stop("east");
    town.stop("west");
    let lost = town.run(&["status", "--config", "alice.toml"]);
    assert_eq!(lost.status.code(), Some(62));
    assert!(
        text(&lost.stdout).contains("nobody leads"),
        "{}",
        text(&lost.stdout)
    );
}

#[test]
fn an_operator_sets_and_retires_but_forces_no_site_that_is_in_touch() {
    let mut town = Town::new(1);
    town.all();
    town.status(0);
    register(&town);
    let change = |command: &[&'static str], generation: &'static str| {
        [command, &["--generation", generation, "--config", "alice.toml"]].concat()
    };
    let force = [
        "force",
        "redis-1",
        "--site",
        "paris",
        "--reason",
        "berlin burnt down",
    ];
    town.refused(&change(&force, "1"), 63, "berlin is in touch");
    assert!(
        town.done(&["vm", "list", "--config", "alice.toml"])
            .contains("live at berlin alone")
    );
    let configure = [
        "vm",
        "configure",
        "redis-1",
        "--preferred",
        "berlin",
        "--flush",
        "both",
    ];
    town.refused(&change(&configure, "7"), 63, "another generation");
    town.done(&change(&configure, "1"));
    let (_, shown) = town.json(&["vm", "show", "redis-1", "--config", "alice.toml"]);
    assert_eq!(
        (&shown["settings"]["preferred"], &shown["settings"]["flush"]),
        (&"berlin".into(), &"both".into())
    );
    assert_eq!(shown["history"][1]["by"], "antipode://operator/alice");

    town.refused(
        &["vm", "show", "other", "--config", "alice.toml"],
        63,
        "there is no VM other",
    );
    let by_site = [
        "vm",
        "retire",
        "redis-1",
        "--reason",
        "x",
        "--generation",
        "1",
        "--config",
        "berlin.toml",
    ];
    town.refused(&by_site, 63, "role");
    town.refused(
        &change(&["vm", "retire", "redis-1", "--reason", ""], "1"),
        2,
        "reason",
    );
    assert!(
        town.done(&change(&["vm", "retire", "redis-1", "--reason", "the end"], "1"))
            .contains("given up")
    );
}

#[test]
fn a_backup_is_restored_on_all_nodes() {
    let mut town = Town::new(3);
    town.all();
    town.status(0);
    register(&town);
    town.done(&["backup", "all.json", "--config", "alice.toml"]);
    town.refused(
        &["backup", "all.json", "--config", "alice.toml"],
        42,
        "not overwritten",
    );
    for node in NODES {
        town.stop(node);
        fs::remove_dir_all(town.path().join(format!("data-{node}"))).unwrap();
        let config = format!("{node}.toml");
        let restore = ["restore", "all.json", "--config", &config];
        assert_eq!(town.run(&restore).status.code(), Some(2), "it must be confirmed");
        town.done(&[&restore[..], &["--every-site-is-stopped"]].concat());
    }
    NODES.into_iter().for_each(|node| town.start(node));
    let status = town.status(0);
    assert_eq!(status["vms"][0]["vm"], "redis-1");
    assert!(status["vms"][0]["generation"].as_u64().unwrap() > 1 << 32);
}

#[test]
fn what_cannot_be_restored_or_opened_is_refused_with_the_way_back() {
    let mut town = Town::new(5);
    town.all();
    town.status(0);
    register(&town);
    town.done(&["backup", "all.json", "--config", "alice.toml"]);
    town.alter("east.toml", "data-east", "data-again", "again.toml");
    town.refused(
        &["rejoin", "--config", "again.toml"],
        63,
        "runs, or did a moment ago",
    );
    for node in NODES {
        town.stop(node);
    }
    town.alter(
        "all.json",
        "\"generation\":1,\"state\"",
        "\"generation\":18446744073709551615,\"state\"",
        "bad.json",
    );
    let restore = [
        "restore",
        "bad.json",
        "--every-site-is-stopped",
        "--config",
        "again.toml",
    ];
    town.refused(&restore, 60, "record of VM redis-1 is damaged");
    assert!(!town.path().join("data-again").exists());

    let file = town.path().join("data-east/store/db");
    let mut bytes = fs::read(&file).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[..used]
        .iter_mut()
        .step_by(97)
        .for_each(|byte| *byte ^= 0x41);
    fs::write(&file, bytes).unwrap();
    for _ in 0..2 {
        town.refused(&["run", "--config", "east.toml"], 60, "rejoin");
    }
}

/// A disk that takes no more is played by a limit on the length of files, which needs no root.
#[test]
fn a_node_whose_disk_is_full_stops_voting_says_so_and_loses_nothing() {
    let mut town = Town::new(4);
    for node in NODES {
        town.done(&["init", "--config", &format!("{node}.toml")]);
    }
    town.start("north");
    town.start("west");
    // A write beyond the limit shall fail, as on a full disk, and not end the process.
    let mut deaf = Command::new("sh");
    deaf.args([
        "-c",
        "trap '' XFSZ; exec \"$@\"",
        "sh",
        env!("CARGO_BIN_EXE_antipode"),
    ])
    .args(["tiebreaker", "run", "--config", "east.toml"])
    .current_dir(town.path());
    town.start_as("east", deaf);
    town.status(0);
    register(&town);
    let limit = |town: &Town, limit: &str| {
        let pid = town.pid("east").to_string();
        let set = Command::new("prlimit")
            .args(["--pid", &pid, &format!("--fsize={limit}:unlimited")])
            .status();
        assert!(set.unwrap().success(), "prlimit, of Debian's util-linux");
    };
    let configure = |town: &Town, flush: &str| {
        let arguments = [
            "vm",
            "configure",
            "redis-1",
            "--flush",
            flush,
            "--generation",
            "1",
            "--config",
            "alice.toml",
        ];
        town.run(&arguments).status.code()
    };
    limit(&town, "1024");
    assert_eq!(configure(&town, "both"), Some(0), "two of three go on");
    let gap = town.status(64);
    let what = gap["problems"][0]["what"].as_str().unwrap();
    assert!(what.contains("east") && what.contains("full"), "{gap}");

    town.stop("west");
    assert_eq!(
        town.run(&["status", "--config", "alice.toml"]).status.code(),
        Some(62),
        "a full disk gives no vote"
    );
    limit(&town, "unlimited");
    town.status(64);
    assert_eq!(configure(&town, "site"), Some(0));
    town.start("west");
    town.status(0);
    let (_, shown) = town.json(&["vm", "show", "redis-1", "--config", "alice.toml"]);
    let done: Vec<&Value> = shown["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| &entry["operation"])
        .collect();
    assert_eq!(done, ["register", "configure", "configure"]);
}

#[test]
fn a_log_that_cannot_be_written_stops_nothing() {
    let mut town = Town::new(6);
    for node in NODES {
        town.done(&["init", "--config", &format!("{node}.toml")]);
        let mut mute = Command::new("sh");
        mute.args([
            "-c",
            "exec \"$@\" 2>/dev/full",
            "sh",
            env!("CARGO_BIN_EXE_antipode"),
        ])
        .args([
            "--log",
            "trace",
            "tiebreaker",
            "run",
            "--config",
            &format!("{node}.toml"),
        ])
        .current_dir(town.path());
        town.start_as(node, mute);
    }
    town.status(0);
    NODES.into_iter().for_each(|node| town.stop(node));
}

/// There is no site's daemon yet: its part is played by the client library.
fn register(town: &Town) {
    use antipode_certs::tls::LiveCredentials;
    use antipode_certs::{Paths, PeerRule, WallClock};
    use antipode_tiebreaker::client::{Client, Cluster};
    use antipode_tiebreaker::{Boot, Generation, Operation, Request, RequestId};

    #[derive(Debug)]
    struct Now;
    impl WallClock for Now {
        fn now(&self) -> UnixTime {
            UnixTime::from_seconds(wall_clock_unix_seconds())
        }
    }

    let config: toml::Table = fs::read_to_string(town.path().join("berlin.toml"))
        .unwrap()
        .parse()
        .unwrap();
    let nodes = config["node"].as_array().unwrap().iter().map(|node| {
        let address = node["address"].as_str().unwrap().to_owned();
        (node["name"].as_str().unwrap().parse().unwrap(), address)
    });
    let cluster = Cluster {
        name: "prod".parse().unwrap(),
        nodes: nodes.collect(),
    };
    let paths = Paths {
        credentials: town.path().join("site-berlin.pem"),
        trust: town.path().join("ca.crt"),
    };
    let rule = PeerRule::AnyOf(vec![antipode_certs::Role::Site]);
    let credentials = LiveCredentials::open(paths, &rule, std::sync::Arc::new(Now)).unwrap();
    let request = Request {
        id: RequestId(1),
        expected: Generation::NONE,
        operation: Operation::Register { boot: Boot(1) },
        at_unix_seconds: 0,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut client = Client::new(cluster, credentials);
    let vm = "redis-1".parse().unwrap();
    let within = std::time::Duration::from_secs(20);
    assert_eq!(
        runtime
            .block_on(client.change(&vm, &request, within))
            .unwrap()
            .verdict,
        Ok(())
    );
}

#[test]
fn mistakes_in_the_configuration_are_told_with_their_lines() {
    let town = Town::new(2);
    fs::write(
        town.path().join("bad.toml"),
        "cluster = 3\n[here]\nname = \"x\"\n",
    )
    .unwrap();
    let (code, said) = town.json(&["run", "--config", "bad.toml"]);
    assert_eq!((code, said["exit_name"].as_str()), (10, Some("config")));
    let places: Vec<&str> = said["errors"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|error| error["where"].as_str())
        .collect();
    assert_eq!(
        places,
        [
            "bad.toml:1:1",
            "bad.toml:1:1",
            "bad.toml:1:11",
            "bad.toml:2:1",
            "bad.toml:2:1"
        ]
    );
    town.refused(&["run", "--config", "alice.toml"], 10, "[here]");
    town.alter(
        "north.toml",
        "tiebreaker-north.pem",
        "site-berlin.pem",
        "wrong.toml",
    );
    town.refused(
        &["run", "--config", "wrong.toml"],
        40,
        "one for the role tiebreaker is needed",
    );
}
