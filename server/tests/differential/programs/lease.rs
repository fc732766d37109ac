//! Leases. None of them runs out while a program runs.

use keelson_server::proto::etcdserverpb::*;

use super::Dice;
use crate::step::{LEASE, Step};

/// One request, or two that belong together.
pub fn steps(dice: &mut Dice) -> Vec<Step> {
    let id = id(dice);
    match dice.below(10) {
        0..3 => vec![grant(id, 6000)],
        3 if dice.chosen_leases => vec![grant(0, 9000)],
        3 => vec![grant(id, 9000)],
        // Far too long, or so short that it must not be left to run out.
        4 => vec![grant(id, dice.pick(&[9_000_000_000, 9_000_000_001, i64::MAX]))],
        5 => vec![grant(7, dice.pick(&[1, 0, -1, i64::MIN])), revoke(7)],
        6 => vec![revoke(id)],
        7 => vec![Step::new("etcdserverpb.Lease/LeaseKeepAlive", &LeaseKeepAliveRequest { id })],
        8 => vec![Step::new("etcdserverpb.Lease/LeaseLeases", &LeaseLeasesRequest {})],
        _ => vec![time_to_live(id, dice.one_in(2))],
    }
}

/// What is left of leases.
pub fn everything() -> Vec<Step> {
    let mut steps = vec![Step::new("etcdserverpb.Lease/LeaseLeases", &LeaseLeasesRequest {})];
    steps.extend((1..4).chain(LEASE..LEASE + 2).map(|id| time_to_live(id, true)));
    steps
}

/// The id of a lease that may exist.
pub fn id(dice: &mut Dice) -> i64 {
    dice.pick(&[1, 1, 2, 2, 3, LEASE, LEASE + 1, 4, -1])
}

/// Grants a lease for so many seconds.
pub fn grant(id: i64, ttl: i64) -> Step {
    Step::new("etcdserverpb.Lease/LeaseGrant", &LeaseGrantRequest { id, ttl })
}

fn revoke(id: i64) -> Step {
    Step::new("etcdserverpb.Lease/LeaseRevoke", &LeaseRevokeRequest { id })
}

fn time_to_live(id: i64, keys: bool) -> Step {
    Step::new("etcdserverpb.Lease/LeaseTimeToLive", &LeaseTimeToLiveRequest { id, keys })
}
