//! Authorization of service accounts by RBAC objects, so that tests can tell whether a program has the rights that it needs.

use crate::App;
use crate::request::Target;
use crate::status::{ApiError, ApiResult};
use serde_json::Value;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Whose token a request carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// The machine's own, which may do everything.
    Machine,
    /// A pod's.
    ServiceAccount {
        /// The pod's namespace.
        namespace: String,
        /// The account's name in it.
        name: String,
    },
}

impl Identity {
    /// A pod's token is the machine's with its account behind it: `TOKEN.NAMESPACE.NAME`. Nobody is kept from making one up.
    pub fn of(token: &str, machine: &str) -> Option<Identity> {
        let rest = token.strip_prefix(machine)?;
        if rest.is_empty() {
            return Some(Identity::Machine);
        }
        let (namespace, name) = rest.strip_prefix('.')?.split_once('.')?;
        Some(Identity::ServiceAccount { namespace: namespace.into(), name: name.into() })
    }
}

/// What somebody wants to do.
struct Wish<'a> {
    verb: &'a str,
    group: &'a str,
    /// With the subresource: `pods/log`.
    resource: String,
    name: Option<&'a str>,
}

/// Whether a role's rule permits it.
fn permits(rule: &Value, wish: &Wish<'_>) -> bool {
    let words = |field: &str| rule[field].as_array().into_iter().flatten().filter_map(Value::as_str);
    let has = |field: &str, word: &str| words(field).any(|it| it == "*" || it == word);
    let named = words("resourceNames").next().is_none() || words("resourceNames").any(|it| Some(it) == wish.name);
    has("verbs", wish.verb) && has("apiGroups", wish.group) && has("resources", &wish.resource) && named
}

/// Whether a binding is for the service account.
fn concerns(binding: &Value, namespace: &str, name: &str) -> bool {
    let everybody = format!("system:serviceaccounts:{namespace}");
    binding["subjects"].as_array().into_iter().flatten().any(|subject| match subject["kind"].as_str() {
        Some("ServiceAccount") => subject["namespace"] == namespace && subject["name"] == name,
        Some("Group") => {
            let groups = ["system:authenticated", "system:serviceaccounts", &everybody];
            groups.iter().any(|group| subject["name"] == *group)
        }
        _ => false,
    })
}

impl App {
    /// Refuses what no role permits to the service account; the machine may do everything.
    pub(crate) async fn authorize(&self, identity: &Identity, verb: &str, target: &Target) -> ApiResult<()> {
        let Identity::ServiceAccount { namespace, name } = identity else { return Ok(()) };
        let plural = &target.kind.plural;
        let resource = target.subresource.as_ref().map_or_else(|| plural.clone(), |sub| format!("{plural}/{sub}"));
        let wish = Wish { verb, group: &target.kind.group, resource, name: target.name.as_deref() };
        let mut bindings = self.all("clusterrolebindings", None).await?;
        if let Some(place) = &target.namespace {
            bindings.extend(self.all("rolebindings", Some(place)).await?);
        }
        for binding in bindings.iter().filter(|binding| concerns(binding, namespace, name)) {
            let roles = if binding["roleRef"]["kind"] == "Role" { "roles" } else { "clusterroles" };
            let place = binding["metadata"]["namespace"].as_str().filter(|_| roles == "roles");
            let roles = self.all(roles, place).await?;
            let role = roles.iter().find(|role| role["metadata"]["name"] == binding["roleRef"]["name"]);
            let rules = role.and_then(|role| role["rules"].as_array());
            if rules.into_iter().flatten().any(|rule| permits(rule, &wish)) {
                self.tell_use(namespace, name, &wish);
                return Ok(());
            }
        }
        let place =
            target.namespace.as_ref().map_or("at the cluster scope".into(), |it| format!("in the namespace {it:?}"));
        let why = format!(
            "User \"system:serviceaccount:{namespace}:{name}\" cannot {verb} resource {:?} in API group {:?} {place}",
            wish.resource, wish.group
        );
        tracing::warn!("{why}");
        Err(ApiError::forbidden(&target.kind.group, plural, wish.name.unwrap_or_default(), &why))
    }

    /// Tells of each right when it is used first, so that tests can compare what an account uses with what it has.
    fn tell_use(&self, namespace: &str, name: &str, wish: &Wish<'_>) {
        let used = format!("{namespace}/{name} {} {}/{}", wish.verb, wish.group, wish.resource);
        let mut all = self.rights_used.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if !all.contains(&used) {
            tracing::info!("used: {used}");
            all.insert(used);
        }
    }

    async fn all(&self, plural: &str, namespace: Option<&str>) -> ApiResult<Vec<Value>> {
        let kind = self.registry().find(GROUP, "v1", plural).ok_or_else(ApiError::no_such_path)?;
        let page = self.store.list(&kind.prefix(namespace), None, 0, 0).await?;
        Ok(page.items.into_iter().map(|stored| stored.value).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_token_names_the_account() {
        assert_eq!(Identity::of("abc", "abc"), Some(Identity::Machine));
        let account = Identity::ServiceAccount { namespace: "ns".into(), name: "a.b".into() };
        assert_eq!(Identity::of("abc.ns.a.b", "abc"), Some(account));
        assert_eq!(Identity::of("abd.ns.a", "abc"), None);
        assert_eq!(Identity::of("abcd", "abc"), None);
        assert_eq!(Identity::of("", "abc"), None);
    }

    #[test]
    fn a_rule_permits_what_it_names_and_nothing_else() {
        let rule = json!({"verbs": ["get", "update"], "apiGroups": ["coordination.k8s.io"], "resources": ["leases"],
            "resourceNames": ["lock"]});
        let wish =
            |verb, resource: &str, name| Wish { verb, group: "coordination.k8s.io", resource: resource.into(), name };
        assert!(permits(&rule, &wish("get", "leases", Some("lock"))));
        assert!(!permits(&rule, &wish("get", "leases", Some("other"))));
        assert!(!permits(&rule, &wish("list", "leases", None)));
        assert!(!permits(&rule, &wish("update", "leases/status", Some("lock"))));
        let all = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]});
        assert!(permits(&all, &wish("delete", "leases", None)));
    }

    #[test]
    fn bindings_are_for_accounts_and_their_groups() {
        let to = |subject: Value| json!({"subjects": [subject]});
        assert!(concerns(&to(json!({"kind": "ServiceAccount", "namespace": "ns", "name": "a"})), "ns", "a"));
        assert!(!concerns(&to(json!({"kind": "ServiceAccount", "namespace": "other", "name": "a"})), "ns", "a"));
        assert!(concerns(&to(json!({"kind": "Group", "name": "system:serviceaccounts:ns"})), "ns", "a"));
        assert!(!concerns(&to(json!({"kind": "User", "name": "a"})), "ns", "a"));
    }
}
