//! What members tell of themselves.

use super::write::Writer;
use crate::mvcc::{MemberAttributes, View};

/// Remembers a member's name and client URLs. Whether it is a member is known to Raft alone.
pub fn publish<V: View>(writer: &mut Writer<'_, V>, attributes: &MemberAttributes) {
    writer.effects().members.insert(attributes.member_id, Some(attributes.clone()));
}
