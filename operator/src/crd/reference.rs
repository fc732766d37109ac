//! The reference of all kinds as a page: docs/crds.md holds what [`markdown`] made.

use std::fmt::Write as _;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};

use super::definitions;

/// Fields that are Kubernetes' own, with the name of their type there: what is in them is told elsewhere.
const KUBERNETES: &[(&str, &str)] = &[
    ("affinity", "Affinity"),
    ("conditions", "list of Condition"),
    ("env", "list of EnvVar"),
    ("imagePullSecrets", "list of LocalObjectReference"),
    ("resources", "ResourceRequirements"),
    ("securityContext", "PodSecurityContext"),
    ("tolerations", "list of Toleration"),
    ("topologySpreadConstraints", "list of TopologySpreadConstraint"),
];

const HEAD: &str = "\
# The kinds of `keelson.dev/v1alpha1`

Written by `keelson-operator reference`; do not edit. `kubectl explain etcdcluster.spec` tells the same of the definitions that are installed.
Fields in **bold** must be given. Types of Kubernetes' own are linked by name only.
";

/// All kinds, each with the fields of `spec` and `status` and the rules by which the API server judges them.
pub fn markdown() -> String {
    let mut page = String::from(HEAD);
    let mut all: Vec<CustomResourceDefinition> = definitions().into_iter().map(|(_, definition)| definition).collect();
    all.sort_by_key(|definition| definition.spec.names.kind != "EtcdCluster");
    for definition in all {
        kind(&mut page, &definition);
    }
    page
}

fn kind(page: &mut String, definition: &CustomResourceDefinition) {
    let schemas = definition.spec.versions.iter().filter_map(|version| version.schema.as_ref());
    for schema in schemas.filter_map(|schema| schema.open_api_v3_schema.as_ref()) {
        write(page, format_args!("\n## {}\n\n{}\n", definition.spec.names.kind, sentence(schema)));
        let parts = schema.properties.iter().flatten().filter(|(name, _)| ["spec", "status"].contains(&name.as_str()));
        for (name, part) in parts {
            write(page, format_args!("\n### {}: `{name}`\n\n", definition.spec.names.kind));
            page.push_str("| Field | Type | Default | |\n|---|---|---|---|\n");
            fields(page, part, "");
        }
        let mut rules = Vec::new();
        collect_rules(schema, "", &mut rules);
        if !rules.is_empty() {
            page.push_str("\nRefused, with these words:\n\n");
        }
        for rule in rules {
            write(page, format_args!("- {rule}\n"));
        }
    }
}

fn fields(page: &mut String, schema: &JSONSchemaProps, path: &str) {
    let required = schema.required.clone().unwrap_or_default();
    for (name, field) in schema.properties.iter().flatten() {
        let full = format!("{path}{name}");
        let shown = match required.contains(name) {
            true => format!("**`{full}`**"),
            false => format!("`{full}`"),
        };
        let foreign = KUBERNETES.iter().find(|(it, _)| it == name).map(|(_, type_)| (*type_).to_string());
        let default = field.default.as_ref().map(|value| value.0.to_string());
        // Those of its fields say more.
        let default = default.filter(|value| !value.starts_with('{') || value == "{}");
        let default = default.map(|value| format!("`{value}`")).unwrap_or_default();
        let type_ = foreign.clone().unwrap_or_else(|| type_of(field));
        write(page, format_args!("| {shown} | {type_} | {default} | {} |\n", sentence(field)));
        if foreign.is_some() {
            continue;
        }
        fields(page, field, &format!("{full}."));
        if let Some(item) = item(field) {
            fields(page, item, &format!("{full}[]."));
        }
    }
}

fn item(schema: &JSONSchemaProps) -> Option<&JSONSchemaProps> {
    match schema.items.as_ref()? {
        JSONSchemaPropsOrArray::Schema(item) => Some(item),
        JSONSchemaPropsOrArray::Schemas(_) => None,
    }
}

fn type_of(schema: &JSONSchemaProps) -> String {
    if let Some(values) = &schema.enum_ {
        let values = values.iter().filter(|value| !value.0.is_null());
        let values: Vec<String> = values.map(|value| value.0.as_str().unwrap_or_default().to_string()).collect();
        return values.join(", ");
    }
    let name = schema.type_.clone().unwrap_or_else(|| "any".into());
    let limits = match (schema.minimum, schema.maximum) {
        (Some(least), Some(most)) => format!(", {least} to {most}"),
        (Some(least), None) => format!(", {least} or more"),
        (None, Some(most)) => format!(", at most {most}"),
        (None, None) => String::new(),
    };
    let pattern = schema.pattern.as_ref().map(|it| format!(" like `{}`", it.replace('|', "\\|"))).unwrap_or_default();
    match (name.as_str(), &schema.format, item(schema)) {
        ("array", _, Some(item)) => format!("list of {}", type_of(item)),
        ("string", Some(format), _) if format == "date-time" => "time".into(),
        ("object", ..) if schema.additional_properties.is_some() => "map".into(),
        _ => format!("{name}{limits}{pattern}"),
    }
}

/// The description in one line of a table.
fn sentence(schema: &JSONSchemaProps) -> String {
    let text = schema.description.clone().unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn collect_rules(schema: &JSONSchemaProps, path: &str, rules: &mut Vec<String>) {
    for rule in schema.x_kubernetes_validations.iter().flatten() {
        rules.push(rule.message.clone().unwrap_or_else(|| format!("{path}: {}", rule.rule)));
    }
    for (name, field) in schema.properties.iter().flatten() {
        collect_rules(field, &format!("{path}{name}."), rules);
    }
    if let Some(item) = item(schema) {
        collect_rules(item, &format!("{path}[]."), rules);
    }
}

/// Writing to a String does not fail.
fn write(page: &mut String, text: std::fmt::Arguments<'_>) {
    let _ = page.write_fmt(text);
}
