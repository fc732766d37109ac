//! Who is calling, and how it proves that. What a caller may do is `state::auth`'s business.
//!
//! - here: what a request brings along, and the kinds of tokens;
//! - [`simple`]: tokens that members remember;
//! - [`jwt`]: tokens that prove themselves;
//! - [`password`]: hashes, made and compared.

pub mod jwt;
pub mod password;
pub mod simple;

use std::sync::Arc;
use std::time::Duration;

use http::Extensions;
use tonic::metadata::{KeyRef, MetadataMap};

use crate::config::AuthToken;
use jwt::Jwt;
use simple::SimpleTokens;

pub use crate::proto::command::Caller;
pub use password::Passwords;

/// Where tokens stand in a request's metadata: as clients send them, and as the JSON gateway hands HTTP's header on.
const TOKEN: &str = "token";
const AUTHORIZATION: &str = "authorization";

/// Metadata that only the JSON gateway adds. Its callers cannot be told from each other by a certificate.
const GATEWAY_PREFIX: &str = "grpcgateway-";

/// The Common Name of the certificate that a client has shown and that was verified; an extension of the request.
/// It counts only with `--client-cert-auth`, which whoever asks for it has to see to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCommonName(pub String);

/// What a request tells of its caller; nothing is believed yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The token, if one was sent.
    pub token: Option<String>,
    /// The name in the client's certificate, if it may count.
    pub common_name: Option<String>,
}

impl Credentials {
    /// Reads a request. Where there is a token, the certificate does not count.
    pub fn of(metadata: &MetadataMap, extensions: &Extensions) -> Self {
        if let Some(value) = metadata.get(TOKEN).or_else(|| metadata.get(AUTHORIZATION)) {
            // What is no text is no valid token, but it is one.
            let text = value.to_str().unwrap_or_default();
            let token = text.strip_prefix("Bearer ").unwrap_or(text).to_owned();
            return Credentials { token: Some(token), common_name: None };
        }
        let by_gateway = || {
            metadata.keys().any(|key| match key {
                KeyRef::Ascii(key) => key.as_str().starts_with(GATEWAY_PREFIX),
                KeyRef::Binary(key) => key.as_str().starts_with(GATEWAY_PREFIX),
            })
        };
        let name = extensions.get::<PeerCommonName>().filter(|_| !by_gateway());
        Credentials { token: None, common_name: name.map(|name| name.0.clone()) }
    }
}

/// Why no token can be given. The texts are etcd's; clients get them without a code of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// `--auth-token` turns tokens off.
    #[error("auth: invalid auth options")]
    Off,
    /// There is only a public key.
    #[error("auth: token signing attempted with verify-only key")]
    VerifyOnly,
    /// The key does not sign.
    #[error("auth: the token cannot be signed")]
    Signing,
}

/// The tokens of `--auth-token`.
pub enum Tokens {
    /// None are given, none are valid.
    Off,
    /// Members remember them.
    Simple(Arc<SimpleTokens>),
    /// They prove themselves.
    Jwt(Box<Jwt>),
}

impl Tokens {
    /// Reads keys, if the tokens need any.
    pub fn open(kind: &AuthToken, simple_ttl: Duration) -> Result<Self, jwt::KeyError> {
        Ok(match kind {
            AuthToken::Off => Tokens::Off,
            AuthToken::Simple => Tokens::Simple(Arc::new(SimpleTokens::new(simple_ttl))),
            AuthToken::Jwt(options) => Tokens::Jwt(Box::new(Jwt::open(options)?)),
        })
    }

    /// The first part of a new token that all members shall remember; empty if they need not.
    pub fn prefix(&self) -> String {
        match self {
            Tokens::Simple(_) => simple::prefix(),
            Tokens::Off | Tokens::Jwt(_) => String::new(),
        }
    }

    /// The token of a login that was applied as `remembered`.
    pub fn give(&self, username: &str, auth_revision: u64, remembered: String) -> Result<String, TokenError> {
        match self {
            Tokens::Off => Err(TokenError::Off),
            Tokens::Simple(_) => Ok(remembered),
            Tokens::Jwt(jwt) => jwt.sign(username, auth_revision),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_before_a_certificate_and_the_gateway_has_none() {
        let name = Some("cn".to_owned());
        for (metadata, token, common_name) in [
            (&[][..], None, name.clone()),
            (&[("token", "t")], Some("t"), None),
            (&[("authorization", "t")], Some("t"), None),
            (&[("authorization", "Bearer t")], Some("t"), None),
            (&[("authorization", "a"), ("token", "t")], Some("t"), None),
            (&[("grpcgateway-accept", "*/*")], None, None),
            (&[("grpcgateway-user-agent", "curl"), ("token", "t")], Some("t"), None),
        ] {
            let mut map = MetadataMap::new();
            for (key, value) in metadata {
                map.insert(*key, value.parse().unwrap());
            }
            let mut extensions = Extensions::new();
            extensions.insert(PeerCommonName("cn".to_owned()));
            let expected = Credentials { token: token.map(str::to_owned), common_name };
            assert_eq!(Credentials::of(&map, &extensions), expected, "{metadata:?}");
        }
        assert_eq!(Credentials::of(&MetadataMap::new(), &Extensions::new()), Credentials::default());
    }
}
