//! The Secret with root's password.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, Secret, SecretKeySelector};

use super::{metadata, text};
use crate::crd::EtcdCluster;
use crate::member::ROOT;
use crate::names::Names;

/// Key of the password that is asked for.
pub const PASSWORD: &str = "password";
/// Key of the password that the store has.
pub const APPLIED: &str = "applied-password";

/// The password as `keelson-server backup` takes it.
pub(super) fn variable(secret: String, key: &str, optional: bool) -> EnvVar {
    let key = SecretKeySelector { name: secret, key: key.into(), optional: optional.then_some(true) };
    let value_from = Some(EnvVarSource { secret_key_ref: Some(key), ..Default::default() });
    EnvVar { name: "KEELSON_PASSWORD".into(), value: None, value_from }
}

/// Root's Secret with this password. It has no owner: whoever has the volumes or a backup needs it.
pub fn root_secret(cluster: &EtcdCluster, password: &str) -> Secret {
    let names = Names::of(cluster);
    let mut metadata = metadata(&names, names.root_secret());
    metadata.owner_references = None;
    let data: BTreeMap<String, ByteString> =
        [("username", ROOT), (PASSWORD, password)].map(|(key, value)| (key.to_string(), text(value))).into();
    Secret { metadata, type_: Some("Opaque".into()), data: Some(data), ..Default::default() }
}
