//! Put and DeleteRange.

use bytes::Bytes;

use super::header;
use super::write::Writer;
use crate::error::EtcdError;
use crate::mvcc::range;
use crate::mvcc::{KeyRange, KeyValue, ReadError, View, ViewError};
use crate::proto::etcdserverpb::{DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse};

/// Refuses a put whose lease or previous version is missing in the state.
pub fn check_put<V: View>(view: &V, request: &PutRequest) -> Result<(), ReadError> {
    if request.lease != 0 && view.lease(request.lease)?.is_none() {
        return Err(EtcdError::LeaseNotFound.into());
    }
    if (request.ignore_value || request.ignore_lease) && previous(view, &request.key)?.is_none() {
        return Err(EtcdError::KeyNotFound.into());
    }
    Ok(())
}

/// Puts a key.
pub fn put<V: View>(writer: &mut Writer<'_, V>, request: &PutRequest) -> Result<PutResponse, ReadError> {
    check_put(writer.base(), request)?;
    Ok(write(writer, request)?)
}

/// Puts a key that was checked against the state before the command.
pub fn write<V: View>(writer: &mut Writer<'_, V>, request: &PutRequest) -> Result<PutResponse, ViewError> {
    let mut value = request.value.clone();
    let mut lease = request.lease;
    let mut prev_kv = None;
    if request.ignore_value || request.ignore_lease || request.prev_kv {
        let old = previous(writer.view(), &request.key)?;
        if let Some(old) = &old {
            value = if request.ignore_value { old.value.clone() } else { value };
            lease = if request.ignore_lease { old.lease } else { lease };
        }
        prev_kv = old.filter(|_| request.prev_kv);
    }
    writer.put(&request.key, value, lease)?;
    Ok(PutResponse { header: header(writer.revision()), prev_kv })
}

/// Deletes a range.
pub fn delete_range<V: View>(
    writer: &mut Writer<'_, V>,
    request: &DeleteRangeRequest,
) -> Result<DeleteRangeResponse, ViewError> {
    let keys = KeyRange::new(request.key.clone(), request.range_end.clone());
    let prev_kvs = if request.prev_kv { range::current(writer.view(), &keys)? } else { Vec::new() };
    let deleted = writer.delete(&keys)?;
    Ok(DeleteRangeResponse { header: header(writer.revision()), deleted, prev_kvs })
}

fn previous<V: View>(view: &V, key: &Bytes) -> Result<Option<KeyValue>, ViewError> {
    match view.key(key)? {
        Some(record) => range::key_value(view, key, &record),
        None => Ok(None),
    }
}
