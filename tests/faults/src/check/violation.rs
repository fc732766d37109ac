//! A broken promise, and who saw it.

use std::fmt::{Display, Formatter, Result};

use crate::history::{History, OperationId, WatchId};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Property {
    /// Operations take effect in the order of revisions, with the answers that this order gives.
    Order,
    /// An operation that begins after another has ended comes after it.
    RealTime,
    /// A serializable read is a state that was.
    Serializable,
    /// A member does not go back.
    Member,
    Compaction,
    Lease,
    WatchOrdered,
    WatchUnique,
    WatchAtomic,
    WatchReliable,
    WatchBookmark,
    WatchPrevious,
    /// All members have the same data in the end.
    Hash,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Violation {
    pub property: Property,
    pub message: String,
    pub operations: Vec<OperationId>,
    pub watches: Vec<WatchId>,
}

impl Violation {
    pub fn new(property: Property, message: String) -> Self {
        Self { property, message, operations: Vec::new(), watches: Vec::new() }
    }

    pub fn operations(mut self, ids: impl IntoIterator<Item = OperationId>) -> Self {
        self.operations.extend(ids);
        self
    }

    pub fn watch(mut self, id: WatchId) -> Self {
        self.watches.push(id);
        self
    }

    /// With the operations and watches that it is about.
    pub fn with<'a>(&'a self, history: &'a History) -> impl Display + 'a {
        Told { violation: self, history }
    }
}

struct Told<'a> {
    violation: &'a Violation,
    history: &'a History,
}

impl Display for Told<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Violation { property, message, operations, watches } = self.violation;
        writeln!(f, "{property:?}: {message}")?;
        for id in operations {
            writeln!(f, "  #{id} {}", self.history.operations[*id])?;
        }
        for id in watches {
            writeln!(f, "  watch #{id} {}", self.history.watches[*id])?;
        }
        Ok(())
    }
}
