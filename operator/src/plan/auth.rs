//! Authentication of a cluster: root's Secret, then on or off, and root's password as the Secret has it.
//!
//! The Secret also keeps the password that the store has, so that the operator gets in while the two differ.

use std::fmt;

use super::{Situation, Store};

/// What was seen of authentication. Passwords are not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Auth {
    /// Whether the store asks who its clients are; unknown when no member told.
    pub enabled: Option<bool>,
    /// The version of root's Secret, once there is one.
    pub secret: Option<String>,
    /// Why the password that is asked for is not known.
    pub lacks: Option<String>,
    /// Whether the store was last given the password that is asked for.
    pub current: bool,
    /// Why the store did not let root in, if it did not.
    pub refused: Option<String>,
}

/// What is written, and what is waited for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuthPlan {
    /// At most one.
    pub write: Option<AuthWrite>,
    /// What must happen first.
    pub waiting_for: Option<String>,
}

/// A change of root's Secret, or of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthWrite {
    /// Make root's Secret.
    Keep,
    /// Give root its password and its role, and turn authentication on.
    Enable,
    /// Give root another password.
    Rotate,
    /// Turn authentication off.
    Disable,
}

impl fmt::Display for AuthWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keep => "make the Secret with root's password",
            Self::Enable => "turn authentication on",
            Self::Rotate => "change root's password",
            Self::Disable => "turn authentication off",
        })
    }
}

/// What to do in this pass; nothing without `spec.auth`.
pub(super) fn plan(situation: &Situation) -> Option<AuthPlan> {
    let wanted = situation.cluster.spec.auth.as_ref()?;
    let seen = &situation.observed.auth;
    let wait = |what: &str| AuthPlan { write: None, waiting_for: Some(what.into()) };
    let write = |write| AuthPlan { write: Some(write), waiting_for: None };
    if let Some(lack) = &seen.lacks {
        return Some(wait(lack));
    }
    if seen.secret.is_none() {
        return Some(write(AuthWrite::Keep));
    }
    if !matches!(situation.observed.store, Store::Listed { .. }) && seen.refused.is_none() {
        return Some(wait("a quorum of members to answer"));
    }
    Some(match (seen.enabled, wanted.enabled) {
        (None, _) => wait("members to tell whether authentication is on"),
        (Some(false), true) => write(AuthWrite::Enable),
        (Some(false), false) => AuthPlan::default(),
        (Some(true), _) if seen.refused.is_some() => {
            let secret = wanted.root_secret.clone().unwrap_or_else(|| situation.names.root_secret());
            let why = seen.refused.as_deref().unwrap_or_default();
            wait(&format!("Secret {secret} to hold the password that root has in the store ({why})"))
        }
        (Some(true), false) => write(AuthWrite::Disable),
        (Some(true), true) if !seen.current => write(AuthWrite::Rotate),
        (Some(true), true) => AuthPlan::default(),
    })
}

#[cfg(test)]
mod tests;
