//! PURE: the objects that commands make.

use anyhow::{Context, bail};
use kube::ResourceExt;
use kube::core::ObjectMeta;

use crate::crd::{
    BootstrapSpec, EtcdBackup, EtcdBackupSchedule, EtcdBackupSpec, EtcdCluster, EtcdClusterSpec, RecoverySpec,
    StoreSpec, VolumeStore,
};

/// As the schedule of this name, or the only one of the cluster, has it.
pub fn backup_by_schedule(
    schedules: &[EtcdBackupSchedule],
    cluster: &str,
    name: Option<&str>,
) -> anyhow::Result<EtcdBackupSpec> {
    let mut of_cluster = schedules.iter().filter(|schedule| schedule.spec.backup.cluster == cluster);
    if let Some(name) = name {
        let named = of_cluster.find(|schedule| schedule.name_any() == name);
        let named = named.with_context(|| format!("cluster {cluster} has no EtcdBackupSchedule {name}"))?;
        return Ok(named.spec.backup.clone());
    }
    match (of_cluster.next(), of_cluster.next()) {
        (Some(schedule), None) => Ok(schedule.spec.backup.clone()),
        (None, _) => bail!("where to? Cluster {cluster} has no EtcdBackupSchedule: give --claim, --store or --like"),
        (Some(one), Some(other)) => bail!(
            "where to? Cluster {cluster} has several EtcdBackupSchedules: give --schedule={} or --schedule={}",
            one.name_any(),
            other.name_any()
        ),
    }
}

/// To a volume claim.
pub fn backup_to_claim(claim: &str) -> EtcdBackupSpec {
    let volume = VolumeStore { claim_name: claim.into(), ..Default::default() };
    of_store(StoreSpec { volume: Some(volume), ..Default::default() })
}

/// To a store, which is `spec.store` as YAML.
pub fn backup_to_store(store: &str) -> anyhow::Result<EtcdBackupSpec> {
    Ok(of_store(serde_yaml::from_str(store).context("--store is no spec.store of an EtcdBackup")?))
}

fn of_store(store: StoreSpec) -> EtcdBackupSpec {
    // Fields that are left out get the definition's defaults, not those of Rust.
    let spec = serde_json::json!({"cluster": "", "store": store});
    serde_json::from_value(spec).unwrap_or_default()
}

/// A backup of the cluster.
pub fn backup(cluster: &str, name: Option<&str>, spec: EtcdBackupSpec, verify: bool) -> anyhow::Result<EtcdBackup> {
    if !spec.cluster.is_empty() && spec.cluster != cluster {
        bail!("that is a backup of cluster {}, not of {cluster}", spec.cluster);
    }
    let verify = verify || spec.verify;
    let spec = EtcdBackupSpec { cluster: cluster.into(), verify, ..spec };
    let metadata = match name {
        Some(name) => ObjectMeta { name: Some(name.into()), ..Default::default() },
        None => ObjectMeta { generate_name: Some(format!("{cluster}-")), ..Default::default() },
    };
    Ok(EtcdBackup { metadata, spec, status: None })
}

/// A new cluster with the data of a backup, and otherwise like `model`.
pub fn restored(name: &str, backup: &str, model: Option<&EtcdCluster>, size: Option<i32>) -> EtcdCluster {
    let mut spec = match model {
        Some(model) => model.spec.clone(),
        None => EtcdClusterSpec { size: 3, ..Default::default() },
    };
    if let Some(model) = model {
        // Users and passwords are those of the backup, so root's is in the Secret of the other cluster.
        let secret = model.status.as_ref().and_then(|status| status.auth.as_ref()).map(|auth| auth.root_secret.clone());
        if let Some(auth) = spec.auth.as_mut().filter(|auth| auth.enabled && auth.root_secret.is_none()) {
            auth.root_secret = Some(secret.unwrap_or_else(|| format!("{}-root", model.name_any())));
        }
    }
    // A cluster that is parked or paused was not asked for.
    spec.size = size.unwrap_or(if spec.size == 0 { 3 } else { spec.size });
    spec.paused = false;
    let recovery: RecoverySpec = serde_json::from_value(serde_json::json!({"backup": backup})).unwrap_or_default();
    spec.bootstrap = Some(BootstrapSpec { recovery });
    EtcdCluster::new(name, spec)
}

/// The generation of the authority that follows on the cluster's own.
pub fn next_authority(cluster: &EtcdCluster) -> anyhow::Result<i64> {
    let Some(tls) = &cluster.spec.tls else {
        bail!("the cluster has no certificates: spec.tls is not set");
    };
    if tls.issuer_ref.is_some() || tls.secrets.is_some() {
        bail!(
            "the cluster has no authority of its own: its certificates come from spec.tls.issuerRef or spec.tls.secrets"
        );
    }
    Ok(tls.authority.generation + 1)
}
