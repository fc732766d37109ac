//! Users, roles and permissions. What is as asked for already is success.

use tonic::{Code, Status};

use super::wire::permission::Type;
use super::wire::{
    AuthDisableRequest, AuthEnableRequest, AuthRoleAddRequest, AuthRoleDeleteRequest, AuthRoleGetRequest,
    AuthRoleGrantPermissionRequest, AuthRoleRevokePermissionRequest, AuthStatusRequest, AuthUserAddRequest,
    AuthUserChangePasswordRequest, AuthUserDeleteRequest, AuthUserGetRequest, AuthUserGrantRoleRequest,
    AuthUserRevokeRoleRequest, AuthenticateRequest, Permission, UserAddOptions,
};
use super::{CHANGE_TIMEOUT, Error, LIST_TIMEOUT, MemberClient, Token, refused, within};

/// Keys from `key` up to `end`, which is not among them: as etcd has it, without an end the one key, and with the end `\0` all
/// from `key` on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyRange {
    /// The first key.
    pub key: Vec<u8>,
    /// The end.
    pub end: Vec<u8>,
}

/// What may be done with keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessKind {
    /// Reads and watches.
    Read,
    /// Puts and deletions.
    Write,
    /// Both.
    ReadWrite,
}

/// Success also if the store says this: it is so already.
async fn unless<T>(
    told: &str,
    name: &'static str,
    answer: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<(), Error> {
    match tokio::time::timeout(CHANGE_TIMEOUT, answer).await {
        Ok(Err(status)) if status.message().ends_with(told) => Ok(()),
        Ok(Err(status)) => Err(refused(name, &status)),
        Ok(Ok(_)) => Ok(()),
        Err(_) => Err(Error::Refused(name, super::NO_ANSWER.into())),
    }
}

/// `None` if the store says this.
async fn found<T>(
    told: &str,
    name: &'static str,
    answer: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<Option<T>, Error> {
    match tokio::time::timeout(CHANGE_TIMEOUT, answer).await {
        Ok(Err(status)) if status.message().ends_with(told) => Ok(None),
        Ok(Err(status)) => Err(refused(name, &status)),
        Ok(Ok(answer)) => Ok(Some(answer.into_inner())),
        Err(_) => Err(Error::Refused(name, super::NO_ANSWER.into())),
    }
}

impl MemberClient {
    /// Whether authentication is on.
    pub async fn auth_enabled(&mut self) -> Result<bool, Error> {
        match within(LIST_TIMEOUT, "AuthStatus", self.auth.auth_status(AuthStatusRequest {})).await {
            // Some versions of etcd tell it only to those whom they know, which tells it as well.
            Err(error) if error.wants_login() => Ok(true),
            answer => Ok(answer?.enabled),
        }
    }

    /// Turns authentication on. The user root must have the role root.
    pub async fn enable_auth(&mut self) -> Result<(), Error> {
        within(CHANGE_TIMEOUT, "AuthEnable", self.auth.auth_enable(AuthEnableRequest {})).await.map(drop)
    }

    /// Turns authentication off; users and roles stay.
    pub async fn disable_auth(&mut self) -> Result<(), Error> {
        within(CHANGE_TIMEOUT, "AuthDisable", self.auth.auth_disable(AuthDisableRequest {})).await.map(drop)
    }

    /// A token for this user.
    pub async fn authenticate(&mut self, name: &str, password: &str) -> Result<Token, Error> {
        let request = AuthenticateRequest { name: name.into(), password: password.into() };
        Token::new(&within(LIST_TIMEOUT, "Authenticate", self.auth.authenticate(request)).await?.token)
    }

    /// Whether this is the user's password; without authentication nobody can tell.
    pub async fn is_password(&mut self, name: &str, password: &str) -> Result<bool, Error> {
        let request = AuthenticateRequest { name: name.into(), password: password.into() };
        match self.auth.authenticate(request).await {
            Ok(_) => Ok(true),
            Err(status) if matches!(status.code(), Code::InvalidArgument | Code::FailedPrecondition) => Ok(false),
            Err(status) => Err(refused("Authenticate", &status)),
        }
    }

    /// Adds a user; one without a password can only be known by a certificate.
    pub async fn add_user(&mut self, name: &str, password: Option<&str>) -> Result<(), Error> {
        let options = Some(UserAddOptions { no_password: password.is_none() });
        let password = password.unwrap_or_default().into();
        let request = AuthUserAddRequest { name: name.into(), password, options };
        unless("user name already exists", "UserAdd", self.auth.user_add(request)).await
    }

    /// The roles of a user, if there is one.
    pub async fn user_roles(&mut self, name: &str) -> Result<Option<Vec<String>>, Error> {
        let request = AuthUserGetRequest { name: name.into() };
        Ok(found("user name not found", "UserGet", self.auth.user_get(request)).await?.map(|user| user.roles))
    }

    /// Changes a password. Tokens that the user has are not valid any more.
    pub async fn change_password(&mut self, name: &str, password: &str) -> Result<(), Error> {
        let request = AuthUserChangePasswordRequest { name: name.into(), password: password.into() };
        within(CHANGE_TIMEOUT, "UserChangePassword", self.auth.user_change_password(request)).await.map(drop)
    }

    /// Deletes a user.
    pub async fn delete_user(&mut self, name: &str) -> Result<(), Error> {
        let request = AuthUserDeleteRequest { name: name.into() };
        unless("user name not found", "UserDelete", self.auth.user_delete(request)).await
    }

    /// Gives a user a role, which need not exist for root only.
    pub async fn grant_role(&mut self, user: &str, role: &str) -> Result<(), Error> {
        let request = AuthUserGrantRoleRequest { user: user.into(), role: role.into() };
        within(CHANGE_TIMEOUT, "UserGrantRole", self.auth.user_grant_role(request)).await.map(drop)
    }

    /// Takes a role from a user.
    pub async fn revoke_role(&mut self, user: &str, role: &str) -> Result<(), Error> {
        let request = AuthUserRevokeRoleRequest { name: user.into(), role: role.into() };
        unless("role is not granted to the user", "UserRevokeRole", self.auth.user_revoke_role(request)).await
    }

    /// Adds a role.
    pub async fn add_role(&mut self, name: &str) -> Result<(), Error> {
        let request = AuthRoleAddRequest { name: name.into() };
        unless("role name already exists", "RoleAdd", self.auth.role_add(request)).await
    }

    /// The permissions of a role, if there is one.
    pub async fn permissions(&mut self, role: &str) -> Result<Option<Vec<(KeyRange, AccessKind)>>, Error> {
        let request = AuthRoleGetRequest { role: role.into() };
        let role = found("role name not found", "RoleGet", self.auth.role_get(request)).await?;
        let read = |permission: Permission| {
            let kind = match permission.perm_type() {
                Type::Read => AccessKind::Read,
                Type::Write => AccessKind::Write,
                Type::Readwrite => AccessKind::ReadWrite,
            };
            (KeyRange { key: permission.key, end: permission.range_end }, kind)
        };
        Ok(role.map(|role| role.perm.into_iter().map(read).collect()))
    }

    /// Grants a permission; one of the same keys is replaced.
    pub async fn grant_permission(&mut self, role: &str, range: &KeyRange, kind: AccessKind) -> Result<(), Error> {
        let kind = match kind {
            AccessKind::Read => Type::Read,
            AccessKind::Write => Type::Write,
            AccessKind::ReadWrite => Type::Readwrite,
        };
        let perm = Permission { perm_type: kind.into(), key: range.key.clone(), range_end: range.end.clone() };
        let request = AuthRoleGrantPermissionRequest { name: role.into(), perm: Some(perm) };
        let answer = self.auth.role_grant_permission(request);
        within(CHANGE_TIMEOUT, "RoleGrantPermission", answer).await.map(drop)
    }

    /// Takes a permission back.
    pub async fn revoke_permission(&mut self, role: &str, range: &KeyRange) -> Result<(), Error> {
        let request =
            AuthRoleRevokePermissionRequest { role: role.into(), key: range.key.clone(), range_end: range.end.clone() };
        let answer = self.auth.role_revoke_permission(request);
        unless("permission is not granted to the role", "RoleRevokePermission", answer).await
    }

    /// Deletes a role, which is taken from all who have it.
    pub async fn delete_role(&mut self, name: &str) -> Result<(), Error> {
        let request = AuthRoleDeleteRequest { role: name.into() };
        unless("role name not found", "RoleDelete", self.auth.role_delete(request)).await
    }
}
