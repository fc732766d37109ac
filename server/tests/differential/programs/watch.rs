//! Watchers on a few streams.

use bytes::Bytes;
use keelson_server::proto::etcdserverpb::watch_request::RequestUnion;
use keelson_server::proto::etcdserverpb::*;

use super::Dice;
use crate::step::{COMPACTED, NOW, Step};

/// Streams of one program.
const STREAMS: usize = 3;
/// Further streams for times under authentication.
const STREAMS_OF_CALLERS: usize = 12;

/// One request.
pub fn steps(dice: &mut Dice) -> Vec<Step> {
    let stream = dice.below(STREAMS);
    let request = match dice.below(16) {
        0..10 => Some(RequestUnion::CreateRequest(create(dice))),
        10..13 => {
            let watch_id = dice.pick(&[0, 0, 1, 1, 2, 3, 4, 5, -7, 99]);
            Some(RequestUnion::CancelRequest(WatchCancelRequest { watch_id }))
        }
        13..15 => Some(RequestUnion::ProgressRequest(WatchProgressRequest {})),
        _ => None,
    };
    vec![step(request, stream)]
}

/// A watcher on another stream, which its first caller has opened. It need not catch up, for nothing can wait for that.
pub fn created(dice: &mut Dice) -> Vec<Step> {
    let mut create = WatchCreateRequest { start_revision: dice.pick(&[0, 0, NOW + 1]), ..create(dice) };
    if create.range_end == "\0" {
        // Before 3.7, who may read a key may watch all keys from it on.
        create.range_end = Bytes::from_static(b"\xff\xff\xff");
    }
    vec![step(Some(RequestUnion::CreateRequest(create)), STREAMS + 1 + dice.below(STREAMS_OF_CALLERS))]
}

/// The whole history, from the first revision that is there.
pub fn everything() -> Vec<Step> {
    let all = Bytes::from_static(b"\0");
    let create = WatchCreateRequest {
        key: all.clone(),
        range_end: all,
        start_revision: COMPACTED,
        prev_kv: true,
        ..Default::default()
    };
    vec![step(Some(RequestUnion::CreateRequest(create)), STREAMS)]
}

fn create(dice: &mut Dice) -> WatchCreateRequest {
    WatchCreateRequest {
        key: dice.key(),
        range_end: if dice.one_in(2) { Bytes::from_static(b"\0") } else { dice.range_end() },
        start_revision: if dice.one_in(2) { dice.revision() } else { 0 },
        progress_notify: dice.one_in(3),
        filters: if dice.one_in(4) { dice.pick(&[vec![0], vec![1], vec![0, 1], vec![9]]) } else { Vec::new() },
        prev_kv: dice.one_in(2),
        watch_id: if dice.one_in(3) { dice.pick(&[1, 2, 3, 5, -7]) } else { 0 },
        fragment: dice.one_in(3),
    }
}

fn step(request_union: Option<RequestUnion>, stream: usize) -> Step {
    Step::new("etcdserverpb.Watch/Watch", &WatchRequest { request_union }).on_stream(stream)
}
