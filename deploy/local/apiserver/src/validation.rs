//! Checks of an object against its kind's schema, worded as Kubernetes words them.

use crate::cel;
use crate::kinds::Kind;
use crate::object;
use crate::schema;
use crate::status::{ApiError, ApiResult, FieldError};
use jsonschema::ValidationError;
use jsonschema::error::{TypeKind, ValidationErrorKind};
use serde_json::Value;

/// What to do about fields that the schema does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// Drop them.
    Ignore,
    /// Drop them and warn.
    #[default]
    Warn,
    /// Refuse the object.
    Strict,
}

impl FieldValidation {
    /// The query parameter `fieldValidation`.
    pub fn parse(text: Option<&str>) -> FieldValidation {
        match text {
            Some("Strict") => FieldValidation::Strict,
            Some("Ignore") => FieldValidation::Ignore,
            _ => FieldValidation::Warn,
        }
    }
}

/// Brings the object into its schema's shape: unknown fields go (or are refused), amounts get their stored form.
/// Returns warnings.
pub fn shape(kind: &Kind, object: &mut Value, validation: FieldValidation) -> ApiResult<Vec<String>> {
    match (&kind.custom, object.get_mut("metadata")) {
        (None, _) => schema::drop_nulls(object),
        (Some(_), Some(metadata)) => schema::drop_nulls(metadata),
        _ => {}
    }
    let mut unknown = Vec::new();
    schema::prune(object, kind.schema.node(), "", &mut unknown);
    let texts: Vec<String> = unknown.iter().map(|path| format!("unknown field {path:?}")).collect();
    match validation {
        FieldValidation::Strict if !texts.is_empty() => Err(ApiError::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {kind}: strict decoding error: {texts}",
            kind = kind.kind,
            version = kind.version,
            texts = texts.join(", ")
        ))),
        FieldValidation::Warn => Ok(texts),
        _ => Ok(Vec::new()),
    }
}

/// Checks the object against the schema and, for custom resources, its CEL rules; `old` is what an update replaces.
pub fn check(kind: &Kind, old: Option<&Value>, new: &Value) -> ApiResult<()> {
    let mut causes: Vec<FieldError> = match kind.schema.validator() {
        Some(validator) => validator.iter_errors(new).flat_map(|error| causes_of(&error)).collect(),
        None => Vec::new(),
    };
    if kind.custom.is_some() {
        schema::duplicates(new, kind.schema.node(), "", &mut causes);
        // Rules may take the types for granted that the schema has checked.
        if causes.is_empty() {
            cel::check(kind.schema.node(), old, new, "", &mut causes);
        }
    }
    match causes.as_slice() {
        [] => Ok(()),
        _ => Err(ApiError::invalid(&kind.group, &kind.kind, object::name(new), causes)),
    }
}

/// `/spec/members/0/name` as `spec.members[0].name`.
fn field_path(pointer: &str) -> String {
    pointer.split('/').skip(1).fold(String::new(), |path, step| {
        let step = step.replace("~1", "/").replace("~0", "~");
        if step.bytes().all(|b| b.is_ascii_digit()) { format!("{path}[{step}]") } else { schema::join(&path, &step) }
    })
}

fn causes_of(error: &ValidationError<'_>) -> Vec<FieldError> {
    use ValidationErrorKind as K;
    let field = field_path(error.instance_path().as_str());
    let value = error.instance();
    let invalid = |detail: String| vec![FieldError::invalid(&field, value, &detail)];
    match error.kind() {
        K::Required { property } => {
            vec![FieldError::required(&schema::join(&field, property.as_str().unwrap_or_default()))]
        }
        K::Type { kind } => {
            let expected = match kind {
                TypeKind::Single(one) => one.to_string(),
                // Nullable types: the type itself says what is wanted.
                TypeKind::Multiple(many) => {
                    many.iter().map(|t| t.to_string()).find(|t| t != "null").unwrap_or_default()
                }
            };
            let found = type_name(value);
            vec![FieldError {
                field: field.clone(),
                reason: "FieldValueTypeInvalid",
                message: format!("Invalid value: \"{found}\": {field} in body must be of type {expected}: \"{found}\""),
            }]
        }
        K::Enum { options } => {
            let supported: Vec<String> = options.as_array().into_iter().flatten().map(Value::to_string).collect();
            let message = format!("Unsupported value: {value}: supported values: {}", supported.join(", "));
            vec![FieldError { field, reason: "FieldValueNotSupported", message }]
        }
        K::Minimum { limit } => invalid(format!("{field} in body should be greater than or equal to {}", short(limit))),
        K::Maximum { limit } => invalid(format!("{field} in body should be less than or equal to {}", short(limit))),
        K::ExclusiveMinimum { limit } => invalid(format!("{field} in body should be greater than {}", short(limit))),
        K::ExclusiveMaximum { limit } => invalid(format!("{field} in body should be less than {}", short(limit))),
        K::Pattern { pattern } => invalid(format!("{field} in body should match '{pattern}'")),
        K::MinLength { limit } => invalid(format!("{field} in body should be at least {limit} chars long")),
        K::MinItems { limit } => invalid(format!("{field} in body should have at least {limit} items")),
        K::MinProperties { limit } => invalid(format!("{field} in body should have at least {limit} properties")),
        K::MaxLength { limit } => {
            let message = format!("Too long: may not be more than {limit} bytes");
            vec![FieldError { field, reason: "FieldValueTooLong", message }]
        }
        K::MaxItems { limit } | K::MaxProperties { limit } => {
            let count = value.as_array().map_or_else(|| value.as_object().map_or(0, |o| o.len()), Vec::len);
            let message = format!("Too many: {count}: must have at most {limit} items");
            vec![FieldError { field, reason: "FieldValueTooMany", message }]
        }
        _ => invalid(error.masked().to_string()),
    }
}

/// A limit without a fraction of zero, which CRDs get that were written by typed clients.
fn short(limit: &Value) -> String {
    limit.as_f64().map_or_else(|| limit.to_string(), |number| number.to_string())
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Registry;
    use serde_json::json;

    fn deployment() -> (std::sync::Arc<Kind>, Value) {
        let kind = Registry::new(Vec::new()).find("apps", "v1", "deployments").unwrap();
        let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "creationTimestamp": null},
            "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": 1}},
                    "ports": [{"containerPort": 80}]}]}}}});
        (kind, object)
    }

    #[test]
    fn builtin_objects_lose_unknown_fields_and_get_defaults() {
        let (kind, mut object) = deployment();
        object["spec"]["replica"] = json!(3);
        let strict = shape(&kind, &mut object.clone(), FieldValidation::Strict).unwrap_err();
        assert_eq!(
            strict.message,
            "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: \
                                    unknown field \"spec.replica\""
        );
        let warnings = shape(&kind, &mut object, FieldValidation::Warn).unwrap();
        assert_eq!(warnings, ["unknown field \"spec.replica\""]);
        schema::default(&mut object, kind.schema.node());
        crate::admission::defaults(&kind, None, &mut object);
        check(&kind, None, &object).unwrap();
        assert!(object["spec"].get("replica").is_none() && object["metadata"].get("creationTimestamp").is_none());
        let container = &object["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["resources"]["requests"]["cpu"], "1");
        assert_eq!(container["ports"][0]["protocol"], "TCP");
        assert_eq!(container["imagePullPolicy"], "Always");
        assert_eq!(
            (&object["spec"]["replicas"], &object["spec"]["strategy"]["rollingUpdate"]["maxSurge"]),
            (&json!(1), &json!("25%"))
        );
    }

    #[test]
    fn wrong_types_name_the_field() {
        let (kind, mut object) = deployment();
        object["spec"]["template"]["spec"]["containers"][0]["image"] = json!(1);
        object["spec"].as_object_mut().unwrap().remove("selector");
        let error = check(&kind, None, &object).unwrap_err();
        assert_eq!((error.code, error.reason), (422, "Invalid"));
        let fields: Vec<&str> =
            error.details["causes"].as_array().unwrap().iter().filter_map(|c| c["field"].as_str()).collect();
        assert!(
            fields.contains(&"spec.selector") && fields.contains(&"spec.template.spec.containers[0].image"),
            "{fields:?}"
        );
    }
}
