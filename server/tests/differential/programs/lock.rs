//! Locks: one name and few sessions, so that they wait for each other.

use bytes::Bytes;
use keelson_server::proto::v3lockpb::{LockRequest, UnlockRequest};

use super::{Dice, lease};
use crate::step::Step;

/// The name of all locks.
pub const NAME: &[u8] = b"a";

/// A lock, its session perhaps granted before, or the end of one.
pub fn steps(dice: &mut Dice) -> Vec<Step> {
    let (mut steps, lease) = session(dice);
    steps.push(match dice.below(8) {
        0..5 => Step::new("v3lockpb.Lock/Lock", &LockRequest { name: Bytes::from_static(NAME), lease }),
        // Without a name, and a lease that never is: keys of other names would be too many.
        5 if dice.one_in(4) => Step::new("v3lockpb.Lock/Lock", &LockRequest { name: Bytes::new(), lease: NONE }),
        _ => {
            let keys: &[&[u8]] = &[b"a/1", b"a/1", b"a/2", b"a/3", b"a/9", b"b/1", b"a", b""];
            let key = Bytes::from_static(dice.pick(keys));
            Step::new("v3lockpb.Lock/Unlock", &UnlockRequest { key })
        }
    });
    steps
}

/// A lease that is never granted.
const NONE: i64 = 9;

/// A session's lease, and perhaps the request that grants it. Its id is part of keys, so it is not for the servers to choose.
pub fn session(dice: &mut Dice) -> (Vec<Step>, i64) {
    let lease = dice.pick(&[1, 1, 2, 2, 3, 3, NONE]);
    let grants = lease != NONE && dice.one_in(3);
    (if grants { vec![lease::grant(lease, 6000)] } else { Vec::new() }, lease)
}
