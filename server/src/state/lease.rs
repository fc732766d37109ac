//! Leases: granted, and revoked together with their keys. Their time runs elsewhere.

use super::header;
use super::write::Writer;
use crate::error::EtcdError;
use crate::mvcc::{KeyRange, LeaseRecord, ReadError, View, ViewError};
use crate::proto::etcdserverpb::{
    LeaseCheckpointRequest, LeaseGrantRequest, LeaseGrantResponse, LeaseRevokeRequest, LeaseRevokeResponse,
};

/// The longest time to live, in seconds.
pub const MAX_TTL_SECONDS: i64 = 9_000_000_000;

/// Grants a lease. The proposer chose the id and raised the TTL to the minimum.
pub fn grant<V: View>(
    writer: &mut Writer<'_, V>,
    request: &LeaseGrantRequest,
) -> Result<LeaseGrantResponse, ReadError> {
    if request.id == 0 {
        return Err(EtcdError::LeaseNotFound.into());
    }
    if request.ttl > MAX_TTL_SECONDS {
        return Err(EtcdError::LeaseTTLTooLarge.into());
    }
    if writer.base().lease(request.id)?.is_some() {
        return Err(EtcdError::LeaseExist.into());
    }
    let lease = LeaseRecord { id: request.id, ttl_seconds: request.ttl, remaining_seconds: 0 };
    writer.effects().leases.insert(request.id, Some(lease));
    let header = header(writer.revision());
    Ok(LeaseGrantResponse { header, id: request.id, ttl: request.ttl, error: String::new() })
}

/// Remembers what is left of leases. One that was revoked meanwhile is passed over.
pub fn checkpoint<V: View>(writer: &mut Writer<'_, V>, request: &LeaseCheckpointRequest) -> Result<(), ViewError> {
    for checkpoint in &request.checkpoints {
        if let Some(mut lease) = writer.base().lease(checkpoint.id)? {
            lease.remaining_seconds = checkpoint.remaining_ttl.clamp(0, lease.ttl_seconds);
            writer.effects().leases.insert(checkpoint.id, Some(lease));
        }
    }
    Ok(())
}

/// Revokes a lease and deletes its keys, in key order, at one revision.
pub fn revoke<V: View>(
    writer: &mut Writer<'_, V>,
    request: &LeaseRevokeRequest,
) -> Result<LeaseRevokeResponse, ReadError> {
    if writer.base().lease(request.id)?.is_none() {
        return Err(EtcdError::LeaseNotFound.into());
    }
    for key in writer.base().lease_keys(request.id)? {
        writer.delete(&KeyRange::One(key))?;
    }
    writer.effects().leases.insert(request.id, None);
    Ok(LeaseRevokeResponse { header: header(writer.revision()) })
}
