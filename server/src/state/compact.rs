//! Compact. Superseded versions become unreadable at once; storage removes them later.

use super::header;
use super::write::Writer;
use crate::error::EtcdError;
use crate::mvcc::{ReadError, View};
use crate::proto::etcdserverpb::{CompactionRequest, CompactionResponse};

/// Raises the compacted revision.
pub fn compact<V: View>(
    writer: &mut Writer<'_, V>,
    request: &CompactionRequest,
) -> Result<CompactionResponse, ReadError> {
    let view = writer.base();
    if request.revision <= view.compact_revision() {
        return Err(EtcdError::Compacted.into());
    }
    if request.revision > view.revision() {
        return Err(EtcdError::FutureRev.into());
    }
    writer.effects().compact_revision = Some(request.revision);
    Ok(CompactionResponse { header: header(writer.revision()) })
}
