//! What `kubectl get` prints: the columns of each kind, and objects without spec and status.

use crate::kinds::Kind;
use crate::object;
use crate::request::{Form, Query};
use crate::selectors::LabelSelector;
use chrono::{DateTime, Utc};
use jsonpath_rust::JsonPath;
use serde_json::{Value, json};

/// Where a cell's value comes from.
#[derive(Debug, Clone)]
enum Cell {
    /// What a JSONPath finds, as the column's type says.
    Path(String),
    /// A text in which `{.path|other}` stands for what is found there, or for the other text when there is nothing, and
    /// `{#.path}` for the number of entries.
    Text(&'static str),
    /// Computed from the object.
    Of(fn(&Value) -> Value),
}
use Cell::{Of, Path, Text};

/// Columns of builtin kinds: names and cells.
type Row = &'static [(&'static str, Cell)];

const CONTAINERS: (&str, Cell) = ("Containers", Text("{.spec.template.spec.containers[*].name}"));
const IMAGES: (&str, Cell) = ("Images", Text("{.spec.template.spec.containers[*].image}"));
const WORKLOAD: Row = &[CONTAINERS, IMAGES, ("Selector", Of(|o| selector_text(&o["spec"]["selector"])))];
const READY: (&str, Cell) = ("Ready", Text("{.status.readyReplicas|0}/{.spec.replicas|0}"));

/// The columns of a builtin kind between its name and its age, and those that `-o wide` adds.
fn columns(kind: &str) -> (Row, Row) {
    match kind {
        "Pod" => (
            &[("Ready", Of(pod_ready)), ("Status", Of(pod_status)), ("Restarts", Of(pod_restarts))],
            &[
                ("IP", Text("{.status.podIP|<none>}")),
                ("Node", Text("{.spec.nodeName|<none>}")),
                ("Nominated Node", Text("{.status.nominatedNodeName|<none>}")),
                ("Readiness Gates", Text("<none>")),
            ],
        ),
        "StatefulSet" => (&[READY], &[CONTAINERS, IMAGES]),
        "Deployment" => (
            &[
                READY,
                ("Up-to-date", Text("{.status.updatedReplicas|0}")),
                ("Available", Text("{.status.availableReplicas|0}")),
            ],
            WORKLOAD,
        ),
        "ReplicaSet" => (
            &[
                ("Desired", Text("{.spec.replicas|0}")),
                ("Current", Text("{.status.replicas|0}")),
                ("Ready", Text("{.status.readyReplicas|0}")),
            ],
            WORKLOAD,
        ),
        "Job" => (
            &[
                ("Status", Of(job_status)),
                ("Completions", Text("{.status.succeeded|0}/{.spec.completions|1}")),
                ("Duration", Of(job_duration)),
            ],
            WORKLOAD,
        ),
        "CronJob" => (
            &[
                ("Schedule", Text("{.spec.schedule}")),
                ("Timezone", Text("{.spec.timeZone|<none>}")),
                ("Suspend", Text("{.spec.suspend|false}")),
                ("Active", Text("{#.status.active}")),
                (
                    "Last Schedule",
                    Of(|o| json!(o["status"]["lastScheduleTime"].as_str().map_or("<none>".into(), since))),
                ),
            ],
            &[],
        ),
        "Service" => (
            &[
                ("Type", Text("{.spec.type}")),
                ("Cluster-IP", Text("{.spec.clusterIP|<none>}")),
                ("External-IP", Text("{.spec.externalName|<none>}")),
                ("Port(s)", Of(service_ports)),
            ],
            &[("Selector", Of(|o| selector_text(&json!({"matchLabels": o["spec"]["selector"]}))))],
        ),
        "PersistentVolumeClaim" => (
            &[
                ("Status", Of(phase)),
                ("Volume", Text("{.spec.volumeName}")),
                ("Capacity", Text("{.status.capacity.storage}")),
                ("Access Modes", Text("{.status.accessModes[*]}")),
                ("StorageClass", Text("{.spec.storageClassName}")),
            ],
            &[("VolumeMode", Text("{.spec.volumeMode}"))],
        ),
        "PersistentVolume" => (
            &[
                ("Capacity", Text("{.spec.capacity.storage}")),
                ("Access Modes", Text("{.spec.accessModes[*]}")),
                ("Reclaim Policy", Text("{.spec.persistentVolumeReclaimPolicy}")),
                ("Status", Of(phase)),
                ("Claim", Text("{.spec.claimRef.namespace}/{.spec.claimRef.name}")),
                ("StorageClass", Text("{.spec.storageClassName}")),
            ],
            &[],
        ),
        "Event" => (
            &[
                ("Last Seen", Of(|o| event_time(o, ["lastTimestamp", "eventTime", "firstTimestamp"]))),
                ("Type", Text("{.type}")),
                ("Reason", Text("{.reason}")),
                ("Object", Of(event_object)),
                // The two groups of Events have names of their own.
                ("Message", Text("{.message}{.note}")),
            ],
            &[
                ("Source", Text("{.reportingComponent}{.reportingController}")),
                ("First Seen", Of(|o| event_time(o, ["firstTimestamp", "eventTime", "lastTimestamp"]))),
                ("Count", Of(|o| json!(o["series"]["count"].as_i64().or(o["count"].as_i64()).unwrap_or(1)))),
                ("Name", Text("{.metadata.name}")),
            ],
        ),
        "Node" => (
            &[("Status", Of(node_status)), ("Version", Text("{.status.nodeInfo.kubeletVersion}"))],
            &[("Internal-IP", Text("{.status.addresses[?(@.type=='InternalIP')].address}"))],
        ),
        "PodDisruptionBudget" => (
            &[
                ("Min Available", Text("{.spec.minAvailable|N/A}")),
                ("Max Unavailable", Text("{.spec.maxUnavailable|N/A}")),
                ("Allowed Disruptions", Text("{.status.disruptionsAllowed|0}")),
            ],
            &[],
        ),
        "EndpointSlice" => (
            &[
                ("AddressType", Text("{.addressType}")),
                ("Ports", Text("{.ports[*].port|<unset>}")),
                ("Endpoints", Text("{.endpoints[*].addresses[*]|<unset>}")),
            ],
            &[],
        ),
        "ConfigMap" => (&[("Data", Text("{#.data}"))], &[]),
        "Secret" => (&[("Type", Text("{.type}")), ("Data", Text("{#.data}"))], &[]),
        "Lease" => (&[("Holder", Text("{.spec.holderIdentity}"))], &[]),
        "Namespace" => (&[("Status", Text("{.status.phase}"))], &[]),
        "RoleBinding" | "ClusterRoleBinding" => (&[("Role", Text("{.roleRef.kind}/{.roleRef.name}"))], &[]),
        "StorageClass" => {
            (&[("Provisioner", Text("{.provisioner}")), ("ReclaimPolicy", Text("{.reclaimPolicy}"))], &[])
        }
        _ => (&[], &[]),
    }
}

/// Fills a text in.
fn fill(text: &str, object: &Value) -> String {
    let mut filled = String::new();
    for (index, part) in text.split(['{', '}']).enumerate() {
        let (path, other) = part.split_once('|').unwrap_or((part, ""));
        match path.strip_prefix('#') {
            _ if index % 2 == 0 => filled.push_str(part),
            Some(path) => {
                filled.push_str(&found(object, &format!("${path}")).first().map_or(0, |v| size(v)).to_string())
            }
            None => match found(object, &format!("${path}")).as_slice() {
                [] => filled.push_str(other),
                values => filled.push_str(&joined(values)),
            },
        }
    }
    filled
}

fn size(value: &Value) -> usize {
    value.as_object().map_or_else(|| value.as_array().map_or(0, Vec::len), |map| map.len())
}

/// What a JSONPath finds, without nulls and empty texts.
fn found<'a>(object: &'a Value, path: &str) -> Vec<&'a Value> {
    let values = object.query(path).unwrap_or_default().into_iter();
    values.filter(|value| !value.is_null() && *value != "").collect()
}

fn joined(values: &[&Value]) -> String {
    let text = |value: &&Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    values.iter().map(text).collect::<Vec<_>>().join(",")
}

fn selector_text(selector: &Value) -> Value {
    let text = LabelSelector::of_object(selector).text();
    json!(if text.is_empty() { "<none>".to_owned() } else { text })
}

fn phase(object: &Value) -> Value {
    if object::is_deleting(object) { json!("Terminating") } else { object["status"]["phase"].clone() }
}

fn pod_ready(pod: &Value) -> Value {
    let statuses = pod["status"]["containerStatuses"].as_array();
    let ready = statuses.into_iter().flatten().filter(|s| s["ready"] == true).count();
    json!(format!("{ready}/{}", size(&pod["spec"]["containers"])))
}

fn pod_status(pod: &Value) -> Value {
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
    json!(if object::is_deleting(pod) { "Terminating".into() } else { shown })
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
    json!(ports.collect::<Vec<_>>().join(","))
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

fn event_time(event: &Value, fields: [&str; 3]) -> Value {
    let series = event["series"]["lastObservedTime"].as_str().filter(|_| fields[0] == "lastTimestamp");
    let time = series.or_else(|| fields.iter().find_map(|field| event[field].as_str()));
    json!(time.map_or_else(|| "<unknown>".to_owned(), since))
}

fn event_object(event: &Value) -> Value {
    let object = if event["regarding"].is_object() { &event["regarding"] } else { &event["involvedObject"] };
    let kind = object["kind"].as_str().unwrap_or_default().to_lowercase();
    json!(format!("{kind}/{}", object["name"].as_str().unwrap_or_default()))
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

/// One column of a table.
struct Column {
    name: String,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    type_: String,
    wide: bool,
    description: String,
    cell: Cell,
}

impl Column {
    fn of((name, cell): &(&str, Cell), wide: bool) -> Column {
        let (name, type_) = ((*name).to_owned(), "string".to_owned());
        Column { name, type_, wide, description: String::new(), cell: cell.clone() }
    }

    /// A column that a CRD declares.
    fn declared(column: &Value) -> Column {
        let text = |field: &str| column[field].as_str().unwrap_or_default().to_owned();
        Column {
            name: text("name"),
            type_: text("type"),
            wide: column["priority"].as_i64().unwrap_or(0) > 0,
            description: text("description"),
            cell: Path(standard_path(&text("jsonPath"))),
        }
    }

    fn definition(&self) -> Value {
        let format = if self.name == "Name" && !self.wide { "name" } else { "" };
        json!({"name": self.name, "type": self.type_, "format": format, "description": self.description,
            "priority": i32::from(self.wide)})
    }

    fn value(&self, object: &Value) -> Value {
        let path = match &self.cell {
            Path(path) => path,
            Text(text) => return json!(fill(text, object)),
            Of(compute) => return compute(object),
        };
        match (found(object, path).as_slice(), self.type_.as_str()) {
            ([], _) => Value::Null,
            ([Value::String(time)], "date") => json!(since(time)),
            ([one], "integer" | "number" | "boolean") => (*one).clone(),
            (many, _) => json!(joined(many)),
        }
    }
}

/// All columns: those of a CRD, or only the age when it declares none.
fn all_columns(kind: &Kind) -> Vec<Column> {
    let name = Column::of(&("Name", Text("{.metadata.name}")), false);
    let age = json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"});
    let age = Column::declared(&age);
    if let Some(custom) = &kind.custom {
        let declared: Vec<Column> = custom.columns.iter().map(Column::declared).collect();
        return [name].into_iter().chain(if declared.is_empty() { vec![age] } else { declared }).collect();
    }
    let (narrow, wide) = columns(&kind.kind);
    let mut all: Vec<Column> = narrow.iter().map(|column| Column::of(column, false)).collect();
    if kind.kind != "Event" {
        all.insert(0, name);
        all.push(age);
    }
    all.extend(wide.iter().map(|column| Column::of(column, true)));
    all
}

fn table(kind: &Kind, mut value: Value, include: &str, with_columns: bool) -> Value {
    let (objects, metadata) = match value["items"].take() {
        Value::Array(items) => (items, value["metadata"].take()),
        _ => {
            let metadata = json!({"resourceVersion": value["metadata"]["resourceVersion"]});
            (vec![value], metadata)
        }
    };
    let columns = all_columns(kind);
    let rows: Vec<Value> = objects
        .into_iter()
        .map(|object| {
            let cells: Vec<Value> = columns.iter().map(|column| column.value(&object)).collect();
            match include {
                "None" => json!({"cells": cells}),
                "Object" => json!({"cells": cells, "object": object}),
                _ => json!({"cells": cells, "object": metadata_only(object)}),
            }
        })
        .collect();
    let columns = if with_columns { columns.iter().map(Column::definition).collect() } else { Vec::new() };
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": columns,
        "rows": rows})
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
        table["rows"][0]["cells"].as_array().unwrap().iter().map(|cell| joined(&[cell])).collect()
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
        let columns = columns.each_ref().map(Column::declared);
        let object = json!({"metadata": {"name": "a", "labels": {"app.kubernetes.io/name": "keelson"}}, "spec": {"size": 3},
            "status": {"conditions": [{"type": "Other", "status": "False"}, {"type": "Ready", "status": "True"}]}});
        assert_eq!(
            columns.each_ref().map(|column| column.value(&object)),
            [json!("True"), json!(3), json!("keelson"), Value::Null]
        );
        assert_eq!(columns[3].definition()["priority"], 1);
    }
}
