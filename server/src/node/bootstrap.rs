//! Who this member is when its data directory is empty.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use sha1::{Digest, Sha1};

use super::data_dir::{FORMAT, Identity};
use super::{InitialClusterState, NodeConfig, StartError};
use crate::proto::etcdserverpb::Member;
use crate::proto::peer::ClusterResponse;
use crate::raft::network::{Peers, was_not_sent};

/// How long a peer may take to answer, connecting included.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// The same for a member that joins: it asks the next peer then, and this one again later.
const JOIN_ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// How long peers of a new cluster may take to start.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(500);
/// How long a joining member looks for a peer that knows it.
const JOIN_LIMIT: Duration = Duration::from_secs(30);

/// Id of a member: what etcd computes. `added_at` is the unix time for members added to a running cluster.
pub fn member_id(peer_urls: &[String], token: &str, added_at: Option<u64>) -> u64 {
    let mut urls = peer_urls.to_vec();
    urls.sort();
    let mut hash = Sha1::new();
    hash.update(urls.concat());
    hash.update(token);
    if let Some(seconds) = added_at {
        hash.update(seconds.to_string());
    }
    first_eight(hash)
}

/// Id of a cluster: what etcd computes from the ids of its first members.
pub fn cluster_id(members: impl IntoIterator<Item = u64>) -> u64 {
    let sorted: BTreeSet<u64> = members.into_iter().collect();
    let mut hash = Sha1::new();
    for id in sorted {
        hash.update(id.to_be_bytes());
    }
    first_eight(hash)
}

fn first_eight(hash: Sha1) -> u64 {
    let digest = hash.finalize();
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(bytes)
}

/// Finds out who this member is.
pub async fn identify(config: &NodeConfig) -> Result<Identity, StartError> {
    match config.initial_cluster_state {
        InitialClusterState::New => create(config).await,
        InitialClusterState::Existing => join(config).await,
    }
}

fn same_urls(left: &[String], right: &[String]) -> bool {
    let set = |urls: &[String]| urls.iter().cloned().collect::<BTreeSet<_>>();
    set(left) == set(right)
}

/// The id of the member `name`, and the members of its new cluster by id.
pub fn initial_members(
    name: &str,
    peer_urls: &[String],
    initial_cluster: &BTreeMap<String, Vec<String>>,
    token: &str,
) -> Result<(u64, BTreeMap<u64, Vec<String>>), StartError> {
    let Some(own) = initial_cluster.get(name) else {
        let message = format!("--initial-cluster does not name this member ({name:?}); add {name:?}=URL to it");
        return Err(StartError::Config(message));
    };
    if !same_urls(own, peer_urls) {
        return Err(StartError::Config(format!(
            "--initial-cluster has {name}={} but --initial-advertise-peer-urls is {}; they must be equal",
            own.join(","),
            peer_urls.join(",")
        )));
    }
    let mut members = BTreeMap::new();
    for (name, urls) in initial_cluster {
        let id = member_id(urls, token, None);
        if members.insert(id, urls.clone()).is_some() {
            let message = format!("--initial-cluster has two members with the URLs of {name:?}");
            return Err(StartError::Config(message));
        }
    }
    Ok((member_id(own, token, None), members))
}

async fn create(config: &NodeConfig) -> Result<Identity, StartError> {
    let (member_id, members) = initial_members(
        &config.name,
        &config.initial_advertise_peer_urls,
        &config.initial_cluster,
        &config.initial_cluster_token,
    )?;
    let cluster_id = cluster_id(members.keys().copied());
    let others = members.iter().filter(|(id, _)| **id != member_id);
    let answers = others.map(|(_, urls)| ask_until_known(config, urls));
    for answer in join_all(answers).await {
        let Some(answer) = answer? else { continue };
        if answer.cluster_id != cluster_id {
            continue;
        }
        if answer.removed.contains(&member_id) {
            return Err(StartError::Unavailable(format!(
                "member {member_id:x} was removed from the cluster; add it again and start it with \
                 --initial-cluster-state=existing"
            )));
        }
        if let Some(member) = answer.members.iter().find(|member| member.id == member_id) {
            refuse_started(member)?;
        }
    }
    let initial_members = members.into_iter().map(|(id, urls)| (format!("{id:x}"), urls)).collect();
    Ok(Identity { format: FORMAT, cluster_id, member_id, initial_members })
}

/// What the member at `urls` knows of the cluster; nothing if it does not run. One that runs but is still starting may know
/// that this member had data once, so it is asked again.
async fn ask_until_known(config: &NodeConfig, urls: &[String]) -> Result<Option<ClusterResponse>, StartError> {
    let deadline = tokio::time::Instant::now() + START_LIMIT;
    loop {
        match Peers::ask_cluster(urls, config.peer_tls.clone(), ANSWER_LIMIT).await {
            Ok(answer) => return Ok(Some(answer)),
            Err(status) if was_not_sent(&status) => return Ok(None),
            Err(status) if tokio::time::Instant::now() > deadline => {
                return Err(StartError::Unavailable(format!(
                    "{} runs but does not tell whether this member had data before: {}",
                    urls.join(","),
                    status.message()
                )));
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// A member with a name has voted and acknowledged: coming back empty it could undo both. etcd lets it.
fn refuse_started(member: &Member) -> Result<(), StartError> {
    if member.name.is_empty() {
        return Ok(());
    }
    Err(StartError::Unavailable(format!(
        "member {:x} ({:?}) was already started and its data directory is gone: remove it and add it again",
        member.id, member.name
    )))
}

async fn join(config: &NodeConfig) -> Result<Identity, StartError> {
    let own = &config.initial_advertise_peer_urls;
    let others: Vec<_> = config.initial_cluster.values().filter(|urls| !same_urls(urls, own)).collect();
    if others.is_empty() {
        let message = "--initial-cluster names no other member to join";
        return Err(StartError::Config(message.into()));
    }
    let deadline = tokio::time::Instant::now() + JOIN_LIMIT;
    loop {
        let mut seen = Vec::new();
        for urls in &others {
            match Peers::ask_cluster(urls, config.peer_tls.clone(), JOIN_ANSWER_LIMIT).await {
                Ok(answer) => match find_self(own, &answer) {
                    Some(member) => return joined(member, &answer),
                    None => seen.push(format!("{} does not know {}", urls.join(","), own.join(","))),
                },
                Err(status) => seen.push(format!("{}: {}", urls.join(","), status.message())),
            }
        }
        if tokio::time::Instant::now() > deadline {
            return Err(StartError::Unavailable(format!(
                "no member of the cluster knows this one; add it first (etcdctl member add): {}",
                seen.join("; ")
            )));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn find_self<'a>(own: &[String], answer: &'a ClusterResponse) -> Option<&'a Member> {
    answer.members.iter().find(|member| same_urls(&member.peer_ur_ls, own))
}

fn joined(member: &Member, answer: &ClusterResponse) -> Result<Identity, StartError> {
    refuse_started(member)?;
    Ok(Identity {
        format: FORMAT,
        cluster_id: answer.cluster_id,
        member_id: member.id,
        initial_members: BTreeMap::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of a real etcd: `etcd --name n1 --initial-cluster n1=http://127.0.0.1:12380` with the token etcd-cluster.
    #[test]
    fn ids_are_etcds() {
        let urls = vec!["http://localhost:2380".to_string()];
        let id = member_id(&urls, "etcd-cluster", None);
        assert_eq!(id, 0x8e9e05c52164694d);
        assert_eq!(cluster_id([id]), 0xcdf818194e3a8c32);
    }

    #[test]
    fn a_member_must_be_in_its_own_cluster() {
        let cluster = NodeConfig::default().initial_cluster;
        let refused = |name, url: &str| {
            initial_members(name, &[url.to_owned()], &cluster, "etcd-cluster").unwrap_err().to_string()
        };
        assert!(refused("other", "http://localhost:2380").contains("does not name this member"));
        assert!(refused("default", "http://b:2380").contains("must be equal"));
    }
}
