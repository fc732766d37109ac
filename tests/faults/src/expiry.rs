//! Leases whose time is over are gone at the end of a round, with the keys that were attached to them; all members have the same ones.
//! History tells nothing of that: nobody asks for a lease's end, so it may always be yet to come.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::time::sleep;

use crate::cluster::Cluster;
use crate::fault::lease_storm;

/// Those of the last storm, kept alive as long as they are, and given their whole time once more by a new leader.
const WITHIN: Duration = Duration::from_secs(30);

/// What one member has.
#[derive(Debug, Default, Clone, PartialEq)]
struct Held {
    leases: BTreeSet<i64>,
    /// Those that keys are attached to.
    attached: BTreeSet<i64>,
}

/// Waits for it.
pub async fn settled(cluster: &Cluster) -> Result<()> {
    let deadline = Instant::now() + WITHIN;
    loop {
        // One that does not answer at once may be asked again.
        let wrong = held(cluster).await.map_or_else(|error| Some(format!("{error:#}")), |members| wrong(&members));
        match wrong {
            None => return Ok(()),
            Some(wrong) if Instant::now() > deadline => bail!("{wrong}, {WITHIN:?} after the last fault"),
            Some(_) => sleep(Duration::from_millis(200)).await,
        }
    }
}

async fn held(cluster: &Cluster) -> Result<Vec<Held>> {
    let mut members = Vec::new();
    for member in &cluster.members {
        let (leases, attached) = (member.leases().await?, member.attached().await?);
        members.push(Held { leases, attached });
    }
    Ok(members)
}

fn wrong(members: &[Held]) -> Option<String> {
    for (index, member) in members.iter().enumerate() {
        if let Some(lease) = member.leases.iter().find(|lease| lease_storm::ends(**lease)) {
            return Some(format!("member {index} has lease {lease:x}, whose time is over"));
        }
        if let Some(lease) = member.attached.difference(&member.leases).next() {
            return Some(format!("member {index} has keys of lease {lease:x}, which is none"));
        }
        if member.leases != members[0].leases {
            return Some(format!("members 0 and {index} have other leases: {members:x?}"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(leases: &[i64], attached: &[i64]) -> Held {
        Held { leases: leases.iter().copied().collect(), attached: attached.iter().copied().collect() }
    }

    #[test]
    fn what_is_left_of_leases_is_told() {
        let ends = 7 << 31;
        let told = |members: &[Held]| wrong(members).unwrap_or_default();
        assert_eq!(told(&[one(&[1, 2], &[2]), one(&[1, 2], &[2])]), "");
        assert!(told(&[one(&[1], &[]), one(&[1, ends], &[])]).contains("member 1 has lease 380000000, whose time"));
        assert!(told(&[one(&[1], &[1]), one(&[1], &[1, ends])]).contains("member 1 has keys of lease 380000000"));
        assert!(told(&[one(&[1], &[]), one(&[1, 2], &[])]).contains("members 0 and 1 have other leases"));
    }
}
