//! Revisions and what was stored at each of them. Pure: no clock, no disk, no runtime.
//!
//! - [`keys`]: how revisions, keys and leases are laid out as bytes;
//! - [`view`]: read access to the store at one moment, the trait that everything pure reads through;
//! - [`effects`]: what a command changes, and a view with such changes on top;
//! - [`range`]: the Range request with every option;
//! - [`range_bytes`]: its answer as bytes, which most take;
//! - [`range_chunks`]: a range in chunks, each from a view of its own;
//! - [`counts`]: how many keys there are, without a look at each;
//! - [`auth`]: users, roles and what they permit;
//! - [`hash`]: the sum over the history that members compare.

pub mod auth;
pub mod counts;
pub mod effects;
pub mod hash;
pub mod keys;
pub mod range;
pub mod range_bytes;
pub mod range_chunks;
pub mod view;

pub use auth::Auth;
pub use effects::{Effects, Overlay};
pub use keys::{RevKey, Revision};
pub use view::{
    KeyRange, KeyRecord, LeaseRecord, ReadError, RevRecord, Source, Stamp, View, ViewError, Visit, VisitHistory,
    WAY_OUT,
};

pub use crate::proto::command::MemberAttributes;
pub use crate::proto::etcdserverpb::AlarmMember;
pub use crate::proto::mvccpb::{Event, KeyValue, event::EventType};
