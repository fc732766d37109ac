//! Events about pods: what `kubectl describe` shows. Repeated ones are counted, not written anew.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio::sync::mpsc;

use super::status::now;

/// Events that wait to be written; more are dropped, as events are allowed to be.
const QUEUE: usize = 256;
/// Different events whose repetitions are counted; past it the counting starts anew.
const REMEMBERED: usize = 1000;

/// Takes events and writes them in the background.
#[derive(Debug)]
pub struct Events {
    queue: mpsc::Sender<(Event, i32)>,
    seen: Mutex<BTreeMap<String, (String, i32)>>,
}

impl Events {
    /// Starts the writer.
    pub fn start(client: Client) -> Self {
        let (queue, mut waiting) = mpsc::channel::<(Event, i32)>(QUEUE);
        tokio::spawn(async move {
            while let Some((event, count)) = waiting.recv().await {
                if let Err(error) = write(&client, &event, count).await {
                    tracing::debug!(%error, "event lost");
                }
            }
        });
        Self { queue, seen: Mutex::default() }
    }

    /// Records an event about a pod; `kind` is `Normal` or `Warning`.
    pub fn record(&self, pod: &Pod, kind: &str, reason: &str, message: &str) {
        let key = format!("{}/{reason}/{message}", pod.uid().unwrap_or_default());
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() > REMEMBERED {
            seen.clear();
        }
        let fresh = || (format!("{}.{:016x}", pod.name_any(), rand::random::<u64>()), 0);
        let (name, count) = seen.entry(key).or_insert_with(fresh);
        *count += 1;
        let event = Event {
            metadata: ObjectMeta { name: Some(name.clone()), namespace: pod.namespace(), ..ObjectMeta::default() },
            involved_object: ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                namespace: pod.namespace(),
                name: Some(pod.name_any()),
                uid: pod.uid(),
                ..ObjectReference::default()
            },
            type_: Some(kind.to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            source: Some(EventSource { component: Some("kubelet".into()), host: Some(super::NAME.into()) }),
            first_timestamp: Some(now()),
            last_timestamp: Some(now()),
            count: Some(*count),
            ..Event::default()
        };
        drop(self.queue.try_send((event, *count)));
    }
}

async fn write(client: &Client, event: &Event, count: i32) -> kube::Result<()> {
    let api: Api<Event> = Api::namespaced(client.clone(), &event.namespace().unwrap_or_default());
    if count == 1 {
        return api.create(&PostParams::default(), event).await.map(drop);
    }
    let patch = json!({ "count": count, "lastTimestamp": event.last_timestamp });
    api.patch(&event.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
}
