//! Defaults that are computed, allocation of addresses, and the few immutable fields that clients rely on.

use crate::App;
use crate::cel;
use crate::kinds::Kind;
use crate::object::{self, meta};
use crate::schema::drop_nulls;
use crate::status::{ApiError, ApiResult, FieldError};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::Rng;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The `kubernetes` Service's address; the others are allocated from the same /16.
pub const API_SERVICE_ADDRESS: &str = "10.96.0.1";
/// The finalizer that holds a CRD until its objects are gone.
pub const CRD_CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Sets a field that is absent.
fn set(object: &mut Value, field: &str, value: Value) {
    if object.get(field).is_none_or(Value::is_null) {
        object[field] = value;
    }
}

/// Fills in what depends on other fields; schemas hold the constant defaults.
pub fn defaults(kind: &Kind, old: Option<&Value>, object: &mut Value) {
    if kind.custom.is_some() {
        return;
    }
    let created = old.is_none();
    match kind.kind.as_str() {
        "Namespace" if created => {
            let name = json!(meta(object, "name"));
            object["metadata"]["labels"]["kubernetes.io/metadata.name"] = name;
            object["spec"]["finalizers"] = json!(["kubernetes"]);
            object["status"] = json!({"phase": "Active"});
        }
        "Pod" => pod(object, created),
        "PersistentVolumeClaim" | "PersistentVolume" if created => object["status"] = json!({"phase": "Pending"}),
        "Service" => service(old, object),
        "Secret" => write_only(kind, object),
        "StatefulSet" => {
            let strategy = &mut object["spec"]["updateStrategy"];
            if strategy["type"] == "RollingUpdate" {
                set(strategy, "rollingUpdate", json!({}));
                set(&mut strategy["rollingUpdate"], "partition", json!(0));
            }
            pod_spec(&mut object["spec"]["template"]["spec"]);
        }
        "Deployment" => {
            let strategy = &mut object["spec"]["strategy"];
            if strategy["type"] == "RollingUpdate" {
                set(strategy, "rollingUpdate", json!({}));
                set(&mut strategy["rollingUpdate"], "maxSurge", json!("25%"));
                set(&mut strategy["rollingUpdate"], "maxUnavailable", json!("25%"));
            }
            pod_spec(&mut object["spec"]["template"]["spec"]);
        }
        "ReplicaSet" | "DaemonSet" => pod_spec(&mut object["spec"]["template"]["spec"]),
        "Job" => job(object, created),
        "CronJob" => pod_spec(&mut object["spec"]["jobTemplate"]["spec"]["template"]["spec"]),
        "CustomResourceDefinition" => crd(object, created),
        _ => {}
    }
    // Looking a field up to change it leaves a null where there is none.
    drop_nulls(object);
}

fn pod(pod: &mut Value, created: bool) {
    pod_spec(&mut pod["spec"]);
    if pod["spec"]["schedulingGates"] == json!([]) {
        pod["spec"]["schedulingGates"] = Value::Null;
    }
    if !created {
        return;
    }
    pod["status"] = json!({"phase": "Pending", "qosClass": "BestEffort"});
    if !gates(pod).is_empty() {
        pod["status"]["conditions"] = json!([{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "lastTransitionTime": object::timestamp(chrono::Utc::now()),
            "message": "Scheduling is blocked due to non-empty scheduling gates"}]);
    }
    set(&mut pod["spec"], "serviceAccountName", json!("default"));
    pod["spec"]["serviceAccount"] = pod["spec"]["serviceAccountName"].clone();
    if pod["spec"]["automountServiceAccountToken"] != json!(false) {
        mount_service_account(&mut pod["spec"]);
    }
}

/// The names of what keeps the pod from being scheduled.
fn gates(pod: &Value) -> BTreeSet<&str> {
    let gates = pod["spec"]["schedulingGates"].as_array().into_iter().flatten();
    gates.filter_map(|gate| gate["name"].as_str()).collect()
}

const TOKEN_DIRECTORY: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The projected volume with token, CA and namespace that in-cluster clients read.
fn mount_service_account(spec: &mut Value) {
    let name = format!("kube-api-access-{}", object::name_suffix());
    let mount = json!({"name": name, "mountPath": TOKEN_DIRECTORY, "readOnly": true});
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        for container in spec[list].as_array_mut().into_iter().flatten() {
            let mounts = &mut container["volumeMounts"];
            let taken = mounts.as_array().is_some_and(|m| m.iter().any(|m| m["mountPath"] == TOKEN_DIRECTORY));
            if taken {
                continue;
            }
            match mounts.as_array_mut() {
                Some(mounts) => mounts.push(mount.clone()),
                None => *mounts = json!([mount]),
            }
            mounted = true;
        }
    }
    if !mounted {
        return;
    }
    let volume = json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace",
            "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}});
    match spec["volumes"].as_array_mut() {
        Some(volumes) => volumes.push(volume),
        None => spec["volumes"] = json!([volume]),
    }
}

fn pod_spec(spec: &mut Value) {
    for list in ["initContainers", "containers"] {
        for container in spec[list].as_array_mut().into_iter().flatten() {
            let image = container["image"].as_str().unwrap_or_default();
            let tag = image.rsplit('/').next().and_then(|last| last.split_once(':')).map(|(_, tag)| tag);
            let latest = !image.contains('@') && tag.is_none_or(|tag| tag == "latest");
            set(container, "imagePullPolicy", json!(if latest { "Always" } else { "IfNotPresent" }));
        }
    }
    if let Some(name) = spec["serviceAccountName"].as_str().map(str::to_owned) {
        spec["serviceAccount"] = json!(name);
    }
}

fn service(old: Option<&Value>, service: &mut Value) {
    let spec = &mut service["spec"];
    for port in spec["ports"].as_array_mut().into_iter().flatten() {
        // Go's clients write a target that is not set as 0.
        if port["targetPort"].is_null() || port["targetPort"] == 0 {
            port["targetPort"] = port["port"].clone();
        }
    }
    if spec["type"] != "ExternalName" {
        set(spec, "internalTrafficPolicy", json!("Cluster"));
        set(spec, "ipFamilies", json!(["IPv4"]));
        set(spec, "ipFamilyPolicy", json!("SingleStack"));
        // An update that leaves the address out keeps it.
        if let Some(old) = old {
            set(spec, "clusterIP", old["spec"]["clusterIP"].clone());
        }
        if let Some(address) = spec["clusterIP"].as_str().filter(|a| !a.is_empty()).map(str::to_owned) {
            spec["clusterIPs"] = json!([address]);
        }
    }
    set(service, "status", json!({"loadBalancer": {}}));
}

/// Moves a Secret's `stringData`, which is never kept, to `data`.
pub fn write_only(kind: &Kind, secret: &mut Value) {
    if !kind.is("", "Secret") {
        return;
    }
    let Some(plain) = secret.as_object_mut().and_then(|s| s.remove("stringData")) else {
        return;
    };
    for (key, value) in plain.as_object().into_iter().flatten() {
        secret["data"][key] = json!(STANDARD.encode(value.as_str().unwrap_or_default()));
    }
}

fn job(job: &mut Value, created: bool) {
    let uid = json!(meta(job, "uid"));
    let name = json!(meta(job, "name"));
    let spec = &mut job["spec"];
    if spec["completions"].is_null() && spec["parallelism"].is_null() {
        spec["completions"] = json!(1);
    }
    set(spec, "parallelism", json!(1));
    if created && spec["manualSelector"] != json!(true) {
        spec["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"] = uid.clone();
        let labels = &mut spec["template"]["metadata"]["labels"];
        for prefix in ["batch.kubernetes.io/", ""] {
            labels[format!("{prefix}controller-uid")] = uid.clone();
            labels[format!("{prefix}job-name")] = name.clone();
        }
    }
    pod_spec(&mut spec["template"]["spec"]);
}

fn crd(crd: &mut Value, created: bool) {
    let names = &mut crd["spec"]["names"];
    let kind = names["kind"].as_str().unwrap_or_default().to_owned();
    set(names, "singular", json!(kind.to_lowercase()));
    set(names, "listKind", json!(format!("{kind}List")));
    let mut finalizers = object::finalizers(crd);
    if created && !finalizers.iter().any(|finalizer| finalizer == CRD_CLEANUP) {
        finalizers.push(CRD_CLEANUP.to_owned());
        object::set_finalizers(crd, finalizers);
    }
}

/// Fields that cannot change, and names that must fit.
pub fn check(kind: &Kind, old: Option<&Value>, object: &Value) -> ApiResult<()> {
    let invalid = |field: &str, value: &Value, detail: &str| {
        let cause = FieldError::invalid(field, value, detail);
        Err(ApiError::invalid(&kind.group, &kind.kind, object::name(object), vec![cause]))
    };
    if kind.custom.is_some() {
        return Ok(());
    }
    if kind.kind == "CustomResourceDefinition" {
        let (plural, group) = (&object["spec"]["names"]["plural"], &object["spec"]["group"]);
        let wanted = format!("{}.{}", plural.as_str().unwrap_or_default(), group.as_str().unwrap_or_default());
        if object::name(object) != wanted {
            return invalid(
                "metadata.name",
                &json!(object::name(object)),
                "must be spec.names.plural+\".\"+spec.group",
            );
        }
        let mut causes = Vec::new();
        cel::check_rules(&object["spec"]["versions"], "spec.versions", &mut causes);
        if !causes.is_empty() {
            return Err(ApiError::invalid(&kind.group, &kind.kind, object::name(object), causes));
        }
    }
    let Some(old) = old else { return Ok(()) };
    let immutable: &[&str] = match kind.kind.as_str() {
        "Service" if old["spec"]["type"] == object["spec"]["type"] => &["clusterIP"],
        "Deployment" | "ReplicaSet" | "DaemonSet" | "Job" => &["selector"],
        "RoleBinding" | "ClusterRoleBinding" if old["roleRef"] != object["roleRef"] => {
            return invalid("roleRef", &object["roleRef"], "cannot change roleRef");
        }
        "Secret" | "ConfigMap" if old["immutable"] == json!(true) => {
            let same = ["data", "binaryData", "immutable"].iter().all(|field| old[field] == object[field]);
            return if same {
                Ok(())
            } else {
                invalid("data", &Value::Null, "field is immutable when `immutable` is set")
            };
        }
        "StatefulSet" => return stateful_set_is_mutable(kind, old, object),
        "Pod" => return pod_is_mutable(kind, old, object),
        _ => &[],
    };
    for field in immutable {
        if old["spec"][field] != object["spec"][field] {
            return invalid(&format!("spec.{field}"), &object["spec"][field], "field is immutable");
        }
    }
    Ok(())
}

/// Of a pod's spec only images and some times may change; scheduling gates may go, and then a node may be set.
fn pod_is_mutable(kind: &Kind, old: &Value, new: &Value) -> ApiResult<()> {
    let forbidden = |field: &str, message: &str| {
        let message = format!("Forbidden: {message}");
        let cause = FieldError { field: field.into(), reason: "FieldValueForbidden", message };
        Err(ApiError::invalid(&kind.group, &kind.kind, object::name(new), vec![cause]))
    };
    if let Some(added) = gates(new).difference(&gates(old)).next() {
        let message = format!("only deletion is allowed, but found new scheduling gate '{added}'");
        return forbidden("spec.schedulingGates", &message);
    }
    let node = |pod: &Value| pod["spec"]["nodeName"].as_str().map(str::to_owned).filter(|name| !name.is_empty());
    if node(old).is_none() && node(new).is_some() && !gates(new).is_empty() {
        return forbidden("spec.nodeName", "cannot be set until all schedulingGates have been cleared");
    }
    let rest = |pod: &Value| {
        let mut spec = pod["spec"].clone();
        for field in ["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "schedulingGates"] {
            spec[field] = Value::Null;
        }
        if node(old).is_none() {
            spec["nodeName"] = Value::Null;
        }
        for list in ["initContainers", "containers"] {
            for container in spec[list].as_array_mut().into_iter().flatten() {
                container["image"] = Value::Null;
            }
        }
        drop_nulls(&mut spec);
        spec
    };
    if rest(old) == rest(new) {
        return Ok(());
    }
    forbidden(
        "spec",
        "pod updates may not change fields other than `spec.containers[*].image`, `spec.initContainers[*].image`, \
         `spec.activeDeadlineSeconds`, `spec.tolerations` and `spec.terminationGracePeriodSeconds`",
    )
}

/// The fields of a StatefulSet's spec that may change.
const STATEFUL_SET_MUTABLE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

fn stateful_set_is_mutable(kind: &Kind, old: &Value, new: &Value) -> ApiResult<()> {
    let rest = |object: &Value| {
        let mut spec = object["spec"].as_object().cloned().unwrap_or_default();
        spec.retain(|field, _| !STATEFUL_SET_MUTABLE.contains(&field.as_str()));
        spec
    };
    if rest(old) == rest(new) {
        return Ok(());
    }
    let cause = FieldError {
        field: "spec".into(),
        reason: "FieldValueForbidden",
        message: "Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                  'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                  'minReadySeconds' are forbidden"
            .into(),
    };
    Err(ApiError::invalid(&kind.group, &kind.kind, object::name(new), vec![cause]))
}

impl App {
    /// Gives a Service its address: a free one of 10.96.0.0/16, unless it is headless or names one.
    pub async fn allocate(&self, kind: &Kind, _old: Option<&Value>, object: &mut Value) -> ApiResult<()> {
        if !kind.is("", "Service") || object["spec"]["type"] == "ExternalName" {
            return Ok(());
        }
        if object["spec"]["clusterIP"].as_str().is_some_and(|address| !address.is_empty()) {
            return Ok(());
        }
        let services = self.store.list(&kind.prefix(None), None, 0, 0).await?.items;
        let taken: BTreeSet<String> = services
            .iter()
            .filter_map(|service| service.value["spec"]["clusterIP"].as_str().map(str::to_owned))
            .chain([API_SERVICE_ADDRESS.to_owned()])
            .collect();
        let free = std::iter::repeat_with(|| rand::rng().random_range(256..65_000u32))
            .take(1000)
            .map(|number| format!("10.96.{}.{}", number >> 8, number & 255))
            .find(|address| !taken.contains(address))
            .ok_or_else(|| ApiError::internal("no free Service address"))?;
        object["spec"]["clusterIP"] = json!(free);
        object["spec"]["clusterIPs"] = json!([free]);
        Ok(())
    }
}
