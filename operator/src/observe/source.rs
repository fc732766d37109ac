//! Certificates from elsewhere: Secrets that a person gives, or that cert-manager fills.

use futures::future::join_all;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};

use super::certificates::pem;
use crate::build::{self, BUNDLE, CLIENT};
use crate::crd::EtcdCluster;
use crate::names::Names;
use crate::pki::{self, Pair};
use crate::plan::tls::{Leaf, Source, SourceKind};

/// What is in them, as PEM.
#[derive(Clone)]
pub struct Given {
    /// Authorities, each once.
    pub roots: String,
    /// Certificates and keys, in the order of [`SourceKind::ALL`].
    pub pairs: Vec<Pair>,
}

impl Given {
    /// The certificate of this kind.
    pub fn pair(&self, kind: SourceKind) -> Pair {
        self.pairs[kind as usize].clone()
    }
}

/// Reads the Secrets; nothing when the operator has an authority of its own. `bundle` are the authorities known so far.
pub async fn read(
    client: &Client,
    cluster: &EtcdCluster,
    names: &Names,
    bundle: &str,
) -> Option<(Source, Option<Given>)> {
    let secrets = build::source_secrets(cluster)?;
    let api: Api<Secret> = Api::namespaced(client.clone(), &names.namespace);
    let found = join_all(secrets.iter().map(|name| api.get_opt(name))).await;
    let mut all = Vec::new();
    for (name, found) in secrets.iter().zip(found) {
        match found {
            Ok(Some(secret)) => all.push(secret),
            Ok(None) => return Some((Source::lacking(format!("Secret {name} to be there")), None)),
            Err(error) => return Some((Source::lacking(format!("Secret {name} to be readable: {error}")), None)),
        }
    }
    Some(match view(names, &secrets, &all, bundle) {
        Ok((source, given)) => (source, Some(given)),
        Err(lack) => (Source::lacking(lack), None),
    })
}

fn view(names: &Names, secrets: &[String], found: &[Secret], bundle: &str) -> Result<(Source, Given), String> {
    let mut roots = Vec::new();
    for (name, secret) in secrets.iter().zip(found) {
        let own = pem(secret, BUNDLE).to_string();
        if pki::authorities(own.as_bytes()).unwrap_or_default().is_empty() {
            return Err(format!("Secret {name} to hold authorities in {BUNDLE}"));
        }
        roots.push(own);
    }
    let roots = pki::merge(&roots).map_err(|error| error.to_string())?;
    let known = format!("{roots}{bundle}");
    let mut leaves: Vec<Leaf> = Vec::new();
    let mut pairs = Vec::new();
    for ((name, secret), kind) in secrets.iter().zip(found).zip(SourceKind::ALL) {
        let pair = Pair { certificate: pem(secret, CLIENT[0]).into(), key: pem(secret, CLIENT[1]).into() };
        if !pki::fits(&pair) {
            return Err(format!("Secret {name} to hold a certificate and its key in {} and {}", CLIENT[0], CLIENT[1]));
        }
        let leaf = pki::read_leaf(pair.certificate.as_bytes(), known.as_bytes());
        let leaf = leaf.map_err(|error| format!("Secret {name} to hold a certificate: {error}"))?;
        if leaf.signed_by.is_empty() {
            return Err(format!("Secret {name} to hold the authority of its certificate"));
        }
        if let Some(missing) = build::must_name(names, kind).into_iter().find(|it| !leaf.names.contains(it)) {
            return Err(format!("the certificate in Secret {name} to name {missing}"));
        }
        leaves.push(leaf);
        pairs.push(pair);
    }
    let authorities = pki::authorities(roots.as_bytes()).map_err(|error| error.to_string())?;
    Ok((Source { lacks: None, roots: authorities, leaves }, Given { roots, pairs }))
}
