//! A client that writes all the time and remembers which writes were acknowledged.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tokio::task::JoinHandle;

use crate::{
    cluster::{Cluster, PATIENCE},
    wait_for,
};

/// Writes `w/<n>` -> `<n>` one after the other to whichever member answers, from [`Writer::start`] to
/// [`Writer::verify`].
pub struct Writer {
    cluster: Cluster,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    task: JoinHandle<BTreeMap<u64, i64>>,
}

impl Writer {
    /// Starts to write in the background.
    pub fn start(cluster: &Cluster) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(write(cluster.clone(), stop.clone(), count.clone()));
        Self { cluster: cluster.clone(), stop, count, task }
    }

    /// Waits until `more` writes have been acknowledged from now on.
    pub async fn progress(&self, more: usize) -> Result<()> {
        let goal = self.count.load(Ordering::Relaxed) + more;
        wait_for(&format!("{more} more writes"), PATIENCE, || async {
            Ok((self.count.load(Ordering::Relaxed) >= goal).then_some(()))
        })
        .await
    }

    /// Stops, and checks that every acknowledged write is there at its revision, on every member alike.
    /// Returns how many there were.
    pub async fn verify(self) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        let acknowledged = self.task.await?;
        for endpoint in self.cluster.endpoints().await? {
            wait_for(&format!("the writes on {endpoint}"), PATIENCE, || async {
                let mut client = self.cluster.connect(&endpoint).await?;
                let options = etcd_client::GetOptions::new().with_prefix();
                let answer = client.get("w/", Some(options)).await?;
                let stored: BTreeMap<u64, i64> = answer
                    .kvs()
                    .iter()
                    .filter_map(|kv| Some((kv.value_str().ok()?.parse().ok()?, kv.mod_revision())))
                    .collect();
                for (number, revision) in &acknowledged {
                    let found = stored.get(number);
                    // Fails the whole test: waiting does not bring back a write that was lost.
                    assert_eq!(found, Some(revision), "w/{number} on {endpoint}");
                }
                Ok(Some(()))
            })
            .await?;
        }
        ensure!(!acknowledged.is_empty(), "no write was acknowledged");
        Ok(acknowledged.len())
    }
}

async fn write(cluster: Cluster, stop: Arc<AtomicBool>, count: Arc<AtomicUsize>) -> BTreeMap<u64, i64> {
    let mut acknowledged = BTreeMap::new();
    let mut next = 0;
    while !stop.load(Ordering::Relaxed) {
        // Ends when the member does; then the next member is asked.
        let _ = write_to_one(&cluster, &stop, &mut next, &mut acknowledged, &count).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    acknowledged
}

async fn write_to_one(
    cluster: &Cluster,
    stop: &AtomicBool,
    next: &mut u64,
    acknowledged: &mut BTreeMap<u64, i64>,
    count: &AtomicUsize,
) -> Result<()> {
    let endpoints = cluster.endpoints().await?;
    let index = *next as usize % endpoints.len().max(1);
    let endpoint = endpoints.get(index).context("no member has an address")?;
    let mut client = cluster.connect(endpoint).await?;
    // Connections are made anew now and then, so that handshakes are part of what is tried.
    for _ in 0..100 {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        // A number is never written twice: a write without an answer may have been done.
        let number = *next;
        *next += 1;
        let answer = client.put(format!("w/{number}"), number.to_string(), None);
        let header = answer.await?.take_header().context("no header")?;
        acknowledged.insert(number, header.revision());
        count.store(acknowledged.len(), Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}
