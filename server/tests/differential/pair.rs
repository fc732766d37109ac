//! The two servers of a run: every step goes to both at once, and the answers are compared.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Instant;

use keelson_server::proto::etcdserverpb::RangeRequest;
use prost_reflect::DynamicMessage;
use serde_json::{Value as Json, json};
use tonic::Status;

use super::exceptions::{self, Exchange};
use super::json;
use super::normal;
use super::programs::epilogue;
use super::server::{DEADLINE, OURS, Server};
use super::step::{CLIENT_URL, CLUSTER, LEASE, MEMBER, Names, PEER_URL, Step, resolve_revisions};
use super::wire::{self, Stream};

/// A step that the servers answered differently.
#[derive(Debug, Clone)]
pub struct Difference {
    /// Its place in the program; behind the end it is one of those that end every program.
    pub at: usize,
    /// The method, without what was answered.
    pub method: String,
    /// For people: the steps up to it with the numbers of this run, and in what the answers differ.
    pub text: String,
}

/// The etcd that ours is compared with.
#[derive(Clone, Copy)]
pub struct Reference<'a> {
    pub program: &'a Path,
    /// Major and minor.
    pub version: (u32, u32),
}

/// One of the two servers, and the client's streams to it.
pub struct Side {
    pub server: Server,
    pub names: Names,
    keep_alive: Option<Stream>,
    pub watches: BTreeMap<usize, Stream>,
}

/// Ours and etcd's.
pub struct Pair {
    pub sides: [Side; 2],
    version: (u32, u32),
    /// The store's revision.
    pub revision: i64,
    /// That of the last put that watchers had to be sent.
    pub fence: i64,
    compactions: Vec<i64>,
    leases: i64,
}

/// Runs a program on two fresh servers.
pub async fn run(program: &[Step], reference: Reference<'_>) -> Result<(), Difference> {
    let mut pair = Pair::start(reference).await;
    let mut lines: Vec<String> = Vec::new();
    for (at, step) in program.iter().chain(&epilogue()).enumerate() {
        let mut resolved = step.clone();
        resolve_revisions(&mut resolved.request, pair.revision, pair.compacted());
        lines.push(format!("{at:5}  {resolved}"));
        let found = tokio::time::timeout(2 * DEADLINE, pair.step(&resolved)).await;
        let found = found.unwrap_or_else(|_| Err(vec!["no answer in time".to_owned()]));
        if let Err(differences) = found {
            let text = format!("{}\n       {}", lines.join("\n"), differences.join("\n       "));
            return Err(Difference { at, method: step.name(), text });
        }
    }
    Ok(())
}

impl Side {
    async fn start(program: &Path) -> Self {
        let server = Server::start(program);
        let mut side = Self { server, names: Names::default(), keep_alive: None, watches: BTreeMap::new() };
        let range = Step::new("etcdserverpb.KV/Range", &RangeRequest { key: "a".into(), ..Default::default() });
        let begun = Instant::now();
        let answers = loop {
            match wire::call(&side.server.channel, &range.method, &range.request).await {
                Ok(answers) => break answers,
                Err(status) => assert!(begun.elapsed() < DEADLINE, "{} is not ready: {status}", program.display()),
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        };
        let header = json::of(&answers[0], &side.names)["header"].clone();
        let id = |name: &str| header[name].as_u64().expect("an id in the header");
        side.names.number(MEMBER, id("member_id"));
        side.names.number(CLUSTER, id("cluster_id"));
        side.names.text(CLIENT_URL, side.server.client_url.clone());
        side.names.text(PEER_URL, side.server.peer_url.clone());
        side
    }

    fn show(&self, answer: Result<DynamicMessage, Status>) -> Json {
        match answer {
            Ok(message) => json!({ "answer": json::of(&message, &self.names) }),
            Err(status) => json!({ "code": format!("{:?}", status.code()), "message": status.message() }),
        }
    }

    pub(super) async fn call(&self, step: &Step) -> Json {
        let mut request = step.request.clone();
        self.names.resolve(&mut request);
        let answers = wire::call(&self.server.channel, &step.method, &request).await;
        match answers {
            Ok(answers) if step.method.is_server_streaming() => {
                json!({ "answers": answers.iter().map(|answer| json::of(answer, &self.names)).collect::<Vec<_>>() })
            }
            Ok(mut answers) if answers.len() == 1 => self.show(Ok(answers.remove(0))),
            Ok(answers) => json!({ "answers": answers.len() }),
            Err(status) => self.show(Err(status)),
        }
    }

    /// One request on a stream that answers each.
    async fn keep_alive(&mut self, step: &Step) -> Json {
        let mut request = step.request.clone();
        self.names.resolve(&mut request);
        let mut stream = match self.keep_alive.take() {
            Some(stream) => stream,
            None => Stream::open(&self.server.channel, &step.method),
        };
        let before = stream.answers().len();
        stream.send(&request);
        stream.wait(|answers| answers.len() > before).await;
        let answer = stream.answers().pop().expect("an answer or an end");
        if answer.is_ok() {
            self.keep_alive = Some(stream);
        }
        self.show(answer)
    }
}

impl Pair {
    async fn start(reference: Reference<'_>) -> Self {
        let (ours, etcd) = tokio::join!(Side::start(Path::new(OURS)), Side::start(reference.program));
        Self {
            sides: [ours, etcd],
            version: reference.version,
            revision: 1,
            fence: 0,
            compactions: Vec::new(),
            leases: 0,
        }
    }

    /// One step on both; says in what the answers differ.
    async fn step(&mut self, step: &Step) -> Result<(), Vec<String>> {
        if step.name() == "Watch/Watch" {
            return self.watch(step).await;
        }
        if step.name() == "KV/Compact" {
            // What a compaction takes away, a watcher of etcd's may not have been sent yet.
            self.settle().await?;
        }
        let [ours, etcd] = &mut self.sides;
        let for_etcd = exceptions::for_reference(step, self.version);
        let (mut got, mut wanted) = match step.method.is_client_streaming() {
            true => tokio::join!(ours.keep_alive(step), etcd.keep_alive(&for_etcd)),
            false => tokio::join!(ours.call(step), etcd.call(&for_etcd)),
        };
        self.learn(step, &got, &wanted);
        for answer in [&mut got, &mut wanted] {
            normal::answer(step, answer);
        }
        let exchange = Exchange { step, version: self.version, compactions: &self.compactions, leases: self.leases };
        exceptions::apply(&exchange, &got, &mut wanted);
        let differences = json::differences(&got, &wanted);
        if differences.is_empty() { Ok(()) } else { Err(differences) }
    }

    fn compacted(&self) -> i64 {
        self.compactions.last().copied().unwrap_or(0)
    }

    /// Remembers what later steps refer to. Steps whose answers differ are the last ones, so one side's will do.
    fn learn(&mut self, step: &Step, ours: &Json, etcd: &Json) {
        let request = json::of(&step.request, &Names::default());
        if let Some(revision) = etcd["answer"]["header"]["revision"].as_i64() {
            self.revision = self.revision.max(revision);
        }
        match &*step.name() {
            "KV/Compact" if etcd["code"].is_null() => {
                self.compactions.push(request["revision"].as_i64().unwrap_or(0));
            }
            "Lease/LeaseGrant" if request["ID"].is_null() => {
                let ids = [ours, etcd].map(|answer| answer["answer"]["ID"].as_i64());
                if let [Some(ours), Some(etcd)] = ids {
                    let name = (LEASE + self.leases) as u64;
                    self.leases += 1;
                    for (side, id) in self.sides.iter_mut().zip([ours, etcd]) {
                        side.names.number(name, id as u64);
                    }
                }
            }
            _ => {}
        }
    }
}

impl Difference {
    /// The failing step, and in what the answers differ.
    pub fn last_lines(&self) -> &str {
        let step = self.text.rfind(&format!("{:5}  ", self.at)).unwrap_or(0);
        &self.text[step..]
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.text)
    }
}
