//! The arithmetic of majorities.

use super::Member;

/// How many of `voters` members decide.
pub fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

/// How many of these answer and see a leader.
pub fn healthy<'a>(members: impl IntoIterator<Item = &'a Member>) -> usize {
    members.into_iter().filter(|member| member.healthy()).count()
}

/// Whether the voters other than `victim` are a working cluster once `victim` is removed.
pub fn survives_removal<'a>(voters: impl IntoIterator<Item = &'a Member>, victim: u64) -> bool {
    let rest: Vec<&Member> = voters.into_iter().filter(|voter| voter.id != victim).collect();
    !rest.is_empty() && healthy(rest.iter().copied()) >= quorum(rest.len())
}

/// Whether the voters other than `victim` keep the quorum while `victim`, still a voter, is away; all of them must be healthy,
/// so that one restart never meets another failure. With `interrupted`, one or two voters may be without it meanwhile.
pub fn survives_restart<'a>(voters: impl IntoIterator<Item = &'a Member>, victim: u64, interrupted: bool) -> bool {
    let (mut count, mut rest, mut up) = (0, 0, 0);
    for voter in voters {
        count += 1;
        if voter.id != victim {
            rest += 1;
            up += usize::from(voter.healthy());
        }
    }
    up == rest && (up >= quorum(count) || interrupted)
}

/// Whether the cluster still works when a healthy learner gets a vote.
pub fn survives_promotion<'a>(voters: impl IntoIterator<Item = &'a Member>) -> bool {
    let (mut count, mut up) = (0, 0);
    for voter in voters {
        count += 1;
        up += usize::from(voter.healthy());
    }
    up + 1 >= quorum(count + 1) && up >= quorum(count)
}
