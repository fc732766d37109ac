//! Authentication: root's Secret, then the store. The Secret has the new password before the store does, and tells after that that
//! the store has it: whenever the operator is killed, one of the two is right.

use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use rustls::crypto::ring::default_provider;

use super::{Actor, Error, kube_error};
use crate::build::{self, APPLIED, PASSWORD};
use crate::crd::RetentionPolicy;
use crate::member::{MemberClient, ROOT};
use crate::observe::auth::is_root_secret;
use crate::plan::auth::AuthWrite;

/// Bytes of a password that is made; it is written as twice as many letters.
const PASSWORD_BYTES: usize = 16;

impl Actor<'_> {
    /// Does what the plan says of authentication.
    pub(super) async fn authenticate(&self, write: AuthWrite) -> Result<(), Error> {
        tracing::info!("{write}");
        match write {
            AuthWrite::Keep => self.keep_root_secret().await,
            AuthWrite::Enable => {
                let secret = self.wanted_is_kept().await?;
                let mut client = self.leader(None)?;
                client.add_role(ROOT).await?;
                client.add_user(ROOT, Some(&self.root.wanted)).await?;
                // It may have been there before.
                client.change_password(ROOT, &self.root.wanted).await?;
                client.grant_role(ROOT, ROOT).await?;
                client.enable_auth().await?;
                self.note_applied(secret).await
            }
            AuthWrite::Rotate => self.rotate(self.leader(None)?).await,
            AuthWrite::Disable => Ok(self.leader(None)?.disable_auth().await?),
        }
    }

    pub(super) async fn rotate(&self, mut client: MemberClient) -> Result<(), Error> {
        let secret = self.wanted_is_kept().await?;
        if !client.is_password(ROOT, &self.root.wanted).await? {
            client.change_password(ROOT, &self.root.wanted).await?;
        }
        self.note_applied(secret).await
    }

    async fn keep_root_secret(&self) -> Result<(), Error> {
        let password = match self.root.wanted.as_str() {
            "" => made_password()?,
            given => given.to_string(),
        };
        let secret = build::root_secret(self.cluster, &password);
        let name = self.names.root_secret();
        match self.api::<Secret>().create(&PostParams::default(), &secret).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(answer)) if answer.code == 409 => {
                let there = self.api::<Secret>().get_opt(&name).await;
                match there.map_err(kube_error(format!("reading Secret {name}")))? {
                    Some(there) if !is_root_secret(&there, &self.names) => {
                        Err(Error::Foreign(format!("Secret {name}")))
                    }
                    _ => Err(Error::Changed(format!("Secret {name}"))),
                }
            }
            Err(error) => Err(kube_error(format!("creating Secret {name}"))(error)),
        }
    }

    /// Root's Secret as it was seen, with the password that is asked for in it.
    async fn wanted_is_kept(&self) -> Result<Secret, Error> {
        let name = self.names.root_secret();
        let changed = || Error::Changed(format!("Secret {name}"));
        let found = self.caches.secrets.find(|secret| is_root_secret(secret, &self.names));
        let seen = found.filter(|it| it.metadata.resource_version == self.observed.auth.secret).ok_or_else(changed)?;
        let mut secret = seen.as_ref().clone();
        let data = secret.data.get_or_insert_default();
        let wanted = build::text(&self.root.wanted);
        if data.get(PASSWORD) == Some(&wanted) {
            return Ok(secret);
        }
        data.insert(PASSWORD.into(), wanted);
        self.replace_secret(secret).await
    }

    async fn note_applied(&self, mut secret: Secret) -> Result<(), Error> {
        secret.data.get_or_insert_default().insert(APPLIED.into(), build::text(&self.root.wanted));
        self.replace_secret(secret).await.map(drop)
    }

    async fn replace_secret(&self, secret: Secret) -> Result<Secret, Error> {
        let name = self.names.root_secret();
        match self.api::<Secret>().replace(&name, &PostParams::default(), &secret).await {
            Err(kube::Error::Api(answer)) if matches!(answer.code, 404 | 409) => {
                Err(Error::Changed(format!("Secret {name}")))
            }
            replaced => replaced.map_err(kube_error(format!("writing Secret {name}"))),
        }
    }

    /// The EtcdCluster goes: its root's Secret goes with it, if that is asked for.
    pub(super) async fn leave_root_secret(&self) -> Result<(), Error> {
        let delete = self.cluster.spec.auth.as_ref().is_some_and(|auth| auth.when_deleted == RetentionPolicy::Delete);
        let found = self.caches.secrets.find(|secret| delete && is_root_secret(secret, &self.names));
        match found.and_then(|secret| secret.metadata.uid.clone()) {
            Some(uid) => self.delete::<Secret>(&self.names.root_secret(), &uid, None).await,
            None => Ok(()),
        }
    }
}

fn made_password() -> Result<String, Error> {
    let mut bytes = [0; PASSWORD_BYTES];
    default_provider().secure_random.fill(&mut bytes).map_err(|_| Error::NoRandomness)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
