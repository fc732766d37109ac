//! One of the two servers of a run, and what its client holds: streams, tokens, and the names of the server's own numbers.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use keelson_server::proto::etcdserverpb::RangeRequest;
use prost_reflect::DynamicMessage;
use serde_json::{Value as Json, json};
use tonic::Status;

use super::caller::{Caller, Credentials};
use super::json;
use super::server::{DEADLINE, Server};
use super::step::{CLIENT_URL, CLUSTER, MEMBER, Names, PEER_URL, Step};
use super::wire::{self, Stream};

/// A server and its client.
pub struct Side {
    pub server: Server,
    pub names: Names,
    /// The token of each user's last login.
    pub tokens: BTreeMap<String, String>,
    keep_alive: Vec<(Credentials, Stream)>,
    pub watches: BTreeMap<usize, Stream>,
}

impl Side {
    /// A fresh server.
    pub async fn start(program: &Path) -> Self {
        let server = Server::start(program);
        let mut side = Self {
            server,
            names: Names::default(),
            tokens: BTreeMap::new(),
            keep_alive: Vec::new(),
            watches: BTreeMap::new(),
        };
        let range = Step::new("etcdserverpb.KV/Range", &RangeRequest { key: "a".into(), ..Default::default() });
        let begun = Instant::now();
        let answers = loop {
            match wire::call(&side.server.channel, &range.method, &range.request, &None).await {
                Ok(answers) => break answers,
                Err(status) => assert!(begun.elapsed() < DEADLINE, "{} is not ready: {status}", program.display()),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let header = json::of(&answers[0], &side.names)["header"].clone();
        let id = |name: &str| header[name].as_u64().expect("an id in the header");
        side.names.number(MEMBER, id("member_id"));
        side.names.number(CLUSTER, id("cluster_id"));
        side.names.text(CLIENT_URL, side.server.client_url.clone());
        side.names.text(PEER_URL, side.server.peer_url.clone());
        side
    }

    /// What a caller sends along here.
    pub fn credentials(&self, caller: Caller) -> Credentials {
        caller.credentials(|user| self.tokens.get(user).cloned())
    }

    /// A step's request with this server's numbers and texts.
    pub fn request(&self, step: &Step) -> DynamicMessage {
        let mut request = step.request.clone();
        self.names.resolve(&mut request);
        request
    }

    /// An answer as it is compared.
    pub fn show(&self, step: &Step, answers: Result<Vec<DynamicMessage>, Status>) -> Json {
        let of = |message| json::of(message, &self.names);
        match answers {
            Ok(answers) if step.method.is_server_streaming() && !step.method.is_client_streaming() => {
                json!({ "answers": answers.iter().map(of).collect::<Vec<_>>() })
            }
            Ok(answers) if answers.len() == 1 => json!({ "answer": of(&answers[0]) }),
            Ok(answers) => json!({ "answers": answers.len() }),
            Err(status) => json!({ "code": format!("{:?}", status.code()), "message": status.message() }),
        }
    }

    /// Sends a step and waits for its answers.
    pub async fn call(&self, step: &Step) -> Json {
        let credentials = self.credentials(step.caller);
        let answers = wire::call(&self.server.channel, &step.method, &self.request(step), &credentials).await;
        self.show(step, answers)
    }

    /// One request on a stream that answers each. Each caller has its own.
    pub async fn keep_alive(&mut self, step: &Step) -> Json {
        let credentials = self.credentials(step.caller);
        let known = self.keep_alive.iter().position(|(caller, _)| *caller == credentials);
        let mut stream = match known {
            Some(at) => self.keep_alive.swap_remove(at).1,
            None => Stream::open(&self.server.channel, &step.method, &credentials),
        };
        let before = stream.answers().len();
        stream.send(&self.request(step));
        stream.wait(|answers| answers.len() > before).await;
        let answer = stream.answers().pop().expect("an answer or an end");
        if answer.is_ok() {
            self.keep_alive.push((credentials, stream));
        }
        self.show(step, answer.map(|answer| vec![answer]))
    }
}
