//! How a container reaches another cluster whose data it copies: flags, Secrets, volumes.

use super::BUNDLE;
use super::certificates::CLIENT;
use super::pod::secret_volume;
use super::root;
use super::store::Access;
use crate::crd::EtcdSource;

/// Where its authorities and the certificate for it are mounted.
const CA_DIR: &str = "/etc/keelson/source-ca";
const CERTIFICATE_DIR: &str = "/etc/keelson/source-client";

/// The flags of `keelson-server backup restore`, and what the container is to have for them.
pub(super) fn access(source: &EtcdSource) -> (Vec<String>, Access) {
    let (mut flags, mut access) = (Vec::new(), Access::default());
    if let Some(secret) = &source.ca_secret {
        flags.push(format!("--cacert={CA_DIR}/{BUNDLE}"));
        access.mount("source-ca", CA_DIR, true);
        access.volumes.push(secret_volume("source-ca", secret.clone()));
    }
    if let Some(secret) = &source.certificate_secret {
        let [certificate, key] = CLIENT;
        flags.extend([format!("--cert={CERTIFICATE_DIR}/{certificate}"), format!("--key={CERTIFICATE_DIR}/{key}")]);
        access.mount("source-client", CERTIFICATE_DIR, true);
        access.volumes.push(secret_volume("source-client", secret.clone()));
    }
    if let Some(secret) = &source.root_secret {
        flags.push("--user=root".into());
        access.env.push(root::variable(secret.clone(), root::PASSWORD, false));
    }
    (flags, access)
}
