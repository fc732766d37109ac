//! Clients that write and read, and remember what they were told.

use std::sync::Arc;
use std::time::Duration;

use keelson_server::mvcc::View;
use keelson_server::proto::command::Command;
use keelson_server::proto::command::command::Op;
use keelson_server::proto::command::outcome::Result as Answer;
use keelson_server::proto::etcdserverpb::PutRequest;
use keelson_server::raft::types::Request;
use openraft::ReadPolicy;
use openraft::errors::{ClientWriteError, RaftError};
use prost::Message;
use tokio::time::{sleep, timeout};

use crate::event::{Event, Write};
use crate::member::Member;
use crate::world::{Bug, World};

/// How long a client waits.
const PATIENCE: Duration = Duration::from_secs(2);
/// Keys that they write.
const KEYS: u64 = 5;

/// Writes and reads until the world closes.
pub async fn run(world: Arc<World>, number: u64) {
    let mut to = number % world.size + 1;
    let mut count = 0;
    while !world.is_closing() {
        sleep(world.between(5, 60)).await;
        let Some(member) = world.member(to) else {
            to = to % world.size + 1;
            continue;
        };
        count += 1;
        let next = match world.one_in(4) {
            true => read(&world, &member).await,
            false => {
                let key = format!("key-{}", world.below(KEYS));
                write(&world, &member, key, format!("{number}-{count}")).await
            }
        };
        to = next.unwrap_or(to % world.size + 1);
    }
}

/// Writes, and tells whom to ask next; none if that is not known.
pub async fn write(world: &World, member: &Member, key: String, value: String) -> Option<u64> {
    let put = PutRequest { key: key.clone().into(), value: value.clone().into(), ..PutRequest::default() };
    let command = Command { op: Some(Op::Put(put)), caller: None };
    let answer = timeout(PATIENCE, member.raft.client_write(Request::new(command.encode_to_vec()))).await;
    if member.life.is_over() {
        return None;
    }
    match answer {
        Ok(Ok(response)) => {
            let Some(Answer::Put(put)) = &response.response().result else {
                panic!("a put is answered with {:?}", response.response());
            };
            let revision = put.header.as_ref().expect("a header").revision;
            world.acknowledge(&member.life, Write { index: response.log_id.index, revision, key, value });
            Some(member.life.member)
        }
        Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => forward.leader_id,
        _ => None,
    }
}

/// A linearizable read of the newest revision.
async fn read(world: &World, member: &Member) -> Option<u64> {
    let acknowledged = world.acknowledged_revision();
    let index = match world.bug {
        // The planted bug: a leader asks nobody.
        Some(Bug::StaleRead) if member.leads() => 0,
        _ => {
            let confirmed = timeout(PATIENCE, member.raft.get_read_linearizer(ReadPolicy::ReadIndex)).await;
            confirmed.ok()?.ok()?.read_log_id().index()
        }
    };
    let mut applied = member.shared.applied_index.subscribe();
    timeout(PATIENCE, applied.wait_for(|applied| *applied >= index)).await.ok()?.ok()?;
    let revision = member.shared.store.view().revision();
    world.see(&member.life, &Event::Reads { member: member.life.member, acknowledged, revision });
    Some(member.life.member)
}
