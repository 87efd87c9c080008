//! Debian's `etcd`: three processes, and as much of its gRPC as a compare-and-set takes.
//!
//! The package is fetched and unpacked, not installed: it would start a service on this machine.

use super::{CLIENTS, HEARTBEAT_MS, ONE_WAY, PRESSURE};
use crate::debian::Cache;
use crate::host::RunDirectory;
use crate::tiebreaker::proxy;
use crate::tiebreaker::town::{NODES, address};
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use h2::client::SendRequest;
use protobuf::{CodedInputStream, CodedOutputStream};
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

const PATIENCE: Duration = Duration::from_secs(30);
const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;

/// `etcd`, found in the cache or fetched.
pub(super) fn program(cache: &Cache) -> Result<PathBuf> {
    let candidates: Vec<_> = cache
        .resolve(&["etcd-server"], &[])?
        .into_iter()
        .filter(|candidate| candidate.name == "etcd-server")
        .collect();
    let packages = cache.fetch(&candidates)?;
    let package = packages.first().context("Debian has no etcd-server")?;
    Ok(cache.tree(package)?.join("usr/bin/etcd"))
}

/// Three processes and their clients.
pub(super) struct Etcd {
    runtime: Runtime,
    first: Key,
    many: Vec<Key>,
    /// Ended last.
    _children: Vec<Member>,
}

struct Member(Child);

impl Drop for Member {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Etcd {
    /// Starts a cluster; `number` is of its addresses.
    pub(super) fn build(run: &RunDirectory, program: &Path, number: u8) -> Result<Self> {
        let mut peers = Vec::new();
        for (index, name) in NODES.into_iter().enumerate() {
            // All others reach it by one address, so one proxy stands for both links.
            let (near, far) = (
                address(number, index, None, PEER_PORT)?,
                address(number, index, Some(0), PEER_PORT)?,
            );
            proxy::start(far, near, ONE_WAY)?;
            peers.push(format!("{name}=http://{far}"));
        }
        let cluster = peers.join(",");
        let children = (0..NODES.len())
            .map(|index| member(run, program, number, index, &cluster))
            .collect::<Result<_>>()?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let leader = runtime.block_on(leader(number))?;
        let key = |name: String| runtime.block_on(Key::put(leader, name));
        Ok(Self {
            first: key("vm".to_owned())?,
            many: (0..CLIENTS)
                .map(|client| key(format!("vm-{client}")))
                .collect::<Result<_>>()?,
            runtime,
            _children: children,
        })
    }

    /// How long each of so many transactions took, one after another.
    pub(super) fn transactions(&mut self, count: u64) -> Result<Vec<Duration>> {
        let Self { runtime, first, .. } = self;
        runtime.block_on(async {
            let mut took = Vec::new();
            for _ in 0..count {
                let begun = Instant::now();
                first.compare_and_set().await?;
                took.push(begun.elapsed());
            }
            Ok(took)
        })
    }

    /// Transactions a second with all clients at once.
    pub(super) fn pressed(&mut self) -> Result<f64> {
        let keys = std::mem::take(&mut self.many);
        self.runtime.block_on(async {
            let begun = Instant::now();
            let mut working = JoinSet::new();
            for mut key in keys {
                working.spawn(async move {
                    let mut count = 0_u32;
                    while begun.elapsed() < PRESSURE {
                        key.compare_and_set().await?;
                        count += 1;
                    }
                    anyhow::Ok((key, count))
                });
            }
            let mut all = 0;
            while let Some(worked) = working.join_next().await {
                let (key, count) = worked??;
                self.many.push(key);
                all += count;
            }
            Ok(f64::from(all) / begun.elapsed().as_secs_f64())
        })
    }
}

fn member(run: &RunDirectory, program: &Path, number: u8, index: usize, cluster: &str) -> Result<Member> {
    let name = NODES[index];
    let client = format!("http://{}", address(number, index, None, CLIENT_PORT)?);
    let near = format!("http://{}", address(number, index, None, PEER_PORT)?);
    let far = format!("http://{}", address(number, index, Some(0), PEER_PORT)?);
    let log = File::create(run.path().join(format!("etcd-{name}.log")))?;
    let child = Command::new(program)
        .env_clear()
        .args([
            "--name",
            name,
            "--logger",
            "zap",
            "--initial-cluster-state",
            "new",
        ])
        .arg("--data-dir")
        .arg(run.path().join(format!("etcd-{name}")))
        .args(["--listen-peer-urls", &near, "--initial-advertise-peer-urls", &far])
        .args([
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
        ])
        .args(["--initial-cluster", cluster])
        .args(["--heartbeat-interval", &HEARTBEAT_MS.to_string()])
        .args(["--election-timeout", &(10 * HEARTBEAT_MS).to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .with_context(|| format!("starting {}", program.display()))?;
    Ok(Member(child))
}

/// The client address of whoever leads.
async fn leader(number: u8) -> Result<SocketAddr> {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        for index in 0..NODES.len() {
            let at = address(number, index, None, CLIENT_PORT)?;
            if leads(at).await.unwrap_or(false) {
                return Ok(at);
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("no etcd leads within {PATIENCE:?}")
}

/// `StatusResponse`: header 1 with member 2, leader 4.
async fn leads(at: SocketAddr) -> Result<bool> {
    let mut session = Session::connect(at).await?;
    let status = session
        .call("/etcdserverpb.Maintenance/Status", Vec::new())
        .await?;
    let header = fields(&status, 1)?.0;
    let (member, leader) = (fields(&header, 2)?.1, fields(&status, 4)?.1);
    Ok(member == leader && leader != 0)
}

/// A key that one client changes.
struct Key {
    session: Session,
    name: String,
    version: u64,
}

impl Key {
    async fn put(at: SocketAddr, name: String) -> Result<Self> {
        let mut session = Session::connect(at).await?;
        session
            .call("/etcdserverpb.KV/Put", put_request(&name, 1)?)
            .await?;
        Ok(Self {
            session,
            name,
            version: 1,
        })
    }

    /// Puts a new value if the key has the version that it is known to have, which must be so.
    ///
    /// `TxnRequest`: compare 1 (key 3, version 4; equal and version are the defaults), success 2 (put 2).
    async fn compare_and_set(&mut self) -> Result<()> {
        let compare = encoded(|out| {
            out.write_bytes(3, self.name.as_bytes())?;
            out.write_int64(4, i64::try_from(self.version).unwrap_or(i64::MAX))
        })?;
        let put = put_request(&self.name, self.version + 1)?;
        let success = encoded(|out| out.write_bytes(2, &put))?;
        let request = encoded(|out| {
            out.write_bytes(1, &compare)?;
            out.write_bytes(2, &success)
        })?;
        let response = self.session.call("/etcdserverpb.KV/Txn", request).await?;
        ensure!(fields(&response, 2)?.1 == 1, "etcd refused a transaction");
        self.version += 1;
        Ok(())
    }
}

/// `PutRequest`: key 1, value 2.
fn put_request(key: &str, value: u64) -> Result<Vec<u8>> {
    encoded(|out| {
        out.write_bytes(1, key.as_bytes())?;
        out.write_bytes(2, &value.to_be_bytes())
    })
}

fn encoded(
    write: impl FnOnce(&mut CodedOutputStream<'_>) -> protobuf::ProtobufResult<()>,
) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut out = CodedOutputStream::vec(&mut bytes);
    write(&mut out)?;
    out.flush()?;
    drop(out);
    Ok(bytes)
}

/// The field `wanted` of a message, as bytes and as a number; empty and 0 where it is the other or absent.
fn fields(message: &[u8], wanted: u32) -> Result<(Vec<u8>, u64)> {
    let mut input = CodedInputStream::from_bytes(message);
    let mut found = (Vec::new(), 0);
    while !input.eof()? {
        let (number, wire_type) = input.read_tag_unpack()?;
        match wire_type {
            protobuf::wire_format::WireTypeVarint if number == wanted => found.1 = input.read_uint64()?,
            protobuf::wire_format::WireTypeLengthDelimited if number == wanted => {
                found.0 = input.read_bytes()?;
            }
            other => input.skip_field(other)?,
        }
    }
    Ok(found)
}

/// A connection that carries gRPC's unary calls.
struct Session {
    at: SocketAddr,
    calls: SendRequest<Bytes>,
}

impl Session {
    async fn connect(at: SocketAddr) -> Result<Self> {
        let tcp = TcpStream::connect(at).await?;
        tcp.set_nodelay(true)?;
        let (calls, connection) = h2::client::handshake(tcp).await?;
        tokio::spawn(connection);
        Ok(Self { at, calls })
    }

    /// The answer to `message`.
    async fn call(&mut self, path: &str, message: Vec<u8>) -> Result<Vec<u8>> {
        let request = http::Request::post(format!("http://{}{path}", self.at))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let mut ready = self.calls.clone().ready().await?;
        let (response, mut body) = ready.send_request(request, false)?;
        // gRPC's head: not compressed, and the length.
        let length = u32::try_from(message.len())?.to_be_bytes();
        body.send_data([&[0], &length[..], &message].concat().into(), true)?;
        let mut answer = response.await?.into_body();
        let mut bytes = Vec::new();
        while let Some(piece) = answer.data().await {
            let piece = piece?;
            answer.flow_control().release_capacity(piece.len())?;
            bytes.extend_from_slice(&piece);
        }
        let trailers = answer.trailers().await?;
        let status = trailers.as_ref().and_then(|all| all.get("grpc-status"));
        ensure!(
            status.is_some_and(|status| status == "0") && bytes.len() >= 5,
            "etcd answers {path} with {trailers:?}"
        );
        Ok(bytes.split_off(5))
    }
}
