//! PURE: what an EtcdUser and an EtcdRole have in common, and what makes the store's entry equal to one of them.

use std::collections::BTreeSet;
use std::fmt::{self, Debug};

use kube::core::NamespaceResourceScope;
use kube::core::object::HasStatus;
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::crd::{Access, AccessStatus, EtcdRole, EtcdUser, KeyPermission, PasswordSecret, RetentionPolicy};
use crate::member::{AccessKind, KeyRange};

/// A user's roles, or a role's permissions, as the store has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// The roles of a user.
    User(BTreeSet<String>),
    /// The permissions of a role.
    Role(Vec<(KeyRange, AccessKind)>),
}

/// A change of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Add the user, with the password of its Secret if it has one.
    AddUser,
    /// Change its password to that of the Secret.
    ChangePassword,
    /// Give it a role.
    GrantRole(String),
    /// Take a role from it.
    RevokeRole(String),
    /// Delete it.
    DeleteUser,
    /// Add the role.
    AddRole,
    /// Grant a permission.
    Grant(KeyRange, AccessKind),
    /// Take a permission back.
    Revoke(KeyRange),
    /// Delete it.
    DeleteRole,
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddUser => write!(f, "add the user"),
            Self::ChangePassword => write!(f, "change the password"),
            Self::GrantRole(role) => write!(f, "grant role {role}"),
            Self::RevokeRole(role) => write!(f, "revoke role {role}"),
            Self::DeleteUser => write!(f, "delete the user"),
            Self::AddRole => write!(f, "add the role"),
            Self::Grant(range, kind) => write!(f, "grant {kind:?} on {}", range.key.escape_ascii()),
            Self::Revoke(range) => write!(f, "revoke what is granted on {}", range.key.escape_ascii()),
            Self::DeleteRole => write!(f, "delete the role"),
        }
    }
}

/// An EtcdUser or an EtcdRole.
pub trait Declared:
    ResourceExt
    + Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + HasStatus<Status = AccessStatus>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    /// The word for it in logs and metrics.
    const WORD: &'static str;
    /// What adds it to the store.
    const ADD: Request;
    /// What deletes it.
    const DELETE: Request;

    /// The EtcdCluster's name.
    fn cluster(&self) -> &str;
    /// What a deletion means.
    fn deletion_policy(&self) -> RetentionPolicy;
    /// Its name in the store.
    fn entry_name(&self) -> String;
    /// Where its password is.
    fn password_secret(&self) -> Option<&PasswordSecret> {
        None
    }
    /// What makes `entry` equal to what is declared; one that was just added is `None`.
    fn differences(&self, entry: Option<&Entry>) -> Vec<Request>;
}

/// What the specs of both kinds say alike.
macro_rules! said_by_both {
    () => {
        fn cluster(&self) -> &str {
            &self.spec.cluster
        }

        fn deletion_policy(&self) -> RetentionPolicy {
            self.spec.deletion_policy
        }

        fn entry_name(&self) -> String {
            self.spec.name.clone().unwrap_or_else(|| self.name_any())
        }
    };
}

impl Declared for EtcdUser {
    const WORD: &'static str = "user";
    const ADD: Request = Request::AddUser;
    const DELETE: Request = Request::DeleteUser;

    said_by_both!();

    fn password_secret(&self) -> Option<&PasswordSecret> {
        self.spec.password_secret.as_ref()
    }

    fn differences(&self, entry: Option<&Entry>) -> Vec<Request> {
        let none = BTreeSet::new();
        let has = match entry {
            Some(Entry::User(roles)) => roles,
            _ => &none,
        };
        let wanted: BTreeSet<String> = self.spec.roles.iter().cloned().collect();
        // What is taken away goes first: a change of roles never gives more than both.
        let revoked = has.difference(&wanted).cloned().map(Request::RevokeRole);
        revoked.chain(wanted.difference(has).cloned().map(Request::GrantRole)).collect()
    }
}

impl Declared for EtcdRole {
    const WORD: &'static str = "role";
    const ADD: Request = Request::AddRole;
    const DELETE: Request = Request::DeleteRole;

    said_by_both!();

    fn differences(&self, entry: Option<&Entry>) -> Vec<Request> {
        let has = match entry {
            Some(Entry::Role(permissions)) => permissions.as_slice(),
            _ => &[],
        };
        let wanted: Vec<(KeyRange, AccessKind)> = self.spec.permissions.iter().map(permission).collect();
        let gone = has.iter().filter(|(range, _)| !wanted.iter().any(|(it, _)| it == range));
        // Of two about the same keys, the last counts, as in the store.
        let last = |range: &KeyRange| wanted.iter().rev().find(|(it, _)| it == range).map(|(_, kind)| *kind);
        let new: BTreeSet<&KeyRange> = wanted.iter().map(|(range, _)| range).collect();
        let changed = new.into_iter().filter_map(|range| {
            let kind = last(range)?;
            (!has.contains(&(range.clone(), kind))).then(|| Request::Grant(range.clone(), kind))
        });
        gone.map(|(range, _)| Request::Revoke(range.clone())).chain(changed).collect()
    }
}

/// The permission as the store has it.
fn permission(declared: &KeyPermission) -> (KeyRange, AccessKind) {
    let key = declared.key.clone().into_bytes();
    let end = match &declared.range_end {
        Some(end) => end.clone().into_bytes(),
        None if declared.prefix => end_of_prefix(&key),
        None => Vec::new(),
    };
    // The first of all keys, as etcd's clients write it.
    let key = if key.is_empty() { vec![0] } else { key };
    let kind = match declared.access {
        Access::Read => AccessKind::Read,
        Access::Write => AccessKind::Write,
        Access::ReadWrite => AccessKind::ReadWrite,
    };
    (KeyRange { key, end }, kind)
}

/// The first key after all that begin with `prefix`; `\0` if there is none.
fn end_of_prefix(prefix: &[u8]) -> Vec<u8> {
    let kept = prefix.iter().rposition(|byte| *byte < u8::MAX);
    match kept {
        Some(last) => [&prefix[..last], &[prefix[last] + 1]].concat(),
        None => vec![0],
    }
}
