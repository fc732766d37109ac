//! The election on a thread of its own, with a connection of its own: whatever the passes do, renewals are in time.

use std::thread;

use tokio::sync::{oneshot, watch};

use super::Lock;

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Another leads, or nobody.
    StandingBy,
    /// This operator leads.
    Leading,
}

/// A part in the election of the leader.
pub struct Election {
    /// Closed when it is over.
    stage: watch::Receiver<Stage>,
    /// Its end is asked for by dropping this.
    wanted: oneshot::Sender<()>,
}

impl Election {
    /// Stands for election by the lock that `open` gives; that is called on the election's thread.
    pub fn begin<E>(open: impl FnOnce() -> Result<Lock, E> + Send + 'static) -> std::io::Result<Self>
    where
        E: std::fmt::Display,
    {
        let (stage_in, stage) = watch::channel(Stage::StandingBy);
        let (wanted, unwanted) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let whole = move || {
            runtime.block_on(async {
                match open() {
                    Ok(lock) => take_part(&lock, stage_in, unwanted).await,
                    Err(error) => tracing::error!(%error, "cannot take part in the election"),
                }
            });
        };
        thread::Builder::new().name("election".into()).spawn(whole)?;
        Ok(Self { stage, wanted })
    }

    /// Waits until this operator leads; false when it never will.
    pub async fn leads(&mut self) -> bool {
        self.stage.wait_for(|stage| *stage == Stage::Leading).await.is_ok()
    }

    /// Waits until this operator does not lead any more. The caller must stop working then.
    pub async fn lost(&mut self) {
        while self.stage.changed().await.is_ok() {}
    }

    /// Lets a stand-by take over at once.
    pub async fn resign(self) {
        let Self { mut stage, wanted } = self;
        drop(wanted);
        while stage.changed().await.is_ok() {}
    }
}

async fn take_part(lock: &Lock, stage: watch::Sender<Stage>, unwanted: oneshot::Receiver<()>) {
    let lead = async {
        let acquired = lock.acquire().await;
        let _ = stage.send(Stage::Leading);
        lock.hold(acquired).await;
    };
    tokio::select! {
        () = lead => {}
        _ = unwanted => lock.release().await,
    }
}
