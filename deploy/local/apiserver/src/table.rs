//! What `kubectl get` prints: the columns of each kind, and objects without spec and status.

use crate::kinds::Kind;
use crate::object;
use crate::request::{Form, Query};
use crate::selectors::LabelSelector;
use chrono::{DateTime, Utc};
use jsonpath_rust::JsonPath;
use serde_json::{Value, json};

/// Where a cell's value comes from.
enum Cell {
    /// A JSONPath below the object.
    Path(&'static str),
    /// Time since the RFC 3339 text at a path.
    Since(&'static str),
    /// Computed from the object.
    Of(fn(&Value) -> Value),
}
use Cell::{Of, Path, Since};

/// Name, whether it is only shown by `-o wide`, and the source.
type Column = (&'static str, bool, Cell);

const AGE: Column = ("Age", false, Since("metadata.creationTimestamp"));
const CONTAINERS: [Column; 2] = [
    ("Containers", true, Of(|o| joined(o, "$.spec.template.spec.containers[*].name"))),
    ("Images", true, Of(|o| joined(o, "$.spec.template.spec.containers[*].image"))),
];
const SELECTOR: Column =
    ("Selector", true, Of(|o| none_if_empty(LabelSelector::of_object(&o["spec"]["selector"]).text())));

/// The columns of kinds that run containers, after the name.
fn workload_columns(kind: &str) -> Option<Vec<Column>> {
    let [containers, images] = CONTAINERS;
    Some(match kind {
        "Pod" => vec![
            ("Ready", false, Of(pod_ready)),
            ("Status", false, Of(|o| json!(pod_status(o)))),
            ("Restarts", false, Of(pod_restarts)),
            AGE,
            ("IP", true, Of(|o| or_none(&o["status"]["podIP"]))),
            ("Node", true, Of(|o| or_none(&o["spec"]["nodeName"]))),
            ("Nominated Node", true, Of(|o| or_none(&o["status"]["nominatedNodeName"]))),
            ("Readiness Gates", true, Of(|_| json!("<none>"))),
        ],
        "StatefulSet" => {
            vec![
                ("Ready", false, Of(|o| of(&o["status"]["readyReplicas"], &o["spec"]["replicas"]))),
                AGE,
                containers,
                images,
            ]
        }
        "Deployment" => vec![
            ("Ready", false, Of(|o| of(&o["status"]["readyReplicas"], &o["spec"]["replicas"]))),
            ("Up-to-date", false, Of(|o| json!(o["status"]["updatedReplicas"].as_i64().unwrap_or(0)))),
            ("Available", false, Of(|o| json!(o["status"]["availableReplicas"].as_i64().unwrap_or(0)))),
            AGE,
            containers,
            images,
            SELECTOR,
        ],
        "ReplicaSet" => vec![
            ("Desired", false, Of(|o| json!(o["spec"]["replicas"].as_i64().unwrap_or(0)))),
            ("Current", false, Of(|o| json!(o["status"]["replicas"].as_i64().unwrap_or(0)))),
            ("Ready", false, Of(|o| json!(o["status"]["readyReplicas"].as_i64().unwrap_or(0)))),
            AGE,
            containers,
            images,
            SELECTOR,
        ],
        "Job" => vec![
            ("Status", false, Of(job_status)),
            ("Completions", false, Of(|o| of(&o["status"]["succeeded"], &o["spec"]["completions"]))),
            ("Duration", false, Of(job_duration)),
            AGE,
            containers,
            images,
            SELECTOR,
        ],
        "CronJob" => vec![
            ("Schedule", false, Path("$.spec.schedule")),
            ("Timezone", false, Of(|o| or_none(&o["spec"]["timeZone"]))),
            ("Suspend", false, Of(|o| json!(if o["spec"]["suspend"] == true { "True" } else { "False" }))),
            ("Active", false, Of(|o| json!(o["status"]["active"].as_array().map_or(0, Vec::len)))),
            ("Last Schedule", false, Since("status.lastScheduleTime")),
            AGE,
        ],
        _ => return None,
    })
}

/// The columns of a builtin kind after its name.
fn columns(kind: &str) -> Vec<Column> {
    if let Some(columns) = workload_columns(kind) {
        return columns;
    }
    match kind {
        "Service" => vec![
            ("Type", false, Path("$.spec.type")),
            ("Cluster-IP", false, Of(|o| or_none(&o["spec"]["clusterIP"]))),
            ("External-IP", false, Of(|o| or_none(&o["spec"]["externalName"]))),
            ("Port(s)", false, Of(service_ports)),
            AGE,
            ("Selector", true, Of(|o| none_if_empty(pairs(&o["spec"]["selector"])))),
        ],
        "PersistentVolumeClaim" => vec![
            ("Status", false, Of(|o| json!(phase(o)))),
            ("Volume", false, Path("$.spec.volumeName")),
            ("Capacity", false, Path("$.status.capacity.storage")),
            ("Access Modes", false, Of(|o| access_modes(&o["status"]["accessModes"]))),
            ("StorageClass", false, Path("$.spec.storageClassName")),
            ("VolumeAttributesClass", false, Of(|o| or(&o["spec"]["volumeAttributesClassName"], "<unset>"))),
            AGE,
            ("VolumeMode", true, Path("$.spec.volumeMode")),
        ],
        "PersistentVolume" => vec![
            ("Capacity", false, Path("$.spec.capacity.storage")),
            ("Access Modes", false, Of(|o| access_modes(&o["spec"]["accessModes"]))),
            ("Reclaim Policy", false, Path("$.spec.persistentVolumeReclaimPolicy")),
            ("Status", false, Of(|o| json!(phase(o)))),
            ("Claim", false, Of(|o| json!(reference(&o["spec"]["claimRef"], "namespace", "name")))),
            ("StorageClass", false, Path("$.spec.storageClassName")),
            AGE,
        ],
        "ConfigMap" => vec![("Data", false, Of(|o| json!(size(&o["data"]) + size(&o["binaryData"])))), AGE],
        "Secret" => vec![("Type", false, Path("$.type")), ("Data", false, Of(|o| json!(size(&o["data"])))), AGE],
        "Event" => vec![
            ("Last Seen", false, Of(|o| event_time(o, ["lastTimestamp", "eventTime", "firstTimestamp"]))),
            ("Type", false, Path("$.type")),
            ("Reason", false, Path("$.reason")),
            ("Object", false, Of(|o| json!(event_object(o)))),
            ("Subobject", true, Path("$.involvedObject.fieldPath")),
            (
                "Source",
                true,
                Of(|o| or(&o["source"]["component"], o["reportingComponent"].as_str().unwrap_or_default())),
            ),
            ("Message", false, Of(|o| or(&o["message"], o["note"].as_str().unwrap_or_default()))),
            ("First Seen", true, Of(|o| event_time(o, ["firstTimestamp", "eventTime", "lastTimestamp"]))),
            ("Count", true, Of(|o| json!(o["series"]["count"].as_i64().or(o["count"].as_i64()).unwrap_or(1)))),
            ("Name", true, Path("$.metadata.name")),
        ],
        "Lease" => vec![("Holder", false, Path("$.spec.holderIdentity")), AGE],
        "PodDisruptionBudget" => vec![
            ("Min Available", false, Of(|o| or(&o["spec"]["minAvailable"], "N/A"))),
            ("Max Unavailable", false, Of(|o| or(&o["spec"]["maxUnavailable"], "N/A"))),
            ("Allowed Disruptions", false, Of(|o| json!(o["status"]["disruptionsAllowed"].as_i64().unwrap_or(0)))),
            AGE,
        ],
        "Namespace" => vec![("Status", false, Path("$.status.phase")), AGE],
        "Node" => vec![
            ("Status", false, Of(node_status)),
            ("Roles", false, Of(node_roles)),
            AGE,
            ("Version", false, Path("$.status.nodeInfo.kubeletVersion")),
            ("Internal-IP", true, Of(|o| joined(o, "$.status.addresses[?(@.type=='InternalIP')].address"))),
            ("OS-Image", true, Path("$.status.nodeInfo.osImage")),
            ("Kernel-Version", true, Path("$.status.nodeInfo.kernelVersion")),
            ("Container-Runtime", true, Path("$.status.nodeInfo.containerRuntimeVersion")),
        ],
        "CustomResourceDefinition" | "Role" | "ClusterRole" => {
            vec![("Created At", false, Path("$.metadata.creationTimestamp"))]
        }
        "RoleBinding" | "ClusterRoleBinding" => {
            vec![("Role", false, Of(|o| json!(reference(&o["roleRef"], "kind", "name")))), AGE]
        }
        "EndpointSlice" => vec![
            ("AddressType", false, Path("$.addressType")),
            ("Ports", false, Of(|o| joined(o, "$.ports[*].port"))),
            ("Endpoints", false, Of(|o| joined(o, "$.endpoints[*].addresses[*]"))),
            AGE,
        ],
        "Endpoints" => vec![("Endpoints", false, Of(|o| joined(o, "$.subsets[*].addresses[*].ip"))), AGE],
        "StorageClass" => vec![
            ("Provisioner", false, Path("$.provisioner")),
            ("ReclaimPolicy", false, Path("$.reclaimPolicy")),
            ("VolumeBindingMode", false, Path("$.volumeBindingMode")),
            AGE,
        ],
        "PriorityClass" => vec![("Value", false, Path("$.value")), AGE],
        "ServiceAccount" => vec![("Secrets", false, Of(|o| json!(size(&o["secrets"])))), AGE],
        _ => vec![AGE],
    }
}

fn size(value: &Value) -> usize {
    value.as_object().map_or_else(|| value.as_array().map_or(0, Vec::len), |map| map.len())
}

fn none_if_empty(text: String) -> Value {
    if text.is_empty() { json!("<none>") } else { json!(text) }
}

fn or(value: &Value, other: &str) -> Value {
    match value {
        Value::Null => json!(other),
        Value::String(text) if text.is_empty() => json!(other),
        Value::String(_) => value.clone(),
        other => json!(other.to_string()),
    }
}

fn or_none(value: &Value) -> Value {
    or(value, "<none>")
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn found<'a>(object: &'a Value, path: &str) -> Vec<&'a Value> {
    object.query(path).unwrap_or_default()
}

fn joined(object: &Value, path: &str) -> Value {
    none_if_empty(found(object, path).into_iter().map(text).collect::<Vec<_>>().join(","))
}

fn pairs(map: &Value) -> String {
    let pairs = map.as_object().into_iter().flatten().map(|(key, value)| format!("{key}={}", text(value)));
    pairs.collect::<Vec<_>>().join(",")
}

fn of(part: &Value, whole: &Value) -> Value {
    json!(format!("{}/{}", part.as_i64().unwrap_or(0), whole.as_i64().unwrap_or(0)))
}

fn phase(object: &Value) -> &str {
    if object::is_deleting(object) { "Terminating" } else { object["status"]["phase"].as_str().unwrap_or_default() }
}

fn reference(value: &Value, first: &str, second: &str) -> String {
    match (value[first].as_str(), value[second].as_str()) {
        (Some(first), Some(second)) => format!("{first}/{second}"),
        _ => String::new(),
    }
}

fn access_modes(modes: &Value) -> Value {
    let short = |mode: &Value| match mode.as_str() {
        Some("ReadWriteOnce") => "RWO",
        Some("ReadOnlyMany") => "ROX",
        Some("ReadWriteMany") => "RWX",
        Some("ReadWriteOncePod") => "RWOP",
        _ => "",
    };
    json!(modes.as_array().into_iter().flatten().map(short).collect::<Vec<_>>().join(","))
}

fn pod_ready(pod: &Value) -> Value {
    let statuses = pod["status"]["containerStatuses"].as_array();
    let ready = statuses.into_iter().flatten().filter(|s| s["ready"] == true).count();
    json!(format!("{ready}/{}", size(&pod["spec"]["containers"])))
}

fn pod_status(pod: &Value) -> String {
    let status = &pod["status"];
    let mut shown = status["reason"].as_str().or(status["phase"].as_str()).unwrap_or_default().to_owned();
    for (index, container) in status["initContainerStatuses"].as_array().into_iter().flatten().enumerate() {
        let state = &container["state"];
        if state["terminated"]["exitCode"] == 0 || container["started"] == true {
            continue;
        }
        let reason = state["waiting"]["reason"].as_str().or(state["terminated"]["reason"].as_str());
        shown = match reason.filter(|r| *r != "PodInitializing") {
            Some(reason) => format!("Init:{reason}"),
            None => format!("Init:{index}/{}", size(&pod["spec"]["initContainers"])),
        };
        break;
    }
    let containers = status["containerStatuses"].as_array().into_iter().flatten();
    if !shown.starts_with("Init:") {
        for container in containers {
            let state = &container["state"];
            let reason = state["waiting"]["reason"].as_str().or(state["terminated"]["reason"].as_str());
            shown = reason.map_or(shown, str::to_owned);
        }
    }
    if object::is_deleting(pod) { "Terminating".into() } else { shown }
}

fn pod_restarts(pod: &Value) -> Value {
    let statuses = || pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    let count: i64 = statuses().filter_map(|status| status["restartCount"].as_i64()).sum();
    let last = statuses().filter_map(|status| status["lastState"]["terminated"]["finishedAt"].as_str()).max();
    match last.filter(|_| count > 0) {
        Some(time) => json!(format!("{count} ({} ago)", since(time))),
        None => json!(count.to_string()),
    }
}

fn service_ports(service: &Value) -> Value {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten().map(|port| {
        let node = port["nodePort"].as_i64().map_or_else(String::new, |n| format!(":{n}"));
        format!("{}{node}/{}", port["port"], port["protocol"].as_str().unwrap_or("TCP"))
    });
    none_if_empty(ports.collect::<Vec<_>>().join(","))
}

fn condition(object: &Value, kind: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|c| c["type"] == kind && c["status"] == "True"))
}

fn job_status(job: &Value) -> Value {
    json!(match () {
        () if condition(job, "Complete") => "Complete",
        () if condition(job, "Failed") => "Failed",
        () if object::is_deleting(job) => "Terminating",
        () if condition(job, "Suspended") => "Suspended",
        () => "Running",
    })
}

fn job_duration(job: &Value) -> Value {
    let time = |field: &str| job["status"][field].as_str().and_then(|t| DateTime::parse_from_rfc3339(t).ok());
    let end = time("completionTime").map_or_else(Utc::now, |end| end.to_utc());
    json!(time("startTime").map_or_else(String::new, |start| duration((end - start.to_utc()).num_seconds())))
}

fn node_status(node: &Value) -> Value {
    let ready = if condition(node, "Ready") { "Ready" } else { "NotReady" };
    let cordoned = if node["spec"]["unschedulable"] == true { ",SchedulingDisabled" } else { "" };
    json!(format!("{ready}{cordoned}"))
}

fn node_roles(node: &Value) -> Value {
    let labels = node["metadata"]["labels"].as_object().into_iter().flatten();
    let roles: Vec<&str> = labels.filter_map(|(label, _)| label.strip_prefix("node-role.kubernetes.io/")).collect();
    none_if_empty(roles.join(","))
}

fn event_time(event: &Value, fields: [&str; 3]) -> Value {
    let series = event["series"]["lastObservedTime"].as_str().filter(|_| fields[0] == "lastTimestamp");
    let time = series.or_else(|| fields.iter().find_map(|field| event[field].as_str()));
    json!(time.map_or_else(|| "<unknown>".to_owned(), since))
}

fn event_object(event: &Value) -> String {
    let object = if event["regarding"].is_object() { &event["regarding"] } else { &event["involvedObject"] };
    let kind = object["kind"].as_str().unwrap_or_default().to_lowercase();
    format!("{kind}/{}", object["name"].as_str().unwrap_or_default())
}

/// Time since an RFC 3339 time, as kubectl shows ages.
fn since(time: &str) -> String {
    match DateTime::parse_from_rfc3339(time) {
        Ok(time) => duration((Utc::now() - time.to_utc()).num_seconds()),
        Err(_) => "<unknown>".into(),
    }
}

/// Seconds in at most two units, the fewer the longer.
fn duration(seconds: i64) -> String {
    let two = |a: i64, a_unit: &str, b: i64, b_unit: &str| match b {
        0 => format!("{a}{a_unit}"),
        _ => format!("{a}{a_unit}{b}{b_unit}"),
    };
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        ..0 => "0s".into(),
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

/// A response's object or list in the form that the client accepts.
pub fn shown(kind: &Kind, form: Form, value: Value, query: &Query) -> Value {
    if value["kind"] != kind.kind && value["kind"] != kind.list_kind {
        return value;
    }
    match form {
        Form::Metadata => metadata_only(value),
        Form::Table => table(kind, value, query.get("includeObject").unwrap_or("Metadata"), true),
        Form::Object => value,
    }
}

/// A watch event's object in the form that the client accepts.
pub fn watched(kind: &Kind, form: Form, event: &str, object: Value, query: &Query) -> Value {
    match (event, form) {
        ("ERROR", _) => object,
        ("BOOKMARK", Form::Table) => {
            let mut empty = table(kind, json!({"items": [], "metadata": object["metadata"]}), "None", false);
            empty["metadata"] = object["metadata"].clone();
            empty
        }
        _ => shown(kind, form, object, query),
    }
}

fn metadata_only(mut value: Value) -> Value {
    if let Value::Array(items) = value["items"].take() {
        let items: Vec<Value> = items.into_iter().map(metadata_only).collect();
        return json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList",
            "metadata": value["metadata"], "items": items});
    }
    json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": value["metadata"]})
}

fn definition(name: &str, kind: &str, wide: bool, description: &str) -> Value {
    let format = if name == "Name" && !wide { "name" } else { "" };
    json!({"name": name, "type": kind, "format": format, "description": description, "priority": i32::from(wide)})
}

fn table(kind: &Kind, mut value: Value, include: &str, with_columns: bool) -> Value {
    let (objects, metadata) = match value["items"].take() {
        Value::Array(items) => (items, value["metadata"].take()),
        _ => {
            let metadata = json!({"resourceVersion": value["metadata"]["resourceVersion"]});
            (vec![value], metadata)
        }
    };
    let (definitions, cells) = match &kind.custom {
        Some(custom) => custom_columns(&custom.columns),
        None => builtin_columns(&kind.kind),
    };
    let rows: Vec<Value> = objects
        .into_iter()
        .map(|object| {
            let cells: Vec<Value> = cells.iter().map(|cell| cell(&object)).collect();
            match include {
                "None" => json!({"cells": cells}),
                "Object" => json!({"cells": cells, "object": object}),
                _ => json!({"cells": cells, "object": metadata_only(object)}),
            }
        })
        .collect();
    let definitions = if with_columns { definitions } else { Vec::new() };
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": definitions,
        "rows": rows})
}

type Cells = Vec<Box<dyn Fn(&Value) -> Value>>;

fn builtin_columns(kind: &str) -> (Vec<Value>, Cells) {
    let (mut definitions, mut cells): (Vec<Value>, Cells) = (Vec::new(), Vec::new());
    if kind != "Event" {
        definitions.push(definition("Name", "string", false, "Name must be unique within a namespace."));
        cells.push(Box::new(|object| object["metadata"]["name"].clone()));
    }
    for (name, wide, cell) in columns(kind) {
        definitions.push(definition(name, "string", wide, ""));
        cells.push(match cell {
            Path(path) => Box::new(move |object| found(object, path).first().map_or(json!(""), |v| (*v).clone())),
            Since(path) => Box::new(move |object| {
                let time = path.split('.').fold(object, |value, step| &value[step]);
                json!(time.as_str().map_or_else(|| "<none>".to_owned(), since))
            }),
            Of(compute) => Box::new(compute),
        });
    }
    (definitions, cells)
}

/// Columns that a CRD declares; without any there is the age.
fn custom_columns(declared: &[Value]) -> (Vec<Value>, Cells) {
    let mut definitions = vec![definition("Name", "string", false, "Name must be unique within a namespace.")];
    let mut cells: Cells = vec![Box::new(|object| object["metadata"]["name"].clone())];
    let age = [json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"})];
    for column in if declared.is_empty() { &age } else { declared } {
        let kind = column["type"].as_str().unwrap_or("string").to_owned();
        let wide = column["priority"].as_i64().unwrap_or(0) > 0;
        let description = column["description"].as_str().unwrap_or_default();
        definitions.push(definition(column["name"].as_str().unwrap_or_default(), &kind, wide, description));
        let path = standard_path(column["jsonPath"].as_str().unwrap_or_default());
        cells.push(Box::new(move |object| {
            let values = found(object, &path);
            match values.as_slice() {
                [] | [Value::Null] => Value::Null,
                [Value::String(time)] if kind == "date" => json!(since(time)),
                [one] if kind == "integer" || kind == "number" || kind == "boolean" => (*one).clone(),
                many => json!(many.iter().map(|value| text(value)).collect::<Vec<_>>().join(",")),
            }
        }));
    }
    (definitions, cells)
}

/// Kubernetes' JSONPath as RFC 9535's: with a root, and escaped dots as quoted names.
fn standard_path(path: &str) -> String {
    let marked = path.replace("\\.", "\0");
    let step = |step: &str| match step.split_once('[') {
        _ if !step.contains('\0') => format!(".{step}"),
        Some((name, rest)) => format!("['{}'][{rest}", name.replace('\0', ".")),
        None => format!("['{}']", step.replace('\0', ".")),
    };
    let steps: String = marked.trim_start_matches('.').split('.').map(step).collect();
    format!("${steps}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Registry;

    fn row(plural: &str, group: &str, object: Value) -> Vec<String> {
        let kind = Registry::new(Vec::new()).find(group, "v1", plural).unwrap();
        let table = table(&kind, object, "None", true);
        assert_eq!(
            table["columnDefinitions"].as_array().unwrap().len(),
            table["rows"][0]["cells"].as_array().unwrap().len()
        );
        table["rows"][0]["cells"].as_array().unwrap().iter().map(text).collect()
    }

    #[test]
    fn builtin_kinds_have_kubectls_columns() {
        let ago = object::timestamp(Utc::now() - chrono::Duration::seconds(300));
        let container = json!({"ready": true, "restartCount": 2, "lastState": {"terminated": {"finishedAt": ago}},
            "state": {"running": {}}});
        let pod = json!({"metadata": {"name": "p", "creationTimestamp": ago}, "spec": {"containers": [{}, {}], "nodeName": "n"},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [container]}});
        assert_eq!(row("pods", "", pod.clone())[..7], ["p", "1/2", "Running", "2 (5m ago)", "5m", "10.0.0.1", "n"]);
        let mut waiting = pod.clone();
        waiting["status"]["containerStatuses"][0]["state"] = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        assert_eq!(row("pods", "", waiting.clone())[2], "CrashLoopBackOff");
        waiting["metadata"]["deletionTimestamp"] = json!(ago);
        assert_eq!(row("pods", "", waiting)[2], "Terminating");
        let service = json!({"metadata": {"name": "s", "creationTimestamp": ago}, "spec": {"type": "ClusterIP",
            "clusterIP": "None", "ports": [{"port": 2379, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}});
        assert_eq!(row("services", "", service)[1..5], ["ClusterIP", "None", "<none>", "2379/TCP,53/UDP"]);
        let set = json!({"metadata": {"name": "a", "creationTimestamp": ago}, "spec": {"replicas": 3,
            "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}}, "status": {"readyReplicas": 2}});
        assert_eq!(row("statefulsets", "apps", set), ["a", "2/3", "5m", "c", "i"]);
        let event = json!({"metadata": {"name": "e"}, "type": "Warning", "reason": "Failed", "message": "no",
            "lastTimestamp": ago, "involvedObject": {"kind": "Pod", "name": "p"}});
        assert_eq!(row("events", "", event)[..4], ["5m", "Warning", "Failed", "pod/p"]);
    }

    #[test]
    fn ages_are_short() {
        for (seconds, shown) in [
            (-5, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (599, "9m59s"),
            (3600, "60m"),
            (10_860, "3h1m"),
            (90_000, "25h"),
            (176_400, "2d1h"),
            (864_000, "10d"),
            (70_000_000, "2y80d"),
        ] {
            assert_eq!(duration(seconds), shown, "{seconds}");
        }
    }

    #[test]
    fn crd_columns_are_json_paths() {
        let columns = [
            json!({"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"}),
            json!({"name": "Size", "type": "integer", "jsonPath": ".spec.size"}),
            json!({"name": "Label", "type": "string", "jsonPath": ".metadata.labels.app\\.kubernetes\\.io/name"}),
            json!({"name": "Missing", "type": "string", "jsonPath": ".spec.nothing", "priority": 1}),
        ];
        let (definitions, cells) = custom_columns(&columns);
        let object = json!({"metadata": {"name": "a", "labels": {"app.kubernetes.io/name": "keelson"}}, "spec": {"size": 3},
            "status": {"conditions": [{"type": "Other", "status": "False"}, {"type": "Ready", "status": "True"}]}});
        let row: Vec<Value> = cells.iter().map(|cell| cell(&object)).collect();
        assert_eq!(row, [json!("a"), json!("True"), json!(3), json!("keelson"), Value::Null]);
        assert_eq!(definitions[4]["priority"], 1);
    }
}
