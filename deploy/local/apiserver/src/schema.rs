//! Schemas of kinds: those of builtin kinds come from k8s-openapi, those of custom resources from their CRD. One view
//! ([`Node`]) serves pruning, defaulting, patches and server-side apply.

use crate::fields;
use crate::status::FieldError;
use jsonschema::{Draft, Validator};
use k8s_openapi::schemars::JsonSchema;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex, OnceLock};

/// Where schemas of builtin kinds refer to each other.
pub const DEFINITIONS_PATH: &str = "/components/schemas";
const REFERENCE_PREFIX: &str = "#/components/schemas/";
/// The definition of `metadata`.
pub const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
/// Types that hold any JSON, by the end of their name; k8s-openapi says that they are objects, or one of two.
const ANY: [&str; 6] = [
    "meta.v1.FieldsV1",
    "runtime.RawExtension",
    "v1.JSON",
    "v1.JSONSchemaPropsOrArray",
    "v1.JSONSchemaPropsOrBool",
    "v1.JSONSchemaPropsOrStringArray",
];

/// Lists of builtin types that are merged by keys (server-side apply uses all, strategic merge the first) or, without
/// keys, as sets. k8s-openapi's schemas do not have them. `*` stands for every type.
const LISTS: &[(&str, &str, &[&str])] = &[
    ("*", "conditions", &["type"]),
    ("*", "containers", &["name"]),
    ("*", "initContainers", &["name"]),
    ("*", "ephemeralContainers", &["name"]),
    ("*", "env", &["name"]),
    ("*", "volumeMounts", &["mountPath"]),
    ("*", "volumeDevices", &["devicePath"]),
    ("*", "imagePullSecrets", &["name"]),
    ("*", "matchConditions", &["name"]),
    ("core.v1.Container", "ports", &["containerPort", "protocol"]),
    ("core.v1.EphemeralContainer", "ports", &["containerPort", "protocol"]),
    ("core.v1.PodSpec", "volumes", &["name"]),
    ("core.v1.PodSpec", "hostAliases", &["ip"]),
    ("core.v1.PodSpec", "schedulingGates", &["name"]),
    ("core.v1.PodSpec", "resourceClaims", &["name"]),
    ("core.v1.PodSpec", "topologySpreadConstraints", &["topologyKey", "whenUnsatisfiable"]),
    ("core.v1.PodStatus", "podIPs", &["ip"]),
    ("core.v1.PodStatus", "hostIPs", &["ip"]),
    ("core.v1.ServiceSpec", "ports", &["port", "protocol"]),
    ("core.v1.ServiceAccount", "secrets", &["name"]),
    ("core.v1.NodeStatus", "addresses", &["type", "address"]),
    ("core.v1.NodeSpec", "podCIDRs", &[]),
    ("discovery.v1.Endpoint", "addresses", &[]),
    ("admissionregistration.v1.MutatingWebhookConfiguration", "webhooks", &["name"]),
    ("admissionregistration.v1.ValidatingWebhookConfiguration", "webhooks", &["name"]),
    ("meta.v1.ObjectMeta", "finalizers", &[]),
    ("meta.v1.ObjectMeta", "ownerReferences", &["uid"]),
];

/// Maps that are replaced as one value. Label selectors and references are, too.
const ATOMIC_TYPES: &[&str] = &[
    "io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector",
    "io.k8s.api.core.v1.NodeSelector",
    "io.k8s.api.core.v1.NodeSelectorTerm",
    "io.k8s.api.core.v1.ObjectReference",
    "io.k8s.api.core.v1.LocalObjectReference",
    "io.k8s.api.core.v1.SecretKeySelector",
    "io.k8s.api.core.v1.ConfigMapKeySelector",
    "io.k8s.api.core.v1.ObjectFieldSelector",
    "io.k8s.api.core.v1.ResourceFieldSelector",
    "io.k8s.api.core.v1.TypedLocalObjectReference",
    "io.k8s.api.rbac.v1.RoleRef",
];

/// Defaults of builtin types that clients and controllers rely on; computed ones are in `admission.rs`.
const DEFAULTS: &[(&str, &str)] = &[
    (
        "core.v1.PodSpec",
        r#"{"restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler",
        "terminationGracePeriodSeconds": 30, "securityContext": {}, "enableServiceLinks": true}"#,
    ),
    (
        "core.v1.Container",
        r#"{"terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
        "resources": {}}"#,
    ),
    ("core.v1.ContainerPort", r#"{"protocol": "TCP"}"#),
    ("core.v1.Probe", r#"{"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}"#),
    ("core.v1.HTTPGetAction", r#"{"path": "/", "scheme": "HTTP"}"#),
    ("core.v1.ObjectFieldSelector", r#"{"apiVersion": "v1"}"#),
    ("core.v1.ConfigMapVolumeSource", r#"{"defaultMode": 420}"#),
    ("core.v1.SecretVolumeSource", r#"{"defaultMode": 420}"#),
    ("core.v1.DownwardAPIVolumeSource", r#"{"defaultMode": 420}"#),
    ("core.v1.ProjectedVolumeSource", r#"{"defaultMode": 420}"#),
    ("core.v1.ServiceAccountTokenProjection", r#"{"expirationSeconds": 3600}"#),
    ("core.v1.ServiceSpec", r#"{"type": "ClusterIP", "sessionAffinity": "None"}"#),
    ("core.v1.ServicePort", r#"{"protocol": "TCP"}"#),
    ("core.v1.EndpointPort", r#"{"protocol": "TCP"}"#),
    ("core.v1.Secret", r#"{"type": "Opaque"}"#),
    ("core.v1.PersistentVolumeClaimSpec", r#"{"volumeMode": "Filesystem"}"#),
    ("core.v1.PersistentVolumeSpec", r#"{"volumeMode": "Filesystem", "persistentVolumeReclaimPolicy": "Retain"}"#),
    (
        "apps.v1.StatefulSetSpec",
        r#"{"replicas": 1, "podManagementPolicy": "OrderedReady", "revisionHistoryLimit": 10,
        "updateStrategy": {}, "persistentVolumeClaimRetentionPolicy": {}}"#,
    ),
    ("apps.v1.StatefulSetUpdateStrategy", r#"{"type": "RollingUpdate"}"#),
    ("apps.v1.StatefulSetPersistentVolumeClaimRetentionPolicy", r#"{"whenDeleted": "Retain", "whenScaled": "Retain"}"#),
    (
        "apps.v1.DeploymentSpec",
        r#"{"replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
        "strategy": {}}"#,
    ),
    ("apps.v1.DeploymentStrategy", r#"{"type": "RollingUpdate"}"#),
    ("apps.v1.ReplicaSetSpec", r#"{"replicas": 1}"#),
    ("apps.v1.DaemonSetSpec", r#"{"revisionHistoryLimit": 10, "updateStrategy": {}}"#),
    ("apps.v1.DaemonSetUpdateStrategy", r#"{"type": "RollingUpdate"}"#),
    (
        "batch.v1.JobSpec",
        r#"{"backoffLimit": 6, "completionMode": "NonIndexed", "suspend": false,
        "podReplacementPolicy": "TerminatingOrFailed"}"#,
    ),
    (
        "batch.v1.CronJobSpec",
        r#"{"concurrencyPolicy": "Allow", "suspend": false, "successfulJobsHistoryLimit": 3,
        "failedJobsHistoryLimit": 1}"#,
    ),
    ("networking.v1.NetworkPolicySpec", r#"{"policyTypes": ["Ingress"]}"#),
    ("networking.v1.NetworkPolicyPort", r#"{"protocol": "TCP"}"#),
    ("rbac.v1.RoleRef", r#"{"apiGroup": "rbac.authorization.k8s.io"}"#),
    ("storage.v1.StorageClass", r#"{"reclaimPolicy": "Delete", "volumeBindingMode": "Immediate"}"#),
    ("apiextensions.v1.CustomResourceDefinitionSpec", r#"{"conversion": {"strategy": "None"}}"#),
];

static GENERATOR: LazyLock<Mutex<SchemaGenerator>> = LazyLock::new(|| {
    let settings = SchemaSettings::openapi3().with(|s| s.definitions_path = DEFINITIONS_PATH.into());
    Mutex::new(settings.into_generator())
});

/// All definitions that the table of kinds uses, with merge keys, by name. Taken once, when the table is complete.
static DEFINITIONS: LazyLock<Map<String, Value>> = LazyLock::new(|| {
    crate::kinds::register_schemas();
    let mut generator = GENERATOR.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut definitions = generator.take_definitions(true);
    for (name, definition) in &mut definitions {
        annotate(name, definition);
    }
    definitions
});

/// Makes the type's definition known and returns its name.
pub fn register<T: JsonSchema>() -> String {
    let mut generator = GENERATOR.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    generator.subschema_for::<T>();
    T::schema_name().into_owned()
}

/// The definitions of builtin types by name.
pub fn definitions() -> &'static Map<String, Value> {
    &DEFINITIONS
}

fn annotate(name: &str, definition: &mut Value) {
    if ANY.iter().any(|end| name.ends_with(end)) {
        *definition = json!({"description": definition["description"], "x-kubernetes-preserve-unknown-fields": true});
        return;
    }
    if ATOMIC_TYPES.contains(&name) {
        definition["x-kubernetes-map-type"] = json!("atomic");
    }
    let Some(properties) = definition.get_mut("properties").and_then(Value::as_object_mut) else {
        return;
    };
    for (_, defaults) in DEFAULTS.iter().filter(|(of, _)| name.strip_suffix(of).is_some_and(|rest| rest.ends_with('.')))
    {
        let defaults: Map<String, Value> = serde_json::from_str(defaults).unwrap_or_default();
        for (field, value) in defaults {
            properties[&field]["default"] = value;
        }
    }
    for (field, property) in properties {
        if property["type"] == "object" && ["nodeSelector", "selector"].contains(&field.as_str()) {
            property["x-kubernetes-map-type"] = json!("atomic");
        }
        if property["type"] != "array" {
            continue;
        }
        let listed = LISTS.iter().find(|(of, list, _)| list == field && (*of == "*" || name.ends_with(of)));
        match listed {
            Some((_, _, [])) => {
                property["x-kubernetes-list-type"] = json!("set");
                property["x-kubernetes-patch-strategy"] = json!("merge");
            }
            // Conditions and containers hold objects; lists of strings with such a name do not merge by key.
            Some((_, _, keys)) if property["items"]["type"] != "string" => {
                property["x-kubernetes-patch-strategy"] =
                    json!(if *field == "volumes" { "merge,retainKeys" } else { "merge" });
                property["x-kubernetes-patch-merge-key"] = json!(keys[0]);
                property["x-kubernetes-list-type"] = json!("map");
                property["x-kubernetes-list-map-keys"] = json!(keys);
            }
            _ => property["x-kubernetes-list-type"] = json!("atomic"),
        }
    }
}

/// The schema of one kind and version.
#[derive(Debug, Clone)]
pub struct Schema {
    root: Value,
    validator: OnceLock<Option<Arc<Validator>>>,
}

impl Schema {
    fn new(root: Value) -> Schema {
        Schema { root, validator: OnceLock::new() }
    }

    /// The schema of a builtin type by its definition's name.
    pub fn builtin(definition: &str) -> Schema {
        Schema::new(json!({"$ref": format!("{REFERENCE_PREFIX}{definition}")}))
    }

    /// The schema of a custom resource: `openAPIV3Schema` with the common fields filled in.
    pub fn custom(open_api: &Value) -> Schema {
        let mut root = if open_api.is_object() { open_api.clone() } else { json!({"type": "object"}) };
        if open_api.get("properties").is_none() && open_api.get("type").is_none() {
            root["x-kubernetes-preserve-unknown-fields"] = json!(true);
        }
        let common = [
            ("apiVersion", json!({"type": "string"})),
            ("kind", json!({"type": "string"})),
            ("metadata", json!({"$ref": format!("{REFERENCE_PREFIX}{OBJECT_META}")})),
        ];
        for (field, schema) in common {
            root["properties"][field] = schema;
        }
        Schema::new(root)
    }

    /// The view of the whole object.
    pub fn node(&self) -> Node<'_> {
        Node { value: &self.root }.resolved()
    }

    /// The compiled schema, or None when it cannot be compiled (then nothing is checked). Compiled at first use.
    pub fn validator(&self) -> Option<Arc<Validator>> {
        let compile = || {
            let mut document = self.root.clone();
            if let Some(reference) = document.as_object_mut().and_then(|root| root.remove("$ref")) {
                document["allOf"] = json!([{"$ref": reference}]);
            }
            document["components"] = json!({"schemas": reachable(std::slice::from_ref(&self.root))});
            allow_nulls(&mut document);
            let built = jsonschema::options().with_draft(Draft::Draft4).should_validate_formats(false).build(&document);
            built.inspect_err(|error| tracing::warn!(%error, "a schema cannot be compiled")).ok().map(Arc::new)
        };
        self.validator.get_or_init(compile).clone()
    }

    /// The JSON Schema itself.
    pub fn value(&self) -> &Value {
        &self.root
    }
}

/// A view of a schema at one place of an object.
#[derive(Debug, Clone, Copy)]
pub struct Node<'a> {
    value: &'a Value,
}

/// How a list is merged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ListKind<'a> {
    /// Replaced as one value.
    Atomic,
    /// Scalars that occur once.
    Set,
    /// Objects known by these keys (a JSON array of names).
    Map(&'a [Value]),
}

impl<'a> Node<'a> {
    /// A view of any schema.
    #[cfg(test)]
    pub fn of(value: &'a Value) -> Node<'a> {
        Node { value }.resolved()
    }

    fn resolved(self) -> Node<'a> {
        // A reference with a description beside it is written as an `allOf` of one.
        let inner = self.value.get("allOf").and_then(Value::as_array).filter(|all| all.len() == 1);
        let reference = inner.map_or(self.value, |all| &all[0]).get("$ref").and_then(Value::as_str);
        match reference.and_then(|r| r.strip_prefix(REFERENCE_PREFIX)).and_then(|name| definitions().get(name)) {
            Some(definition) => Node { value: definition },
            None => self,
        }
    }

    /// The schema's JSON.
    pub fn value(self) -> &'a Value {
        self.value
    }

    /// The schema of a field: a property, or the values of a map.
    pub fn field(self, name: &str) -> Option<Node<'a>> {
        self.property(name).or_else(|| self.additional())
    }

    /// The schema of a declared property.
    pub fn property(self, name: &str) -> Option<Node<'a>> {
        self.value.get("properties")?.get(name).map(|value| Node { value }.resolved())
    }

    fn additional(self) -> Option<Node<'a>> {
        self.value.get("additionalProperties").filter(|v| v.is_object()).map(|value| Node { value }.resolved())
    }

    /// The schema of a list's items.
    pub fn items(self) -> Option<Node<'a>> {
        self.value.get("items").map(|value| Node { value }.resolved())
    }

    /// The default of a property.
    pub fn default_of(self, name: &str) -> Option<&'a Value> {
        self.value.get("properties")?.get(name)?.get("default")
    }

    fn flag(self, name: &str) -> bool {
        self.value.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    /// Whether an object with this schema is replaced as one value.
    pub fn is_atomic_map(self) -> bool {
        self.value.get("x-kubernetes-map-type").is_some_and(|t| t == "atomic")
    }

    /// How a list with this schema is merged.
    pub fn list_kind(self) -> ListKind<'a> {
        match self.value.get("x-kubernetes-list-type").and_then(Value::as_str) {
            Some("set") => ListKind::Set,
            Some("map") => match self.value.get("x-kubernetes-list-map-keys").and_then(Value::as_array) {
                Some(keys) => ListKind::Map(keys),
                None => ListKind::Atomic,
            },
            _ => ListKind::Atomic,
        }
    }

    /// The strategic merge patch's key of a list, if its items are merged.
    pub fn merge_key(self) -> Option<&'a str> {
        self.value.get("x-kubernetes-patch-merge-key").and_then(Value::as_str)
    }

    /// Whether a strategic merge patch merges this list of scalars instead of replacing it.
    pub fn merges_scalars(self) -> bool {
        self.merge_key().is_none() && self.value.get("x-kubernetes-patch-strategy").is_some_and(|s| s == "merge")
    }

    fn open(self) -> bool {
        self.flag("x-kubernetes-preserve-unknown-fields")
            || self.value.get("additionalProperties").is_some_and(|a| *a == json!(true))
            || (self.value.get("properties").is_none()
                && self.value.get("additionalProperties").is_none()
                && self.value.get("type").is_none())
    }

    fn is_quantity(self) -> bool {
        definitions().get(QUANTITY).is_some_and(|q| std::ptr::eq(q, self.value))
    }
}

/// Removes fields that the schema does not know and returns their paths, and gives quantities their stored form.
pub fn prune(value: &mut Value, node: Node<'_>, path: &str, unknown: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if node.value.get("x-kubernetes-embedded-resource").is_some() {
                return;
            }
            let open = node.open();
            map.retain(|name, child| {
                let child_path = join(path, name);
                match node.field(name) {
                    Some(child_node) => prune(child, child_node, &child_path, unknown),
                    None if open => {}
                    None => {
                        unknown.push(child_path);
                        return false;
                    }
                }
                true
            });
        }
        Value::Array(items) => {
            if let Some(item_node) = node.items() {
                for (index, item) in items.iter_mut().enumerate() {
                    prune(item, item_node, &format!("{path}[{index}]"), unknown);
                }
            }
        }
        Value::Number(number) if node.is_quantity() => *value = Value::String(number.to_string()),
        _ => {}
    }
}

/// Says `nullable`, which is OpenAPI's, in JSON Schema's words.
fn allow_nulls(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if map.get("nullable") == Some(&json!(true)) {
                if let Some(Value::String(one)) = map.get("type") {
                    let both = json!([one, "null"]);
                    map.insert("type".into(), both);
                }
                if let Some(Value::Array(options)) = map.get_mut("enum")
                    && !options.contains(&Value::Null)
                {
                    options.push(Value::Null);
                }
            }
            map.values_mut().for_each(allow_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(allow_nulls),
        _ => {}
    }
}

/// `path.name`, without a dot at the root.
pub fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Fills in the schema's defaults where a field is absent, or null and not nullable.
pub fn default(value: &mut Value, node: Node<'_>) {
    match value {
        Value::Object(map) => {
            if let Some(properties) = node.value.get("properties").and_then(Value::as_object) {
                for (name, schema) in properties {
                    let Some(default) = schema.get("default") else {
                        continue;
                    };
                    let nullable = schema["nullable"] == json!(true);
                    if map.get(name).is_none_or(|v| v.is_null() && !nullable) {
                        map.insert(name.clone(), default.clone());
                    }
                }
            }
            for (name, child) in map.iter_mut() {
                if let Some(child_node) = node.field(name) {
                    self::default(child, child_node);
                }
            }
        }
        Value::Array(items) => {
            if let Some(item_node) = node.items() {
                items.iter_mut().for_each(|item| self::default(item, item_node));
            }
        }
        _ => {}
    }
}

/// Removes nulls: a builtin type decodes an absent field and a null alike.
pub fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, child| !child.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// Definitions that `roots` reach through references, for an OpenAPI document that stands alone.
pub fn reachable(roots: &[Value]) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    let mut queue: Vec<&Value> = roots.iter().collect();
    while let Some(value) = queue.pop() {
        match value {
            Value::Object(map) => {
                let name = map.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix(REFERENCE_PREFIX));
                if let Some(name) = name
                    && let Some(definition) = definitions().get(name)
                    && !found.contains_key(name)
                {
                    found.insert(name.to_owned(), definition.clone());
                    queue.push(definition);
                }
                queue.extend(map.values());
            }
            Value::Array(items) => queue.extend(items),
            _ => {}
        }
    }
    found
}

/// Finds items that occur twice in lists that are sets or maps.
pub fn duplicates(value: &Value, node: Node<'_>, path: &str, causes: &mut Vec<FieldError>) {
    match value {
        Value::Object(map) => {
            for (name, child) in map {
                if let Some(child_node) = node.field(name) {
                    duplicates(child, child_node, &join(path, name), causes);
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                let at = format!("{path}[{index}]");
                let same = |other: &&Value| match node.list_kind() {
                    ListKind::Atomic => false,
                    ListKind::Set => *other == item,
                    ListKind::Map(keys) => fields::same_item(other, item, keys),
                };
                if items[..index].iter().find(same).is_some() {
                    let message = format!("Duplicate value: {item}");
                    causes.push(FieldError { field: at.clone(), reason: "FieldValueDuplicate", message });
                }
                if let Some(item_node) = node.items() {
                    duplicates(item, item_node, &at, causes);
                }
            }
        }
        _ => {}
    }
}
