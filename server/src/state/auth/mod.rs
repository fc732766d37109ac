//! Users and roles: changed by commands, and what they permit.
//!
//! - [`access`]: may the caller do this?
//! - [`users`], [`roles`]: the commands that change them;
//! - here: enabling, disabling, and logins.

use super::write::Writer;
use crate::error::EtcdError;
use crate::mvcc::View;
use crate::mvcc::auth::{Auth, ROOT};
use crate::proto::command::Authenticate;
use crate::proto::command::command::Op;

mod access;
mod roles;
mod users;

#[cfg(test)]
mod tests;

pub use access::Access;
pub use roles::permissions;

/// What a command means for tokens that members remember.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenChange {
    /// A user logged in.
    Given {
        /// Whose it is.
        username: String,
        /// Its first part, chosen by the proposer.
        token: String,
    },
    /// A user's tokens are not valid any more.
    Ended {
        /// Whose they were.
        username: String,
    },
    /// No token is valid any more.
    AllEnded,
}

impl TokenChange {
    /// What an operation that was applied means.
    pub fn of(op: &Op) -> Option<Self> {
        match op {
            // Tokens that prove themselves need not be remembered.
            Op::Authenticate(request) if request.simple_token.is_empty() => None,
            Op::Authenticate(request) => {
                Some(Self::Given { username: request.name.clone(), token: request.simple_token.clone() })
            }
            Op::UserDelete(request) => Some(Self::Ended { username: request.name.clone() }),
            Op::UserChangePassword(request) => Some(Self::Ended { username: request.name.clone() }),
            Op::AuthDisable(_) => Some(Self::AllEnded),
            _ => None,
        }
    }
}

/// Applies an operation that changes users and roles; does nothing if it is none.
pub fn apply<V: View>(writer: &mut Writer<'_, V>, op: &Op) -> Result<(), EtcdError> {
    let mut auth = Auth::clone(writer.base().auth());
    let before = auth.revision;
    match op {
        Op::AuthEnable(_) => enable(&mut auth)?,
        Op::AuthDisable(_) => disable(&mut auth),
        Op::UserAdd(request) => users::add(&mut auth, request)?,
        Op::UserDelete(request) => users::delete(&mut auth, request)?,
        Op::UserChangePassword(request) => users::change_password(&mut auth, request)?,
        Op::UserGrantRole(request) => users::grant_role(&mut auth, request)?,
        Op::UserRevokeRole(request) => users::revoke_role(&mut auth, request)?,
        Op::RoleAdd(request) => roles::add(&mut auth, request)?,
        Op::RoleDelete(request) => roles::delete(&mut auth, request)?,
        Op::RoleGrantPermission(request) => roles::grant_permission(&mut auth, request)?,
        Op::RoleRevokePermission(request) => roles::revoke_permission(&mut auth, request)?,
        _ => {}
    }
    if auth.revision != before || auth.enabled != writer.base().auth().enabled {
        writer.effects().auth = Some(auth.into());
    }
    Ok(())
}

/// Enabling needs somebody who can disable; it does not count as a change of users.
fn enable(auth: &mut Auth) -> Result<(), EtcdError> {
    if !auth.enabled {
        let root = auth.user(ROOT).ok_or(EtcdError::RootUserNotExist)?;
        if !root.is_root {
            return Err(EtcdError::RootRoleNotExist);
        }
        auth.enabled = true;
    }
    Ok(())
}

fn disable(auth: &mut Auth) {
    if auth.enabled {
        auth.enabled = false;
        auth.revision += 1;
    }
}

/// Whether a user may log in whose password the proposer has checked.
pub fn authenticate(auth: &Auth, request: &Authenticate) -> Result<(), EtcdError> {
    if !auth.enabled {
        return Err(EtcdError::AuthNotEnabled);
    }
    let user = &auth.user(&request.name).ok_or(EtcdError::AuthFailed)?.user;
    match &user.options {
        Some(options) if options.no_password => Err(EtcdError::AuthFailed),
        _ => Ok(()),
    }
}
