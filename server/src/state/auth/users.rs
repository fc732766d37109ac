//! Commands on users.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;

use crate::error::EtcdError;
use crate::mvcc::auth::{Auth, ROOT};
use crate::proto::authpb::{User, UserAddOptions};
use crate::proto::etcdserverpb::{
    AuthUserAddRequest, AuthUserChangePasswordRequest, AuthUserDeleteRequest, AuthUserGrantRoleRequest,
    AuthUserRevokeRoleRequest,
};

/// Adds a user.
pub fn add(auth: &mut Auth, request: &AuthUserAddRequest) -> Result<(), EtcdError> {
    if request.name.is_empty() {
        return Err(EtcdError::UserEmpty);
    }
    if auth.user(&request.name).is_some() {
        return Err(EtcdError::UserAlreadyExist);
    }
    let options = request.options.unwrap_or_default();
    change(
        auth,
        User {
            name: Bytes::copy_from_slice(request.name.as_bytes()),
            password: password(Some(&options), &request.hashed_password)?,
            roles: Vec::new(),
            options: Some(options),
        },
    );
    Ok(())
}

/// Deletes a user; not root while it is needed.
pub fn delete(auth: &mut Auth, request: &AuthUserDeleteRequest) -> Result<(), EtcdError> {
    if auth.enabled && request.name == ROOT {
        return Err(EtcdError::InvalidAuthMgmt);
    }
    find(auth, &request.name)?;
    auth.remove_user(&request.name);
    auth.revision += 1;
    Ok(())
}

/// Changes a user's password. One without a password stays so.
pub fn change_password(auth: &mut Auth, request: &AuthUserChangePasswordRequest) -> Result<(), EtcdError> {
    let mut user = find(auth, &request.name)?;
    user.password = password(user.options.as_ref(), &request.hashed_password)?;
    change(auth, user);
    Ok(())
}

/// Gives a user a role. The role root needs not exist.
pub fn grant_role(auth: &mut Auth, request: &AuthUserGrantRoleRequest) -> Result<(), EtcdError> {
    let mut user = find(auth, &request.user)?;
    if request.role != ROOT && auth.role(&request.role).is_none() {
        return Err(EtcdError::RoleNotFound);
    }
    if !user.roles.contains(&request.role) {
        user.roles.push(request.role.clone());
        user.roles.sort();
        change(auth, user);
    }
    Ok(())
}

/// Takes a role from a user; not root's own while it is needed.
pub fn revoke_role(auth: &mut Auth, request: &AuthUserRevokeRoleRequest) -> Result<(), EtcdError> {
    if auth.enabled && request.name == ROOT && request.role == ROOT {
        return Err(EtcdError::InvalidAuthMgmt);
    }
    let mut user = find(auth, &request.name)?;
    let before = user.roles.len();
    user.roles.retain(|role| *role != request.role);
    if user.roles.len() == before {
        return Err(EtcdError::RoleNotGranted);
    }
    change(auth, user);
    Ok(())
}

fn find(auth: &Auth, name: &str) -> Result<User, EtcdError> {
    auth.user(name).map(|account| account.user.clone()).ok_or(EtcdError::UserNotFound)
}

fn change(auth: &mut Auth, user: User) {
    auth.put_user(user);
    auth.revision += 1;
}

/// The hash to store.
fn password(options: Option<&UserAddOptions>, hashed: &str) -> Result<Bytes, EtcdError> {
    if options.is_some_and(|options| options.no_password) {
        return Ok(Bytes::new());
    }
    decode(hashed).ok_or(EtcdError::NoPasswordUser)
}

/// Decodes Base64 as Go does: line breaks do not count, nor do bits behind the last byte.
fn decode(text: &str) -> Option<Bytes> {
    const LENIENT: GeneralPurpose =
        GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));
    LENIENT.decode(text.replace(['\r', '\n'], "")).ok().map(Bytes::from)
}
