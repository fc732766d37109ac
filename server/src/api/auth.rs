//! etcdserverpb.Auth: users, roles, and who logs in.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{Api, mismatch};
use crate::bbolt;
use crate::error::EtcdError;
use crate::mvcc::{self, View};
use crate::proto::command::command::Op;
use crate::proto::command::outcome::Result as Outcome;
use crate::proto::command::{Authenticate, Caller};
use crate::proto::etcdserverpb::auth_server::Auth;
use crate::proto::etcdserverpb::*;
use crate::state::auth::{Access, permissions};

/// In a snapshot a user's name, or a role's, is a key of bbolt's, which are limited. etcd falls over longer ones.
fn check_name(name: &str) -> Result<(), EtcdError> {
    match name.len() > bbolt::MAX_KEY {
        true => Err(EtcdError::RequestTooLarge),
        false => Ok(()),
    }
}

#[tonic::async_trait]
impl Auth for Api {
    async fn auth_enable(&self, request: Request<AuthEnableRequest>) -> Result<Response<AuthEnableResponse>, Status> {
        let header = self.change(request, Op::AuthEnable).await?;
        Ok(Response::new(AuthEnableResponse { header }))
    }

    async fn auth_disable(
        &self,
        request: Request<AuthDisableRequest>,
    ) -> Result<Response<AuthDisableResponse>, Status> {
        let header = self.change(request, Op::AuthDisable).await?;
        Ok(Response::new(AuthDisableResponse { header }))
    }

    async fn auth_status(&self, request: Request<AuthStatusRequest>) -> Result<Response<AuthStatusResponse>, Status> {
        let (credentials, _) = self.open(request);
        // Nobody has to say who it is, but who does must tell the truth.
        self.caller(&credentials).await?;
        let auth = self.auth_now().await?;
        Ok(Response::new(AuthStatusResponse {
            header: self.header_now(),
            enabled: auth.enabled,
            auth_revision: auth.revision,
        }))
    }

    async fn authenticate(
        &self,
        request: Request<AuthenticateRequest>,
    ) -> Result<Response<AuthenticateResponse>, Status> {
        let AuthenticateRequest { name, password } = request.into_inner();
        self.node.linearize().await?;
        loop {
            let revision = self.check_password(&name, &password).await?;
            let login = Authenticate { name: name.clone(), simple_token: self.identity.tokens.prefix() };
            let mut response = match self.propose(Op::Authenticate(login), None).await? {
                Outcome::Authenticate(response) => response,
                other => return Err(mismatch(other)),
            };
            if self.node.store().auth().revision != revision {
                tracing::info!(user = name, "users and roles have changed since the password was compared, again");
                continue;
            }
            let token = self.identity.tokens.give(&name, revision, response.token);
            response.token = token.map_err(|error| Status::unknown(error.to_string()))?;
            self.complete(&mut response.header);
            return Ok(Response::new(response));
        }
    }

    async fn user_add(&self, request: Request<AuthUserAddRequest>) -> Result<Response<AuthUserAddResponse>, Status> {
        let (credentials, mut request) = self.open(request);
        check_name(&request.name)?;
        let caller = self.caller(&credentials).await?;
        let password = std::mem::take(&mut request.password);
        if request.options.is_some_and(|options| options.no_password) {
            request.hashed_password.clear();
        } else if !password.is_empty() || request.hashed_password.is_empty() {
            request.hashed_password = self.new_hash(caller.as_ref(), password).await?;
        }
        let header = self.propose_change(Op::UserAdd(request), caller).await?;
        Ok(Response::new(AuthUserAddResponse { header }))
    }

    async fn user_get(&self, request: Request<AuthUserGetRequest>) -> Result<Response<AuthUserGetResponse>, Status> {
        let (caller, AuthUserGetRequest { name }) = self.opened(request).await?;
        let auth = self.auth_now().await?;
        Access::of(&auth, caller.as_ref()).map_or(Ok(()), |access| access.see_user(&name))?;
        let user = &auth.user(&name).ok_or(EtcdError::UserNotFound)?.user;
        Ok(Response::new(AuthUserGetResponse { header: self.header_now(), roles: user.roles.clone() }))
    }

    async fn user_list(&self, request: Request<AuthUserListRequest>) -> Result<Response<AuthUserListResponse>, Status> {
        let (caller, _) = self.opened(request).await?;
        let auth = self.auth_now().await?;
        Access::of(&auth, caller.as_ref()).map_or(Ok(()), |access| access.root())?;
        let users = auth.users().map(|account| text(&account.user.name)).collect();
        Ok(Response::new(AuthUserListResponse { header: self.header_now(), users }))
    }

    async fn user_delete(
        &self,
        request: Request<AuthUserDeleteRequest>,
    ) -> Result<Response<AuthUserDeleteResponse>, Status> {
        let header = self.change(request, Op::UserDelete).await?;
        Ok(Response::new(AuthUserDeleteResponse { header }))
    }

    async fn user_change_password(
        &self,
        request: Request<AuthUserChangePasswordRequest>,
    ) -> Result<Response<AuthUserChangePasswordResponse>, Status> {
        let (caller, mut request) = self.opened(request).await?;
        let password = std::mem::take(&mut request.password);
        if !password.is_empty() {
            request.hashed_password = self.new_hash(caller.as_ref(), password).await?;
        }
        let header = self.propose_change(Op::UserChangePassword(request), caller).await?;
        Ok(Response::new(AuthUserChangePasswordResponse { header }))
    }

    async fn user_grant_role(
        &self,
        request: Request<AuthUserGrantRoleRequest>,
    ) -> Result<Response<AuthUserGrantRoleResponse>, Status> {
        let header = self.change(request, Op::UserGrantRole).await?;
        Ok(Response::new(AuthUserGrantRoleResponse { header }))
    }

    async fn user_revoke_role(
        &self,
        request: Request<AuthUserRevokeRoleRequest>,
    ) -> Result<Response<AuthUserRevokeRoleResponse>, Status> {
        let header = self.change(request, Op::UserRevokeRole).await?;
        Ok(Response::new(AuthUserRevokeRoleResponse { header }))
    }

    async fn role_add(&self, request: Request<AuthRoleAddRequest>) -> Result<Response<AuthRoleAddResponse>, Status> {
        check_name(&request.get_ref().name)?;
        let header = self.change(request, Op::RoleAdd).await?;
        Ok(Response::new(AuthRoleAddResponse { header }))
    }

    async fn role_get(&self, request: Request<AuthRoleGetRequest>) -> Result<Response<AuthRoleGetResponse>, Status> {
        let (caller, AuthRoleGetRequest { role }) = self.opened(request).await?;
        let auth = self.auth_now().await?;
        Access::of(&auth, caller.as_ref()).map_or(Ok(()), |access| access.see_role(&role))?;
        let perm = permissions(auth.role(&role).ok_or(EtcdError::RoleNotFound)?);
        Ok(Response::new(AuthRoleGetResponse { header: self.header_now(), perm }))
    }

    async fn role_list(&self, request: Request<AuthRoleListRequest>) -> Result<Response<AuthRoleListResponse>, Status> {
        let (caller, _) = self.opened(request).await?;
        let auth = self.auth_now().await?;
        Access::of(&auth, caller.as_ref()).map_or(Ok(()), |access| access.root())?;
        let roles = auth.roles().map(|role| text(&role.name)).collect();
        Ok(Response::new(AuthRoleListResponse { header: self.header_now(), roles }))
    }

    async fn role_delete(
        &self,
        request: Request<AuthRoleDeleteRequest>,
    ) -> Result<Response<AuthRoleDeleteResponse>, Status> {
        let header = self.change(request, Op::RoleDelete).await?;
        Ok(Response::new(AuthRoleDeleteResponse { header }))
    }

    async fn role_grant_permission(
        &self,
        request: Request<AuthRoleGrantPermissionRequest>,
    ) -> Result<Response<AuthRoleGrantPermissionResponse>, Status> {
        let header = self.change(request, Op::RoleGrantPermission).await?;
        Ok(Response::new(AuthRoleGrantPermissionResponse { header }))
    }

    async fn role_revoke_permission(
        &self,
        request: Request<AuthRoleRevokePermissionRequest>,
    ) -> Result<Response<AuthRoleRevokePermissionResponse>, Status> {
        let header = self.change(request, Op::RoleRevokePermission).await?;
        Ok(Response::new(AuthRoleRevokePermissionResponse { header }))
    }
}

impl Api {
    fn header_now(&self) -> Option<ResponseHeader> {
        Some(self.header(self.node.view().revision()))
    }

    async fn opened<T>(&self, request: Request<T>) -> Result<(Option<Caller>, T), Status> {
        let (credentials, request) = self.open(request);
        Ok((self.caller(&credentials).await?, request))
    }

    /// Proposes a request as it is. What the caller may do is checked where it is applied.
    async fn change<T>(&self, request: Request<T>, op: fn(T) -> Op) -> Result<Option<ResponseHeader>, Status> {
        let (caller, request) = self.opened(request).await?;
        self.propose_change(op(request), caller).await
    }

    async fn propose_change(&self, op: Op, caller: Option<Caller>) -> Result<Option<ResponseHeader>, Status> {
        match self.propose(op, caller).await? {
            Outcome::Done(_) => Ok(self.header_now()),
            other => Err(mismatch(other)),
        }
    }

    /// Users and roles, read linearizably. etcd sends who asks for them through the log, which tells the same.
    async fn auth_now(&self) -> Result<Arc<mvcc::Auth>, EtcdError> {
        self.node.linearize().await?;
        Ok(self.node.store().auth())
    }

    /// The auth revision at which it is the user's password.
    async fn check_password(&self, name: &str, password: &str) -> Result<u64, Status> {
        let auth = self.node.store().auth();
        if !auth.enabled {
            return Err(EtcdError::AuthNotEnabled.into());
        }
        let Some(account) = auth.user(name) else {
            // It must not take less time, or names could be tried out.
            self.hash(password.chars().take(1).collect()).await?;
            return Err(EtcdError::AuthFailed.into());
        };
        let user = &account.user;
        if user.options.is_some_and(|options| options.no_password) {
            return Err(EtcdError::NoPasswordUser.into());
        }
        let verified = self.identity.passwords.verify(password.to_owned(), user.password.clone()).await;
        match verified.map_err(|error| Status::unknown(error.to_string()))? {
            true => Ok(auth.revision),
            false => {
                tracing::warn!(user = name, "a wrong password was given");
                Err(EtcdError::AuthFailed.into())
            }
        }
    }

    /// The hash of a new password. It takes long, so it is made for those alone who may have it, while etcd makes it first.
    async fn new_hash(&self, caller: Option<&Caller>, password: String) -> Result<String, Status> {
        let auth = self.auth_now().await?;
        Access::of(&auth, caller).map_or(Ok(()), |access| access.root())?;
        self.hash(password).await
    }

    async fn hash(&self, password: String) -> Result<String, Status> {
        let hash = self.identity.passwords.hash(password).await;
        hash.map_err(|error| Status::unknown(error.to_string()))
    }
}

fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}
