//! Certificates: which Secrets to write next, with the time among what was seen.
//!
//! A new authority comes in by an overlap: all trust both (`Introducing`), then all certificates are reissued (`Reissuing`), then
//! the old one is dropped. The Secret of the authority holds how far that is: each step is one write of it, and is taken only
//! when the members themselves have shown that they are ready for it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::{Situation, Start, Store};
use crate::build;
use crate::crd::{TlsSpec, TlsStage};

/// What was seen of a cluster's certificates.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tls {
    /// Unix time.
    pub now: i64,
    /// The Secret of the authority.
    pub authority: Option<Authority>,
    /// Certificates from elsewhere, if `spec.tls` names any.
    pub source: Option<Source>,
    /// The Secrets with certificates.
    pub held: BTreeMap<Holder, Held>,
    /// The certificate that a member's client port shows, by the member's number: its fingerprint.
    pub served: BTreeMap<u32, String>,
    /// Members that accepted a client whose certificate comes from the next authority.
    pub trusting: BTreeSet<u32>,
}

/// Who has certificates of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// The operator, as a client.
    Operator,
    /// Applications.
    Client,
    /// A member.
    Member(u32),
}

/// Certificates from elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Source {
    /// What must happen before they can be used; there is nothing else then.
    pub lacks: Option<String>,
    /// Whom they come from, and whoever else is to be trusted.
    pub roots: Vec<Root>,
    /// In the order of [`SourceKind::ALL`].
    pub leaves: Vec<Leaf>,
}

/// Whom a certificate from elsewhere is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind {
    /// Members, towards clients.
    Server,
    /// Members, among each other.
    Peer,
    /// Clients.
    Client,
}

impl SourceKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Server, Self::Peer, Self::Client];

    /// In names of Secrets.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Peer => "peer",
            Self::Client => "client",
        }
    }
}

impl Source {
    /// One that cannot be used yet.
    pub fn lacking(what: String) -> Self {
        Self { lacks: Some(what), ..Default::default() }
    }

    /// The certificates for a holder.
    fn of(&self, holder: Holder) -> Vec<&Leaf> {
        build::sources_of(holder).into_iter().filter_map(|kind| self.leaves.get(kind as usize)).collect()
    }
}

/// Authorities, and how far a change is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Authority {
    /// The resourceVersion of its Secret.
    pub version: String,
    /// What `spec.tls.authority.generation` was when the newest was made.
    pub generation: i64,
    /// Whether the key of the current one is there.
    pub can_sign: bool,
    /// Whether the key of the next one is there.
    pub next_can_sign: bool,
    /// Certificates come from these.
    pub current: Vec<Root>,
    /// Certificates will come from these.
    pub next: Vec<Root>,
    /// Certificates came from these.
    pub old: Vec<Root>,
}

/// A trusted certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Root {
    /// The beginning of its SHA-256.
    pub fingerprint: String,
    /// Unix time.
    pub not_before: i64,
    /// Unix time.
    pub not_after: i64,
}

/// A Secret with certificates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// Its resourceVersion.
    pub version: String,
    /// Its certificates; for a member first the one that it shows to clients. Empty when the Secret cannot be read.
    pub leaves: Vec<Leaf>,
    /// Fingerprints of the authorities that its holder trusts.
    pub bundle: BTreeSet<String>,
    /// Unix time of the operator's last write of it.
    pub written: i64,
}

/// A certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leaf {
    /// The beginning of its SHA-256.
    pub fingerprint: String,
    /// Unix time.
    pub not_before: i64,
    /// Unix time.
    pub not_after: i64,
    /// Host names and addresses.
    pub names: BTreeSet<String>,
    /// Fingerprints of the authorities, among those known, that signed it.
    pub signed_by: BTreeSet<String>,
}

/// What is to be written, and what the next step waits for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TlsPlan {
    /// In this order.
    pub writes: Vec<Write>,
    /// How far the change of authority is, before the writes.
    pub stage: TlsStage,
    /// Unix time since when.
    pub since: i64,
    /// What must happen before the next step.
    pub waiting_for: Option<String>,
}

/// A write of one Secret. Each is refused by the API server when the Secret is another than was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// Make the Secret of the authority. Authorities that holders trust already are kept as the current ones.
    Found,
    /// Put a next authority beside the current one.
    Introduce,
    /// The next authority becomes the current one, which becomes an old one.
    Promote,
    /// Forget old authorities.
    Drop,
    /// New certificates, and the authorities as they are.
    Issue(Holder),
    /// The authorities as they are.
    Bundle(Holder),
    /// Delete what a former member left.
    Remove(Holder),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator => write!(f, "the operator"),
            Self::Client => write!(f, "clients"),
            Self::Member(ordinal) => write!(f, "member {ordinal}"),
        }
    }
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Found => write!(f, "make an authority"),
            Self::Introduce => write!(f, "introduce a new authority"),
            Self::Promote => write!(f, "issue from the new authority"),
            Self::Drop => write!(f, "drop the old authority"),
            Self::Issue(holder) => write!(f, "issue certificates for {holder}"),
            Self::Bundle(holder) => write!(f, "update the authorities of {holder}"),
            Self::Remove(holder) => write!(f, "delete the certificates of {holder}"),
        }
    }
}

impl Tls {
    /// The member accepts certificates of the next authority. One without a Secret, which cannot have started, will.
    pub fn trusts_next(&self, ordinal: u32) -> bool {
        let absent = !self.held.contains_key(&Holder::Member(ordinal)) && !self.served.contains_key(&ordinal);
        absent || self.trusting.contains(&ordinal)
    }
}

impl Authority {
    /// All that count.
    pub fn bundle(&self) -> BTreeSet<String> {
        let all = self.current.iter().chain(&self.next).chain(&self.old);
        all.map(|root| root.fingerprint.clone()).collect()
    }

    /// How far a change is.
    pub fn stage(&self) -> TlsStage {
        match (self.next.is_empty(), self.old.is_empty()) {
            (false, _) => TlsStage::Introducing,
            (true, false) => TlsStage::Reissuing,
            (true, true) => TlsStage::Stable,
        }
    }

    /// Whether the certificate comes from a current authority.
    pub fn signed(&self, leaf: &Leaf) -> bool {
        self.current.iter().any(|root| leaf.signed_by.contains(&root.fingerprint))
    }
}

impl Held {
    /// When the first of its certificates expires.
    pub fn expires(&self) -> i64 {
        self.leaves.iter().map(|leaf| leaf.not_after).min().unwrap_or(0)
    }

    /// The certificate that its holder shows to clients.
    pub fn shown(&self) -> Option<&str> {
        self.leaves.first().map(|leaf| leaf.fingerprint.as_str())
    }
}

impl Leaf {
    /// In seconds.
    pub fn lifetime(&self) -> i64 {
        self.not_after - self.not_before
    }

    /// Two thirds of its time are over.
    fn is_due(&self, now: i64) -> bool {
        now >= self.not_before + self.lifetime() / 3 * 2
    }

    /// Nearly all of its time is over: nothing else is waited for any more.
    fn is_urgent(&self, now: i64) -> bool {
        now >= self.not_after - self.lifetime() / 12
    }
}

/// Plans the writes for the holders of a cluster with these `members`; `None` without TLS.
pub(super) fn plan(situation: &Situation, members: &BTreeMap<u32, Start>) -> Option<TlsPlan> {
    let Some(spec) = &situation.cluster.spec.tls else {
        return leaving(situation);
    };
    let tls = &situation.observed.tls;
    let mut holders = vec![Holder::Operator, Holder::Client];
    holders.extend(members.keys().map(|ordinal| Holder::Member(*ordinal)));
    let lacks = tls.source.as_ref().and_then(|source| source.lacks.clone());
    if let (Some(lacks), None) = (&lacks, &tls.authority) {
        return Some(TlsPlan { waiting_for: Some(lacks.clone()), since: tls.now, ..Default::default() });
    }
    let Some(authority) = &tls.authority else {
        let mut writes = vec![Write::Found];
        if tls.held.is_empty() {
            writes.extend(holders.into_iter().map(Write::Issue));
        }
        return Some(TlsPlan { writes, since: tls.now, ..Default::default() });
    };
    let stage = authority.stage();
    let recorded = situation.recorded.tls.as_ref().filter(|recorded| recorded.stage == stage);
    let since = recorded.map_or(tls.now, |recorded| recorded.since.0.as_second());
    let view = View { situation, spec, tls, authority, holders };
    let (mut writes, mut waiting_for) = view.secrets();
    if writes.is_empty() && waiting_for.is_none() {
        match view.change(stage) {
            Ok(write) => writes.extend(write),
            Err(waits) => waiting_for = Some(waits),
        }
    }
    let waiting_for = lacks.or(waiting_for);
    Some(TlsPlan { writes, stage, since, waiting_for })
}

/// TLS is being turned off: what is shown until then is made anew before it expires, as it is. Nothing else changes any more.
fn leaving(situation: &Situation) -> Option<TlsPlan> {
    let tls = &situation.observed.tls;
    let (authority, spec) = (tls.authority.as_ref()?, TlsSpec::default());
    let view = View { situation, spec: &spec, tls, authority, holders: tls.held.keys().copied().collect() };
    let (mut writes, waiting_for) = view.secrets();
    writes.retain(|write| matches!(write, Write::Issue(_)));
    let is_any = !writes.is_empty() || waiting_for.is_some();
    is_any.then(|| TlsPlan { writes, stage: authority.stage(), since: tls.now, waiting_for })
}

struct View<'a> {
    situation: &'a Situation<'a>,
    spec: &'a TlsSpec,
    tls: &'a Tls,
    authority: &'a Authority,
    holders: Vec<Holder>,
}

impl View<'_> {
    /// What the holders' Secrets lack. Authorities are written to all at once, which breaks nothing; certificates that members
    /// show already are replaced one member at a time.
    fn secrets(&self) -> (Vec<Write>, Option<String>) {
        let bundle = self.authority.bundle();
        let mut writes = Vec::new();
        let mut waiting_for = None;
        let mut due = Vec::new();
        for holder in &self.holders {
            match self.tls.held.get(holder) {
                None if self.can_issue(*holder) => writes.push(Write::Issue(*holder)),
                // The key of the authority is lost, or the certificate comes from the next one: it waits for that.
                None => {}
                Some(held) if self.can_issue(*holder) && self.is_outdated(*holder, held) => match holder {
                    Holder::Member(ordinal) if !held.leaves.is_empty() => due.push((*ordinal, held)),
                    _ => writes.push(Write::Issue(*holder)),
                },
                Some(held) if held.bundle != bundle => writes.push(Write::Bundle(*holder)),
                Some(_) => {}
            }
        }
        self.replace_one(&due, &mut writes, &mut waiting_for);
        // A member that waits for its turn learns of authorities all the same.
        for (ordinal, held) in due {
            let holder = Holder::Member(ordinal);
            if held.bundle != bundle && !writes.contains(&Write::Issue(holder)) {
                writes.push(Write::Bundle(holder));
            }
        }
        writes.extend(self.left_over());
        (writes, waiting_for)
    }

    fn replace_one(&self, due: &[(u32, &Held)], writes: &mut Vec<Write>, waiting_for: &mut Option<String>) {
        let urgent = |held: &Held| held.leaves.iter().any(|leaf| leaf.is_urgent(self.tls.now));
        let urgent: Vec<u32> = due.iter().filter(|(_, held)| urgent(held)).map(|(ordinal, _)| *ordinal).collect();
        if !urgent.is_empty() {
            writes.extend(urgent.into_iter().map(|ordinal| Write::Issue(Holder::Member(ordinal))));
            return;
        }
        let Some((ordinal, _)) = due.first() else {
            return;
        };
        // One that does not answer may not do so because of its new certificate.
        match self.all("to show the certificate of its Secret", |ordinal| self.shows_its_own(ordinal)) {
            Err(waits) => *waiting_for = Some(waits),
            Ok(()) => writes.push(Write::Issue(Holder::Member(*ordinal))),
        }
    }

    /// The member answers, and shows the certificate that its Secret holds.
    fn shows_its_own(&self, ordinal: u32) -> bool {
        let held = self.tls.held.get(&Holder::Member(ordinal)).and_then(Held::shown);
        held.is_some() && held == self.tls.served.get(&ordinal).map(String::as_str)
    }

    /// Whether there is a certificate of a current authority to be had.
    fn can_issue(&self, holder: Holder) -> bool {
        let Some(source) = &self.tls.source else {
            return self.authority.can_sign;
        };
        let usable = |leaf: &&Leaf| self.authority.signed(leaf) && self.tls.now < leaf.not_after;
        source.lacks.is_none() && source.of(holder).iter().all(usable)
    }

    /// Whether the certificates are not those that would be made now: due, from another authority, or for other names or times.
    fn is_outdated(&self, holder: Holder, held: &Held) -> bool {
        if let Some(source) = &self.tls.source {
            let wanted = source.of(holder).into_iter().map(|leaf| &leaf.fingerprint);
            return !wanted.eq(held.leaves.iter().map(|leaf| &leaf.fingerprint));
        }
        if self.situation.cluster.spec.tls.is_none() {
            return held.leaves.iter().any(|leaf| leaf.is_due(self.tls.now));
        }
        let wanted = build::requests(self.situation.cluster, holder);
        if wanted.len() != held.leaves.len() {
            return true;
        }
        wanted.iter().zip(&held.leaves).any(|(wanted, leaf)| {
            let names: BTreeSet<String> = wanted.names.iter().cloned().collect();
            let ends = self.authority.current.iter().map(|root| root.not_after).max().unwrap_or(0);
            let lifetime = wanted.seconds.min(ends - leaf.not_before);
            !self.authority.signed(leaf)
                || leaf.is_due(self.tls.now)
                || leaf.names != names
                || leaf.lifetime() != lifetime
        })
    }

    /// Secrets of former members of which nothing else is left.
    fn left_over(&self) -> Vec<Write> {
        let observed = self.situation.observed;
        let Store::Listed { .. } = observed.store else {
            return Vec::new();
        };
        let gone = |holder: &&Holder| match holder {
            Holder::Member(ordinal) => {
                !self.holders.contains(holder)
                    && observed.store.by_ordinal(*ordinal).is_none()
                    && !observed.statefulsets.contains_key(ordinal)
                    && !observed.pods.contains_key(ordinal)
            }
            _ => false,
        };
        self.tls.held.keys().filter(gone).map(|holder| Write::Remove(*holder)).collect()
    }

    /// The next step of a change of authority, or what it waits for. All Secrets are as they should be at this stage.
    fn change(&self, stage: TlsStage) -> Result<Option<Write>, String> {
        match stage {
            TlsStage::Stable => Ok(self.wants_another().then_some(Write::Introduce)),
            TlsStage::Introducing if !self.wants_the_next() => Ok(Some(Write::Introduce)),
            TlsStage::Introducing => {
                self.all("to trust the new authority", |ordinal| self.tls.trusts_next(ordinal))?;
                self.clients_had_time()?;
                Ok(Some(Write::Promote))
            }
            TlsStage::Reissuing if self.unknown_root() || self.lost_its_key() => Ok(Some(Write::Introduce)),
            TlsStage::Reissuing => {
                let stale = |(_, held): &(&Holder, &Held)| !held.leaves.iter().all(|leaf| self.authority.signed(leaf));
                if let Some((holder, _)) = self.tls.held.iter().find(stale) {
                    return Err(format!("a certificate of the new authority for {holder}"));
                }
                let what = "to show a certificate of the new authority";
                self.all(what, |ordinal| self.shows_its_own(ordinal))?;
                self.clients_had_time()?;
                Ok(Some(Write::Drop))
            }
        }
    }

    /// The source has an authority that neither counts nor is about to.
    fn unknown_root(&self) -> bool {
        let mut roots = self.tls.source.iter().flat_map(|source| &source.roots);
        roots.any(|root| !self.authority.current.contains(root) && !self.authority.next.contains(root))
    }

    /// The operator is to issue certificates and cannot: until now they came from elsewhere, or the key was deleted.
    fn lost_its_key(&self) -> bool {
        self.tls.source.is_none() && !self.authority.can_sign
    }

    /// The next authority still is the one to come: where certificates come from may have changed meanwhile.
    fn wants_the_next(&self) -> bool {
        match &self.tls.source {
            None => self.authority.next_can_sign,
            Some(source) if source.lacks.is_some() => true,
            Some(source) => !self.unknown_root() && self.authority.next.iter().all(|next| source.roots.contains(next)),
        }
    }

    /// Four fifths of the authority's time are over, its key is not there, or a person wants another one; or the source has one.
    fn wants_another(&self) -> bool {
        if let Some(source) = &self.tls.source {
            let fewer = self.authority.current.iter().any(|root| !source.roots.contains(root));
            return source.lacks.is_none() && (self.unknown_root() || fewer);
        }
        if self.lost_its_key() {
            return true;
        }
        let over = |root: &Root| self.tls.now >= root.not_before + (root.not_after - root.not_before) / 5 * 4;
        self.spec.authority.generation > self.authority.generation || self.authority.current.iter().any(over)
    }

    /// Every listed member, even one that does not answer now: it will come back with what it has.
    fn all(&self, what: &str, is_ready: impl Fn(u32) -> bool) -> Result<(), String> {
        let Store::Listed { members, .. } = &self.situation.observed.store else {
            return Err("a quorum of members to answer".into());
        };
        let missing = members.iter().find(|member| !member.ordinal.is_some_and(&is_ready));
        match missing {
            Some(member) => {
                let name = member.ordinal.map(|ordinal| self.situation.names.member(ordinal));
                Err(format!("{} {what}", name.unwrap_or_else(|| super::hex(member.id))))
            }
            None => Ok(()),
        }
    }

    /// Counted from the write that applications have to follow.
    fn clients_had_time(&self) -> Result<(), String> {
        let written = self.tls.held.get(&Holder::Client).map_or(self.tls.now, |held| held.written);
        match self.tls.now >= written + self.spec.overlap_seconds() {
            true => Ok(()),
            false => Err(format!("clients to read their Secret again, within {}", self.spec.overlap)),
        }
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
