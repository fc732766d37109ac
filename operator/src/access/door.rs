//! The way to the store of a cluster, as root.

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};

use crate::build::{BUNDLE, CLIENT};
use crate::crd::{EtcdCluster, Role};
use crate::member::{Credentials, Error, MemberClient, Sessions};
use crate::names::Names;
use crate::observe::auth::passwords;
use crate::observe::certificates::pem;

/// A member, as root where authentication is on.
pub struct Door<'a> {
    /// The connection.
    pub member: MemberClient,
    uid: String,
    sessions: &'a Sessions,
    passwords: Vec<String>,
}

impl<'a> Door<'a> {
    /// To a healthy member, the leader before others; what must happen first if that is not possible.
    pub async fn open(client: &Client, cluster: &EtcdCluster, sessions: &'a Sessions) -> Result<Self, String> {
        let names = Names::of(cluster);
        let status = cluster.status.clone().unwrap_or_default();
        let healthy = status.members.iter().filter(|member| member.healthy && member.role != Role::Learner);
        let member = healthy.min_by_key(|member| member.role != Role::Leader);
        let member = member.ok_or_else(|| format!("members of EtcdCluster {} to answer", names.cluster))?;
        let secrets: Api<Secret> = Api::namespaced(client.clone(), &names.namespace);
        let secret = async |name: String| match secrets.get_opt(&name).await {
            Ok(Some(secret)) => Ok(secret),
            Ok(None) => Err(format!("Secret {name} to be there")),
            Err(error) => Err(format!("Secret {name} to be readable: {error}")),
        };
        let credentials = match member.endpoint.starts_with("https://") {
            false => None,
            true => {
                let secret = secret(names.operator_secret()).await?;
                let [certificate, key] = CLIENT.map(|key| pem(&secret, key));
                let credentials = Credentials::new(pem(&secret, BUNDLE), certificate, key);
                Some(credentials.map_err(|error| format!("the operator's certificate to be usable: {error}"))?)
            }
        };
        let passwords = match cluster.spec.auth {
            None => Vec::new(),
            Some(_) => passwords(&secret(names.root_secret()).await?),
        };
        let token = sessions.token(&names.uid);
        let guarded = status.auth.is_some_and(|auth| auth.enabled);
        let missing = token.is_none() && guarded;
        let connection = MemberClient::new(&member.endpoint, credentials.as_ref()).map_err(|error| error.cause())?;
        let mut door = Self { member: connection.with_token(token), uid: names.uid, sessions, passwords };
        if missing {
            door.login().await.map_err(|error| format!("root to be let in: {}", error.cause()))?;
        }
        Ok(door)
    }

    /// Logs in anew.
    pub async fn login(&mut self) -> Result<(), Error> {
        self.sessions.login(&self.uid, &mut self.member, &self.passwords).await.map(drop)
    }
}

/// Whether the EtcdCluster is there to stay.
pub fn stays(cluster: &EtcdCluster) -> bool {
    cluster.metadata.deletion_timestamp.is_none()
}
