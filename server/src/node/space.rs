//! Each member looks after its disks: before one is full it raises the alarm that stops what takes space, while there is room
//! for deletions, compaction, flushes and the log. A disk that is full ends the member.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Inner;
use crate::mvcc::View;
use crate::proto::command::Command;
use crate::proto::command::command::Op;
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::etcdserverpb::{AlarmMember, AlarmRequest, AlarmType};

/// Between two looks. Even a fast disk does not write what is kept free in this time.
const INTERVAL: Duration = Duration::from_millis(500);
/// Room for what is not flushed, for segments of the log, and some for compactions.
const KEPT_FREE_BYTES: u64 = 256 << 20;
/// Of a small file system this part, at most, is kept free.
const KEPT_FREE_PART: u64 = 4;

/// Looks until the member stops.
pub async fn watch(inner: Arc<Inner>) {
    let mut dirs = vec![inner.config.data_dir.clone()];
    dirs.extend(inner.config.wal_dir.clone());
    loop {
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = inner.stop.cancelled() => return,
        }
        if let Some(dir) = dirs.iter().find(|dir| is_short(dir))
            && !inner.has_alarm()
        {
            inner.raise_nospace(dir).await;
        }
    }
}

fn is_short(dir: &Path) -> bool {
    match space(dir) {
        Ok((free, total)) => free < KEPT_FREE_BYTES.min(total / KEPT_FREE_PART),
        // Whoever writes there will meet it, too.
        Err(error) => {
            tracing::warn!(dir = %dir.display(), %error, "it is not known how much room there is");
            false
        }
    }
}

/// Bytes that may be written, and all.
fn space(dir: &Path) -> io::Result<(u64, u64)> {
    let found = rustix::fs::statvfs(dir)?;
    Ok((found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize))
}

impl Inner {
    fn nospace(&self) -> AlarmMember {
        AlarmMember { member_id: self.member_id, alarm: AlarmType::Nospace.into() }
    }

    fn has_alarm(&self) -> bool {
        self.shared.store.view().alarms().is_ok_and(|raised| raised.contains(&self.nospace()))
    }

    async fn raise_nospace(self: &Arc<Self>, dir: &Path) {
        tracing::warn!(dir = %dir.display(), "the disk is almost full, raising the alarm");
        let AlarmMember { member_id, alarm } = self.nospace();
        let op = Op::Alarm(AlarmRequest { action: AlarmAction::Activate.into(), member_id, alarm });
        if let Err(error) = self.propose(Command { op: Some(op), ..Default::default() }).await {
            tracing::warn!(%error, "the alarm could not be raised");
        }
    }
}
