//! Authentication: root's Secret, and whether the store asks who its clients are.

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, ResourceExt};

use super::certificates::pem;
use crate::build::{APPLIED, PASSWORD};
use crate::crd::EtcdCluster;
use crate::member::{Error, MemberClient, Sessions, Token};
use crate::names::{CLUSTER_LABEL, Names};
use crate::plan::auth::Auth;

/// How the operator is root, for one pass.
#[derive(Default)]
pub struct Root<'a> {
    /// The tokens of all clusters.
    pub sessions: Option<&'a Sessions>,
    /// The cluster's uid.
    pub uid: String,
    /// Passwords that may be right, the most likely first.
    pub passwords: Vec<String>,
    /// The password that is asked for.
    pub wanted: String,
}

impl Root<'_> {
    /// The last token.
    pub fn token(&self) -> Option<Token> {
        self.sessions.and_then(|sessions| sessions.token(&self.uid))
    }

    /// Logs in by this member.
    pub async fn login(&self, client: &mut MemberClient) -> Result<(), Error> {
        match self.sessions {
            Some(sessions) => sessions.login(&self.uid, client, &self.passwords).await.map(drop),
            None => Err(Error::Refused("Authenticate", "spec.auth of the EtcdCluster says nothing of root".into())),
        }
    }
}

/// Root's Secret. It belongs to whichever EtcdCluster has the name, so it has no owner.
pub fn is_root_secret(secret: &Secret, names: &Names) -> bool {
    secret.name_any() == names.root_secret()
        && secret.namespace().as_deref() == Some(names.namespace.as_str())
        && secret.labels().get(CLUSTER_LABEL) == Some(&names.cluster)
}

/// The passwords of root by its Secret, the one that the store has first.
pub fn passwords(secret: &Secret) -> Vec<String> {
    let found = [APPLIED, PASSWORD].map(|key| pem(secret, key).to_string());
    let mut passwords: Vec<String> = found.into_iter().filter(|password| !password.is_empty()).collect();
    passwords.dedup();
    passwords
}

/// Reads what is there; nothing without `spec.auth`. `cached` is root's Secret.
pub async fn read<'a>(
    client: &Client,
    cluster: &EtcdCluster,
    names: &Names,
    cached: Option<&Secret>,
    sessions: &'a Sessions,
) -> (Auth, Root<'a>) {
    let Some(spec) = &cluster.spec.auth else {
        return (Auth::default(), Root::default());
    };
    let given = match &spec.root_secret {
        None => Ok(None),
        Some(name) => given(client, names, name).await.map(Some),
    };
    let kept = cached.map(passwords).unwrap_or_default();
    let own = cached.map(|secret| pem(secret, PASSWORD).to_string()).unwrap_or_default();
    let (wanted, lacks) = match given {
        Ok(given) => (given.unwrap_or(own), None),
        Err(lack) => (String::new(), Some(lack)),
    };
    let lacks = lacks.or_else(|| {
        let empty = cached.is_some() && wanted.is_empty();
        empty.then(|| format!("Secret {} to have root's password in {PASSWORD}", names.root_secret()))
    });
    let applied = cached.map(|secret| pem(secret, APPLIED)).unwrap_or_default();
    let auth = Auth {
        enabled: None,
        secret: cached.and_then(ResourceExt::resource_version),
        current: !wanted.is_empty() && applied == wanted,
        lacks,
        refused: None,
    };
    let mut passwords = kept;
    if !wanted.is_empty() && !passwords.contains(&wanted) {
        passwords.push(wanted.clone());
    }
    let uid = names.uid.clone();
    (auth, Root { sessions: Some(sessions), uid, passwords, wanted })
}

async fn given(client: &Client, names: &Names, name: &str) -> Result<String, String> {
    let found = Api::<Secret>::namespaced(client.clone(), &names.namespace).get_opt(name).await;
    match found {
        Ok(Some(secret)) if !pem(&secret, PASSWORD).is_empty() => Ok(pem(&secret, PASSWORD).into()),
        Ok(Some(_)) => Err(format!("Secret {name} to have root's password in {PASSWORD}")),
        Ok(None) => Err(format!("Secret {name} to be there")),
        Err(error) => Err(format!("Secret {name} to be readable: {error}")),
    }
}
