//! Watch streams: what their watchers were told is compared watcher by watcher, when both servers have sent all they have to.

use std::collections::BTreeMap;
use std::time::Duration;

use keelson_server::proto::etcdserverpb::watch_request::RequestUnion;
use keelson_server::proto::etcdserverpb::*;
use serde_json::{Value as Json, json};

use super::json;
use super::normal;
use super::pair::Pair;
use super::server::DEADLINE;
use super::side::Side;
use super::step::{Names, Step};
use super::wire::{Answers, Stream};

/// The key that is put when everything before shall have been sent.
const FENCE: &str = "fence";
/// The watcher that looks for it.
const FENCE_ID: i64 = 4711;

/// A server that has sent less than the other gets this long for the rest.
const REST: Duration = Duration::from_secs(2);

impl Pair {
    /// A request on a watch stream. Between watchers there is no order, nor between what one server sends and the other is
    /// asked next; so nothing is asked of a stream that has something to send. Under authentication that cannot be found out,
    /// so watchers are only created then, and compared later.
    pub(super) async fn watch(&mut self, step: &Step) -> Result<(), Vec<String>> {
        let creates = json::of(&step.request, &Names::default()).get("create_request").is_some();
        if self.guarded && !creates {
            return Ok(());
        }
        for side in &mut self.sides {
            let credentials = side.credentials(step.caller);
            let stream = side.watches.entry(step.stream);
            stream.or_insert_with(|| Stream::open(&side.server.channel, &step.method, &credentials));
        }
        if !creates {
            self.settle().await?;
        }
        for side in &mut self.sides {
            let request = side.request(step);
            let stream = side.watches.get_mut(&step.stream).expect("opened above");
            let created = count_created(&stream.answers());
            stream.send(&request);
            if creates
                && tokio::time::timeout(DEADLINE, stream.wait(|answers| count_created(answers) > created))
                    .await
                    .is_err()
            {
                return Err(vec!["a watcher was not created in time".to_owned()]);
            }
        }
        // Without another put: its revision might become that of the answer.
        if creates { Ok(()) } else { self.pass_fence().await }
    }

    /// Waits until both servers have sent their watchers everything, and compares it.
    ///
    /// A key is put, and a watcher on each stream is created behind that: it finds the put in the history, and so is sent it
    /// in etcd's next round through those who are behind. What was before in the stream, or in that round, has been sent then.
    pub(super) async fn settle(&mut self) -> Result<(), Vec<String>> {
        if self.guarded || self.sides[0].watches.is_empty() {
            return Ok(());
        }
        let put = Step::new("etcdserverpb.KV/Put", &PutRequest { key: FENCE.into(), ..Default::default() });
        let [ours, etcd] = &self.sides;
        let (got, wanted) = tokio::join!(ours.call(&put), etcd.call(&put));
        let revisions = [&got, &wanted].map(|answer| answer["answer"]["header"]["revision"].as_i64());
        let [Some(revision), Some(_)] = revisions else {
            let refused = revisions == [None, None];
            return if refused { Ok(()) } else { Err(vec![format!("the fence: ours {got}, etcd's {wanted}")]) };
        };
        (self.revision, self.fence) = (revision, revision);
        self.pass_fence().await
    }

    async fn pass_fence(&mut self) -> Result<(), Vec<String>> {
        let revision = self.fence;
        let [ours, etcd] = &mut self.sides;
        let fences = async { tokio::join!(ours.pass_fence(revision), etcd.pass_fence(revision)) };
        if tokio::time::timeout(DEADLINE, fences).await.is_err() {
            return Err(vec!["watchers were not sent a put in time".to_owned()]);
        }
        self.compare_watchers().await
    }

    async fn compare_watchers(&mut self) -> Result<(), Vec<String>> {
        let streams: Vec<usize> = self.sides[0].watches.keys().copied().collect();
        let begun = tokio::time::Instant::now();
        loop {
            let mut found = Vec::new();
            for stream in &streams {
                let logs = self.sides.each_ref().map(|side| side.log(*stream));
                let [ours, etcd] = logs;
                found.extend(json::differences(
                    &json!({ format!("stream {stream}"): ours? }),
                    &json!({ format!("stream {stream}"): etcd? }),
                ));
            }
            if found.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > REST {
                return Err(found);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Side {
    async fn pass_fence(&mut self, revision: i64) {
        let create = RequestUnion::CreateRequest(WatchCreateRequest {
            key: FENCE.into(),
            start_revision: revision,
            watch_id: FENCE_ID,
            ..Default::default()
        });
        let cancel = RequestUnion::CancelRequest(WatchCancelRequest { watch_id: FENCE_ID });
        for stream in self.watches.values_mut() {
            let before = stream.answers().len();
            stream.send(&request(create.clone()));
            let passed = |answer: Json| !answer["events"].is_null() || answer["canceled"] == true;
            stream.wait(|answers| of_fence(answers, before).any(passed)).await;
            stream.send(&request(cancel.clone()));
            stream.wait(|answers| of_fence(answers, before).any(|answer| answer["canceled"] == true)).await;
        }
    }

    /// What each watcher of a stream was told, its events one by one: how they are put into responses is a server's own
    /// business, within rules.
    fn log(&self, stream: usize) -> Result<Json, Vec<String>> {
        let mut log: BTreeMap<i64, Vec<Json>> = BTreeMap::new();
        let mut parts: BTreeMap<i64, i64> = BTreeMap::new();
        for answer in self.watches[&stream].answers() {
            let mut answer = match answer {
                Ok(answer) => json::of(&answer, &self.names),
                Err(end) => json!({ "code": format!("{:?}", end.code()), "message": end.message() }),
            };
            normal::header(&mut answer);
            let id = answer["watch_id"].as_i64().unwrap_or(0);
            if id == FENCE_ID {
                continue;
            }
            let told = log.entry(id).or_default();
            match answer["events"].as_array() {
                None => told.push(answer),
                Some(events) => {
                    check_response(&answer, events, parts.get(&id).copied())?;
                    let last = events.last().map_or(0, revision_of);
                    parts.insert(id, if answer["fragment"] == true { 0 } else { last });
                    told.extend(events.iter().cloned());
                }
            }
        }
        Ok(json!(log.into_iter().map(|(id, told)| (format!("watcher {id}"), told)).collect::<BTreeMap<_, _>>()))
    }
}

/// A response's revision is not before its events', and a revision is not split over responses, but for fragments.
fn check_response(answer: &Json, events: &[Json], previous: Option<i64>) -> Result<(), Vec<String>> {
    let revision = answer["header"]["revision"].as_i64().unwrap_or(0);
    let first = events.first().map_or(0, revision_of);
    if events.iter().any(|event| revision_of(event) > revision) {
        return Err(vec![format!("a response of revision {revision} has later events: {}", json::brief(answer))]);
    }
    if previous.is_some_and(|previous| previous >= first) {
        return Err(vec![format!("revision {first} is split over responses: {}", json::brief(answer))]);
    }
    Ok(())
}

fn revision_of(event: &Json) -> i64 {
    event["kv"]["mod_revision"].as_i64().unwrap_or(0)
}

fn count_created(answers: &Answers) -> usize {
    let answers = answers.iter().flatten();
    answers
        .filter(|answer| answer.get_field_by_name("created").is_some_and(|created| created.as_bool() == Some(true)))
        .count()
}

fn of_fence(answers: &Answers, from: usize) -> impl Iterator<Item = Json> {
    let answers = answers[from..].iter().flatten();
    answers.map(|answer| json::of(answer, &Names::default())).filter(|answer| answer["watch_id"] == FENCE_ID)
}

fn request(request_union: RequestUnion) -> prost_reflect::DynamicMessage {
    Step::new("etcdserverpb.Watch/Watch", &WatchRequest { request_union: Some(request_union) }).request
}
