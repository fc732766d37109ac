//! Maintenance: hashes, status, alarms and what they forbid.

use keelson_server::proto::etcdserverpb::alarm_request::AlarmAction;
use keelson_server::proto::etcdserverpb::*;
use keelson_server::proto::health::HealthCheckRequest;

use super::{Dice, kv, lease};
use crate::step::{MEMBER, Step};

/// One request, or a time under an alarm.
pub fn steps(dice: &mut Dice) -> Vec<Step> {
    if dice.one_in(6) { under_an_alarm(dice) } else { request(dice) }
}

/// One request.
pub fn request(dice: &mut Dice) -> Vec<Step> {
    vec![match dice.below(11) {
        0..5 => {
            let revision = if dice.one_in(2) { dice.revision() } else { 0 };
            Step::new("etcdserverpb.Maintenance/HashKV", &HashKvRequest { revision })
        }
        5 => Step::new("etcdserverpb.Maintenance/Hash", &HashRequest {}),
        6 => Step::new("etcdserverpb.Maintenance/Status", &StatusRequest {}),
        7 => Step::new("etcdserverpb.Maintenance/Defragment", &DefragmentRequest {}),
        8 => Step::new("etcdserverpb.Maintenance/MoveLeader", &MoveLeaderRequest { target_id: dice.pick(&[0, 7]) }),
        9 => alarm(AlarmAction::Get, 0, dice.below(3) as i32),
        _ => {
            let service = dice.pick(&["", "", "unknown"]).to_owned();
            Step::new("grpc.health.v1.Health/Check", &HealthCheckRequest { service })
        }
    }]
}

/// An alarm is raised, some requests follow, and it is disarmed again. Nothing here waits for watchers, which takes a put.
fn under_an_alarm(dice: &mut Dice) -> Vec<Step> {
    let (member, kind) = (dice.pick(&[MEMBER, MEMBER, 0, 7]), dice.pick(&[1, 1, 2]));
    let mut steps = vec![alarm(AlarmAction::Activate, member, kind)];
    let request = |dice: &mut Dice| if dice.one_in(4) { lease::steps(dice) } else { kv::steps(dice) };
    for _ in 0..dice.below(8) {
        let requests = request(dice);
        // Before 3.7, puts in txns within txns are let through.
        let refused = |step: &Step| step.name() == "KV/Compact" || step.to_string().contains("request_txn");
        steps.extend(requests.into_iter().filter(|step| !refused(step)));
        if dice.one_in(4) {
            let action = dice.pick(&[AlarmAction::Get, AlarmAction::Activate, AlarmAction::Deactivate]);
            // Of the same kind: before 3.6, two kinds got into each other's way.
            steps.push(alarm(action, dice.pick(&[MEMBER, 7]), dice.pick(&[kind, kind, 0])));
        }
        if dice.one_in(6) {
            steps.push(Step::new("etcdserverpb.Maintenance/Status", &StatusRequest {}));
        }
    }
    steps.extend(all_alarms_off());
    steps
}

/// Disarms whatever a program may have raised.
pub fn all_alarms_off() -> Vec<Step> {
    let members = [MEMBER, 0, 7].into_iter();
    members.flat_map(|member| [1, 2].map(|kind| alarm(AlarmAction::Deactivate, member, kind))).collect()
}

fn alarm(action: AlarmAction, member_id: u64, alarm: i32) -> Step {
    Step::new("etcdserverpb.Maintenance/Alarm", &AlarmRequest { action: action.into(), member_id, alarm })
}
