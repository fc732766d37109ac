//! The program that archives: it follows one member, or the next one when that fails, until it is stopped.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use tonic::{Code, Status};

use super::super::BackupError;
use super::super::place::Place;
use super::super::source::{LOGIN, Member, Now, Source};
use super::ArchiveError;
use super::collect::{Collector, Jump};
use super::metrics::ArchiveMetrics;
use super::point::{Complete, now_ms};
use super::segment::{self, Name};
use super::shelf::Shelf;
use crate::proto::etcdserverpb::WatchResponse;

/// A segment is closed when it has so many bytes, before they are compressed.
const SEGMENT_BYTES: usize = 8 << 20;
/// How often the cluster is asked for its revision: times are known as well as that.
const ASK_INTERVAL: Duration = Duration::from_secs(2);
/// How long a watch may be silent although there is something.
const SILENCE: Duration = Duration::from_secs(30);
/// Between two attempts, at first and at last.
const WAITS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// What is left to do after a signal may take so long.
const LAST_WORDS: Duration = Duration::from_secs(20);
/// Leases that are asked about at the same time.
const LEASES_AT_ONCE: usize = 16;

/// Archives what one of the members has, beside the backups in this folder, until `stop` resolves. What is received is written at
/// each interval.
pub async fn archive(
    members: &[Member],
    backups: &Place,
    interval: Duration,
    metrics: &Arc<ArchiveMetrics>,
    stop: impl Future<Output = ()>,
) -> Result<(), BackupError> {
    let mut archiver = Archiver { backups, interval, metrics, keeper: None, wait: WAITS.0 };
    let followed = async {
        for member in members.iter().cycle() {
            let Err(error) = archiver.follow(member).await;
            // The password comes from the environment, and another one only with another process.
            if matches!(&error, BackupError::Member(LOGIN, status) if status.code() == Code::InvalidArgument) {
                return Err(error);
            }
            metrics.errors.inc();
            tracing::warn!(endpoint = member.endpoint, %error, again_in = ?archiver.wait, "archiving was interrupted");
            tokio::time::sleep(archiver.wait).await;
            archiver.wait = (archiver.wait * 2).min(WAITS.1);
        }
        Ok(())
    };
    let ended = tokio::select! {
        ended = followed => ended,
        () = stop => Ok(()),
    };
    if let Some(mut keeper) = archiver.keeper {
        let written = tokio::time::timeout(LAST_WORDS, keeper.put_down(metrics)).await;
        written.unwrap_or(Err(BackupError::Stopped))?;
    }
    ended
}

struct Archiver<'a> {
    backups: &'a Place,
    interval: Duration,
    metrics: &'a Arc<ArchiveMetrics>,
    /// Of the cluster that answered last.
    keeper: Option<Keeper>,
    wait: Duration,
}

impl Archiver<'_> {
    async fn follow(&mut self, member: &Member) -> Result<Infallible, BackupError> {
        let source = Source::connect(member).await?;
        let (asked_ms, now) = (now_ms(), source.catch_up().await?);
        if let Some(before) = self.keeper.as_mut() {
            // What could not be written before comes first, so that there is never more than that.
            before.put_down(self.metrics).await?;
            before.collector.interrupt();
        }
        if self.keeper.as_ref().is_none_or(|keeper| keeper.shelf.cluster_id() != now.cluster_id) {
            self.keeper = Some(Keeper::take_up(self.backups, now, asked_ms).await?);
        }
        let keeper = self.keeper.as_mut().expect("there is one by now");
        let archived = keeper.collector.position();
        if now.revision < archived {
            return Err(ArchiveError::Backwards { revision: now.revision, archived }.into());
        }
        let period = self.interval.min(ASK_INTERVAL);
        loop {
            let start = keeper.collector.position() + 1;
            let mut watch = source.watch(start).await?;
            tracing::info!(endpoint = member.endpoint, start, "watching");
            let mut asking = tokio::time::interval(period);
            asking.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let mut heard = Instant::now();
            loop {
                tokio::select! {
                    response = watch.message() => {
                        if !keeper.receive(&source, told(response)?, self.metrics).await? {
                            break;
                        }
                        heard = Instant::now();
                    }
                    _ = asking.tick() => {
                        let (asked_ms, now) = (now_ms(), source.catch_up().await?);
                        keeper.ask(asked_ms, now, heard)?;
                        self.wait = WAITS.0;
                        if keeper.written.is_none_or(|written| written.elapsed() >= self.interval) {
                            keeper.put_down(self.metrics).await?;
                            heard = Instant::now();
                        }
                    }
                }
            }
        }
    }
}

/// What a watch gives, which does not end by itself.
fn told(response: Result<Option<WatchResponse>, Status>) -> Result<WatchResponse, BackupError> {
    let ended = |status| BackupError::Member("Watch", Box::new(status));
    response.map_err(ended)?.ok_or_else(|| ended(Status::unavailable("it has ended")))
}

/// One cluster's archive while it grows.
struct Keeper {
    shelf: Shelf,
    collector: Collector,
    /// A segment that is being written: if that fails, it is written again.
    pending: Option<(Name, Bytes)>,
    /// What was told last of how far it goes.
    told: Option<Complete>,
    /// When everything was written last.
    written: Option<Instant>,
}

impl Keeper {
    /// Goes on where the archive ends; a new one begins now.
    async fn take_up(backups: &Place, now: Now, asked_ms: i64) -> Result<Self, BackupError> {
        let shelf = Shelf::of(backups, now.cluster_id);
        let told = shelf.complete().await?;
        let last = shelf.names().await?.iter().map(|name| name.last).max();
        let position = last.max(told.map(|complete| complete.revision)).unwrap_or(now.revision);
        let complete_ms = told.map_or(if last.is_none() { asked_ms } else { 0 }, |complete| complete.time_ms);
        tracing::info!(cluster = format!("{:x}", now.cluster_id), position, new = told.is_none(), "archiving");
        let collector = Collector::new(now.cluster_id, position, complete_ms);
        let mut keeper = Self { shelf, collector, pending: None, told, written: None };
        keeper.tell().await?;
        Ok(keeper)
    }

    /// Takes what a watch has given. Answers whether it goes on: not if what comes next is gone.
    async fn receive(
        &mut self,
        source: &Source,
        response: WatchResponse,
        metrics: &ArchiveMetrics,
    ) -> Result<bool, BackupError> {
        if response.canceled {
            if response.compact_revision > self.collector.position() {
                self.pass_over(response.compact_revision, metrics).await?;
                return Ok(false);
            }
            let refused = Status::aborted(response.cancel_reason);
            return Err(BackupError::Member("Watch", Box::new(refused)));
        }
        let unknown = self.collector.unknown_leases(&response.events);
        let asked = stream::iter(unknown)
            .map(|id| async move { Ok::<_, BackupError>((id, source.granted_ttl(id).await?)) })
            .buffer_unordered(LEASES_AT_ONCE);
        for (id, ttl_seconds) in asked.try_collect::<Vec<_>>().await? {
            self.collector.learn(id, ttl_seconds);
        }
        if let Err(Jump(revision)) = self.collector.add(response.events, now_ms(), !response.fragment) {
            self.pass_over(revision - 1, metrics).await?;
            return Ok(false);
        }
        if self.collector.bytes() >= SEGMENT_BYTES {
            self.put_down(metrics).await?;
        }
        Ok(true)
    }

    /// Revisions are gone for good: what follows them cannot be reached from what came before.
    async fn pass_over(&mut self, revision: i64, metrics: &ArchiveMetrics) -> Result<(), BackupError> {
        self.put_down(metrics).await?;
        let first = self.collector.position() + 1;
        tracing::error!(
            first,
            last = revision,
            "these revisions were compacted before they were archived: take a backup, since only a newer one can be brought forward"
        );
        metrics.gaps.inc();
        self.collector = Collector::new(self.collector.cluster_id(), revision, self.collector.complete_ms());
        Ok(())
    }

    /// The cluster was asked for its revision.
    fn ask(&mut self, asked_ms: i64, now: Now, heard: Instant) -> Result<(), ArchiveError> {
        if now.cluster_id != self.shelf.cluster_id() {
            return Err(ArchiveError::OtherCluster);
        }
        match self.collector.asked(asked_ms, now.revision) || heard.elapsed() < SILENCE {
            true => Ok(()),
            false => Err(ArchiveError::Silent),
        }
    }

    /// Writes all whole revisions, and how far the archive goes by them.
    async fn put_down(&mut self, metrics: &ArchiveMetrics) -> Result<(), BackupError> {
        loop {
            if self.pending.is_none() {
                let segment = self.collector.take();
                let named = segment.and_then(|segment| Some((Name::of(&segment)?, segment)));
                self.pending = named.map(|(name, segment)| (name, Bytes::from(segment::encode(&segment))));
            }
            let Some((name, object)) = &self.pending else { break };
            self.shelf.write(*name, object.clone()).await?;
            metrics.segments.inc();
            metrics.stored_bytes.inc_by(object.len() as u64);
            self.pending = None;
        }
        self.tell().await?;
        self.written = Some(Instant::now());
        self.told.into_iter().for_each(|complete| metrics.set_complete(complete));
        Ok(())
    }

    /// Everything that was received is written by now.
    async fn tell(&mut self) -> Result<(), BackupError> {
        let complete = Complete { revision: self.collector.position(), time_ms: self.collector.complete_ms() };
        if self.told != Some(complete) {
            self.shelf.set_complete(complete).await?;
            self.told = Some(complete);
        }
        Ok(())
    }
}
