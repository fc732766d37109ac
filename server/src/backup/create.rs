//! From a member to a store: nothing is kept but what is on its way.

use std::io::Write;
use std::time::Instant;

use object_store::{ObjectStoreExt, WriteMultipart};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zstd::stream::write::Encoder;

use super::archive::point::{self, told_time};
use super::place::Place;
use super::source::{Now, Source, cut_off};
use super::{BackupError, beside};

/// Bytes of a part of an upload. Stores take 10 000 parts.
const PART_BYTES: usize = 8 << 20;
/// Parts that are on their way at the same time.
const PARTS: usize = 4;
/// Three times as fast as the next better one, for a tenth more bytes.
pub(super) const LEVEL: i32 = 3;
/// Bytes of a SHA-256, which follow the pages of a snapshot.
const SUM_BYTES: usize = 32;

/// What is known of a backup that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Created {
    /// Id of the cluster, in hexadecimal.
    pub cluster_id: String,
    /// Everything up to this revision is in it.
    pub revision: i64,
    /// Nothing behind this revision is in it.
    pub newest_revision: i64,
    /// Nor anything that came later than this (RFC 3339).
    pub time: String,
    /// The member's HashKV at that revision.
    pub hash: u32,
    /// The compacted revision that the hash depends on.
    pub compact_revision: i64,
    /// Bytes of the snapshot.
    pub snapshot_bytes: u64,
    /// Bytes in the store.
    pub stored_bytes: u64,
    /// SHA-256 of those.
    pub sha256: String,
    /// How long it took.
    pub milliseconds: u64,
}

/// Takes a snapshot of the member and brings it to the place. If `stop` resolves before that is done, nothing is left there.
pub async fn create(source: &Source, place: &Place, stop: impl Future<Output = ()>) -> Result<Created, BackupError> {
    let started = Instant::now();
    source.catch_up().await?;
    // Before the snapshot, so that all that was hashed is in it.
    let hash = source.hash().await?;
    // Before 3.6 etcd tells it in the header.
    let told = hash.header.as_ref().map_or(0, |header| header.revision);
    let revision = if hash.hash_revision > 0 { hash.hash_revision } else { told };
    let mut upload = Upload::begin(place).await?;
    let copied = tokio::select! {
        copied = upload.copy(source) => copied,
        () = stop => Err(BackupError::Stopped),
    };
    let (snapshot_bytes, taken) = match copied {
        Ok(copied) => copied,
        Err(error) => {
            upload.abort().await;
            return Err(error);
        }
    };
    let (stored_bytes, sha256) = upload.finish().await?;
    place.sync()?;
    let created = Created {
        cluster_id: format!("{:x}", taken.now.cluster_id),
        revision,
        newest_revision: taken.now.revision,
        time: told_time(taken.time_ms),
        hash: hash.hash,
        compact_revision: hash.compact_revision,
        snapshot_bytes,
        stored_bytes,
        sha256,
        milliseconds: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    };
    beside::write(place, &created).await?;
    Ok(created)
}

/// By when a snapshot was taken.
#[derive(Clone, Copy)]
struct Taken {
    now: Now,
    /// Unix time, in milliseconds.
    time_ms: i64,
}

/// Compresses, sums up, and sends.
struct Upload {
    encoder: Encoder<'static, Vec<u8>>,
    parts: WriteMultipart,
    sum: Sha256,
    bytes: u64,
}

const IN_MEMORY: &str = "writing to memory does not fail";

impl Upload {
    async fn begin(place: &Place) -> Result<Self, BackupError> {
        let upload = place.store.put_multipart(&place.key).await?;
        let mut encoder = Encoder::new(Vec::new(), LEVEL).expect(IN_MEMORY);
        encoder.include_checksum(true).expect(IN_MEMORY);
        let parts = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        Ok(Self { encoder, parts, sum: Sha256::new(), bytes: 0 })
    }

    /// The whole snapshot; how many bytes it has.
    async fn copy(&mut self, source: &Source) -> Result<(u64, Taken), BackupError> {
        let mut stream = source.snapshot().await?;
        let mut checked = Checked::default();
        let mut taken = None;
        loop {
            let Some(message) = stream.message().await.map_err(cut_off)? else {
                let bytes = checked.finish()?;
                return Ok((bytes, taken.ok_or(BackupError::Stream("it ends early"))?));
            };
            // What is sent was fixed before.
            if taken.is_none() {
                taken = Some(Taken { now: source.catch_up().await?, time_ms: point::now_ms() });
            }
            checked.add(&message.blob);
            self.encoder.write_all(&message.blob).expect(IN_MEMORY);
            self.pass_on().await?;
        }
    }

    async fn pass_on(&mut self) -> Result<(), BackupError> {
        let ready = self.encoder.get_mut();
        if ready.is_empty() {
            return Ok(());
        }
        self.sum.update(&ready);
        self.bytes += ready.len() as u64;
        self.parts.wait_for_capacity(PARTS).await?;
        // Copied, for a part would keep the room that is left behind the bytes, too.
        self.parts.write(ready);
        ready.clear();
        Ok(())
    }

    async fn finish(mut self) -> Result<(u64, String), BackupError> {
        self.encoder.do_finish().expect(IN_MEMORY);
        self.pass_on().await?;
        self.parts.finish().await?;
        let sum = self.sum.finalize();
        Ok((self.bytes, sum.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// What cannot be taken back is the store's to clear away, as for an upload that was cut off.
    async fn abort(self) {
        let _ = self.parts.abort().await;
    }
}

/// The snapshot's own checksum, which comes last.
#[derive(Default)]
struct Checked {
    sum: Sha256,
    bytes: u64,
    /// The last bytes so far, which may be the checksum.
    held: Vec<u8>,
}

impl Checked {
    fn add(&mut self, blob: &[u8]) {
        self.bytes += blob.len() as u64;
        self.held.extend_from_slice(blob);
        let known = self.held.len().saturating_sub(SUM_BYTES);
        self.sum.update(&self.held[..known]);
        self.held.drain(..known);
    }

    fn finish(self) -> Result<u64, BackupError> {
        if self.bytes <= SUM_BYTES as u64 {
            return Err(BackupError::Stream("it ends early"));
        }
        match self.sum.finalize()[..] == self.held[..] {
            true => Ok(self.bytes),
            false => Err(BackupError::Stream("its SHA-256 is another one")),
        }
    }
}
