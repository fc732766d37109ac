//! PURE: what an EtcdUser or an EtcdRole needs next.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;

use super::declared::{Declared, Entry, Request};
use crate::crd::{AccessPhase, AccessStatus, RetentionPolicy};
use crate::names::ACCESS_FINALIZER;
use crate::status::dated;

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// What the store has, or why that is not known.
    pub store: Store,
    /// An older resource that declares the same.
    pub twin: Option<String>,
    /// The password that the user is to have.
    pub password: Password,
}

/// The store of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Store {
    /// The EtcdCluster is not there, or is going away.
    Gone,
    /// It cannot be asked: what must happen first.
    Silent(String),
    /// It has this.
    Has(Option<Entry>),
}

/// A password, without the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Password {
    /// None is asked for.
    None,
    /// It is not known: what must happen first.
    Lacking(String),
    /// The Secret has one.
    Known {
        /// The Secret's uid and version.
        version: String,
        /// Whether the user has that password, as far as the store told.
        right: bool,
    },
}

/// What is done, and reported after that.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Changes of the store, in this order.
    pub requests: Vec<Request>,
    /// Whether the finalizer is put on or taken off, if it is changed.
    pub finalizer: Option<bool>,
    /// What is stored once all of it is done.
    pub status: AccessStatus,
}

/// Plans one pass.
pub fn plan(declared: &impl Declared, seen: &Seen, now: Timestamp) -> Plan {
    let mut plan = Plan { requests: Vec::new(), finalizer: None, status: recorded(declared) };
    plan.status.observed_generation = declared.meta().generation;
    let (phase, reason) = match declared.meta().deletion_timestamp.is_some() {
        true => leave(declared, seen, &mut plan),
        false => keep(declared, seen, &mut plan),
    };
    report(declared, &mut plan.status, phase, reason, now);
    plan
}

/// The status after a pass in which something went wrong.
pub fn failed(declared: &impl Declared, why: String, now: Timestamp) -> AccessStatus {
    let mut status = recorded(declared);
    status.observed_generation = declared.meta().generation;
    let deleting = declared.meta().deletion_timestamp.is_some();
    let phase = if deleting { AccessPhase::Deleting } else { AccessPhase::Pending };
    report(declared, &mut status, phase, why, now);
    status
}

fn recorded(declared: &impl Declared) -> AccessStatus {
    declared.status().cloned().unwrap_or_default()
}

fn keep(declared: &impl Declared, seen: &Seen, plan: &mut Plan) -> (AccessPhase, String) {
    let name = declared.entry_name();
    if name == "root" {
        return (AccessPhase::Blocked, "root is the operator's".into());
    }
    if let Some(twin) = &seen.twin {
        return (AccessPhase::Blocked, format!("{twin} declares {} {name} of the same cluster", word(declared)));
    }
    let wanted = declared.deletion_policy() == RetentionPolicy::Delete;
    if is_held(declared) != wanted {
        plan.finalizer = Some(wanted);
    }
    let entry = match &seen.store {
        Store::Gone => {
            return (AccessPhase::Pending, format!("waiting for EtcdCluster {} to be there", declared.cluster()));
        }
        Store::Silent(what) => return (AccessPhase::Pending, format!("waiting for {what}")),
        Store::Has(entry) => entry.as_ref(),
    };
    if let Password::Lacking(what) = &seen.password {
        return (AccessPhase::Pending, format!("waiting for {what}"));
    }
    plan.requests = requests(declared, entry, &seen.password);
    plan.status.name = Some(name);
    plan.status.password_version = match &seen.password {
        Password::Known { version, .. } => Some(version.clone()),
        _ => None,
    };
    (AccessPhase::Ready, "the store has it as it is declared here".into())
}

fn requests<D: Declared>(declared: &D, entry: Option<&Entry>, password: &Password) -> Vec<Request> {
    let mut requests = Vec::new();
    let recorded = declared.status().and_then(|status| status.password_version.as_ref());
    match (entry, password) {
        (None, _) => requests.push(D::ADD),
        (Some(_), Password::Known { version, right }) if Some(version) != recorded && !right => {
            requests.push(Request::ChangePassword);
        }
        _ => {}
    }
    requests.extend(declared.differences(entry));
    requests
}

/// The resource is being deleted.
fn leave<D: Declared>(declared: &D, seen: &Seen, plan: &mut Plan) -> (AccessPhase, String) {
    let deleting = |what: &str| (AccessPhase::Deleting, what.to_string());
    if !is_held(declared) {
        return deleting("somebody else still holds it");
    }
    // What was never written, or is somebody else's, is left alone.
    let ours = declared.status().is_some_and(|status| status.name.is_some()) && seen.twin.is_none();
    if declared.deletion_policy() == RetentionPolicy::Delete && ours {
        match &seen.store {
            Store::Silent(what) => return deleting(&format!("waiting for {what}")),
            Store::Has(Some(_)) => plan.requests.push(D::DELETE),
            Store::Has(None) | Store::Gone => {}
        }
    }
    plan.finalizer = Some(false);
    deleting("it is deleted from the store")
}

fn is_held(declared: &impl Declared) -> bool {
    declared.finalizers().iter().any(|finalizer| finalizer == ACCESS_FINALIZER)
}

fn word<D: Declared>(_: &D) -> &'static str {
    D::WORD
}

fn report(declared: &impl Declared, status: &mut AccessStatus, phase: AccessPhase, reason: String, now: Timestamp) {
    status.phase = phase;
    status.reason = reason;
    status.conditions = conditions(declared, status, now);
}

fn conditions(declared: &impl Declared, status: &AccessStatus, now: Timestamp) -> Vec<Condition> {
    let is = |phase| status.phase == phase;
    let list = [
        ("Ready", is(AccessPhase::Ready), status.reason.as_str()),
        ("Reconciling", is(AccessPhase::Pending) || is(AccessPhase::Deleting), status.reason.as_str()),
        ("Stalled", is(AccessPhase::Blocked), status.reason.as_str()),
    ];
    let before = declared.status().map_or(&[][..], |status| &status.conditions);
    dated(before, &list, &format!("{:?}", status.phase), declared.meta().generation, now)
}

#[cfg(test)]
mod tests;
