//! Rust's etcd-client: every kind of call.

use etcd_client::{
    AlarmAction, AlarmType, Client, Compare, CompareOp, DeleteOptions, Error, EventType, GetOptions, LockOptions,
    PutOptions, Txn, TxnOp, WatchOptions,
};

use crate::server::{Server, ServerKind};

async fn keys(client: &mut Client) -> Result<(), Error> {
    client.put("a", "1", None).await?;
    let answer = client.put("a", "2", Some(PutOptions::new().with_prev_key())).await?;
    assert_eq!(answer.prev_key().expect("one").value(), b"1");
    let answer = client.get("a", Some(GetOptions::new().with_prefix())).await?;
    assert_eq!(answer.kvs()[0].version(), 2);
    let txn = Txn::new()
        .when([Compare::value("a", CompareOp::Equal, "2")])
        .and_then([TxnOp::put("b", "3", None), TxnOp::get("b", None)])
        .or_else([TxnOp::delete("a", None)]);
    assert!(client.txn(txn).await?.succeeded());
    let deleted = client.delete("a", Some(DeleteOptions::new().with_range("c"))).await?;
    assert_eq!(deleted.deleted(), 2);
    let revision = deleted.header().expect("a header").revision();
    client.compact(revision, None).await?;
    Ok(())
}

async fn watches(client: &mut Client) -> Result<(), Error> {
    let mut stream = client.watch("w", Some(WatchOptions::new().with_prefix().with_prev_key())).await?;
    assert!(stream.message().await?.expect("open").created());
    client.put("w1", "1", None).await?;
    client.delete("w1", None).await?;
    let mut types = Vec::new();
    while types.len() < 2 {
        let answer = stream.message().await?.expect("open");
        types.extend(answer.events().iter().map(etcd_client::Event::event_type));
    }
    assert_eq!(types, [EventType::Put, EventType::Delete]);
    stream.request_progress().await?;
    assert!(stream.message().await?.expect("open").events().is_empty());
    stream.cancel(0).await?;
    assert!(stream.message().await?.expect("open").canceled());
    Ok(())
}

async fn leases(client: &mut Client) -> Result<(), Error> {
    let id = client.lease_grant(60, None).await?.id();
    client.put("leased", "1", Some(PutOptions::new().with_lease(id))).await?;
    let (mut keeper, mut answers) = client.lease_keep_alive(id).await?;
    keeper.keep_alive().await?;
    assert_eq!(answers.message().await?.expect("open").ttl(), 60);
    assert_eq!(client.lease_time_to_live(id, None).await?.granted_ttl(), 60);
    assert_eq!(client.leases().await?.leases().len(), 1);
    client.lease_revoke(id).await?;
    assert!(client.get("leased", None).await?.kvs().is_empty());
    Ok(())
}

async fn locks_and_elections(client: &mut Client) -> Result<(), Error> {
    let lease = client.lease_grant(60, None).await?.id();
    let key = client.lock("l", Some(LockOptions::new().with_lease(lease))).await?.key().to_vec();
    assert_eq!(client.get(key.clone(), None).await?.count(), 1);
    client.unlock(key).await?;
    let campaign = client.campaign("e", "me", lease).await?;
    let leader = campaign.leader().expect("a leader").clone();
    assert_eq!(client.leader("e").await?.kv().expect("a key").value(), b"me");
    let options = etcd_client::ProclaimOptions::new().with_leader(leader.clone());
    client.proclaim("still me", Some(options)).await?;
    let mut observed = client.observe("e").await?;
    assert_eq!(observed.message().await?.expect("open").kv().expect("a key").value(), b"still me");
    client.resign(Some(etcd_client::ResignOptions::new().with_leader(leader))).await?;
    client.lease_revoke(lease).await?;
    Ok(())
}

async fn cluster_and_maintenance(client: &mut Client) -> Result<(), Error> {
    assert_eq!(client.member_list().await?.members()[0].name(), "single");
    assert_eq!(client.status().await?.version(), "3.7.1");
    assert!(client.alarm(AlarmAction::Get, AlarmType::None, None).await?.alarms().is_empty());
    client.hash_kv(0).await?;
    client.defragment().await?;
    Ok(())
}

async fn everything(kind: ServerKind) {
    let server = Server::start(kind).await;
    let mut client = server.client().await;
    keys(&mut client).await.expect("keys");
    watches(&mut client).await.expect("watches");
    leases(&mut client).await.expect("leases");
    locks_and_elections(&mut client).await.expect("locks and elections");
    cluster_and_maintenance(&mut client).await.expect("cluster and maintenance");
}

#[tokio::test]
async fn plain() {
    everything(ServerKind::Plain).await;
}

#[tokio::test]
async fn with_tls() {
    everything(ServerKind::Tls).await;
}

#[tokio::test]
async fn with_auth() {
    everything(ServerKind::Auth).await;
}
