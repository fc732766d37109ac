//! Commands on roles.

use bytes::Bytes;

use crate::error::EtcdError;
use crate::mvcc::auth::{Auth, ROOT, is_valid_range};
use crate::proto::authpb::permission::Type;
use crate::proto::authpb::{Permission, Role};
use crate::proto::etcdserverpb::{
    AuthRoleAddRequest, AuthRoleDeleteRequest, AuthRoleGrantPermissionRequest, AuthRoleRevokePermissionRequest,
};

/// Adds a role without permissions.
pub fn add(auth: &mut Auth, request: &AuthRoleAddRequest) -> Result<(), EtcdError> {
    if request.name.is_empty() {
        return Err(EtcdError::RoleEmpty);
    }
    if auth.role(&request.name).is_some() {
        return Err(EtcdError::RoleAlreadyExist);
    }
    let name = Bytes::copy_from_slice(request.name.as_bytes());
    change(auth, Role { name, key_permission: Vec::new() });
    Ok(())
}

/// Deletes a role, from its users too; not root while it is needed.
pub fn delete(auth: &mut Auth, request: &AuthRoleDeleteRequest) -> Result<(), EtcdError> {
    if auth.enabled && request.role == ROOT {
        return Err(EtcdError::InvalidAuthMgmt);
    }
    find(auth, &request.role)?;
    auth.remove_role(&request.role);
    auth.revision += 1;
    Ok(())
}

/// Adds a permission, or changes the kind of one on the same range.
pub fn grant_permission(auth: &mut Auth, request: &AuthRoleGrantPermissionRequest) -> Result<(), EtcdError> {
    let permission = request.perm.as_ref().ok_or(EtcdError::PermissionNotGiven)?;
    if !is_valid_range(&permission.key, &permission.range_end) {
        return Err(EtcdError::InvalidAuthMgmt);
    }
    let mut role = find(auth, &request.name)?;
    let same = |known: &&mut Permission| known.key == permission.key && known.range_end == permission.range_end;
    match role.key_permission.iter_mut().find(same) {
        Some(known) => known.perm_type = permission.perm_type,
        None => {
            role.key_permission.push(permission.clone());
            role.key_permission.sort_by(|a, b| a.key.cmp(&b.key));
        }
    }
    change(auth, role);
    Ok(())
}

/// Takes away the permission on exactly that range.
pub fn revoke_permission(auth: &mut Auth, request: &AuthRoleRevokePermissionRequest) -> Result<(), EtcdError> {
    let mut role = find(auth, &request.role)?;
    let before = role.key_permission.len();
    role.key_permission.retain(|known| known.key != request.key || known.range_end != request.range_end);
    if role.key_permission.len() == before {
        return Err(EtcdError::PermissionNotGranted);
    }
    change(auth, role);
    Ok(())
}

/// What a role permits, as it is shown: root everything, whatever is stored.
pub fn permissions(role: &Role) -> Vec<Permission> {
    match role.name == ROOT.as_bytes() {
        true => {
            let everything = Permission {
                perm_type: Type::Readwrite.into(),
                key: Bytes::new(),
                range_end: Bytes::from_static(&[0]),
            };
            vec![everything]
        }
        false => role.key_permission.clone(),
    }
}

fn find(auth: &Auth, name: &str) -> Result<Role, EtcdError> {
    auth.role(name).cloned().ok_or(EtcdError::RoleNotFound)
}

fn change(auth: &mut Auth, role: Role) {
    auth.put_role(role);
    auth.revision += 1;
}
