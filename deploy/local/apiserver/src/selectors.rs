//! Label and field selectors.

use crate::status::{ApiError, ApiResult};
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use kube::core::{Expression, Selector, SelectorExt};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// A conjunction of requirements over labels.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LabelSelector(Selector);

impl LabelSelector {
    /// Parses `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
    pub fn parse(text: &str) -> ApiResult<LabelSelector> {
        let requirements = split_top_level(text).into_iter().map(parse_requirement).collect::<ApiResult<_>>()?;
        Ok(LabelSelector(requirements))
    }

    /// The selector that an object's spec holds (`matchLabels`, `matchExpressions`); one that cannot be read matches
    /// everything, as an empty one does.
    pub fn of_object(selector: &Value) -> LabelSelector {
        let read = meta::LabelSelector::deserialize(selector).ok();
        LabelSelector(read.and_then(|selector| selector.try_into().ok()).unwrap_or_default())
    }

    /// Whether an object's labels fulfil it.
    pub fn matches(&self, object: &Value) -> bool {
        self.0.selects_all() || {
            let labels = BTreeMap::deserialize(&object["metadata"]["labels"]).unwrap_or_default();
            self.0.matches(&labels)
        }
    }

    /// The text form, as the scale subresource reports it.
    pub fn text(&self) -> String {
        self.0.to_string()
    }
}

/// Splits at commas outside parentheses, without empty parts.
fn split_top_level(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0i32, 0);
    for (index, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts.into_iter().map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn parse_requirement(part: &str) -> ApiResult<Expression> {
    let word = |text: &str| text.trim().to_owned();
    if let Some((key, value)) = part.split_once("!=") {
        return Ok(Expression::NotEqual(word(key), word(value)));
    }
    if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Ok(Expression::Equal(word(key), word(value)));
    }
    if let Some(key) = part.strip_prefix('!') {
        return Ok(Expression::DoesNotExist(word(key)));
    }
    let bad = || ApiError::bad_request(format!("unable to parse requirement: {part}"));
    let Some((head, list)) = part.split_once('(') else {
        return if part.contains(char::is_whitespace) { Err(bad()) } else { Ok(Expression::Exists(part.to_owned())) };
    };
    let values = list.trim().strip_suffix(')').ok_or_else(bad)?.split(',').map(word).collect();
    match head.split_whitespace().collect::<Vec<_>>().as_slice() {
        [key, "in"] => Ok(Expression::In(word(key), values)),
        [key, "notin"] => Ok(Expression::NotIn(word(key), values)),
        _ => Err(bad()),
    }
}

/// Field paths that may be selected by, on any kind that has them.
const FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.unschedulable",
    "spec.clusterIP",
    "spec.type",
    "status.phase",
    "status.podIP",
    "status.successful",
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "regarding.kind",
    "regarding.namespace",
    "regarding.name",
    "regarding.uid",
    "reason",
    "reportingComponent",
    "reportingController",
    "source",
    "type",
];

/// A conjunction of comparisons of fields.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FieldSelector(Vec<(String, bool, String)>);

impl FieldSelector {
    /// Parses `a.b=c,d!=e`; a field that is not in the table is refused.
    pub fn parse(text: &str) -> ApiResult<FieldSelector> {
        let mut comparisons = Vec::new();
        for part in split_top_level(text) {
            let (field, equal, value) = match part.split_once("!=") {
                Some((field, value)) => (field, false, value),
                None => match part.split_once("==").or_else(|| part.split_once('=')) {
                    Some((field, value)) => (field, true, value),
                    None => {
                        return Err(ApiError::bad_request(format!("invalid field selector: {part}")));
                    }
                },
            };
            if !FIELDS.contains(&field.trim()) {
                return Err(ApiError::bad_request(format!("field label not supported: {field}")));
            }
            comparisons.push((field.trim().to_owned(), equal, value.trim().to_owned()));
        }
        Ok(FieldSelector(comparisons))
    }

    /// Whether an object fulfils it; an absent field is the empty text.
    pub fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|(field, equal, wanted)| {
            let found = field.split('.').fold(object, |value, name| &value[name]);
            let text = match found {
                Value::String(text) => text.clone(),
                Value::Bool(_) | Value::Number(_) => found.to_string(),
                Value::Object(map) => map.get("component").and_then(Value::as_str).unwrap_or_default().to_owned(),
                _ if field == "spec.unschedulable" => "false".into(),
                _ => String::new(),
            };
            (text == *wanted) == *equal
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn label_selectors_select() {
        let object = json!({"metadata": {"labels": {"app": "web", "tier": "front"}}});
        for (selector, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier=front", true),
            ("app=web,tier=back", false),
            ("app!=db", true),
            ("other!=x", true),
            ("app in (db, web)", true),
            ("app notin (db,web)", false),
            ("app", true),
            ("!app", false),
            ("!other", true),
            ("tier,app in (web),x notin (y)", true),
        ] {
            assert_eq!(LabelSelector::parse(selector).unwrap().matches(&object), expected, "{selector}");
        }
        assert!(LabelSelector::parse("app of (x)").is_err());
        assert!(LabelSelector::parse("app in (x").is_err());
    }

    #[test]
    fn an_objects_selector_selects_and_has_a_text() {
        let selector = LabelSelector::of_object(&json!({"matchLabels": {"app": "web"},
            "matchExpressions": [{"key": "tier", "operator": "In", "values": ["a", "b"]}]}));
        assert_eq!(selector.text(), "app=web,tier in (a,b)");
        assert!(selector.matches(&json!({"metadata": {"labels": {"app": "web", "tier": "b"}}})));
        assert!(!selector.matches(&json!({"metadata": {"labels": {"app": "web"}}})));
    }

    #[test]
    fn field_selectors_select() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n"}, "status": {"phase": "Running"}});
        for (selector, expected) in [
            ("metadata.name=p", true),
            ("metadata.name=q", false),
            ("status.phase!=Failed,spec.nodeName=n", true),
            ("involvedObject.name=", true),
        ] {
            assert_eq!(FieldSelector::parse(selector).unwrap().matches(&pod), expected, "{selector}");
        }
        assert_eq!(FieldSelector::parse("spec.x=1").unwrap_err().message, "field label not supported: spec.x");
    }
}
