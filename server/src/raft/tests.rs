//! openraft's own suite for log stores and state machines, on the real ones.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

use super::log::{LogOptions, LogStore};
use super::state_machine::{LeaseListener, Shared, StateMachine, TokenListener};
use super::types::TypeConfig;
use crate::mvcc::{LeaseRecord, View};
use crate::state::auth::TokenChange;
use crate::storage::{Store, StoreOptions};
use crate::watch::{Hub, HubOptions};

struct NoLeases;

impl LeaseListener for NoLeases {
    fn changed(&self, _leases: &BTreeMap<i64, Option<LeaseRecord>>) {}

    fn replaced(&self, _leases: Vec<LeaseRecord>) {}
}

struct NoTokens;

impl TokenListener for NoTokens {
    fn changed(&self, _change: TokenChange) {}

    fn replaced(&self) {}
}

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), openraft::StorageError<TypeConfig>> {
        let dir = TempDir::new().unwrap();
        let options = LogOptions { segment_bytes: 64 << 10, ..LogOptions::default() };
        let (log, _thread) = LogStore::open(&dir.path().join("wal"), options).unwrap();
        let store = Store::open(&dir.path().join("store"), StoreOptions::default()).unwrap();
        let hub = Hub::new(store.view().revision(), HubOptions::default());
        let shared = Shared::new(store, hub, dir.path().join("snapshots"), Arc::default()).unwrap();
        Ok((dir, log, StateMachine::new(shared, Arc::new(NoLeases), Arc::new(NoTokens), Duration::MAX)))
    }
}

#[tokio::test]
async fn the_log_and_the_state_machine_pass_openrafts_suite() {
    Suite::test_all(Builder).await.unwrap();
}
