//! Who sends a step, and what it sends along to say so.

use std::fmt;

/// Where clients put tokens, and where programs that speak HTTP do.
const TOKEN: &str = "token";
const AUTHORIZATION: &str = "authorization";

/// Metadata of a call that says who calls.
pub type Credentials = Option<(&'static str, String)>;

/// Who sends a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// Says nothing of itself.
    Nobody,
    /// Sends the token of the user's last login in this run. Without one it sends a word that is no token.
    User(&'static str),
    /// The same, where HTTP has it. Without the word "Bearer", which etcd takes from 3.7 on.
    Header(&'static str),
    /// Sends this in the place of a token.
    Invalid(&'static str),
}

impl Caller {
    /// What is sent along, given the token of a user's last login.
    pub fn credentials(self, token: impl Fn(&str) -> Option<String>) -> Credentials {
        let token = |user| token(user).unwrap_or_else(|| "none".to_owned());
        match self {
            Caller::Nobody => None,
            Caller::User(user) => Some((TOKEN, token(user))),
            Caller::Header(user) => Some((AUTHORIZATION, token(user))),
            Caller::Invalid(text) => Some((TOKEN, text.to_owned())),
        }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Caller::Nobody => Ok(()),
            Caller::User(user) => write!(f, "as {user}: "),
            Caller::Header(user) => write!(f, "as {user} by HTTP's header: "),
            Caller::Invalid(text) => write!(f, "with the token {text:?}: "),
        }
    }
}
