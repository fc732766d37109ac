//! The Secrets of a cluster's certificates, out of the watched cache.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::runtime::reflector::Store as Cache;
use kube::{Client, ResourceExt};

use super::owned;
use super::source::{self, Given};
use crate::build;
use crate::crd::{EtcdCluster, Transport};
use crate::member::Credentials;
use crate::names::{Names, WRITTEN};
use crate::pki::{self, Pair};
use crate::plan::tls::{Authority, Held, Holder, SourceKind, Tls};

/// Keys of the authority's Secret.
pub const CURRENT: [&str; 2] = ["ca.crt", "ca.key"];
/// See [`CURRENT`].
pub const NEXT: [&str; 2] = ["next.crt", "next.key"];
/// See [`CURRENT`]; keys of old authorities are not kept.
pub const OLD: &str = "old.crt";
/// What `spec.tls.authority.generation` was.
pub const GENERATION: &str = "generation";

/// How the operator talks to members, and what it has to hand out.
#[derive(Default)]
pub struct Identities {
    /// Certificates from elsewhere.
    pub given: Option<Given>,
    /// With its certificate.
    pub current: Option<Credentials>,
    /// With a certificate of the next authority, to see who trusts that.
    pub next: Option<Credentials>,
}

/// A value of a Secret; empty when it is not there.
pub fn value<'a>(secret: &'a Secret, key: &str) -> &'a [u8] {
    let data = secret.data.as_ref();
    data.and_then(|data| data.get(key)).map(|value| value.0.as_slice()).unwrap_or_default()
}

/// A PEM value.
pub fn pem<'a>(secret: &'a Secret, key: &str) -> &'a str {
    std::str::from_utf8(value(secret, key)).unwrap_or_default()
}

/// The cluster's Secret of this name, as the cache has it.
pub fn secret(cache: &Cache<Secret>, names: &Names, name: &str) -> Option<Arc<Secret>> {
    cache.find(|secret| {
        secret.name_any() == name
            && secret.namespace().as_deref() == Some(names.namespace.as_str())
            && owned(secret, names)
    })
}

/// All certificates that count as authorities, by the authority's Secret: current, next and old.
pub fn bundle(authority: &Secret) -> String {
    [CURRENT[0], NEXT[0], OLD].map(|key| pem(authority, key)).concat()
}

/// What the Secrets hold at this time (Unix), and what to talk to members with; nothing without `spec.tls`, once it
/// is turned off everywhere.
pub async fn certificates(
    client: &Client,
    cache: &Cache<Secret>,
    cluster: &EtcdCluster,
    names: &Names,
    now: i64,
) -> (Tls, Identities) {
    let mut tls = Tls { now, ..Default::default() };
    let operator = secret(cache, names, &names.operator_secret());
    let settled = cluster.status.as_ref().and_then(|status| status.template.as_ref());
    let is_leaving = settled.is_some_and(|template| template.transport != Transport::Plain);
    if cluster.spec.tls.is_none() && !is_leaving {
        // Members may still speak it.
        let current = operator.and_then(|operator| identities(&operator, None, "").current);
        return (tls, Identities { current, ..Default::default() });
    }
    let authority = secret(cache, names, &names.authority_secret());
    let bundle = authority.as_deref().map(bundle).unwrap_or_default();
    tls.authority = authority.as_deref().map(authority_view);
    let source = source::read(client, cluster, names, &bundle).await;
    let (source, given) = source.map_or((None, None), |(source, given)| (Some(source), given));
    tls.source = source;
    let prefix = format!("{}-", names.cluster);
    for found in cache.state() {
        let name = found.name_any();
        if found.namespace().as_deref() != Some(names.namespace.as_str())
            || !name.starts_with(&prefix)
            || !owned(found.as_ref(), names)
        {
            continue;
        }
        if let Some(holder) = holder_of(names, &name) {
            tls.held.insert(holder, held_view(&found, holder, &bundle));
        }
    }
    let next = match (&given, authority.as_deref()) {
        (Some(given), _) => next_given(&tls, given),
        (None, Some(authority)) if tls.source.is_none() => next_identity(cluster, authority, now),
        _ => None,
    };
    let mut identities = operator.map(|it| identities(&it, next.as_ref(), &bundle)).unwrap_or_default();
    identities.given = given;
    (tls, identities)
}

fn holder_of(names: &Names, secret: &str) -> Option<Holder> {
    if secret == names.operator_secret() {
        return Some(Holder::Operator);
    }
    if secret == names.client_secret() {
        return Some(Holder::Client);
    }
    let member = secret.strip_suffix("-tls")?;
    let ordinal = names.ordinal_of(member)?;
    (names.member_secret(ordinal) == secret).then_some(Holder::Member(ordinal))
}

fn authority_view(secret: &Secret) -> Authority {
    let roots = |key| pki::authorities(value(secret, key)).unwrap_or_default();
    Authority {
        version: secret.resource_version().unwrap_or_default(),
        generation: pem(secret, GENERATION).parse().unwrap_or(1),
        can_sign: !value(secret, CURRENT[1]).is_empty(),
        next_can_sign: !value(secret, NEXT[1]).is_empty(),
        current: roots(CURRENT[0]),
        next: roots(NEXT[0]),
        old: roots(OLD),
    }
}

fn held_view(secret: &Secret, holder: Holder, bundle: &str) -> Held {
    let leaf = |[certificate, _]: [&str; 2]| pki::read_leaf(value(secret, certificate), bundle.as_bytes()).ok();
    let leaves: Option<Vec<_>> = build::keys(holder).into_iter().map(leaf).collect();
    let trusted = pki::authorities(value(secret, build::BUNDLE)).unwrap_or_default();
    Held {
        version: secret.resource_version().unwrap_or_default(),
        leaves: leaves.unwrap_or_default(),
        bundle: trusted.into_iter().map(|root| root.fingerprint).collect(),
        written: secret.annotations().get(WRITTEN).and_then(|written| written.parse().ok()).unwrap_or(0),
    }
}

fn identities(operator: &Secret, next: Option<&Pair>, bundle: &str) -> Identities {
    let roots = format!("{bundle}{}", pem(operator, build::BUNDLE));
    let [certificate, key] = build::keys(Holder::Operator)[0];
    let own = Pair { certificate: pem(operator, certificate).into(), key: pem(operator, key).into() };
    let credentials = |pair: &Pair| match Credentials::new(&roots, &pair.certificate, &pair.key) {
        Ok(credentials) => Some(credentials),
        Err(error) => {
            tracing::warn!(%error, "the operator's certificate cannot be used");
            None
        }
    };
    Identities { current: credentials(&own), next: next.and_then(credentials), given: None }
}

/// The client's certificate from elsewhere, if it comes from the next authority.
fn next_given(tls: &Tls, given: &Given) -> Option<Pair> {
    let leaf = tls.source.as_ref()?.leaves.get(SourceKind::Client as usize)?;
    let mut next = tls.authority.as_ref()?.next.iter();
    next.any(|next| leaf.signed_by.contains(&next.fingerprint)).then(|| given.pair(SourceKind::Client))
}

/// A certificate for one look.
fn next_identity(cluster: &EtcdCluster, authority: &Secret, now: i64) -> Option<Pair> {
    let pair = Pair { certificate: pem(authority, NEXT[0]).into(), key: pem(authority, NEXT[1]).into() };
    if pair.key.is_empty() {
        return None;
    }
    let ends = pki::authorities(pair.certificate.as_bytes()).ok()?.first()?.not_after;
    let request = build::requests(cluster, Holder::Operator).into_iter().next()?;
    pki::leaf(&pair, ends, &pki::Request { seconds: 600, ..request }, now).ok()
}
