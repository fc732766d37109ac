//! Who is calling, found once for each request, and what no command checks: reads, and what only root may do.
//!
//! Every service asks by itself, so that it does not matter who brings the request: a connection, the JSON gateway, or
//! another service in this process that hands its own caller's metadata and extensions on.

use tonic::{Request, Status};

use super::Api;
use crate::auth::{Caller, Credentials, Passwords, Tokens, simple};
use crate::config::Config;
use crate::error::EtcdError;
use crate::mvcc::{ReadError, View};
use crate::state::auth::Access;
use crate::storage::ReadView;

/// How callers prove who they are.
pub struct Identity {
    pub(super) tokens: Tokens,
    pub(super) passwords: Passwords,
    /// The name in a client's certificate counts.
    pub(super) common_names: bool,
}

impl Identity {
    /// As configured, with these tokens.
    pub fn new(config: &Config, tokens: Tokens) -> Self {
        Identity {
            tokens,
            passwords: Passwords::new(config.bcrypt_cost),
            common_names: config.client_tls.client_cert_auth,
        }
    }
}

impl Api {
    /// Takes a request apart. What it tells of its caller is not looked for while nobody wants to know.
    pub(super) fn open<T>(&self, request: Request<T>) -> (Credentials, T) {
        let credentials = match self.node.store().auth_enabled() {
            true => Credentials::of(request.metadata(), request.extensions()),
            false => Credentials::default(),
        };
        (credentials, request.into_inner())
    }

    /// Who is calling; `None` if nobody said so, or while authentication is not enabled.
    pub(super) async fn caller(&self, credentials: &Credentials) -> Result<Option<Caller>, EtcdError> {
        if !self.node.store().auth_enabled() {
            return Ok(None);
        }
        let username = match (&credentials.token, &credentials.common_name) {
            (Some(token), _) => match &self.identity.tokens {
                Tokens::Simple(_) => self.simple_token(token).await,
                Tokens::Jwt(jwt) => {
                    let caller = jwt.verify(token).ok_or(EtcdError::InvalidAuthToken)?;
                    return Ok(Some(caller));
                }
                Tokens::Off => None,
            }
            .ok_or(EtcdError::InvalidAuthToken)?,
            (None, Some(name)) if self.identity.common_names => name.clone(),
            _ => return Ok(None),
        };
        Ok(Some(Caller { username, auth_revision: self.node.store().auth().revision }))
    }

    /// Whose token it is. One that another member gave may not be known here yet.
    async fn simple_token(&self, token: &str) -> Option<String> {
        let Tokens::Simple(tokens) = &self.identity.tokens else {
            return None;
        };
        let index = simple::index(token)?;
        if let Some(username) = tokens.user(token) {
            return Some(username);
        }
        if index <= self.node.status().applied_index {
            return None;
        }
        self.node.wait_applied(index).await.ok()?;
        tokens.user(token)
    }

    /// Refuses a request of nobody.
    pub(super) async fn require_caller(&self, credentials: &Credentials) -> Result<Option<Caller>, EtcdError> {
        let caller = self.caller(credentials).await?;
        match caller {
            None if self.node.store().auth_enabled() => Err(EtcdError::UserEmpty),
            caller => Ok(caller),
        }
    }

    /// Refuses whom the role root was not granted.
    pub(super) async fn require_root(&self, credentials: &Credentials) -> Result<Option<Caller>, EtcdError> {
        let caller = self.caller(credentials).await?;
        if self.node.store().auth_enabled() {
            self.access(caller.as_ref(), |access| access.root())?;
        }
        Ok(caller)
    }

    /// Asks what the caller may do now.
    pub(super) fn access(
        &self,
        caller: Option<&Caller>,
        may: impl FnOnce(Access<'_>) -> Result<(), EtcdError>,
    ) -> Result<(), EtcdError> {
        Access::of(&self.node.store().auth(), caller).map_or(Ok(()), may)
    }

    /// Reads what the caller may read: `may` looks at the same state as `read`. Should users and roles have changed
    /// meanwhile, the answer is refused, as in etcd.
    pub(super) async fn read_as<T: Send + 'static>(
        &self,
        caller: Option<Caller>,
        long: bool,
        may: impl FnOnce(Access<'_>, &ReadView) -> Result<(), ReadError> + Send + 'static,
        read: impl FnOnce(&ReadView) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, Status> {
        let known = caller.as_ref().map(|caller| caller.auth_revision);
        let checked = move |view: &ReadView| {
            if let Some(access) = Access::of(view.auth(), caller.as_ref()) {
                may(access, view)?;
            }
            read(view)
        };
        let answer = self.read(long, checked).await?;
        self.unchanged(known)?;
        Ok(answer)
    }

    /// Refuses what was found out for a caller of another auth revision.
    pub(super) fn unchanged(&self, known: Option<u64>) -> Result<(), EtcdError> {
        match known {
            Some(revision) if revision != self.node.store().auth().revision => Err(EtcdError::AuthOldRevision),
            _ => Ok(()),
        }
    }
}
