//! Tokens of root, where authentication is on.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::{Error, MemberClient};

/// Who the operator is in a store with authentication.
pub const ROOT: &str = "root";

/// By which a member knows who asks.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(AsciiMetadataValue);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    pub(super) fn new(text: &str) -> Result<Self, Error> {
        let value = AsciiMetadataValue::try_from(text);
        Ok(Self(value.map_err(|_| Error::Refused("Authenticate", "the token is no text".into()))?))
    }
}

/// Puts the token on each request.
#[derive(Debug, Clone, Default)]
pub(super) struct Badge(Arc<Mutex<Option<Token>>>);

/// A connection that shows it.
pub(super) type Shows = InterceptedService<Channel, Badge>;

impl Badge {
    pub(super) fn set(&self, token: Option<Token>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = token;
    }
}

impl Interceptor for Badge {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(Token(token)) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            request.metadata_mut().insert("token", token.clone());
        }
        Ok(request)
    }
}

/// The tokens of all clusters, by the clusters' uids. All of it may be lost: whoever has none logs in.
#[derive(Debug, Default)]
pub struct Sessions(Mutex<BTreeMap<String, Token>>);

impl Sessions {
    /// The last token.
    pub fn token(&self, uid: &str) -> Option<Token> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(uid).cloned()
    }

    /// Logs in as root with the first of these passwords that is right, and keeps the token; tells which one that was. The client
    /// goes on with the token.
    pub async fn login(&self, uid: &str, client: &mut MemberClient, passwords: &[String]) -> Result<usize, Error> {
        let mut last = Error::Refused("Authenticate", "no password of root is known".into());
        client.badge.set(None);
        for (which, password) in passwords.iter().enumerate() {
            match client.authenticate(ROOT, password).await {
                Ok(token) => {
                    client.badge.set(Some(token.clone()));
                    self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.to_string(), token);
                    return Ok(which);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The cluster is gone.
    pub fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}
