//! Errors as clients see them: every failure is a `metav1.Status`.

use serde_json::{Value, json};

/// An error that is answered to the client as a `metav1.Status`.
#[derive(Debug, Clone)]
pub struct ApiError {
    /// HTTP status code.
    pub code: u16,
    /// Machine-readable reason, e.g. `NotFound`.
    pub reason: &'static str,
    /// Text for people.
    pub message: String,
    /// The `details` object; null when there is none.
    pub details: Value,
}

/// The result of everything that a request calls.
pub type ApiResult<T> = Result<T, ApiError>;

/// One rejected field of an object: path, reason (`FieldValueInvalid`, ...) and message.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldError {
    /// Path in the object, e.g. `spec.size`; empty for the object itself.
    pub field: String,
    /// Cause type, e.g. `FieldValueInvalid`.
    pub reason: &'static str,
    /// What is wrong, e.g. `Invalid value: 2: must be odd`.
    pub message: String,
}

impl FieldError {
    /// A cause `field: Invalid value: VALUE: DETAIL`, worded as Kubernetes does.
    pub fn invalid(field: &str, value: &Value, detail: &str) -> FieldError {
        let shown = match value {
            Value::Object(_) | Value::Array(_) => short_json(value),
            other => other.to_string(),
        };
        let message = format!("Invalid value: {shown}: {detail}");
        FieldError { field: field.to_owned(), reason: "FieldValueInvalid", message }
    }

    /// A cause `field: Required value`.
    pub fn required(field: &str) -> FieldError {
        FieldError { field: field.to_owned(), reason: "FieldValueRequired", message: "Required value".into() }
    }
}

fn short_json(value: &Value) -> String {
    let mut text = value.to_string();
    if text.len() > 120 {
        let cut = (0..=100).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
        text.truncate(cut);
        text.push_str("...");
    }
    text
}

impl ApiError {
    /// An error without details.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> ApiError {
        ApiError { code, reason, message: message.into(), details: Value::Null }
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> ApiError {
        ApiError::new(400, "BadRequest", message)
    }

    /// 500: the store failed; what was asked may or may not have happened.
    pub fn internal(message: impl std::fmt::Display) -> ApiError {
        ApiError::new(500, "InternalError", format!("Internal error occurred: {message}"))
    }

    /// 404 of a path that is not served.
    pub fn no_such_path() -> ApiError {
        ApiError::new(404, "NotFound", "the server could not find the requested resource")
    }

    fn of(code: u16, reason: &'static str, group: &str, plural: &str, name: &str, rest: &str) -> ApiError {
        let resource = qualified(group, plural);
        ApiError {
            code,
            reason,
            message: format!("{resource} \"{name}\" {rest}"),
            details: json!({"name": name, "group": group, "kind": plural}),
        }
    }

    /// 404 of an object.
    pub fn not_found(group: &str, plural: &str, name: &str) -> ApiError {
        ApiError::of(404, "NotFound", group, plural, name, "not found")
    }

    /// 409 of a create.
    pub fn already_exists(group: &str, plural: &str, name: &str) -> ApiError {
        ApiError::of(409, "AlreadyExists", group, plural, name, "already exists")
    }

    /// 403 with a reason in words.
    pub fn forbidden(group: &str, plural: &str, name: &str, why: &str) -> ApiError {
        ApiError::of(403, "Forbidden", group, plural, name, &format!("is forbidden: {why}"))
    }

    /// 409 of an update: the object is not what the client thought.
    pub fn conflict(group: &str, plural: &str, name: &str, why: &str) -> ApiError {
        let mut error = ApiError::of(409, "Conflict", group, plural, name, "");
        let resource = qualified(group, plural);
        error.message = format!("Operation cannot be fulfilled on {resource} \"{name}\": {why}");
        error
    }

    /// 409 of an update with a resourceVersion that is not the current one.
    pub fn stale(group: &str, plural: &str, name: &str) -> ApiError {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        ApiError::conflict(group, plural, name, why)
    }

    /// 410: the revision asked for was compacted away.
    pub fn expired(message: impl Into<String>) -> ApiError {
        ApiError::new(410, "Expired", message)
    }

    /// 422 naming every rejected field.
    pub fn invalid(group: &str, kind: &str, name: &str, causes: Vec<FieldError>) -> ApiError {
        let text = |c: &FieldError| match c.field.as_str() {
            "" => c.message.clone(),
            field => format!("{field}: {}", c.message),
        };
        let listed = match causes.as_slice() {
            [one] => text(one),
            many => format!("[{}]", many.iter().map(text).collect::<Vec<_>>().join(", ")),
        };
        let details: Vec<Value> =
            causes.iter().map(|c| json!({"reason": c.reason, "message": c.message, "field": c.field})).collect();
        ApiError {
            code: 422,
            reason: "Invalid",
            message: format!("{} \"{name}\" is invalid: {listed}", qualified(group, kind)),
            details: json!({"name": name, "group": group, "kind": kind, "causes": details}),
        }
    }

    /// The `metav1.Status` object.
    pub fn body(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status
    }
}

/// `plural.group`, or only the plural in the core group.
pub fn qualified(group: &str, name: &str) -> String {
    if group.is_empty() { name.to_owned() } else { format!("{name}.{group}") }
}

impl From<etcd_client::Error> for ApiError {
    fn from(error: etcd_client::Error) -> ApiError {
        if let etcd_client::Error::GRpcStatus(status) = &error
            && status.message().contains("compacted")
        {
            return ApiError::expired(
                "The provided continue parameter is too old to display a consistent list result.",
            );
        }
        ApiError::internal(error)
    }
}
