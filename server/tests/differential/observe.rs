//! Observers of elections. After each step they are waited for until they have told of the current leader, so that none is
//! passed over because an observer was slow.

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::json;
use super::normal;
use super::pair::Pair;
use super::side::Side;
use super::step::Step;
use super::wire::Stream;

/// How long an observer may take, and how often it is looked at.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(5);

/// A stream of leaders on each server.
pub struct Observer {
    name: Vec<u8>,
    streams: [Stream; 2],
}

impl Pair {
    /// Begins to observe, in the place of an earlier observer on the same stream. Under authentication it is compared what is
    /// told first, a leader or the end: what rights change later, an observer notices at some time or other.
    pub(super) async fn observe(&mut self, step: &Step) -> Result<(), Vec<String>> {
        let name = step.request.get_field_by_name("name").and_then(|name| name.as_bytes().cloned());
        let name = name.unwrap_or_default().to_vec();
        let has_leader = self.sides[0].queue_of(&name).await.is_ok_and(|queue| !queue.is_empty());
        if self.guarded && !has_leader {
            return Ok(());
        }
        let streams = self.sides.each_ref().map(|side| {
            let credentials = side.credentials(step.caller);
            Stream::ask(&side.server.channel, &step.method, &side.request(step), &credentials)
        });
        self.observers.insert(step.stream, Observer { name, streams });
        self.observed().await?;
        if self.guarded {
            self.observers.clear();
        }
        Ok(())
    }

    /// Waits until all observers have told the same, up to the current leader.
    pub(super) async fn observed(&mut self) -> Result<(), Vec<String>> {
        let [ours, etcd] = &self.sides;
        for Observer { name, streams } in self.observers.values() {
            let Ok(queue) = ours.queue_of(name).await else { continue };
            let leader = queue.into_iter().min_by_key(|kv| kv.create_revision);
            let begun = tokio::time::Instant::now();
            loop {
                let told = [ours.told(&streams[0]), etcd.told(&streams[1])];
                let differences = json::differences(&told[0], &told[1]);
                let last = told[0].as_array().and_then(|told| told.last());
                let is_told = leader.as_ref().is_none_or(|leader| {
                    let ended = |last: &Json| last["kv"].is_null();
                    last.is_some_and(|last| ended(last) || last["kv"]["mod_revision"] == leader.mod_revision)
                });
                if differences.is_empty() && is_told {
                    break;
                }
                if begun.elapsed() > PATIENCE {
                    let last = last.map_or("nothing".to_owned(), json::brief);
                    let told = format!("an observer of ours was told last: {last}, the leader is {leader:?}");
                    return Err([differences, vec![told]].concat());
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        Ok(())
    }
}

impl Side {
    fn told(&self, stream: &Stream) -> Json {
        let told = stream.answers().into_iter().map(|answer| match answer {
            Ok(answer) => json::of(&answer, &self.names),
            Err(end) => json!({ "code": format!("{:?}", end.code()), "message": end.message() }),
        });
        let mut told = Json::Array(told.collect());
        normal::header(&mut told);
        told
    }
}
