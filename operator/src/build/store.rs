//! How a container reaches a store of backups: the URL, credentials, volumes.

use k8s_openapi::api::core::v1::{
    EnvFromSource, EnvVar, PersistentVolumeClaimVolumeSource, SecretEnvSource, SecretVolumeSource, Volume, VolumeMount,
};

use super::BUNDLE;
use crate::crd::StoreSpec;

/// Where a claim is mounted.
const CLAIM_DIR: &str = "/backups";
/// Where the authorities of a store's certificate are mounted.
const CA_DIR: &str = "/etc/keelson/store";

/// What a container needs for a store.
#[derive(Debug, Clone, Default)]
pub(super) struct Access {
    pub env: Vec<EnvVar>,
    pub env_from: Vec<EnvFromSource>,
    pub volumes: Vec<Volume>,
    pub mounts: Vec<VolumeMount>,
}

/// The URL of a file in the store, as `keelson-server backup` takes it.
pub(super) fn url(store: &StoreSpec, path: &str) -> String {
    match &store.volume {
        Some(_) => format!("file://{CLAIM_DIR}/{path}"),
        None => store.location(path),
    }
}

/// What the container is to have beside the URL.
pub(super) fn access(store: &StoreSpec) -> Access {
    let mut access = Access::default();
    if let Some(s3) = &store.s3 {
        access.credentials(s3.credentials_secret.as_ref());
        access.env.extend(s3.region.as_ref().map(|region| variable("AWS_REGION", region)));
        if let Some(endpoint) = &s3.endpoint {
            access.env.push(variable("AWS_ENDPOINT", endpoint));
            if endpoint.starts_with("http://") {
                access.env.push(variable("AWS_ALLOW_HTTP", "true"));
            }
        }
        if let Some(secret) = &s3.ca_secret {
            access.env.push(variable("SSL_CERT_FILE", &format!("{CA_DIR}/{BUNDLE}")));
            access.mount("store-ca", CA_DIR, true);
            access.volumes.push(Volume {
                name: "store-ca".into(),
                secret: Some(SecretVolumeSource { secret_name: Some(secret.clone()), ..Default::default() }),
                ..Default::default()
            });
        }
    }
    if let Some(gcs) = &store.gcs {
        access.credentials(gcs.credentials_secret.as_ref());
    }
    if let Some(azure) = &store.azure {
        access.credentials(azure.credentials_secret.as_ref());
        access.env.push(variable("AZURE_STORAGE_ACCOUNT_NAME", &azure.account));
    }
    if let Some(volume) = &store.volume {
        access.mount("backups", CLAIM_DIR, false);
        access.volumes.push(Volume {
            name: "backups".into(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: volume.claim_name.clone(),
                read_only: None,
            }),
            ..Default::default()
        });
    }
    access
}

impl Access {
    fn credentials(&mut self, secret: Option<&String>) {
        self.env_from.extend(secret.map(|name| EnvFromSource {
            secret_ref: Some(SecretEnvSource { name: name.clone(), optional: None }),
            ..Default::default()
        }));
    }

    pub(super) fn mount(&mut self, volume: &str, path: &str, read_only: bool) {
        self.mounts.push(VolumeMount {
            name: volume.into(),
            mount_path: path.into(),
            read_only: read_only.then_some(true),
            ..Default::default()
        });
    }
}

fn variable(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.into(), value: Some(value.into()), value_from: None }
}
