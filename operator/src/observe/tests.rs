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
fn a_member_that_does_not_start_says_why() {
    let trouble = |state: serde_json::Value, message: &str| {
        let mut pod = mutated(state);
        let ended = json!({"terminated": {"exitCode": 1, "message": message}});
        let statuses = pod.status.as_mut().unwrap().container_statuses.as_mut().unwrap();
        statuses[1].last_state = Some(serde_json::from_value(ended).unwrap());
        pod_view(&pod, &names()).trouble
    };
    let looping = |message| trouble(json!({"waiting": {"reason": "CrashLoopBackOff"}}), message);
    let log = concat!(
        r#""level":"info","msg":"cut off"}"#,
        "\n",
        r#"{"level":"error","ts":"2026-01-01","msg":"stopped","error":"/data/1.wal is damaged"}"#,
        "\n",
    );
    assert_eq!(looping(log).as_deref(), Some("CrashLoopBackOff: /data/1.wal is damaged"));
    let usage = "flag provided but not defined: -x\n--help lists every flag\n";
    assert_eq!(looping(usage).as_deref(), Some("CrashLoopBackOff: flag provided but not defined: -x"));
    assert_eq!(looping("").as_deref(), Some("CrashLoopBackOff"));
    let killed = concat!(r#"evel":"info","msg":"cut off"}"#, "\n", r#"{"level":"info","msg":"starting"}"#);
    assert_eq!(looping(killed).as_deref(), Some("CrashLoopBackOff"));
    assert_eq!(looping(&"é".repeat(3000)).map(|words| words.chars().count()), Some(318));
    let pulled = json!({"waiting": {"reason": "ImagePullBackOff"}});
    assert_eq!(trouble(pulled, log).as_deref(), Some("ImagePullBackOff"));
    let ended = json!({"terminated": {"exitCode": 2, "message": "flag provided"}});
    assert_eq!(trouble(ended, "").as_deref(), Some("exited with 2: flag provided"));
    assert_eq!(trouble(json!({"running": {}}), log), None);
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
