//! Histories of an imagined cluster: right ones pass, and a broken promise is found, whatever happens around it.

mod world;

use keelson_faults::check::{Report, check};
use proptest::prelude::*;
use world::{Bug, Plan, World};

fn told(world: &World, report: &Report) -> String {
    let violations: Vec<_> =
        report.violations.iter().map(|violation| violation.with(&world.history).to_string()).collect();
    format!("{}{}", violations.join("\n"), report.gave_up.as_deref().unwrap_or_default())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn right_histories_pass(
        seed: u64,
        clients in 1..8_u32,
        steps in 1..600_usize,
        loss in prop::sample::select(vec![0.0, 0.02, 0.15]),
        compactions: bool,
    ) {
        let world = world::run(&Plan { seed, clients, steps, loss, compactions, bug: None });
        let report = check(&world.history);
        prop_assert!(report.is_good(), "{}", told(&world, &report));
    }
}

/// Runs worlds until the bug has shown in so many; each time it must be found, under the right name.
fn is_found(bug: Bug) {
    let compactions = bug == Bug::CompactedRead;
    let (mut found, mut seed) = (0, 0);
    while found < 10 {
        seed += 1;
        assert!(seed < 2000, "{bug:?} showed in {found} histories only");
        let steps = if compactions { 2000 } else { 600 };
        let loss = if seed % 2 == 0 { 0.0 } else { 0.03 };
        let world = world::run(&Plan { seed, clients: 4, steps, loss, compactions, bug: Some(bug) });
        if !world.planted {
            continue;
        }
        found += 1;
        let report = check(&world.history);
        let right = report.violations.iter().any(|violation| bug.breaks().contains(&violation.property));
        assert!(right, "{bug:?} was not found in the history of seed {seed}:\n{}", told(&world, &report));
    }
}

macro_rules! found {
    ($($name:ident: $bug:ident,)*) => {
        $(
            #[test]
            fn $name() {
                is_found(Bug::$bug);
            }
        )*
    };
}

found! {
    stale_read: StaleRead,
    read_refused: ReadRefused,
    member_refuses: MemberRefuses,
    lost_write: LostWrite,
    written_twice: WrittenTwice,
    failed_write_happens: FailedWriteHappens,
    torn_txn: TornTxn,
    wrong_branch: WrongBranch,
    mixed_read: MixedRead,
    member_back: MemberBack,
    lease_keeps_keys: LeaseKeepsKeys,
    lease_forgotten: LeaseForgotten,
    lease_ended: LeaseEnded,
    lease_revived: LeaseRevived,
    compacted_read: CompactedRead,
    hash_differs: HashDiffers,
    watch_skips: WatchSkips,
    watch_repeats: WatchRepeats,
    watch_repeats_later: WatchRepeatsLater,
    watch_reorders: WatchReorders,
    watch_tears: WatchTears,
    watch_invents: WatchInvents,
    watch_wrong_version: WatchWrongVersion,
    watch_wrong_previous: WatchWrongPrevious,
    watch_early_bookmark: WatchEarlyBookmark,
    watch_gap: WatchGap,
    watch_stalls: WatchStalls,
}
