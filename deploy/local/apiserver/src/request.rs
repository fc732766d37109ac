//! A request's path, query and accepted representations.

use crate::kinds::{Kind, Registry};
use crate::status::{ApiError, ApiResult};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The query's parameters; the last of equal names counts.
#[derive(Debug, Clone, Default)]
pub struct Query(BTreeMap<String, String>);

impl Query {
    /// Parses an URL's query.
    pub fn parse(query: Option<&str>) -> Query {
        Query(form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect())
    }

    /// A parameter that is not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Whether a parameter is `true` or `1`.
    pub fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Some("true" | "1"))
    }

    /// A number, if it is one.
    pub fn number(&self, name: &str) -> Option<i64> {
        self.get(name)?.parse().ok()
    }
}

/// What a path below `/api` or `/apis` names.
#[derive(Debug, Clone)]
pub struct Target {
    /// The table's row.
    pub kind: Arc<Kind>,
    /// The namespace in the path.
    pub namespace: Option<String>,
    /// The object's name.
    pub name: Option<String>,
    /// The subresource, e.g. `status`.
    pub subresource: Option<String>,
}

impl Target {
    /// Resolves the segments after the group and version.
    pub fn parse(registry: &Registry, group: &str, version: &str, segments: &[&str]) -> ApiResult<Target> {
        let (namespace, rest) = match segments {
            // `namespaces/NAME` and its subresources are about the Namespace itself.
            ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => (None, segments),
            ["namespaces", namespace, rest @ ..] => (Some((*namespace).to_owned()), rest),
            _ => (None, segments),
        };
        let (plural, name, subresource) = match rest {
            [plural] => (plural, None, None),
            [plural, name] => (plural, Some(name), None),
            [plural, name, subresource] => (plural, Some(name), Some(subresource)),
            _ => return Err(ApiError::no_such_path()),
        };
        let kind = registry.find(group, version, plural).ok_or_else(ApiError::no_such_path)?;
        if namespace.is_some() != kind.namespaced && (namespace.is_some() || name.is_some()) {
            return Err(ApiError::no_such_path());
        }
        if let Some(subresource) = subresource
            && !kind.subresources().contains(subresource)
        {
            return Err(ApiError::no_such_path());
        }
        let owned = |text: &&str| (*text).to_owned();
        Ok(Target { kind, namespace, name: name.map(owned), subresource: subresource.map(owned) })
    }

    /// The name in the path.
    pub fn name(&self) -> ApiResult<&str> {
        self.name.as_deref().ok_or_else(ApiError::no_such_path)
    }

    /// The object's key.
    pub fn key(&self) -> ApiResult<String> {
        Ok(self.kind.key(self.namespace.as_deref(), self.name()?))
    }

    /// 404 of this object.
    pub fn not_found(&self) -> ApiError {
        ApiError::not_found(&self.kind.group, &self.kind.plural, self.name.as_deref().unwrap_or_default())
    }

    /// 409: someone else wrote in between.
    pub fn stale(&self) -> ApiError {
        ApiError::stale(&self.kind.group, &self.kind.plural, self.name.as_deref().unwrap_or_default())
    }
}

/// How objects are shown to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The objects themselves.
    Object,
    /// `meta.k8s.io/v1 Table`.
    Table,
    /// `PartialObjectMetadata`: without spec and status.
    Metadata,
}

impl Form {
    /// The first form in the Accept header that is served; 406 when there is none.
    pub fn of_accept(accept: &str) -> ApiResult<Form> {
        if accept.trim().is_empty() {
            return Ok(Form::Object);
        }
        for media in accept.split(',') {
            let mut parts = media.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or_default();
            if !["application/json", "application/yaml", "*/*", "application/*"].contains(&media_type) {
                continue;
            }
            let parameters: Vec<&str> = parts.collect();
            let wanted = parameters.iter().find_map(|p| p.strip_prefix("as="));
            if parameters.iter().any(|p| p.strip_prefix("v=").is_some_and(|v| v != "v1")) && wanted.is_some() {
                continue;
            }
            return Ok(match wanted {
                Some("Table") => Form::Table,
                Some("PartialObjectMetadata" | "PartialObjectMetadataList") => Form::Metadata,
                _ => Form::Object,
            });
        }
        let message = "only the following media types are accepted: application/json, application/yaml";
        Err(ApiError::new(406, "NotAcceptable", message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_objects() {
        let registry = Registry::new(Vec::new());
        let target = |group, path: &str| {
            let segments: Vec<&str> = path.split('/').collect();
            Target::parse(&registry, group, "v1", &segments)
                .map(|t| (t.kind.plural.clone(), t.namespace, t.name, t.subresource))
                .map_err(|e| e.code)
        };
        let s = |text: &str| Some(text.to_owned());
        assert_eq!(target("", "pods"), Ok(("pods".into(), None, None, None)));
        assert_eq!(target("", "namespaces/a/pods/p/log"), Ok(("pods".into(), s("a"), s("p"), s("log"))));
        assert_eq!(target("", "namespaces/a"), Ok(("namespaces".into(), None, s("a"), None)));
        assert_eq!(target("", "namespaces/a/status"), Ok(("namespaces".into(), None, s("a"), s("status"))));
        assert_eq!(
            target("apps", "namespaces/a/deployments/d/scale"),
            Ok(("deployments".into(), s("a"), s("d"), s("scale")))
        );
        assert_eq!(target("", "nodes/n"), Ok(("nodes".into(), None, s("n"), None)));
        for missing in ["unicorns", "pods/p", "namespaces/a/nodes", "namespaces/a/configmaps/c/status", "a/b/c/d"] {
            assert_eq!(target("", missing), Err(404), "{missing}");
        }
    }

    #[test]
    fn accept_headers_choose_the_form() {
        for (accept, form) in [
            ("", Form::Object),
            ("*/*", Form::Object),
            ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", Form::Table),
            ("application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json", Form::Object),
            ("application/vnd.kubernetes.protobuf,application/json", Form::Object),
            ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", Form::Metadata),
        ] {
            assert_eq!(Form::of_accept(accept).unwrap(), form, "{accept}");
        }
        assert_eq!(Form::of_accept("application/vnd.kubernetes.protobuf").unwrap_err().code, 406);
    }
}
