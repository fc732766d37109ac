//! Elections: one name and few candidates, some of whom are observed.

use bytes::Bytes;
use keelson_server::proto::v3electionpb::*;

use super::{Dice, lock};
use crate::step::{ELECTED, Step};

/// The name of all elections.
pub const NAME: &[u8] = b"b";

/// Observers at once.
const OBSERVERS: usize = 2;

/// One request, its session perhaps granted before.
pub fn steps(dice: &mut Dice) -> Vec<Step> {
    let (mut steps, lease) = lock::session(dice);
    let name = Bytes::from_static(NAME);
    let value = Bytes::from_static(dice.pick(&[b"", b"x", b"y"]));
    steps.push(match dice.below(12) {
        0..5 => Step::new("v3electionpb.Election/Campaign", &CampaignRequest { name, lease, value }),
        5..7 => Step::new("v3electionpb.Election/Proclaim", &ProclaimRequest { leader: leader(dice, lease), value }),
        7..9 => Step::new("v3electionpb.Election/Resign", &ResignRequest { leader: leader(dice, lease) }),
        9 => Step::new("v3electionpb.Election/Observe", &LeaderRequest { name }).on_stream(dice.below(OBSERVERS)),
        _ => Step::new("v3electionpb.Election/Leader", &LeaderRequest { name }),
    });
    steps
}

/// A session's leadership as its candidate was told of it; rarely none, or one that is over.
fn leader(dice: &mut Dice, lease: i64) -> Option<LeaderKey> {
    let rev = if dice.one_in(6) { dice.revision() } else { ELECTED };
    let key = [NAME, format!("/{lease}").as_bytes()].concat().into();
    (!dice.one_in(12)).then(|| LeaderKey { name: Bytes::from_static(NAME), key, rev, lease })
}
