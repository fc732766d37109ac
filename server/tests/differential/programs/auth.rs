//! Users, roles, logins; and times under authentication, in which requests of all families come from users.

use bytes::Bytes;
use keelson_server::proto::authpb::{Permission, UserAddOptions};
use keelson_server::proto::etcdserverpb::*;
use prost::Message;
use prost_reflect::{DynamicMessage, Value};

use super::{Dice, Family, cluster, election, kv, lease, lock, maintenance, watch};
use crate::caller::Caller;
use crate::step::Step;

const ROOT: &str = "root";
/// Those who log in.
const USERS: &[&str] = &[ROOT, "u", "v"];
const ROLES: &[&str] = &[ROOT, "r", "s"];
/// Root's passwords: one of them lets the end of a program in.
const PASSWORDS: &[&str] = &["p", "q"];
/// As long as a password may be, and one byte longer.
const LONG: &str = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";
const LONGER: &str = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";
/// bcrypt's hash of "p" at the lowest cost, in Base64.
const HASH: &str = "JDJhJDA0JGFiY2RlZmdoaWprbG1ub3BxcnN0dXVkTWVnTWJQTjM3TWJwZEVmQXRQNjZ3MXowUkJDdExH";

/// A change of users or roles or a look at them, or a time under authentication.
pub fn steps(dice: &mut Dice) -> Vec<Step> {
    match dice.one_in(4) {
        true => under_authentication(dice),
        false => request(dice),
    }
}

fn request(dice: &mut Dice) -> Vec<Step> {
    let (user, role) = (dice.pick(USERS), dice.pick(ROLES));
    vec![match dice.below(24) {
        0..2 => call("UserAdd", &user_add(dice)),
        2..4 => call("UserGet", &AuthUserGetRequest { name: name(dice, user) }),
        4 => call("UserList", &AuthUserListRequest {}),
        5 => call("UserDelete", &AuthUserDeleteRequest { name: name(dice, user) }),
        6 => call("UserChangePassword", &change_password(dice)),
        7..9 => grant_role(&name(dice, user), &name(dice, role)),
        9 => call("UserRevokeRole", &AuthUserRevokeRoleRequest { name: name(dice, user), role: name(dice, role) }),
        10..12 => call("RoleAdd", &AuthRoleAddRequest { name: name(dice, role) }),
        12..14 => call("RoleGet", &AuthRoleGetRequest { role: name(dice, role) }),
        14 => call("RoleList", &AuthRoleListRequest {}),
        15 => call("RoleDelete", &AuthRoleDeleteRequest { role: name(dice, role) }),
        16..19 => grant_permission(dice, role),
        19 => {
            let (key, range_end) = permitted(dice, role);
            let range_end = if dice.one_in(6) { dice.range_end() } else { range_end };
            let role = name(dice, role);
            call("RoleRevokePermission", &AuthRoleRevokePermissionRequest { role, key, range_end })
        }
        20 => call("AuthStatus", &AuthStatusRequest {}),
        21 => call("AuthEnable", &AuthEnableRequest {}),
        _ => {
            let password = dice.pick(&["p", "q", "", "wrong", "p\0q", "ü", LONG, LONGER]).to_owned();
            call("Authenticate", &AuthenticateRequest { name: name(dice, user), password })
        }
    }]
}

/// Authentication is enabled with users who may do this and that, requests come from them, and it is disabled.
fn under_authentication(dice: &mut Dice) -> Vec<Step> {
    let mut steps = prepare(dice);
    let queues = if dice.queues { 8 } else { 0 };
    let families: &[(u32, Family)] = &[
        (40, kv::steps),
        (8, lease::steps),
        (3, maintenance::request),
        (2, cluster::steps),
        (6, watch::created),
        (queues, lock::steps),
        (queues, election::steps),
        (20, request),
    ];
    for _ in 0..10 + dice.below(30) {
        let by = caller(dice);
        let requests = dice.weighted(families)(dice).into_iter();
        // Whether a range without keys is permitted depends on the form of a tree in etcd.
        steps.extend(requests.filter(|step| !has_empty_range(&step.request)).map(|step| step.by(by)));
        if dice.one_in(6) {
            // What users may do changes under way.
            steps.extend(request(dice).into_iter().map(|step| step.by(Caller::User(ROOT))));
        }
        if dice.one_in(4) {
            steps.push(login(dice.pick(USERS), dice.pick(PASSWORDS)));
        }
    }
    steps.extend(disabled());
    steps
}

fn prepare(dice: &mut Dice) -> Vec<Step> {
    let password = PASSWORDS[0].to_owned();
    let mut steps = Vec::new();
    for user in USERS.iter().map(|user| (*user).to_owned()) {
        steps.push(call(
            "UserAdd",
            &AuthUserAddRequest { name: user.clone(), password: password.clone(), ..Default::default() },
        ));
        let name = user;
        steps.push(call(
            "UserChangePassword",
            &AuthUserChangePasswordRequest { name, password: password.clone(), ..Default::default() },
        ));
    }
    steps.push(grant_role(ROOT, ROOT));
    for (user, role) in [("u", "r"), ("v", "s"), ("v", "r")] {
        steps.push(call("RoleAdd", &AuthRoleAddRequest { name: role.to_owned() }));
        steps.push(grant_permission(dice, role));
        if !dice.one_in(4) {
            steps.push(grant_role(user, role));
        }
    }
    steps.push(call("AuthEnable", &AuthEnableRequest {}));
    steps.extend(USERS.iter().map(|user| login(user, PASSWORDS[0])));
    steps
}

/// Authentication is disabled, whichever password root has.
pub fn disabled() -> Vec<Step> {
    let mut steps: Vec<Step> = PASSWORDS.iter().map(|password| login(ROOT, password)).collect();
    steps.push(call("AuthDisable", &AuthDisableRequest {}).by(Caller::User(ROOT)));
    steps
}

/// All users and roles.
pub fn everything() -> Vec<Step> {
    let users = USERS.iter().map(|user| call("UserGet", &AuthUserGetRequest { name: (*user).to_owned() }));
    let roles = ROLES.iter().map(|role| call("RoleGet", &AuthRoleGetRequest { role: (*role).to_owned() }));
    let lists = [
        call("AuthStatus", &AuthStatusRequest {}),
        call("UserList", &AuthUserListRequest {}),
        call("RoleList", &AuthRoleListRequest {}),
    ];
    lists.into_iter().chain(users).chain(roles).collect()
}

fn has_empty_range(message: &DynamicMessage) -> bool {
    let bytes = |name| message.get_field_by_name(name).and_then(|value| value.as_bytes().cloned()).unwrap_or_default();
    let (key, end) = (bytes("key"), bytes("range_end"));
    let is_empty = !end.is_empty() && end != b"\0"[..] && end <= key;
    let within = |value: &Value| value.as_message().is_some_and(has_empty_range);
    is_empty
        || message
            .fields()
            .any(|(_, value)| within(value) || value.as_list().is_some_and(|list| list.iter().any(within)))
}

fn call(method: &str, request: &impl Message) -> Step {
    Step::new(&format!("etcdserverpb.Auth/{method}"), request)
}

fn caller(dice: &mut Dice) -> Caller {
    let callers = [
        (6, Caller::User("u")),
        (5, Caller::User("v")),
        (4, Caller::User(ROOT)),
        (1, Caller::Header("u")),
        (2, Caller::Nobody),
        (1, Caller::Invalid(dice.pick(&["", "nonsense", "a.b", "abcdefghijklmnop.1"]))),
    ];
    dice.weighted(&callers)
}

/// The name; rarely none or an unknown one.
fn name(dice: &mut Dice, name: &str) -> String {
    let wrong = dice.one_in(15);
    if wrong { dice.pick(&["", "unknown"]).to_owned() } else { name.to_owned() }
}

fn login(name: &str, password: &str) -> Step {
    call("Authenticate", &AuthenticateRequest { name: name.to_owned(), password: password.to_owned() })
}

fn grant_role(user: &str, role: &str) -> Step {
    call("UserGrantRole", &AuthUserGrantRoleRequest { user: user.to_owned(), role: role.to_owned() })
}

fn password(dice: &mut Dice) -> String {
    let password = if dice.one_in(4) { dice.pick(&["", LONG, LONGER, "p\0q", "ü"]) } else { dice.pick(PASSWORDS) };
    password.to_owned()
}

fn user_add(dice: &mut Dice) -> AuthUserAddRequest {
    let user = dice.pick(&[ROOT, "u", "u", "v", "v", ""]);
    if user == ROOT {
        let password = dice.pick(PASSWORDS).to_owned();
        return AuthUserAddRequest { name: user.to_owned(), password, ..Default::default() };
    }
    let no_password = dice.one_in(5);
    let password = password(dice);
    // A hash alone is another matter: etcd takes that of the empty password in its place.
    let hashed = dice.one_in(5) && (no_password || !password.is_empty());
    AuthUserAddRequest {
        name: user.to_owned(),
        password,
        options: (no_password || dice.one_in(3)).then_some(UserAddOptions { no_password }),
        hashed_password: if hashed { dice.pick(&[HASH, "%"]).to_owned() } else { String::new() },
    }
}

fn change_password(dice: &mut Dice) -> AuthUserChangePasswordRequest {
    let user = dice.pick(&[ROOT, "u", "u", "v", "v", "unknown", ""]);
    let (password, hashed_password) = match user {
        ROOT => (dice.pick(PASSWORDS).to_owned(), String::new()),
        _ if dice.one_in(3) => (String::new(), dice.pick(&[HASH, HASH, "%", "JDJ", "JDI=\n"]).to_owned()),
        _ => (password(dice), String::new()),
    };
    AuthUserChangePasswordRequest { name: user.to_owned(), password, hashed_password }
}

fn grant_permission(dice: &mut Dice, role: &str) -> Step {
    let (key, range_end) = permitted(dice, role);
    let perm_type = if dice.one_in(40) { 9 } else { dice.pick(&[0, 1, 2, 2, 2]) };
    let perm = (!dice.one_in(20)).then_some(Permission { perm_type, key, range_end });
    call("RoleGrantPermission", &AuthRoleGrantPermissionRequest { name: name(dice, role), perm })
}

/// A range that a role may have a permission on. Those of one role and key have the same end: with several, etcd lists
/// permissions twice.
fn permitted(dice: &mut Dice, role: &str) -> (Bytes, Bytes) {
    let ends: &[&[u8]] = &[b"", b"", b"\0", b"b", b"b", b"c", b"c", b"\xff", b"\0\0", b"a"];
    let key = dice.key();
    let letters = key.iter().chain(role.as_bytes()).map(|letter| usize::from(*letter)).sum::<usize>();
    (key, Bytes::from_static(ends[(letters + dice.permissions) % ends.len()]))
}
