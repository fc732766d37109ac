//! The two servers of a run: every step goes to both at once, and the answers are compared.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde_json::Value as Json;

use super::exceptions::{self, Exchange};
use super::json;
use super::normal;
use super::observe::Observer;
use super::programs::epilogue;
use super::queue::{self, Waiting};
use super::server::{DEADLINE, OURS};
use super::side::Side;
use super::step::{COMPACTED, ELECTED, LEASE, NOW, Names, Step, resolve_revisions};

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
    /// Authentication is enabled.
    pub guarded: bool,
    /// Calls that wait for their turn in a queue of keys.
    pub waiting: Vec<Waiting>,
    pub observers: BTreeMap<usize, Observer>,
    /// Keys that lead elections, and their create revisions, as candidates were told.
    elected: BTreeMap<String, i64>,
}

/// Runs a program on two fresh servers.
pub async fn run(program: &[Step], reference: Reference<'_>) -> Result<(), Difference> {
    let mut pair = Pair::start(reference).await;
    let mut lines: Vec<String> = Vec::new();
    for (at, step) in program.iter().chain(&epilogue()).enumerate() {
        let step = pair.resolve(step);
        lines.push(format!("{at:5}  {step}"));
        let found = tokio::time::timeout(2 * DEADLINE, pair.step(&step)).await;
        let found = found.unwrap_or_else(|_| Err(vec!["no answer in time".to_owned()]));
        if let Err(differences) = found {
            let text = format!("{}\n       {}", lines.join("\n"), differences.join("\n       "));
            return Err(Difference { at, method: step.name(), text });
        }
    }
    Ok(())
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
            guarded: false,
            waiting: Vec::new(),
            observers: BTreeMap::new(),
            elected: BTreeMap::new(),
        }
    }

    /// A step with the revisions of this run.
    fn resolve(&self, step: &Step) -> Step {
        let mut step = step.clone();
        let leader = json::of(&step.request, &Names::default())["leader"]["key"].clone();
        let elected = leader.as_str().and_then(|key| self.elected.get(key)).copied().unwrap_or(0);
        let compacted = self.compactions.last().copied().unwrap_or(0);
        resolve_revisions(&mut step.request, &[(NOW, self.revision), (COMPACTED, compacted), (ELECTED, elected)]);
        step
    }

    /// One step on both; says in what the answers differ.
    async fn step(&mut self, step: &Step) -> Result<(), Vec<String>> {
        match &*step.name() {
            _ if queue::session_of(step) == Some(0) => return Ok(()),
            "Watch/Watch" => return self.watch(step).await,
            "Election/Observe" => return self.observe(step).await,
            "Lock/Lock" | "Election/Campaign" => self.enter(step).await?,
            "KV/Compact" => {
                // What a compaction takes away, a watcher of etcd's may not have been sent yet, nor a watch been made on it.
                self.settle().await?;
                self.observers.clear();
                self.call(step).await?;
            }
            // Those who wait would need rights to go on; what becomes of their keys otherwise is a known difference.
            "Auth/AuthEnable" if !self.waiting.is_empty() => return Ok(()),
            "Auth/AuthEnable" => {
                self.settle().await?;
                self.observers.clear();
                self.call(step).await?;
            }
            _ => self.call(step).await?,
        }
        self.turns().await?;
        self.observed().await
    }

    async fn call(&mut self, step: &Step) -> Result<(), Vec<String>> {
        let [ours, etcd] = &mut self.sides;
        let for_etcd = exceptions::for_reference(step, self.version);
        let (got, wanted) = match step.method.is_client_streaming() {
            true => tokio::join!(ours.keep_alive(step), etcd.keep_alive(&for_etcd)),
            false => tokio::join!(ours.call(step), etcd.call(&for_etcd)),
        };
        self.compare(step, got, wanted)
    }

    /// Learns from the answers to a step, and says in what they differ.
    pub fn compare(&mut self, step: &Step, mut got: Json, mut wanted: Json) -> Result<(), Vec<String>> {
        self.learn(step, &got, &wanted);
        for answer in [&mut got, &mut wanted] {
            normal::answer(step, answer);
        }
        let exchange = Exchange { step, version: self.version, compactions: &self.compactions, leases: self.leases };
        exceptions::apply(&exchange, &got, &mut wanted);
        let differences = json::differences(&got, &wanted);
        if differences.is_empty() { Ok(()) } else { Err(differences) }
    }

    /// Remembers what later steps refer to. Steps whose answers differ are the last ones, so one side's will do.
    fn learn(&mut self, step: &Step, ours: &Json, etcd: &Json) {
        let request = json::of(&step.request, &Names::default());
        if let Some(revision) = etcd["answer"]["header"]["revision"].as_i64() {
            self.revision = self.revision.max(revision);
        }
        let done = etcd["code"].is_null();
        match &*step.name() {
            "KV/Compact" if done => self.compactions.push(request["revision"].as_i64().unwrap_or(0)),
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
            "Auth/AuthEnable" if done => self.guarded = true,
            "Auth/AuthDisable" if done => self.guarded = false,
            "Auth/Authenticate" => {
                let user = request["name"].as_str().unwrap_or_default();
                for (side, answer) in self.sides.iter_mut().zip([ours, etcd]) {
                    if let Some(token) = answer["answer"]["token"].as_str() {
                        side.tokens.insert(user.to_owned(), token.to_owned());
                    }
                }
            }
            "Election/Campaign" => {
                let leader = &etcd["answer"]["leader"];
                if let (Some(key), Some(revision)) = (leader["key"].as_str(), leader["rev"].as_i64()) {
                    self.elected.insert(key.to_owned(), revision);
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
