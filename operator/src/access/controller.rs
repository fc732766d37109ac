//! Passes over EtcdUsers and EtcdRoles: all their reads and writes. The store is looked at again every now and then, so that what
//! others change there does not stay.

use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PartialObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::controller::{Action as Requeue, Config, applier};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::runtime::reflector::{ObjectRef, Store as Cache};
use kube::runtime::watcher;
use kube::{Client, ResourceExt};
use serde_json::json;

use super::declared::{Declared, Entry, Request};
use super::door::{Door, stays};
use super::plan::{Password, Plan, Seen, Store, failed as failure, plan};
use crate::crd::{AccessPhase, AccessStatus, EtcdCluster};
use crate::events;
use crate::member::{self, Sessions};
use crate::metrics::Metrics;
use crate::names::ACCESS_FINALIZER;
use crate::observe::certificates::pem;
use crate::pass::{Error, Passes, attend, failed};
use crate::watches::{Queue, scoped};

/// A pass while something is waited for.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// A pass over what is as declared: others may change the store, and Secrets without the label are not watched.
const AT_REST: Duration = Duration::from_secs(60);
/// The Secrets that are watched for passwords: people label them with the name of the cluster. The operator's own have that label, too.
const WATCHED_SECRETS: &str = "keelson.dev/cluster,app.kubernetes.io/managed-by!=keelson-operator";

struct Context<K: Declared> {
    client: Client,
    all: Cache<K>,
    recorder: Recorder,
    passes: Passes,
    sessions: Arc<Sessions>,
}

/// Runs passes over the resources of a kind of one namespace, or of all, until `stop` resolves.
pub async fn run<K: Declared>(
    client: Client,
    namespace: Option<&str>,
    recorder: Recorder,
    metrics: Arc<Metrics>,
    sessions: Arc<Sessions>,
    stop: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let mut queue = Queue::of(scoped::<K>(&client, namespace));
    let all = queue.cache.clone();
    if K::ADD == Request::AddUser {
        let (known, secrets) = (all.clone(), watcher::Config::default().labels(WATCHED_SECRETS));
        let api = scoped::<PartialObjectMeta<Secret>>(&client, namespace);
        queue = queue.woken_by(api, secrets, move |secret| users_of(&known, &secret));
    }
    let passes = Passes::new(K::WORD, metrics.clone());
    let context = Arc::new(Context { client, all, recorder, passes, sessions });
    let changes = queue.changes.take_until(stop);
    let pass = |object, context| reconcile(object, context).boxed();
    let passes = applier(pass, error_policy, context, queue.cache, changes, Config::default());
    attend(passes, &metrics, |_, _| {}).await;
}

fn error_policy<K: Declared>(declared: Arc<K>, error: &Error, context: Arc<Context<K>>) -> Requeue {
    context.passes.again(&*declared, error)
}

async fn reconcile<K: Declared>(cached: Arc<K>, context: Arc<Context<K>>) -> Result<Requeue, Error> {
    context.passes.measured(&*cached, cached.cluster(), pass(&*cached, &context)).await
}

async fn pass<K: Declared>(cached: &K, context: &Context<K>) -> Result<Requeue, Error> {
    let namespace = cached.namespace().unwrap_or_default();
    let api: Api<K> = Api::namespaced(context.client.clone(), &namespace);
    let read = api.get_opt(&cached.name_any()).await.map_err(failed("reading the resource"))?;
    let Some(declared) = read.filter(|it| it.uid() == cached.uid()) else {
        return Ok(Requeue::await_change());
    };
    let clusters: Api<EtcdCluster> = Api::namespaced(context.client.clone(), &namespace);
    let cluster = clusters.get_opt(declared.cluster()).await.map_err(failed("reading the EtcdCluster"))?;
    let cluster = cluster.filter(stays);
    let door = match &cluster {
        Some(cluster) => Some(Door::open(&context.client, cluster, &context.sessions).await),
        None => None,
    };
    let (store, mut door) = match door {
        None => (Store::Gone, None),
        Some(Err(why)) => (Store::Silent(why), None),
        Some(Ok(mut door)) => match look(&declared, &mut door).await {
            Ok(entry) => (Store::Has(entry), Some(door)),
            Err(error) => (Store::Silent(format!("the store to answer: {error}")), None),
        },
    };
    let secret = password(&context.client, &declared, &namespace).await;
    let known = known(&declared, &secret, door.as_mut()).await;
    let seen = Seen { store, twin: twin(&context.all, &declared), password: known };
    let plan = plan(&declared, &seen, Timestamp::now());
    // Before anything is written, or it might be left behind.
    let declared = match plan.finalizer {
        Some(true) => set_finalizer(&api, &declared, true).await?,
        _ => declared,
    };
    let outcome = match door {
        Some(mut door) => act(&declared, &mut door, &plan, &secret).await,
        None => Ok(()),
    };
    let status = match outcome {
        Ok(()) => plan.status.clone(),
        Err(why) => failure(&declared, why, Timestamp::now()),
    };
    let phase = status.phase;
    let done = status == plan.status;
    // The status tells of what is done; what is deleted and held by nobody has none any more.
    let declared = record(context, &api, declared, status).await?;
    if done && plan.finalizer == Some(false) {
        set_finalizer(&api, &declared, false).await?;
    }
    Ok(Requeue::requeue(if phase == AccessPhase::Ready { AT_REST } else { LOOK_AGAIN }))
}

/// Those whose password is in this Secret.
fn users_of<K: Declared>(all: &Cache<K>, secret: &PartialObjectMeta<Secret>) -> Vec<ObjectRef<K>> {
    let named = |user: &K| user.password_secret().is_some_and(|it| it.name == secret.name_any());
    let all = all.state().into_iter();
    let users = all.filter(|user| user.namespace() == secret.namespace() && named(user));
    users.map(|user| ObjectRef::from_obj(&*user)).collect()
}

/// An older resource that declares the same.
fn twin<K: Declared>(all: &Cache<K>, declared: &K) -> Option<String> {
    let age = |it: &K| (it.creation_timestamp().map(|time| time.0), it.uid());
    let same = |other: &K| {
        other.namespace() == declared.namespace()
            && other.cluster() == declared.cluster()
            && other.entry_name() == declared.entry_name()
            && other.uid() != declared.uid()
            && other.meta().deletion_timestamp.is_none()
    };
    let leaving = declared.meta().deletion_timestamp.is_some();
    let found = all.find(|other| same(other) && (leaving || age(other) < age(declared)))?;
    Some(format!("{} {}", K::kind(&()), found.name_any()))
}

/// What the store has.
async fn look<K: Declared>(declared: &K, door: &mut Door<'_>) -> Result<Option<Entry>, member::Error> {
    let name = declared.entry_name();
    let is_user = K::ADD == Request::AddUser;
    let mut found = entry(&name, is_user, door).await;
    if found.as_ref().is_err_and(member::Error::wants_login) {
        door.login().await?;
        found = entry(&name, is_user, door).await;
    }
    found
}

async fn entry(name: &str, is_user: bool, door: &mut Door<'_>) -> Result<Option<Entry>, member::Error> {
    Ok(match is_user {
        true => door.member.user_roles(name).await?.map(|roles| Entry::User(roles.into_iter().collect())),
        false => door.member.permissions(name).await?.map(Entry::Role),
    })
}

/// The password and the version of its Secret; nothing if none is asked for.
async fn password<K: Declared>(
    client: &Client,
    declared: &K,
    namespace: &str,
) -> Option<Result<(String, String), String>> {
    let wanted = declared.password_secret()?;
    let name = &wanted.name;
    let found = Api::<Secret>::namespaced(client.clone(), namespace).get_opt(name).await;
    Some(match found {
        Ok(Some(secret)) => match pem(&secret, &wanted.key) {
            "" => Err(format!("Secret {name} to have a password in {}", wanted.key)),
            password => {
                let version = secret.resource_version().unwrap_or_default();
                Ok((password.to_string(), format!("{}/{version}", secret.uid().unwrap_or_default())))
            }
        },
        Ok(None) => Err(format!("Secret {name} to be there")),
        Err(error) => Err(format!("Secret {name} to be readable: {error}")),
    })
}

/// The same without the password. A version that is not known yet is tried out: other values of the Secret may have changed, and
/// a change of the password would end the user's sessions.
async fn known<K: Declared>(
    declared: &K,
    secret: &Option<Result<(String, String), String>>,
    door: Option<&mut Door<'_>>,
) -> Password {
    match secret {
        None => Password::None,
        Some(Err(lack)) => Password::Lacking(lack.clone()),
        Some(Ok((password, version))) => {
            let recorded = declared.status().and_then(|status| status.password_version.as_ref());
            let right = match door {
                Some(door) if recorded != Some(version) => {
                    door.member.is_password(&declared.entry_name(), password).await.unwrap_or(false)
                }
                _ => false,
            };
            Password::Known { version: version.clone(), right }
        }
    }
}

async fn act<K: Declared>(
    declared: &K,
    door: &mut Door<'_>,
    plan: &Plan,
    secret: &Option<Result<(String, String), String>>,
) -> Result<(), String> {
    let name = declared.entry_name();
    let password = secret.as_ref().and_then(|it| it.as_ref().ok()).map(|(password, _)| password.as_str());
    for request in &plan.requests {
        tracing::info!(entry = name, "{request}");
        let member = &mut door.member;
        let done = match request {
            Request::AddUser => member.add_user(&name, password).await,
            Request::ChangePassword => member.change_password(&name, password.unwrap_or_default()).await,
            Request::GrantRole(role) => member.grant_role(&name, role).await,
            Request::RevokeRole(role) => member.revoke_role(&name, role).await,
            Request::DeleteUser => member.delete_user(&name).await,
            Request::AddRole => member.add_role(&name).await,
            Request::Grant(range, kind) => member.grant_permission(&name, range, *kind).await,
            Request::Revoke(range) => member.revoke_permission(&name, range).await,
            Request::DeleteRole => member.delete_role(&name).await,
        };
        done.map_err(|error| format!("cannot {request}: {}", error.cause()))?;
    }
    Ok(())
}

async fn record<K: Declared>(
    context: &Context<K>,
    api: &Api<K>,
    declared: K,
    status: AccessStatus,
) -> Result<K, Error> {
    let before = declared.status().cloned().unwrap_or_default();
    if status == before {
        return Ok(declared);
    }
    let mut object = declared;
    *object.status_mut() = Some(status.clone());
    let written = api.replace_status(&object.name_any(), &PostParams::default(), &object).await;
    let written = written.map_err(failed("storing the status"))?;
    if (before.phase, &before.reason) != (status.phase, &status.reason) {
        tracing::info!(phase = ?status.phase, reason = status.reason, "phase");
        tell(context, &object, &status).await;
    }
    Ok(written)
}

async fn set_finalizer<K: Declared>(api: &Api<K>, declared: &K, present: bool) -> Result<K, Error> {
    let mut finalizers = declared.finalizers().to_vec();
    finalizers.retain(|finalizer| finalizer != ACCESS_FINALIZER);
    if present {
        finalizers.push(ACCESS_FINALIZER.into());
    }
    // With the version that was read: no finalizer of somebody else is lost.
    let version = declared.resource_version();
    let patch = json!({"metadata": {"finalizers": finalizers, "uid": declared.uid(), "resourceVersion": version}});
    let changed = api.patch(&declared.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await;
    changed.map_err(failed("changing the finalizer"))
}

async fn tell<K: Declared>(context: &Context<K>, declared: &K, status: &AccessStatus) {
    let type_ = if status.phase == AccessPhase::Blocked { EventType::Warning } else { EventType::Normal };
    let event = Event {
        type_,
        reason: format!("{:?}", status.phase),
        note: Some(status.reason.clone()),
        action: "Reconcile".into(),
        secondary: None,
    };
    events::publish(&context.recorder, &declared.object_ref(&()), event).await;
}
