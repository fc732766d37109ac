//! etcd's key space, as small as it can be: what one request does to one state. No leases but as a key's attribute, no
//! history, no clock.

use std::collections::BTreeMap;

use crate::history::{Compare, Comparison, KeyValue, Request, Response, Span, Target};

/// What a request did to one key; neither is the key's if it was deleted, or created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub key: String,
    pub before: Option<KeyValue>,
    pub now: Option<KeyValue>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Store {
    keys: BTreeMap<String, KeyValue>,
}

impl Store {
    /// Executes the request; what it writes is of `revision`, which is used up if, and only if, there are changes.
    pub fn execute(&mut self, request: &Request, revision: i64) -> (Response, Vec<Change>) {
        let mut changes = Vec::new();
        let response = self.run(request, revision, &mut changes);
        (response, changes)
    }

    /// Takes back what `execute` did last.
    pub fn undo(&mut self, changes: &[Change]) {
        for change in changes.iter().rev() {
            self.set(&change.key, change.before.clone());
        }
    }

    pub fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            self.set(&change.key, change.now.clone());
        }
    }

    /// What a range in this state answers.
    pub fn range(&self, span: &Span, limit: i64) -> Response {
        let all: Vec<_> = self.within(span).cloned().collect();
        let count = all.len() as i64;
        let shown = if limit > 0 { count.min(limit) } else { count };
        let kvs = all.into_iter().take(shown as usize).collect();
        Response::Range { kvs, count, more: shown < count }
    }

    pub fn attached(&self, lease: i64) -> Vec<&KeyValue> {
        self.keys.values().filter(|kv| kv.lease == lease).collect()
    }

    fn run(&mut self, request: &Request, revision: i64, changes: &mut Vec<Change>) -> Response {
        match request {
            Request::Put { key, value, lease, prev_kv } => {
                let before = self.keys.get(key).cloned();
                let now = KeyValue {
                    key: key.clone(),
                    value: value.clone(),
                    create_revision: before.as_ref().map_or(revision, |kv| kv.create_revision),
                    mod_revision: revision,
                    version: before.as_ref().map_or(0, |kv| kv.version) + 1,
                    lease: *lease,
                };
                let prev = before.clone().filter(|_| *prev_kv);
                self.change(Change { key: key.clone(), before, now: Some(now) }, changes);
                Response::Put { prev }
            }
            Request::Delete { span, prev_kv } => {
                let gone: Vec<_> = self.within(span).cloned().collect();
                self.delete(&gone, changes);
                Response::Delete { deleted: gone.len() as i64, prev: if *prev_kv { gone } else { Vec::new() } }
            }
            Request::Range { span, limit, .. } => self.range(span, *limit),
            Request::Txn { compares, then, otherwise } => {
                let succeeded = compares.iter().all(|compare| self.holds(compare));
                let branch = if succeeded { then } else { otherwise };
                let responses = branch.iter().map(|request| self.run(request, revision, changes)).collect();
                Response::Txn { succeeded, responses }
            }
            Request::LeaseGrant { .. } => Response::LeaseGrant,
            Request::LeaseRevoke { lease } => {
                let gone: Vec<_> = self.attached(*lease).into_iter().cloned().collect();
                self.delete(&gone, changes);
                Response::LeaseRevoke
            }
            Request::LeaseKeepAlive { .. } => Response::LeaseKeepAlive,
            Request::Compact { .. } => Response::Compact,
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let kv = self.keys.get(&compare.key);
        let number = |of: fn(&KeyValue) -> i64| kv.map_or(0, of);
        let ordering = match &compare.target {
            Target::Value(value) => match kv {
                Some(kv) => kv.value.cmp(value),
                None => return false,
            },
            Target::Version(wanted) => number(|kv| kv.version).cmp(wanted),
            Target::CreateRevision(wanted) => number(|kv| kv.create_revision).cmp(wanted),
            Target::ModRevision(wanted) => number(|kv| kv.mod_revision).cmp(wanted),
        };
        match compare.comparison {
            Comparison::Equal => ordering.is_eq(),
            Comparison::NotEqual => ordering.is_ne(),
            Comparison::Greater => ordering.is_gt(),
            Comparison::Less => ordering.is_lt(),
        }
    }

    fn within(&self, span: &Span) -> impl Iterator<Item = &KeyValue> {
        self.keys.range(span.start.clone()..).map(|(_, kv)| kv).filter(|kv| span.contains(&kv.key))
    }

    fn delete(&mut self, gone: &[KeyValue], changes: &mut Vec<Change>) {
        for kv in gone {
            self.change(Change { key: kv.key.clone(), before: Some(kv.clone()), now: None }, changes);
        }
    }

    fn change(&mut self, change: Change, changes: &mut Vec<Change>) {
        self.set(&change.key, change.now.clone());
        changes.push(change);
    }

    fn set(&mut self, key: &str, kv: Option<KeyValue>) {
        match kv {
            Some(kv) => drop(self.keys.insert(key.to_owned(), kv)),
            None => drop(self.keys.remove(key)),
        }
    }
}
