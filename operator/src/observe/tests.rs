use serde_json::json;

use super::*;

fn names() -> Names {
    Names { cluster: "c".into(), namespace: "ns".into(), uid: "u".into(), tls: false }
}

/// A pod as admission leaves it: the image rewritten, and a sidecar in front of the member.
fn mutated(server: serde_json::Value) -> KubePod {
    serde_json::from_value(json!({
        "metadata": {
            "name": "c-0-0", "namespace": "ns", "uid": "p",
            "labels": {CLUSTER_LABEL: "c", UID_LABEL: "u"},
            "annotations": {IMAGE: "registry/server:1", CONFIG_HASH: "abc"},
        },
        "spec": {"containers": [
            {"name": "mesh", "image": "mesh:7"},
            {"name": SERVER_CONTAINER, "image": "mirror.example/registry/server:1"},
        ]},
        "status": {"containerStatuses": [
            {"name": "mesh", "image": "", "imageID": "", "ready": true, "restartCount": 0,
             "state": {"running": {}}},
            {"name": SERVER_CONTAINER, "image": "", "imageID": "", "ready": false, "restartCount": 0,
             "state": server},
        ]},
    }))
    .unwrap()
}

#[test]
fn what_admission_changes_is_not_seen() {
    let crashing = json!({"waiting": {"reason": "CrashLoopBackOff"}});
    let pod = pod_view(&mutated(crashing), &names());
    assert_eq!(pod.image.as_deref(), Some("registry/server:1"));
    assert!(!pod.running, "the sidecar runs, the member does not");
    assert_eq!(pod.trouble.as_deref(), Some("CrashLoopBackOff"));
    let pod = pod_view(&mutated(json!({"running": {}})), &names());
    assert!(pod.running && pod.serves());
}

#[test]
fn a_pod_on_its_way_out_is_not_asked() {
    let mut pod = mutated(json!({"running": {}}));
    pod.metadata.deletion_timestamp = Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
    let seen = pods([pod], &names());
    assert!(seen[&0].running && !seen[&0].serves());
}

#[test]
fn an_edit_of_the_spec_is_another_edition() {
    let service =
        |metadata: serde_json::Value| -> Service { serde_json::from_value(json!({"metadata": metadata})).unwrap() };
    let of = |metadata| edition(&service(metadata));
    let before = of(json!({"uid": "a", "generation": 1, "resourceVersion": "5"}));
    assert_eq!(before, of(json!({"uid": "a", "generation": 1, "resourceVersion": "6"})));
    assert_ne!(before, of(json!({"uid": "a", "generation": 2, "resourceVersion": "7"})));
    assert_ne!(before, of(json!({"uid": "b", "generation": 1, "resourceVersion": "5"})));
    assert_ne!(of(json!({"uid": "a", "resourceVersion": "5"})), of(json!({"uid": "a", "resourceVersion": "6"})));
}
