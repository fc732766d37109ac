//! Our state machine, observed.

use std::io;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use keelson_server::mvcc::View;
use keelson_server::raft::state_machine::{Flusher, Shared, Snapshot, SnapshotFiles, SnapshotMeta, StateMachine};
use keelson_server::raft::types::{LogId, StoredMembers, TypeConfig};
use openraft::OptionalSend;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};

use crate::event::{Event, Id};
use crate::member::Life;
use crate::os;
use crate::world::World;

/// Tells what is applied.
pub struct Machine {
    pub inner: StateMachine,
    pub shared: Arc<Shared>,
    pub life: Arc<Life>,
    pub world: Arc<World>,
}

impl Machine {
    fn stands(&self) {
        let (index, revision) = (self.shared.state().index(), self.shared.store.view().revision());
        self.world
            .see(&self.life, &Event::Stands { member: self.life.member, life: self.life.number, index, revision });
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotFiles;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembers)> {
        self.inner.applied_state().await
    }

    async fn apply<S>(&mut self, entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let (world, life) = (self.world.clone(), self.life.clone());
        let observed = entries.inspect(move |item| {
            if let Ok((entry, _)) = item {
                world.see(&life, &Event::Applies { member: life.member, entry: Id::from(entry) });
            }
        });
        self.inner.apply(observed).await?;
        self.stands();
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder(self.inner.get_snapshot_builder().await)
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFiles) -> io::Result<()> {
        os::at_once(self.inner.install_snapshot(meta, snapshot))?;
        self.stands();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        os::at_once(self.inner.get_current_snapshot())
    }
}

/// What flushes.
pub struct Builder(Flusher);

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotFiles;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        os::at_once(self.0.build_snapshot())
    }
}
