//! `--auth-token`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::{ConfigError, duration};
use crate::auth::jwt::JwtOptions;

/// How long a JWT is valid unless it is set.
const JWT_TTL: Duration = Duration::from_secs(300);

/// Kind of token that users get when they log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthToken {
    /// None: only certificates tell who is calling.
    Off,
    /// Random ones that members remember.
    Simple,
    /// Signed ones.
    Jwt(JwtOptions),
}

impl AuthToken {
    /// Reads `simple`, or `jwt` and its options: `jwt,sign-method=RS256,pub-key=file,priv-key=file,ttl=10m`.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let invalid = |reason: String| ConfigError::invalid("auth-token", text, reason);
        let mut parts = text.split(',');
        let kind = parts.next().unwrap_or_default();
        let mut options = BTreeMap::new();
        for part in parts {
            let option = part.split_once('=').filter(|(_, value)| !value.contains('='));
            let (name, value) = option.ok_or_else(|| invalid(format!("{part:?} is not name=value")))?;
            if options.insert(name, value).is_some() {
                return Err(invalid(format!("{name} is given twice")));
            }
        }
        match kind {
            "" => Ok(AuthToken::Off),
            "simple" => Ok(AuthToken::Simple),
            "jwt" => {
                let file = |name| options.get(name).filter(|path| !path.is_empty()).map(PathBuf::from);
                let ttl = match options.get("ttl").copied().unwrap_or_default() {
                    "" => JWT_TTL,
                    ttl => duration::parse(ttl).ok_or_else(|| invalid(format!("ttl {ttl:?} is no duration")))?,
                };
                Ok(AuthToken::Jwt(JwtOptions {
                    sign_method: options.get("sign-method").copied().unwrap_or_default().to_owned(),
                    public_key: file("pub-key"),
                    private_key: file("priv-key"),
                    ttl,
                }))
            }
            _ => Err(invalid("it is neither simple nor jwt".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_tokens() {
        let jwt = |public: Option<&str>, private: Option<&str>, seconds| {
            AuthToken::Jwt(JwtOptions {
                sign_method: "RS256".to_owned(),
                public_key: public.map(PathBuf::from),
                private_key: private.map(PathBuf::from),
                ttl: Duration::from_secs(seconds),
            })
        };
        for (text, expected) in [
            ("simple", Some(AuthToken::Simple)),
            ("", Some(AuthToken::Off)),
            ("jwt,sign-method=RS256,priv-key=a.pem", Some(jwt(None, Some("a.pem"), 300))),
            ("jwt,pub-key=b,priv-key=a,sign-method=RS256,ttl=10m", Some(jwt(Some("b"), Some("a"), 600))),
            ("jwt,sign-method=RS256,ttl=x", None),
            ("jwt,sign-method", None),
            ("jwt,ttl=1s,ttl=2s", None),
            ("paper", None),
        ] {
            assert_eq!(AuthToken::parse(text).ok(), expected, "{text}");
        }
    }
}
