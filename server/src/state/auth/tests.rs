//! Commands on users and roles, and what callers may do, as tables.

use base64::Engine;

use crate::error::EtcdError::{self, *};
use crate::mvcc::auth::Auth;
use crate::mvcc::view::Nothing;
use crate::mvcc::{Overlay, View};
use crate::proto::authpb::permission::Type;
use crate::proto::authpb::{Permission, UserAddOptions};
use crate::proto::command::command::Op;
use crate::proto::command::{Authenticate, Caller, Command};
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::*;
use crate::state::auth::TokenChange;
use crate::state::{Applied, apply};

/// A store in memory, and who asks it.
struct Memory {
    overlay: Overlay<Nothing>,
    caller: Option<Caller>,
}

impl Memory {
    fn new() -> Self {
        Memory { overlay: Overlay::new(Nothing), caller: None }
    }

    /// With root, a user `u` of a role `r`, authentication enabled, and the given permissions of `r`.
    fn enabled(permissions: &[(Type, &'static str, &'static str)]) -> Self {
        let mut memory = Memory::new();
        let granted = permissions.iter().map(|(kind, key, end)| grant_permission("r", *kind, key, end));
        let ops = [add_user("root"), grant_role("root", "root"), add_role("r"), add_user("u"), grant_role("u", "r")];
        for op in ops.into_iter().chain(granted).chain([enable()]) {
            assert_eq!(memory.run(op), Ok(()));
        }
        memory
    }

    /// Goes on as that user, at the auth revision of now.
    fn login(&mut self, username: &str) {
        self.caller = Some(Caller { username: username.to_owned(), auth_revision: self.auth().revision });
    }

    fn auth(&self) -> &Auth {
        self.overlay.auth()
    }

    fn apply(&mut self, op: Op) -> Applied {
        let command = Command { op: Some(op), caller: self.caller.clone() };
        let applied = apply(&self.overlay, &command).unwrap();
        self.overlay.effects_mut().merge(applied.effects.clone());
        applied
    }

    fn run(&mut self, op: Op) -> Result<(), EtcdError> {
        self.apply(op).outcome.refusal().map_or(Ok(()), Err)
    }
}

fn enable() -> Op {
    Op::AuthEnable(AuthEnableRequest {})
}

fn disable() -> Op {
    Op::AuthDisable(AuthDisableRequest {})
}

fn authenticate(name: &str) -> Op {
    Op::Authenticate(Authenticate { name: name.into(), simple_token: "token".into() })
}

fn add_user(name: &str) -> Op {
    let hashed_password = base64::engine::general_purpose::STANDARD.encode("hash");
    Op::UserAdd(AuthUserAddRequest { name: name.into(), hashed_password, ..Default::default() })
}

fn add_user_without_password(name: &str) -> Op {
    let options = Some(UserAddOptions { no_password: true });
    Op::UserAdd(AuthUserAddRequest { name: name.into(), options, ..Default::default() })
}

fn delete_user(name: &str) -> Op {
    Op::UserDelete(AuthUserDeleteRequest { name: name.into() })
}

fn change_password(name: &str) -> Op {
    let hashed_password = base64::engine::general_purpose::STANDARD.encode("other");
    Op::UserChangePassword(AuthUserChangePasswordRequest { name: name.into(), hashed_password, ..Default::default() })
}

fn grant_role(user: &str, role: &str) -> Op {
    Op::UserGrantRole(AuthUserGrantRoleRequest { user: user.into(), role: role.into() })
}

fn revoke_role(name: &str, role: &str) -> Op {
    Op::UserRevokeRole(AuthUserRevokeRoleRequest { name: name.into(), role: role.into() })
}

fn add_role(name: &str) -> Op {
    Op::RoleAdd(AuthRoleAddRequest { name: name.into() })
}

fn delete_role(role: &str) -> Op {
    Op::RoleDelete(AuthRoleDeleteRequest { role: role.into() })
}

fn grant_permission(name: &str, kind: Type, key: &'static str, range_end: &'static str) -> Op {
    let perm = Some(Permission { perm_type: kind.into(), key: key.into(), range_end: range_end.into() });
    Op::RoleGrantPermission(AuthRoleGrantPermissionRequest { name: name.into(), perm })
}

fn revoke_permission(role: &str, key: &'static str, range_end: &'static str) -> Op {
    let range_end = range_end.into();
    Op::RoleRevokePermission(AuthRoleRevokePermissionRequest { role: role.into(), key: key.into(), range_end })
}

/// What each operation is answered, and the auth revision after it.
fn check(memory: &mut Memory, table: &[(Op, Result<(), EtcdError>, u64)]) {
    for (op, expected, revision) in table {
        assert_eq!(memory.run(op.clone()), *expected, "{op:?}");
        assert_eq!(memory.auth().revision, *revision, "{op:?}");
    }
}

#[test]
fn users_and_roles_change_as_in_etcd() {
    let no_permission = Op::RoleGrantPermission(AuthRoleGrantPermissionRequest { name: "r".into(), perm: None });
    let mut memory = Memory::new();
    check(
        &mut memory,
        &[
            (enable(), Err(RootUserNotExist), 1),
            (disable(), Ok(()), 1),
            (authenticate("root"), Err(AuthNotEnabled), 1),
            (add_user(""), Err(UserEmpty), 1),
            (add_user("root"), Ok(()), 2),
            (add_user("root"), Err(UserAlreadyExist), 2),
            (enable(), Err(RootRoleNotExist), 2),
            (grant_role("nobody", "root"), Err(UserNotFound), 2),
            (grant_role("root", "r"), Err(RoleNotFound), 2),
            (grant_role("root", "root"), Ok(()), 3),
            (grant_role("root", "root"), Ok(()), 3),
            (add_role(""), Err(RoleEmpty), 3),
            (add_role("r"), Ok(()), 4),
            (add_role("r"), Err(RoleAlreadyExist), 4),
            (no_permission, Err(PermissionNotGiven), 4),
            (grant_permission("r", Type::Read, "", "b"), Err(InvalidAuthMgmt), 4),
            (grant_permission("r", Type::Read, "b", "a"), Err(InvalidAuthMgmt), 4),
            (grant_permission("x", Type::Read, "a", "b"), Err(RoleNotFound), 4),
            (grant_permission("r", Type::Read, "a", "b"), Ok(()), 5),
            (grant_permission("r", Type::Write, "a", "b"), Ok(()), 6),
            (grant_permission("r", Type::Write, "A", ""), Ok(()), 7),
            (revoke_permission("r", "a", ""), Err(PermissionNotGranted), 7),
            (revoke_permission("x", "a", "b"), Err(RoleNotFound), 7),
            (change_password("nobody"), Err(UserNotFound), 7),
            (change_password("root"), Ok(()), 8),
            (enable(), Ok(()), 8),
        ],
    );
    let role = memory.auth().role("r").unwrap();
    let permission = |key: &'static str, end: &'static str| Permission {
        perm_type: Type::Write.into(),
        key: key.into(),
        range_end: end.into(),
    };
    assert_eq!(role.key_permission, [permission("A", ""), permission("a", "b")]);
    assert_eq!(memory.auth().user("root").unwrap().user.password, "other");
    memory.login("root");
    check(
        &mut memory,
        &[
            (enable(), Ok(()), 8),
            (delete_user("root"), Err(InvalidAuthMgmt), 8),
            (revoke_role("root", "root"), Err(InvalidAuthMgmt), 8),
            (delete_role("root"), Err(InvalidAuthMgmt), 8),
            (add_user_without_password("u"), Ok(()), 9),
            (authenticate("root"), Ok(()), 9),
            (authenticate("u"), Err(AuthFailed), 9),
            (authenticate("nobody"), Err(AuthFailed), 9),
            (change_password("u"), Ok(()), 10),
            (revoke_role("u", "r"), Err(RoleNotGranted), 10),
            (revoke_role("nobody", "r"), Err(UserNotFound), 10),
            (grant_role("u", "r"), Ok(()), 11),
            (delete_role("x"), Err(RoleNotFound), 11),
            (delete_role("r"), Ok(()), 12),
            (revoke_role("u", "r"), Err(RoleNotGranted), 12),
            (delete_user("nobody"), Err(UserNotFound), 12),
            (delete_user("u"), Ok(()), 13),
            (disable(), Ok(()), 14),
            (delete_user("root"), Ok(()), 15),
        ],
    );
}

#[test]
fn hashes_are_decoded_as_gos_base64_is() {
    let with = |name: &str, hash: &str| {
        let (name, hashed_password) = (name.into(), hash.into());
        Op::UserChangePassword(AuthUserChangePasswordRequest { name, hashed_password, ..Default::default() })
    };
    let mut memory = Memory::new();
    memory.run(add_user("u")).unwrap();
    for (hash, stored) in [("aGFzaA==", "hash"), ("aGF\r\nzaA==\n", "hash"), ("aGFzaB==", "hash"), ("", "")] {
        assert_eq!(memory.run(with("u", hash)), Ok(()), "{hash}");
        assert_eq!(memory.auth().user("u").unwrap().user.password, stored, "{hash}");
    }
    for hash in ["%", "aGFzaA", "aGFzaA=", "aGF zaA=="] {
        assert_eq!(memory.run(with("u", hash)), Err(NoPasswordUser), "{hash}");
    }
    // Who it is for is looked at first.
    assert_eq!(memory.run(with("nobody", "%")), Err(UserNotFound));
}

#[test]
fn a_user_without_a_password_never_gets_one() {
    let mut memory = Memory::new();
    memory.run(add_user_without_password("u")).unwrap();
    memory.run(change_password("u")).unwrap();
    assert!(memory.auth().user("u").unwrap().user.password.is_empty());
}

#[test]
fn only_root_changes_users_and_roles() {
    let ops = || {
        [
            enable(),
            add_user("new"),
            change_password("u"),
            grant_role("u", "root"),
            revoke_role("u", "r"),
            add_role("new"),
            grant_permission("r", Type::Read, "a", ""),
            revoke_permission("r", "k", ""),
            delete_role("r"),
            delete_user("u"),
            disable(),
        ]
    };
    for (user, refusal) in [(None, UserEmpty), (Some("nobody"), UserNotFound), (Some("u"), PermissionDenied)] {
        let mut memory = Memory::enabled(&[(Type::Read, "k", "")]);
        if let Some(user) = user {
            memory.login(user);
        }
        for op in ops() {
            assert_eq!(memory.run(op.clone()), Err(refusal), "{user:?} {op:?}");
        }
    }
    let mut memory = Memory::enabled(&[(Type::Read, "k", "")]);
    // What root was asked at an older revision does not matter.
    memory.login("root");
    for op in ops() {
        assert_eq!(memory.run(op.clone()), Ok(()), "{op:?}");
    }
}

fn put(key: &'static str) -> PutRequest {
    PutRequest { key: key.into(), ..Default::default() }
}

fn delete(key: &'static str, range_end: &'static str, prev_kv: bool) -> DeleteRangeRequest {
    DeleteRangeRequest { key: key.into(), range_end: range_end.into(), prev_kv }
}

fn txn(compare: &[&'static str], success: Vec<Request>, failure: Vec<Request>) -> TxnRequest {
    let ops = |requests: Vec<Request>| requests.into_iter().map(|request| RequestOp { request: Some(request) });
    let compare = compare.iter().map(|key| Compare { key: (*key).into(), ..Default::default() });
    TxnRequest { compare: compare.collect(), success: ops(success).collect(), failure: ops(failure).collect() }
}

#[test]
fn what_a_user_may_do_with_keys() {
    let range = |key: &'static str| Request::RequestRange(RangeRequest { key: key.into(), ..Default::default() });
    let write = |key| Request::RequestPut(put(key));
    let nested = |request| Request::RequestTxn(txn(&[], vec![], vec![request]));
    let denied = Err(PermissionDenied);
    let mut memory = Memory::enabled(&[(Type::Read, "r", "s"), (Type::Write, "w", "x"), (Type::Readwrite, "b", "c")]);
    memory.login("u");
    for (op, expected) in [
        (Op::Put(put("w1")), Ok(())),
        (Op::Put(put("r1")), denied),
        (Op::Put(PutRequest { prev_kv: true, ..put("w1") }), denied),
        (Op::Put(PutRequest { prev_kv: true, ..put("b1") }), Ok(())),
        (Op::DeleteRange(delete("w", "x", false)), Ok(())),
        (Op::DeleteRange(delete("w", "x", true)), denied),
        (Op::DeleteRange(delete("b", "c", true)), Ok(())),
        (Op::DeleteRange(delete("w", "y", false)), denied),
        (Op::DeleteRange(delete("w", "\0", false)), denied),
        (Op::Txn(txn(&["r"], vec![write("w1")], vec![range("b")])), Ok(())),
        (Op::Txn(txn(&["w"], vec![write("w1")], vec![])), denied),
        (Op::Txn(txn(&[], vec![write("r1")], vec![])), denied),
        // In the branch that is not taken, too.
        (Op::Txn(txn(&[], vec![write("w1")], vec![range("w1")])), denied),
        (Op::Txn(txn(&[], vec![nested(write("w1"))], vec![])), Ok(())),
        (Op::Txn(txn(&[], vec![nested(range("x"))], vec![])), denied),
        (Op::Txn(txn(&[], vec![Request::RequestDeleteRange(delete("r", "", false))], vec![])), denied),
    ] {
        assert_eq!(memory.run(op.clone()), expected, "{op:?}");
    }
    for (caller, expected) in [
        (None, Err(UserEmpty)),
        (Some(("u", 1)), Err(AuthOldRevision)),
        (Some(("nobody", 99)), denied),
        (Some(("u", 99)), Ok(())),
        (Some(("root", memory.auth().revision)), Ok(())),
    ] {
        memory.caller =
            caller.map(|(name, auth_revision): (&str, u64)| Caller { username: name.to_owned(), auth_revision });
        assert_eq!(memory.run(Op::Put(put("w1"))), expected, "{caller:?}");
    }
    memory.login("root");
    memory.run(disable()).unwrap();
    memory.caller = None;
    assert_eq!(memory.run(Op::Put(put("anything"))), Ok(()));
}

#[test]
fn a_lease_is_for_those_who_may_write_all_its_keys() {
    let mut memory = Memory::enabled(&[(Type::Write, "w", "x")]);
    let on_lease = |key, lease| Op::Put(PutRequest { lease, ..put(key) });
    let revoke = |id| Op::LeaseRevoke(LeaseRevokeRequest { id });
    memory.login("root");
    for id in [1, 2] {
        memory.run(Op::LeaseGrant(LeaseGrantRequest { id, ttl: 10 })).unwrap();
    }
    memory.run(on_lease("other", 1)).unwrap();
    memory.run(on_lease("w1", 2)).unwrap();
    memory.login("u");
    assert_eq!(memory.run(on_lease("w2", 1)), Err(PermissionDenied));
    assert_eq!(memory.run(on_lease("w2", 2)), Ok(()));
    assert_eq!(memory.run(on_lease("w2", 3)), Err(LeaseNotFound));
    assert_eq!(memory.run(revoke(1)), Err(PermissionDenied));
    assert_eq!(memory.run(revoke(2)), Ok(()));
    // As the leader's timer does it.
    memory.caller = Some(Caller { username: "root".to_owned(), auth_revision: 0 });
    assert_eq!(memory.run(revoke(1)), Ok(()));
}

#[test]
fn commands_tell_what_becomes_of_tokens() {
    let given = TokenChange::Given { username: "root".into(), token: "token".into() };
    let ended = |username: &str| Some(TokenChange::Ended { username: username.into() });
    let mut memory = Memory::enabled(&[]);
    memory.login("root");
    for (op, expected) in [
        (authenticate("root"), Some(given)),
        (authenticate("nobody"), None),
        (Op::Authenticate(Authenticate { name: "root".into(), simple_token: String::new() }), None),
        (change_password("u"), ended("u")),
        (change_password("nobody"), None),
        (delete_user("u"), ended("u")),
        (add_user("v"), None),
        (disable(), Some(TokenChange::AllEnded)),
    ] {
        assert_eq!(memory.apply(op.clone()).tokens, expected, "{op:?}");
    }
}
