//! Users, roles and what they permit, as stored and as checked.
//!
//! All of it is in memory, behind one `Arc` for each auth revision: a check of permission reads nothing from the disk,
//! and merged ranges are made anew only for the users that a change concerns.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use prost::Message;

use super::view::{KeyRange, ViewError};
use crate::proto::authpb::permission::Type;
use crate::proto::authpb::{Permission, Role, User};

/// The user that must exist before authentication is enabled, and the role that may do everything.
pub const ROOT: &str = "root";

/// The auth revision of a new store.
const FIRST_REVISION: u64 = 1;

/// Key in the column family `auth`. Whether authentication is on: one byte.
pub const ENABLED: &[u8] = b"enabled";
/// Counts the changes: BE64.
pub const REVISION: &[u8] = b"revision";
/// Then the name of a user.
pub const USER: &[u8] = b"u/";
/// Then the name of a role.
pub const ROLE: &[u8] = b"r/";

/// Users and roles at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Auth {
    /// Requests must tell whose they are.
    pub enabled: bool,
    /// Counts the changes of users and roles; 1 in a new store.
    pub revision: u64,
    users: BTreeMap<Bytes, Arc<Account>>,
    roles: BTreeMap<Bytes, Arc<Role>>,
}

/// A user, and what its roles permit.
#[derive(Debug, Clone, PartialEq)]
pub struct Account {
    /// As stored.
    pub user: User,
    /// It has the role root.
    pub is_root: bool,
    /// Keys that it may read.
    pub readable: Ranges,
    /// Keys that it may write.
    pub writable: Ranges,
}

impl Account {
    /// Whether the user has that role.
    pub fn has_role(&self, role: &str) -> bool {
        self.user.roles.iter().any(|name| name == role)
    }
}

impl Default for Auth {
    fn default() -> Self {
        Auth { enabled: false, revision: FIRST_REVISION, users: BTreeMap::new(), roles: BTreeMap::new() }
    }
}

impl Auth {
    /// A user.
    pub fn user(&self, name: &str) -> Option<&Account> {
        self.users.get(name.as_bytes()).map(|account| &**account)
    }

    /// All users by name.
    pub fn users(&self) -> impl Iterator<Item = &Account> {
        self.users.values().map(|account| &**account)
    }

    /// A role.
    pub fn role(&self, name: &str) -> Option<&Role> {
        self.roles.get(name.as_bytes()).map(|role| &**role)
    }

    /// All roles by name.
    pub fn roles(&self) -> impl Iterator<Item = &Role> {
        self.roles.values().map(|role| &**role)
    }

    /// Adds a user, or replaces it.
    pub fn put_user(&mut self, user: User) {
        let account = self.account(user);
        self.users.insert(account.user.name.clone(), Arc::new(account));
    }

    /// Removes a user.
    pub fn remove_user(&mut self, name: &str) {
        self.users.remove(name.as_bytes());
    }

    /// Adds a role, or replaces it.
    pub fn put_role(&mut self, role: Role) {
        let name = role.name.clone();
        self.roles.insert(name.clone(), Arc::new(role));
        let concerned: Vec<User> = self.users_with(&name).map(|account| account.user.clone()).collect();
        concerned.into_iter().for_each(|user| self.put_user(user));
    }

    /// Removes a role, from its users too.
    pub fn remove_role(&mut self, name: &str) {
        self.roles.remove(name.as_bytes());
        let concerned: Vec<User> = self.users_with(name.as_bytes()).map(|account| account.user.clone()).collect();
        for mut user in concerned {
            user.roles.retain(|role| role != name);
            self.put_user(user);
        }
    }

    fn users_with(&self, role: &[u8]) -> impl Iterator<Item = &Account> {
        self.users().filter(move |account| account.user.roles.iter().any(|name| name.as_bytes() == role))
    }

    fn account(&self, user: User) -> Account {
        let roles = user.roles.iter().filter_map(|name| self.role(name));
        let permissions: Vec<&Permission> = roles.flat_map(|role| &role.key_permission).collect();
        let ranges = |wanted: Type| {
            // A type that is not known permits nothing, as in etcd.
            let fits = |permission: &&&Permission| {
                let kind = Type::try_from(permission.perm_type);
                kind == Ok(Type::Readwrite) || kind == Ok(wanted)
            };
            Ranges::merged(permissions.iter().filter(fits).map(|permission| &**permission))
        };
        Account {
            is_root: user.roles.iter().any(|role| role == ROOT),
            readable: ranges(Type::Read),
            writable: ranges(Type::Write),
            user,
        }
    }

    /// What has to be written into the column family `auth` so that it holds this after it held `before`; entries
    /// without a value are deleted.
    pub fn changes(&self, before: &Auth) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let mut changes = Vec::new();
        if self.enabled != before.enabled {
            changes.push((ENABLED.to_vec(), Some(vec![u8::from(self.enabled)])));
        }
        if self.revision != before.revision {
            changes.push((REVISION.to_vec(), Some(self.revision.to_be_bytes().to_vec())));
        }
        for (name, account) in &self.users {
            let known = before.users.get(name);
            if known.is_none_or(|known| known.user != account.user) {
                changes.push(([USER, name].concat(), Some(account.user.encode_to_vec())));
            }
        }
        for (name, role) in &self.roles {
            if before.roles.get(name).is_none_or(|known| known != role) {
                changes.push(([ROLE, name].concat(), Some(role.encode_to_vec())));
            }
        }
        let users = before.users.keys().filter(|name| !self.users.contains_key(*name));
        changes.extend(users.map(|name| ([USER, name].concat(), None)));
        let roles = before.roles.keys().filter(|name| !self.roles.contains_key(*name));
        changes.extend(roles.map(|name| ([ROLE, name].concat(), None)));
        changes
    }

    /// Reads the entries of the column family `auth`, in any order.
    pub fn read<B: AsRef<[u8]>>(entries: impl IntoIterator<Item = (B, B)>) -> Result<Auth, ViewError> {
        let damaged = |what: &str| ViewError(format!("stored {what} is damaged"));
        let (mut auth, mut users) = (Auth::default(), Vec::new());
        for (key, value) in entries {
            let (key, value) = (key.as_ref(), value.as_ref());
            if key == ENABLED {
                auth.enabled = value == [1];
            } else if key == REVISION {
                let bytes = value.try_into().map_err(|_| damaged("auth revision"))?;
                auth.revision = u64::from_be_bytes(bytes);
            } else if key.starts_with(USER) {
                users.push(User::decode(value).map_err(|_| damaged("user"))?);
            } else if key.starts_with(ROLE) {
                let role = Role::decode(value).map_err(|_| damaged("role"))?;
                auth.roles.insert(role.name.clone(), Arc::new(role));
            }
        }
        users.into_iter().for_each(|user| auth.put_user(user));
        Ok(auth)
    }

    /// No users, no roles, not enabled.
    pub fn nothing() -> &'static Arc<Auth> {
        static NOTHING: LazyLock<Arc<Auth>> = LazyLock::new(Arc::default);
        &NOTHING
    }
}

/// Whether a permission can be granted on these keys: they are one key, or from a key up to a later one or without end.
pub fn is_valid_range(key: &[u8], range_end: &[u8]) -> bool {
    !key.is_empty() && (range_end.is_empty() || range_end == [0] || key < range_end)
}

/// Keys that permissions together cover: disjoint ranges in order, none touching the next. An end of `None` is no bound.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ranges(Vec<(Bytes, Option<Bytes>)>);

impl Ranges {
    fn merged<'a>(permissions: impl Iterator<Item = &'a Permission>) -> Self {
        let mut ranges: Vec<_> = permissions.map(bounds).collect();
        ranges.sort();
        let mut merged: Vec<(Bytes, Option<Bytes>)> = Vec::with_capacity(ranges.len());
        for (start, end) in ranges {
            match merged.last_mut() {
                Some((_, last)) if last.as_ref().is_none_or(|last| *last >= start) => {
                    if !reaches(last.as_deref(), end.as_deref()) {
                        *last = end;
                    }
                }
                _ => merged.push((start, end)),
            }
        }
        Ranges(merged)
    }

    /// Whether every key of the range is covered. A range that cannot hold a key is covered where its start is, as etcd has
    /// it for most forms of its tree.
    pub fn cover(&self, range: &KeyRange) -> bool {
        let start = range.start();
        let at = self.0.partition_point(|(first, _)| first <= start);
        let Some((_, end)) = at.checked_sub(1).map(|at| &self.0[at]) else {
            return false;
        };
        let inside = end.as_ref().is_none_or(|end| start < end);
        match range {
            KeyRange::One(_) => inside,
            KeyRange::Span(_, wanted) => inside && reaches(end.as_deref(), Some(wanted)),
            KeyRange::From(_) => end.is_none(),
        }
    }
}

/// Whether one end is not before the other.
fn reaches(end: Option<&[u8]>, other: Option<&[u8]>) -> bool {
    match (end, other) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(end), Some(other)) => end >= other,
    }
}

fn bounds(permission: &Permission) -> (Bytes, Option<Bytes>) {
    let end = match permission.range_end.as_ref() {
        [] => Some(Bytes::from([&permission.key[..], &[0]].concat())),
        [0] => None,
        _ => Some(permission.range_end.clone()),
    };
    (permission.key.clone(), end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permission(kind: Type, key: &'static str, range_end: &'static str) -> Permission {
        Permission { perm_type: kind.into(), key: key.into(), range_end: range_end.into() }
    }

    fn ranges(permissions: &[(&'static str, &'static str)]) -> Ranges {
        let permissions: Vec<_> = permissions.iter().map(|(key, end)| permission(Type::Read, key, end)).collect();
        Ranges::merged(permissions.iter())
    }

    #[test]
    fn permissions_add_up_to_ranges() {
        for (granted, asked, covered) in [
            (&[("a", "")][..], ("a", ""), true),
            (&[("a", "")], ("a", "a\0"), true),
            (&[("a", "")], ("a", "b"), false),
            (&[("a", "")], ("a", "\0"), false),
            (&[("a", "c")], ("b", ""), true),
            (&[("a", "c")], ("c", ""), false),
            (&[("a", "c")], ("a", "c"), true),
            (&[("a", "c")], ("0", "c"), false),
            (&[("a", "c"), ("c", "e")], ("a", "e"), true),
            (&[("c", "e"), ("a", "d")], ("b", "e"), true),
            (&[("a", "c"), ("d", "e")], ("a", "e"), false),
            (&[("a", "z"), ("b", "c")], ("a", "z"), true),
            (&[("a", "b"), ("b", "\0")], ("a", "\0"), true),
            (&[("a", "\0"), ("b", "c")], ("d", "\0"), true),
            (&[("b", "\0")], ("a", "\0"), false),
            (&[("b", "\0")], ("b", "zz"), true),
            (&[("\0", "\0")], ("\0", "\0"), true),
            (&[], ("a", ""), false),
            // Ranges without a key.
            (&[("a", "zz")], ("z", "a"), true),
            (&[("a", "c"), ("d", "zz")], ("z", "b"), true),
            (&[("a", "c")], ("z", "b"), false),
        ] {
            let range = KeyRange::new(asked.0.into(), asked.1.into());
            assert_eq!(ranges(granted).cover(&range), covered, "{granted:?} {asked:?}");
        }
    }

    #[test]
    fn what_is_granted_must_be_a_range() {
        for (key, range_end, valid) in [
            ("a", "", true),
            ("a", "b", true),
            ("a", "\0", true),
            ("b", "a", false),
            ("a", "a", false),
            ("", "a", false),
        ] {
            assert_eq!(is_valid_range(key.as_bytes(), range_end.as_bytes()), valid, "{key} {range_end}");
        }
    }

    fn user(name: &'static str, roles: &[&str]) -> User {
        User { name: name.into(), roles: roles.iter().map(ToString::to_string).collect(), ..User::default() }
    }

    fn role(name: &'static str, permissions: &[Permission]) -> Role {
        Role { name: name.into(), key_permission: permissions.to_vec() }
    }

    #[test]
    fn roles_change_what_their_users_may() {
        let mut auth = Auth::default();
        auth.put_user(user("u", &["r"]));
        let one = KeyRange::One("k".into());
        assert!(!auth.user("u").unwrap().readable.cover(&one));
        auth.put_role(role("r", &[permission(Type::Readwrite, "k", "")]));
        assert!(auth.user("u").unwrap().readable.cover(&one) && auth.user("u").unwrap().writable.cover(&one));
        auth.put_role(role("r", &[permission(Type::Write, "k", "")]));
        assert!(!auth.user("u").unwrap().readable.cover(&one) && auth.user("u").unwrap().writable.cover(&one));
        let unknown = Permission { perm_type: 9, ..permission(Type::Read, "k", "") };
        auth.put_role(role("r", &[unknown]));
        assert!(!auth.user("u").unwrap().readable.cover(&one) && !auth.user("u").unwrap().writable.cover(&one));
        auth.put_role(role("r", &[permission(Type::Write, "k", "")]));
        auth.remove_role("r");
        assert!(!auth.user("u").unwrap().writable.cover(&one) && !auth.user("u").unwrap().has_role("r"));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut auth = Auth::default();
        let mut stored = BTreeMap::new();
        let mut store = |auth: &Auth, before: &Auth| {
            let changes = auth.changes(before);
            for (key, value) in changes.clone() {
                match value {
                    Some(value) => stored.insert(key, value),
                    None => stored.remove(&key),
                };
            }
            assert_eq!(&Auth::read(stored.clone()).unwrap(), auth);
            changes.len()
        };
        assert_eq!(store(&auth, &Auth::default()), 0);
        let before = auth.clone();
        auth.put_user(user("u", &["r", "root"]));
        auth.put_role(role("r", &[permission(Type::Read, "k", "l")]));
        auth.enabled = true;
        auth.revision = 7;
        assert_eq!(store(&auth, &before), 4);
        let before = auth.clone();
        auth.put_user(user("v", &[]));
        auth.remove_role("r");
        auth.enabled = false;
        assert_eq!(store(&auth, &before), 4);
        let before = auth.clone();
        auth.remove_user("u");
        assert_eq!(store(&auth, &before), 1);
        assert!(Auth::read([(b"revision".to_vec(), vec![1])]).is_err());
        assert!(Auth::read([(b"u/x".to_vec(), vec![0xff])]).is_err());
    }
}
