//! Environment and command line of a container, as pure functions over what was already read from the API.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvVar, Pod};
use keelson_local_apiserver::parse_quantity;
use kube::ResourceExt;

/// What a Secret or ConfigMap holds, by key.
pub type Data = BTreeMap<String, Vec<u8>>;

/// Where data is looked up by name: the Secrets and ConfigMaps of the pod's namespace.
pub trait Lookup {
    /// The data of the ConfigMap of this name.
    fn config_map(&self, name: &str) -> Option<Data>;
    /// The data of the Secret of this name.
    fn secret(&self, name: &str) -> Option<Data>;
}

/// Replaces `$(NAME)` by the variable; `$$(NAME)` stays as a literal `$(NAME)`, and unknown names stay as written.
pub fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match variables.get(name) {
                Some(value) => out.push_str(value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out + rest
}

/// All variables of a container in the order of precedence: the given base, `envFrom`, then `env`.
pub fn environment(
    pod: &Pod,
    container: &Container,
    base: BTreeMap<String, String>,
    lookup: &impl Lookup,
) -> Result<BTreeMap<String, String>, String> {
    let mut variables = base;
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let (kind, name, optional, data) = match (&source.config_map_ref, &source.secret_ref) {
            (Some(map), _) => ("configmap", &map.name, map.optional, lookup.config_map(&map.name)),
            (_, Some(secret)) => ("secret", &secret.name, secret.optional, lookup.secret(&secret.name)),
            _ => continue,
        };
        if data.is_none() && optional != Some(true) {
            return Err(format!("{kind} {name:?} not found"));
        }
        let entries = data.unwrap_or_default().into_iter();
        variables.extend(entries.map(|(key, value)| (format!("{prefix}{key}"), text(&value))));
    }
    for variable in container.env.iter().flatten() {
        if let Some(value) = value_of(pod, container, variable, &variables, lookup)? {
            variables.insert(variable.name.clone(), value);
        }
    }
    Ok(variables)
}

fn value_of(
    pod: &Pod,
    container: &Container,
    variable: &EnvVar,
    variables: &BTreeMap<String, String>,
    lookup: &impl Lookup,
) -> Result<Option<String>, String> {
    let Some(source) = &variable.value_from else {
        return Ok(Some(expand(variable.value.as_deref().unwrap_or_default(), variables)));
    };
    if let Some(key) = &source.secret_key_ref {
        let value = lookup.secret(&key.name).and_then(|mut data| data.remove(&key.key));
        return present(value, key.optional, "secret", &key.name, &key.key);
    }
    if let Some(key) = &source.config_map_key_ref {
        let value = lookup.config_map(&key.name).and_then(|mut data| data.remove(&key.key));
        return present(value, key.optional, "configmap", &key.name, &key.key);
    }
    if let Some(field) = &source.field_ref {
        return pod_field(pod, &field.field_path)
            .map(Some)
            .ok_or_else(|| format!("field {:?} is not supported", field.field_path));
    }
    if let Some(resource) = &source.resource_field_ref {
        return Ok(Some(resource_field(container, &resource.resource)));
    }
    Ok(None)
}

fn present(
    value: Option<Vec<u8>>,
    optional: Option<bool>,
    kind: &str,
    name: &str,
    key: &str,
) -> Result<Option<String>, String> {
    if value.is_none() && optional != Some(true) {
        return Err(format!("couldn't find key {key} in {kind} {name:?}, or it does not exist"));
    }
    Ok(value.map(|value| text(&value)))
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

/// A downward API field of a pod, `metadata.labels` and `metadata.annotations` in the format of downward volumes.
pub fn pod_field(pod: &Pod, path: &str) -> Option<String> {
    let spec = pod.spec.as_ref();
    let status = pod.status.as_ref();
    let lines =
        |map: &BTreeMap<String, String>| map.iter().map(|(k, v)| format!("{k}={v:?}")).collect::<Vec<_>>().join("\n");
    let keyed = |prefix: &str, map: &BTreeMap<String, String>| {
        let key = path.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']")?;
        Some(map.get(key).cloned().unwrap_or_default())
    };
    match path {
        "metadata.name" => Some(pod.name_any()),
        "metadata.namespace" => pod.namespace(),
        "metadata.uid" => pod.uid(),
        "metadata.labels" => Some(lines(pod.labels())),
        "metadata.annotations" => Some(lines(pod.annotations())),
        "spec.nodeName" => spec?.node_name.clone(),
        "spec.serviceAccountName" => Some(spec?.service_account_name.clone().unwrap_or_else(|| "default".into())),
        "status.hostIP" | "status.hostIPs" => status?.host_ip.clone(),
        "status.podIP" | "status.podIPs" => status?.pod_ip.clone(),
        _ => keyed("metadata.labels", pod.labels()).or_else(|| keyed("metadata.annotations", pod.annotations())),
    }
}

/// A resource limit or request of the container as a plain number (bytes, or whole cores rounded up); without one, what the machine
/// has.
fn resource_field(container: &Container, resource: &str) -> String {
    let (group, name) = resource.split_once('.').unwrap_or(("limits", resource));
    let resources = container.resources.as_ref();
    let quantities = resources.and_then(|r| match group {
        "requests" => r.requests.as_ref(),
        _ => r.limits.as_ref(),
    });
    let value = quantities.and_then(|q| q.get(name)).map(|q| quantity(&q.0));
    match (value, name) {
        (Some(value), _) => (value.ceil() as u64).to_string(),
        (None, "cpu") => std::thread::available_parallelism().map_or(1, |n| n.get()).to_string(),
        (None, _) => "0".into(),
    }
}

/// The number that a Kubernetes quantity stands for; 0 when it is none.
pub fn quantity(text: &str) -> f64 {
    parse_quantity(text).unwrap_or(0.0)
}

/// What is executed: `command` (or else the image's entrypoint) followed by `args`, with variables expanded.
pub fn command_line(container: &Container, entrypoint: &[String], variables: &BTreeMap<String, String>) -> Vec<String> {
    let own = container.command.as_deref().filter(|command| !command.is_empty());
    own.unwrap_or(entrypoint)
        .iter()
        .chain(container.args.iter().flatten())
        .map(|word| expand(word, variables))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    struct Fixed;
    impl Lookup for Fixed {
        fn config_map(&self, name: &str) -> Option<Data> {
            let data = [("LEVEL", "debug"), ("ZONE", "a")];
            (name == "settings").then(|| data.map(|(key, value)| (key.to_owned(), value.into())).into())
        }
        fn secret(&self, name: &str) -> Option<Data> {
            (name == "login").then(|| [("password".to_owned(), b"hunter2".to_vec())].into())
        }
    }

    #[test]
    fn variables_expand_as_kubernetes_documents() {
        let variables = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        for (text, expected) in [
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$$(A)", "$(A)"),
            ("$(B)", "$(B)"),
            ("$A $", "$A $"),
            ("$(A", "$(A"),
            ("$$$(A)", "$1"),
        ] {
            assert_eq!(expand(text, &variables), expected, "{text}");
        }
    }

    fn pod(container: serde_json::Value) -> (Pod, Container) {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "labels": {"app": "x"}},
            "spec": {"containers": [container], "nodeName": "local"},
            "status": {"podIP": "10.244.0.5"},
        }))
        .unwrap();
        let container = pod.spec.as_ref().unwrap().containers[0].clone();
        (pod, container)
    }

    #[test]
    fn environment_comes_from_all_sources_in_order() {
        let (pod, container) = pod(json!({"name": "c",
        "envFrom": [{"configMapRef": {"name": "settings"}}, {"secretRef": {"name": "gone", "optional": true}}],
        "env": [
            {"name": "LEVEL", "value": "info"},
            {"name": "PASS", "valueFrom": {"secretKeyRef": {"name": "login", "key": "password"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "URL", "value": "http://$(IP):80/$(ZONE)"},
            {"name": "NONE", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "no", "optional": true}}},
        ]}));
        let variables = environment(&pod, &container, BTreeMap::new(), &Fixed).unwrap();
        let lines: Vec<_> = variables.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(lines.join(" "), "APP=x IP=10.244.0.5 LEVEL=info PASS=hunter2 URL=http://10.244.0.5:80/a ZONE=a");
    }

    #[test]
    fn a_missing_secret_is_named() {
        let (pod, container) = pod(json!({"name": "c", "env": [
            {"name": "X", "valueFrom": {"secretKeyRef": {"name": "gone", "key": "k"}}}]}));
        let error = environment(&pod, &container, BTreeMap::new(), &Fixed).unwrap_err();
        assert!(error.contains("secret \"gone\""), "{error}");
    }

    #[test]
    fn command_replaces_the_entrypoint_and_args_do_not() {
        let entrypoint = ["server".to_owned()];
        for (container, expected) in [
            (json!({"name": "c"}), "server"),
            (json!({"name": "c", "args": ["-v"]}), "server -v"),
            (json!({"name": "c", "command": ["sh"], "args": ["-c", "x"]}), "sh -c x"),
            (json!({"name": "c", "command": [], "args": ["$(V)"]}), "server 7"),
        ] {
            let container: Container = serde_json::from_value(container).unwrap();
            let variables = BTreeMap::from([("V".to_owned(), "7".to_owned())]);
            assert_eq!(command_line(&container, &entrypoint, &variables).join(" "), expected);
        }
    }

    #[test]
    fn quantities_are_numbers() {
        for (text, expected) in
            [("1", 1.0), ("250m", 0.25), ("1Gi", 1073741824.0), ("2k", 2000.0), ("1e3", 1000.0), ("x", 0.0)]
        {
            assert_eq!(quantity(text), expected, "{text}");
        }
    }
}
