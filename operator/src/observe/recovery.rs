//! What a new cluster begins with.

use kube::{Api, Client};

use crate::crd::{EtcdBackup, EtcdCluster, StoredFile};
use crate::plan::{Origin, Recovery, RecoverySource};

/// The data that a cluster is to begin with, as long as it has not begun.
pub async fn recovery(client: &Client, cluster: &EtcdCluster) -> Option<RecoverySource> {
    let spec = &cluster.spec.bootstrap.as_ref()?.recovery;
    if cluster.status.as_ref().is_some_and(|status| status.cluster_id.is_some()) {
        return None;
    }
    let found = |origin| {
        let (revision_bump, skip_hash_check) = (spec.revision_bump, spec.skip_hash_check);
        RecoverySource::Found(Box::new(Recovery { origin, revision_bump, skip_hash_check }))
    };
    let Some(name) = &spec.backup else {
        let given = spec.file.clone().map(stored).or_else(|| spec.etcd.clone().map(Origin::Etcd));
        return given.map(found);
    };
    let namespace = cluster.metadata.namespace.as_deref().unwrap_or_default();
    let backup = Api::<EtcdBackup>::namespaced(client.clone(), namespace).get_opt(name).await;
    Some(match backup {
        Ok(Some(backup)) => file_of(&backup).map_or_else(RecoverySource::Awaited, |file| found(stored(file))),
        Ok(None) => RecoverySource::Awaited(format!("EtcdBackup {name} to be there")),
        Err(error) => RecoverySource::Awaited(format!("EtcdBackup {name} to be readable: {error}")),
    })
}

fn stored(file: StoredFile) -> Origin {
    Origin::File(Box::new(file))
}

/// The file of a backup, or what is missing.
fn file_of(backup: &EtcdBackup) -> Result<StoredFile, String> {
    let name = backup.metadata.name.as_deref().unwrap_or_default();
    let status = backup.status.clone().unwrap_or_default();
    match status.path.filter(|_| backup.succeeded()) {
        Some(path) => Ok(StoredFile { store: backup.spec.store.clone(), path }),
        None => Err(format!("EtcdBackup {name} to succeed; it is {:?}: {}", backup.phase(), status.reason)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_backup_that_succeeded_is_restored_from() {
        let backup = |phase: &str| -> EtcdBackup {
            serde_json::from_value(json!({
                "apiVersion": "keelson.dev/v1alpha1", "kind": "EtcdBackup", "metadata": {"name": "b"},
                "spec": {"cluster": "c", "store": {"volume": {"claimName": "v"}}},
                "status": {"phase": phase, "path": "ns/c/b.db.zst", "reason": "because"},
            }))
            .unwrap()
        };
        assert_eq!(file_of(&backup("Succeeded")).unwrap().path, "ns/c/b.db.zst");
        for phase in ["Pending", "Running", "Verifying", "Failed", "Deleting"] {
            let missing = file_of(&backup(phase)).unwrap_err();
            assert_eq!(missing, format!("EtcdBackup b to succeed; it is {phase}: because"));
        }
    }
}
