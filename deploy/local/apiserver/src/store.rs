//! Objects in etcd, as a real API server keeps them: one key for each object below `/registry/`, JSON values without
//! `resourceVersion` (which is the key's mod revision), writes as transactions that compare the mod revision.

use crate::status::ApiError;
use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, Error, GetOptions, KeyValue, PutOptions, Txn, TxnOp, WatchOptions,
    WatchStream,
};
use serde_json::Value;
use std::time::Duration;

/// Every object's key begins with this.
pub const ROOT: &str = "/registry/";

/// Events are forgotten an hour after they were last written, by the store itself.
const EVENTS: &str = "/registry/events/";
const EVENT_SECONDS: i64 = 3600;

/// Lists of many objects exceed gRPC's default of 4 MiB.
const MAX_MESSAGE_BYTES: usize = 256 << 20;

/// A connection to the etcd-compatible server; cheap to clone.
#[derive(Clone)]
pub struct Store {
    client: Client,
}

/// An object with its key and resource version. The value carries `metadata.resourceVersion`.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Key below [`ROOT`].
    pub key: String,
    /// The object.
    pub value: Value,
    /// etcd mod revision.
    pub revision: i64,
}

/// One page of a list.
pub struct Page {
    /// The objects in key order.
    pub items: Vec<Stored>,
    /// The store's revision that the page shows.
    pub revision: i64,
    /// How many objects follow after this page.
    pub remaining: i64,
}

/// What became of a conditional write.
#[derive(Debug, PartialEq)]
pub enum Written {
    /// Done at this revision.
    At(i64),
    /// The key had another mod revision; nothing was changed.
    Conflict,
}

impl Store {
    /// Connects to a plaintext endpoint like `http://127.0.0.1:2379`; fails when nothing answers there.
    pub async fn connect(endpoint: &str) -> anyhow::Result<Store> {
        let options = ConnectOptions::new()
            .with_connect_timeout(Duration::from_secs(10))
            .with_keep_alive(Duration::from_secs(30), Duration::from_secs(20));
        Ok(Store { client: Client::connect([endpoint], Some(options)).await? })
    }

    /// Reads one object.
    pub async fn get(&self, key: &str) -> Result<Option<Stored>, ApiError> {
        let mut response = self.client.kv_client().get(key, None).await?;
        response.take_kvs().pop().map(|kv| decode(&kv)).transpose()
    }

    /// Creates an object; [`Written::Conflict`] when the key exists.
    pub async fn create(&self, key: &str, value: &Value) -> Result<Written, ApiError> {
        self.put_if(key, value, 0).await
    }

    /// Replaces an object whose mod revision is `revision` (0: that does not exist).
    pub async fn put_if(&self, key: &str, value: &Value, revision: i64) -> Result<Written, ApiError> {
        let options = if key.starts_with(EVENTS) {
            let lease = self.client.lease_client().grant(EVENT_SECONDS, None).await?;
            Some(PutOptions::new().with_lease(lease.id()))
        } else {
            None
        };
        self.txn(key, revision, TxnOp::put(key, encode(value), options)).await
    }

    /// Removes an object whose mod revision is `revision`.
    pub async fn delete_if(&self, key: &str, revision: i64) -> Result<Written, ApiError> {
        self.txn(key, revision, TxnOp::delete(key, None)).await
    }

    async fn txn(&self, key: &str, revision: i64, op: TxnOp) -> Result<Written, ApiError> {
        let unchanged = Compare::mod_revision(key, CompareOp::Equal, revision);
        let txn = Txn::new().when([unchanged]).and_then([op]);
        let response = self.client.kv_client().txn(txn).await?;
        match response.header() {
            Some(header) if response.succeeded() => Ok(Written::At(header.revision())),
            _ => Ok(Written::Conflict),
        }
    }

    /// Lists up to `limit` (0: all) objects below `prefix`, after the key `after` if given, as of `revision` (0: now).
    pub async fn list(&self, prefix: &str, after: Option<&str>, limit: i64, revision: i64) -> Result<Page, ApiError> {
        let options = GetOptions::new().with_range(prefix_end(prefix)).with_limit(limit).with_revision(revision);
        let start = after.map_or_else(|| prefix.to_owned(), |key| format!("{key}\0"));
        let mut client = self.client.kv_client().max_decoding_message_size(MAX_MESSAGE_BYTES);
        let mut response = client.get(start, Some(options)).await?;
        let now = response.header().map_or(0, |header| header.revision());
        let items = response.take_kvs().iter().map(decode).collect::<Result<Vec<_>, _>>()?;
        let remaining = response.count() - items.len() as i64;
        Ok(Page { remaining, revision: if revision > 0 { revision } else { now }, items })
    }

    /// The store's current revision.
    pub async fn revision(&self) -> Result<i64, ApiError> {
        let options = GetOptions::new().with_count_only();
        let response = self.client.kv_client().get(ROOT, Some(options)).await?;
        Ok(response.header().map_or(0, |header| header.revision()))
    }

    /// Watches `prefix` from `revision` on, with previous values.
    pub async fn watch(&self, prefix: &str, revision: i64) -> Result<WatchStream, Error> {
        let options = WatchOptions::new().with_range(prefix_end(prefix)).with_start_revision(revision).with_prev_key();
        let mut client = self.client.watch_client().max_decoding_message_size(MAX_MESSAGE_BYTES);
        client.watch(prefix, Some(options)).await
    }

    /// Compacts, every five minutes, what is older than five minutes: watches that come later get 410 and list again.
    pub async fn compact_forever(self) {
        let mut ticks = tokio::time::interval(Duration::from_secs(300));
        let mut previous = 0;
        loop {
            ticks.tick().await;
            let current = match self.revision().await {
                Ok(revision) => revision,
                Err(error) => {
                    tracing::warn!(%error.message, "reading the revision to compact failed");
                    continue;
                }
            };
            if previous > 0
                && current > previous
                && let Err(error) = self.client.kv_client().compact(previous, None).await
            {
                tracing::warn!(%error, "compaction failed");
            }
            previous = current;
        }
    }
}

/// The first key after all keys that begin with `prefix` (which ends in a byte below 0xff: it is UTF-8).
fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// The stored form: without the resource version.
fn encode(value: &Value) -> Vec<u8> {
    let mut value = value.clone();
    if let Some(metadata) = value["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
    }
    value.to_string().into_bytes()
}

/// The object of a key-value pair, with its resource version filled in.
pub fn decode(kv: &KeyValue) -> Result<Stored, ApiError> {
    let key = String::from_utf8_lossy(kv.key()).into_owned();
    let mut value: Value = serde_json::from_slice(kv.value()).map_err(|e| ApiError::internal(format!("{key}: {e}")))?;
    value["metadata"]["resourceVersion"] = Value::String(kv.mod_revision().to_string());
    Ok(Stored { key, value, revision: kv.mod_revision() })
}
