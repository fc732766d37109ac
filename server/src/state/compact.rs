//! Compact, and revisions that are passed over. Superseded versions become unreadable at once; storage removes them later.

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

/// Moves the revision on without a change of a key, and compacts up to there.
pub fn advance<V: View>(writer: &mut Writer<'_, V>, by: i64) {
    let revision = writer.base().revision().saturating_add(by);
    if by > 0 {
        let effects = writer.effects();
        (effects.revision, effects.compact_revision) = (Some(revision), Some(revision));
    }
}
