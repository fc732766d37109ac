//! Random programs. They use few keys, leases and streams, so that requests meet.
//!
//! A family of RPCs is a file here and a row of [`FAMILIES`]. What a program is depends on its seed alone: numbers that only
//! the run knows are names ([`NOW`] and the like).

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::step::{COMPACTED, NOW, Step};

mod auth;
mod cluster;
mod election;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod watch;

/// Makes a step, or several that belong together.
type Family = fn(&mut Dice) -> Vec<Step>;

/// How often a family's turn comes.
const FAMILIES: &[(u32, Family)] = &[
    (72, kv::steps),
    (10, lease::steps),
    (3, maintenance::steps),
    (1, cluster::steps),
    (10, watch::steps),
    (4, auth::steps),
];

/// The same for programs with queues of keys, which go before others here.
const QUEUES: &[(u32, Family)] = &[(20, lock::steps), (20, election::steps)];

/// A program of at least so many steps.
pub fn program(seed: u64, length: usize) -> Vec<Step> {
    let mut random = StdRng::seed_from_u64(seed);
    let large = random.random_range(0..12) == 0;
    let chosen_leases = random.random_range(0..4) == 0;
    let open_deletions = random.random_range(0..3) == 0;
    let queues = random.random_range(0..2) == 0;
    let permissions = random.random_range(0..100);
    let mut dice = Dice { random, large, chosen_leases, open_deletions, queues, permissions };
    let families = [FAMILIES, if queues { QUEUES } else { &[] }].concat();
    let mut steps = Vec::new();
    while steps.len() < length {
        let family = dice.weighted(&families);
        steps.extend(family(&mut dice));
    }
    steps
}

/// What ends every program: authentication, alarms and queues are ended, and a look at everything that is left.
pub fn epilogue() -> Vec<Step> {
    let ended = [auth::disabled(), maintenance::all_alarms_off(), kv::without_queues(&[lock::NAME, election::NAME])];
    let left = [kv::everything(), lease::everything(), watch::everything(), auth::everything()];
    [ended.concat(), left.concat()].concat()
}

/// The choices of one program.
pub struct Dice {
    random: StdRng,
    /// The program has values so large that answers are split.
    large: bool,
    /// Servers choose the ids of some leases, which then are part of HashKV's sum.
    chosen_leases: bool,
    /// Txns delete ranges without an end. etcd does not see that such a range has a key that is also put, and falls over if
    /// that put ignores the value or lease of the key which is gone then; so txns have no such puts.
    open_deletions: bool,
    /// The program has locks and elections, and fewer other keys in turn.
    queues: bool,
    /// Which ends permissions' ranges have.
    permissions: usize,
}

impl Dice {
    /// True once in so many times.
    pub fn one_in(&mut self, times: u32) -> bool {
        self.random.random_range(0..times) == 0
    }

    /// A number below the bound.
    pub fn below(&mut self, bound: usize) -> usize {
        self.random.random_range(0..bound)
    }

    /// One of these.
    pub fn pick<T: Clone>(&mut self, options: &[T]) -> T {
        options[self.below(options.len())].clone()
    }

    /// One of these, each as often as its weight says.
    pub fn weighted<T: Clone>(&mut self, options: &[(u32, T)]) -> T {
        let mut left = self.random.random_range(0..options.iter().map(|(weight, _)| weight).sum());
        let chosen = options.iter().find(|(weight, _)| {
            let found = left < *weight;
            left = left.saturating_sub(*weight);
            found
        });
        chosen.expect("the weights' sum is above every number").1.clone()
    }

    /// A key; rarely none. They are few: with more than 12, etcd sorts equal ones in an order of its own.
    pub fn key(&mut self) -> Bytes {
        let keys: &[&[u8]] = match self.queues {
            true => &[b"a", b"aa", b"b", b"c", b"\xff"],
            false => &[b"a", b"aa", b"a\0", b"b", b"bb", b"c", b"d\0", b"\xff", b"\xff\xff"],
        };
        match self.one_in(60) {
            true => Bytes::new(),
            false => Bytes::from_static(self.pick(keys)),
        }
    }

    /// The end of a range: of one key, of all keys from one on, or any, an empty range included.
    pub fn range_end(&mut self) -> Bytes {
        match self.below(8) {
            0..4 => Bytes::new(),
            4 => Bytes::from_static(b"\0"),
            5 => Bytes::from_static(b"\0\0"),
            _ => self.key(),
        }
    }

    /// A value, some longer than what is kept beside the key.
    pub fn value(&mut self) -> Bytes {
        let lengths: &[usize] = if self.large { &[0, 1, 200_000, 300_000] } else { &[0, 1, 1, 2, 3, 3000] };
        let (length, letter) = (self.pick(lengths), self.pick(b"vwx"));
        vec![letter; length].into()
    }

    /// A revision around those that exist, or far from them.
    pub fn revision(&mut self) -> i64 {
        let steps = self.random.random_range(0..12);
        match self.below(12) {
            0..5 => NOW - steps,
            5 => NOW + 1,
            6 => COMPACTED,
            7 => COMPACTED - 1,
            8 => COMPACTED + 1 + steps,
            9 => self.pick(&[1, 2, -1]),
            10 => self.pick(&[NOW + 2, i64::MAX, i64::MIN]),
            _ => 0,
        }
    }

    /// The id of a lease that may exist.
    pub fn lease(&mut self) -> i64 {
        lease::id(self)
    }
}
