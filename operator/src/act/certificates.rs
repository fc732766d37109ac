//! Secrets with authorities and certificates. Each write names the version of the Secret that the plan was made from, so that a
//! plan made from an old view changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::json;

use super::{Actor, Error, kube_error};
use crate::build;
use crate::names::{APPLIED_HASH, CLUSTER_LABEL, FIELD_MANAGER, WRITTEN};
use crate::observe::certificates::{CURRENT, GENERATION, NEXT, OLD, bundle, pem, secret, value};
use crate::observe::owned;
use crate::observe::source::Given;
use crate::pki::{self, Pair};
use crate::plan::tls::{Holder, TlsPlan, Write};

impl Actor<'_> {
    /// Does what the plan says of certificates, in its order.
    pub(super) async fn write_certificates(&self, plan: &TlsPlan) -> Result<(), Error> {
        let mut authority = self.cached(&self.names.authority_secret());
        for write in &plan.writes {
            tracing::info!("{write}");
            match write {
                Write::Found => authority = Some(self.found().await?),
                Write::Introduce | Write::Promote | Write::Drop => {
                    let seen = self.authority_as_seen(authority.as_ref())?;
                    authority = Some(self.change(seen, *write).await?);
                }
                Write::Issue(holder) => {
                    let authority = authority.as_ref().ok_or_else(|| self.unseen(&self.names.authority_secret()))?;
                    self.issue(authority, *holder).await?;
                }
                Write::Bundle(holder) => {
                    let authority = self.authority_as_seen(authority.as_ref())?;
                    self.hand_out(authority, *holder).await?;
                }
                Write::Remove(holder) => self.remove(*holder).await?,
            }
        }
        Ok(())
    }

    fn cached(&self, name: &str) -> Option<Secret> {
        secret(&self.caches.secrets, &self.names, name).map(|secret| secret.as_ref().clone())
    }

    fn unseen(&self, name: &str) -> Error {
        Error::Changed(format!("Secret {name}"))
    }

    /// The authority's Secret, if it still is what the plan was made from.
    fn authority_as_seen<'b>(&self, cached: Option<&'b Secret>) -> Result<&'b Secret, Error> {
        let seen = self.observed.tls.authority.as_ref().map(|authority| authority.version.clone());
        cached
            .filter(|secret| secret.resource_version() == seen)
            .ok_or_else(|| self.unseen(&self.names.authority_secret()))
    }

    /// The holder's Secret, if it still is what the plan was made from; `None` if there was none then.
    fn as_seen(&self, holder: Holder) -> Result<Option<Secret>, Error> {
        let name = build::secret_name(&self.names, holder);
        let seen = self.observed.tls.held.get(&holder).map(|held| held.version.clone());
        let cached = self.cached(&name);
        match cached.as_ref().and_then(ResourceExt::resource_version) == seen {
            true => Ok(cached),
            false => Err(self.unseen(&name)),
        }
    }

    /// A first authority, or a next one beside those that holders trust although the Secret was lost.
    async fn found(&self) -> Result<Secret, Error> {
        let mut trusted = BTreeSet::new();
        for holder in self.observed.tls.held.keys() {
            let held = self.as_seen(*holder)?;
            trusted.extend(held.iter().map(|held| pem(held, build::BUNDLE).to_string()));
        }
        if let Some(given) = &self.identities.given {
            return self.found_given(given, trusted.into_iter().collect()).await;
        }
        let made = self.new_authority()?;
        let mut data = BTreeMap::new();
        let keys = match trusted.is_empty() {
            true => CURRENT,
            false => {
                let trusted: Vec<String> = trusted.into_iter().collect();
                data.insert(CURRENT[0].to_string(), build::text(&pki::merge(&trusted)?));
                NEXT
            }
        };
        self.put(&mut data, keys, &made);
        self.create(build::authority_secret(self.cluster, data)).await
    }

    /// The same with authorities from elsewhere.
    async fn found_given(&self, given: &Given, trusted: Vec<String>) -> Result<Secret, Error> {
        let trusted = pki::merge(&trusted)?;
        let mut data = BTreeMap::new();
        match trusted.is_empty() {
            true => drop(data.insert(CURRENT[0].to_string(), build::text(&given.roots))),
            false => {
                // Not all may trust all of them: what the source has is introduced in any case.
                data.insert(CURRENT[0].to_string(), build::text(&pki::subtract(&trusted, &given.roots)?));
                data.insert(NEXT[0].to_string(), build::text(&given.roots));
            }
        }
        self.create(build::authority_secret(self.cluster, data)).await
    }

    fn given(&self) -> Result<&Given, Error> {
        let lacking = || Error::Changed("where certificates come from".into());
        self.identities.given.as_ref().ok_or_else(lacking)
    }

    fn new_authority(&self) -> Result<Pair, Error> {
        let spec = self.cluster.spec.tls.clone().unwrap_or_default();
        let name = format!("{}.{}", self.names.cluster, self.names.namespace);
        // The longest Common Name has 64 characters.
        let name: String = name.chars().take(60).collect();
        Ok(pki::authority(&name, self.observed.tls.now, spec.authority_seconds())?)
    }

    fn put(&self, data: &mut BTreeMap<String, ByteString>, [certificate, key]: [&str; 2], pair: &Pair) {
        let spec = self.cluster.spec.tls.clone().unwrap_or_default();
        data.insert(certificate.into(), build::text(&pair.certificate));
        data.insert(key.into(), build::text(&pair.key));
        data.insert(GENERATION.into(), build::text(&spec.authority.generation.to_string()));
    }

    async fn change(&self, authority: &Secret, write: Write) -> Result<Secret, Error> {
        let mut changed = authority.clone();
        let data = changed.data.get_or_insert_default();
        let elsewhere = self.observed.tls.source.is_some();
        if write == Write::Introduce && data.contains_key(NEXT[0]) {
            // Found among those that are trusted, it may have certificates that are in use: it stays until nobody needs it.
            let kept = [pem(authority, OLD).to_string(), pem(authority, NEXT[0]).to_string()];
            data.insert(OLD.into(), build::text(&pki::merge(&kept)?));
        }
        match write {
            Write::Introduce if elsewhere => {
                let roots = &self.given()?.roots;
                let fresh = pki::subtract(roots, pem(authority, CURRENT[0]))?;
                data.insert(NEXT[0].into(), build::text(if fresh.is_empty() { roots } else { &fresh }));
                data.remove(NEXT[1]);
            }
            Write::Introduce => {
                let made = self.new_authority()?;
                self.put(data, NEXT, &made);
            }
            Write::Promote if elsewhere => {
                let current = self.given()?.roots.clone();
                data.insert(OLD.into(), build::text(&pki::subtract(&bundle(authority), &current)?));
                data.insert(CURRENT[0].into(), build::text(&current));
                for key in [CURRENT[1], NEXT[0], NEXT[1]] {
                    data.remove(key);
                }
            }
            Write::Promote => {
                let old = [pem(authority, CURRENT[0]).to_string(), pem(authority, OLD).to_string()];
                data.insert(OLD.into(), build::text(&pki::merge(&old)?));
                for (next, current) in NEXT.into_iter().zip(CURRENT) {
                    if let Some(value) = data.remove(next) {
                        data.insert(current.into(), value);
                    }
                }
            }
            _ => drop(data.remove(OLD)),
        }
        self.replace(changed).await
    }

    async fn issue(&self, authority: &Secret, holder: Holder) -> Result<(), Error> {
        let seen = self.as_seen(holder)?;
        let pairs = match self.observed.tls.source {
            Some(_) => {
                let given = self.given()?;
                build::sources_of(holder).into_iter().map(|kind| given.pair(kind)).collect()
            }
            None => self.make(authority, holder)?,
        };
        let mut made = self.dated(build::certificates_secret(self.cluster, holder, &pairs, &bundle(authority)));
        match seen {
            Some(seen) => {
                made.metadata.resource_version = seen.resource_version();
                self.replace(made).await?;
            }
            None => drop(self.create(made).await?),
        }
        Ok(())
    }

    fn make(&self, authority: &Secret, holder: Holder) -> Result<Vec<Pair>, Error> {
        let signer = Pair { certificate: pem(authority, CURRENT[0]).into(), key: pem(authority, CURRENT[1]).into() };
        let roots = pki::authorities(value(authority, CURRENT[0]))?;
        let ends = roots.first().map_or(0, |root| root.not_after);
        let requests = match (&self.cluster.spec.tls, self.observed.tls.held.get(&holder)) {
            (None, Some(held)) => build::requests_alike(self.cluster, holder, &held.leaves),
            _ => build::requests(self.cluster, holder),
        };
        let pairs = requests.into_iter().map(|request| pki::leaf(&signer, ends, &request, self.observed.tls.now));
        Ok(pairs.collect::<Result<_, _>>()?)
    }

    /// Asks cert-manager for certificates, where an issuer is named.
    pub(super) async fn ask_for_certificates(&self) -> Result<(), Error> {
        let resource = build::certificate_resource();
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &self.names.namespace, &resource);
        for wanted in build::certificates(self.cluster) {
            let (wanted, hash) = build::stamp(wanted);
            let name = wanted.name_any();
            let what = format!("Certificate {name}");
            let known = api.get_opt(&name).await.map_err(kube_error(format!("reading {what}")))?;
            let mut parameters = PatchParams::apply(FIELD_MANAGER);
            if let Some(known) = known {
                if !owned(&known, &self.names) {
                    return Err(Error::Foreign(what));
                }
                if known.annotations().get(APPLIED_HASH) == Some(&hash) {
                    continue;
                }
                parameters = parameters.force();
            }
            tracing::info!(child = what, hash, "apply");
            api.patch(&name, &parameters, &Patch::Apply(&wanted))
                .await
                .map_err(kube_error(format!("applying {what}")))?;
        }
        Ok(())
    }

    async fn hand_out(&self, authority: &Secret, holder: Holder) -> Result<(), Error> {
        let Some(mut seen) = self.as_seen(holder)? else {
            return Err(self.unseen(&build::secret_name(&self.names, holder)));
        };
        let data = seen.data.get_or_insert_default();
        data.insert(build::BUNDLE.into(), build::text(&bundle(authority)));
        self.replace(self.dated(seen)).await?;
        Ok(())
    }

    /// From now on, holders are given time to follow.
    fn dated(&self, mut secret: Secret) -> Secret {
        let annotations = secret.metadata.annotations.get_or_insert_default();
        annotations.insert(WRITTEN.into(), self.observed.tls.now.to_string());
        secret
    }

    async fn remove(&self, holder: Holder) -> Result<(), Error> {
        let Some(seen) = self.as_seen(holder)? else {
            return Ok(());
        };
        let name = seen.name_any();
        let parameters = DeleteParams::default()
            .preconditions(Preconditions { uid: seen.uid(), resource_version: seen.resource_version() });
        match self.api::<Secret>().delete(&name, &parameters).await {
            Err(kube::Error::Api(response)) if matches!(response.code, 404 | 409) => Ok(()),
            Err(error) => Err(kube_error(format!("deleting Secret {name}"))(error)),
            Ok(_) => Ok(()),
        }
    }

    /// Takes the owner off the Secrets with certificates: Kubernetes would delete them after it.
    pub(super) async fn release_secrets(&self) -> Result<(), Error> {
        let api = self.api::<Secret>();
        let of_cluster = ListParams::default().labels(&format!("{CLUSTER_LABEL}={}", self.names.cluster));
        let found = api.list_metadata(&of_cluster).await.map_err(kube_error("looking for Secrets"))?;
        for secret in found.items.iter().filter(|secret| owned(*secret, &self.names)) {
            let mut owners = secret.owner_references().to_vec();
            owners.retain(|owner| owner.uid != self.names.uid);
            let version = secret.resource_version();
            let patch = json!({"metadata": {"ownerReferences": owners, "resourceVersion": version}});
            let name = secret.name_any();
            api.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(&patch))
                .await
                .map_err(kube_error(format!("keeping Secret {name}")))?;
        }
        Ok(())
    }

    async fn create(&self, secret: Secret) -> Result<Secret, Error> {
        let name = secret.name_any();
        let api = self.api::<Secret>();
        match api.create(&PostParams::default(), &secret).await {
            Err(kube::Error::Api(response)) if response.code == 409 => {
                let there = api.get_metadata_opt(&name).await.map_err(kube_error(format!("reading Secret {name}")))?;
                match there.is_some_and(|there| !owned(&there, &self.names)) {
                    true => Err(Error::Foreign(format!("Secret {name}"))),
                    false => Err(self.unseen(&name)),
                }
            }
            created => created.map_err(kube_error(format!("creating Secret {name}"))),
        }
    }

    async fn replace(&self, secret: Secret) -> Result<Secret, Error> {
        let name = secret.name_any();
        match self.api::<Secret>().replace(&name, &PostParams::default(), &secret).await {
            Err(kube::Error::Api(response)) if matches!(response.code, 404 | 409) => Err(self.unseen(&name)),
            replaced => replaced.map_err(kube_error(format!("writing Secret {name}"))),
        }
    }
}
