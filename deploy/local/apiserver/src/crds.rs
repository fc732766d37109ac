//! CustomResourceDefinitions: they add rows to the table of kinds.

use crate::App;
use crate::kinds::{Custom, Kind, Registry, Scale};
use crate::object::{self, Part};
use crate::request::Target;
use crate::schema::Schema;
use crate::status::ApiResult;
use crate::verbs::WriteOptions;
use chrono::Utc;
use serde_json::{Value, json};
use std::sync::Arc;

/// Where CRDs are kept.
pub const STORAGE: &str = "apiextensions.k8s.io/customresourcedefinitions";

/// The rows of a CRD: one for each served version.
pub fn kinds_of(crd: &Value) -> Vec<Arc<Kind>> {
    let spec = &crd["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let words = |value: &Value| value.as_array().into_iter().flatten().map(text).collect::<Vec<_>>();
    let names = &spec["names"];
    let versions = spec["versions"].as_array().into_iter().flatten();
    let served = versions.filter(|version| version["served"] == json!(true));
    let rows = served.map(|version| {
        let scale = &version["subresources"]["scale"];
        Arc::new(Kind {
            group: text(&spec["group"]),
            version: text(&version["name"]),
            kind: text(&names["kind"]),
            list_kind: text(&names["listKind"]),
            plural: text(&names["plural"]),
            singular: text(&names["singular"]),
            short_names: words(&names["shortNames"]),
            categories: words(&names["categories"]),
            namespaced: spec["scope"] == "Namespaced",
            schema: Schema::custom(&version["schema"]["openAPIV3Schema"]),
            custom: Some(Custom {
                status: version["subresources"]["status"].is_object(),
                scale: scale.is_object().then(|| Scale {
                    spec_path: text(&scale["specReplicasPath"]),
                    status_path: text(&scale["statusReplicasPath"]),
                    selector_path: scale["labelSelectorPath"].as_str().map(str::to_owned),
                }),
                columns: version["additionalPrinterColumns"].as_array().cloned().unwrap_or_default(),
            }),
            storage: format!("{}/{}", text(&spec["group"]), text(&names["plural"])),
        })
    });
    rows.collect()
}

/// A CRD's status once its kinds are served.
fn established(crd: &Value) -> Value {
    let now = object::timestamp(Utc::now());
    let condition = |kind: &str, reason: &str, message: &str| json!({"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now});
    let versions = crd["spec"]["versions"].as_array().into_iter().flatten();
    let stored: Vec<&Value> = versions.filter(|v| v["storage"] == json!(true)).map(|v| &v["name"]).collect();
    json!({
        "acceptedNames": crd["spec"]["names"],
        "storedVersions": stored,
        "conditions": [
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ],
    })
}

impl App {
    /// Serves the kinds of all CRDs in the store, and marks those as established that are not yet.
    pub async fn load_crds(&self) -> ApiResult<()> {
        let prefix = format!("{}{STORAGE}/", crate::store::ROOT);
        let crds = self.store.list(&prefix, None, 0, 0).await?.items;
        self.set_registry(Registry::new(crds.iter().flat_map(|crd| kinds_of(&crd.value)).collect()));
        for crd in crds.iter().filter(|crd| !is_established(&crd.value)) {
            self.establish(object::name(&crd.value)).await?;
        }
        Ok(())
    }

    async fn establish(&self, name: &str) -> ApiResult<()> {
        let Some(kind) = self.registry().of_storage(STORAGE) else {
            return Ok(());
        };
        let target = Target { kind, namespace: None, name: Some(name.to_owned()), subresource: Some("status".into()) };
        let options = WriteOptions { manager: "kube-apiserver".into(), ..WriteOptions::default() };
        let write = self.modify(&target, Part::Status, &options, |old| {
            let mut new = old.clone();
            if !is_established(old) {
                new["status"] = established(old);
            }
            Ok(new)
        });
        match write.await {
            Err(error) if error.code != 404 => Err(error),
            _ => Ok(()),
        }
    }
}

fn is_established(crd: &Value) -> bool {
    let conditions = crd["status"]["conditions"].as_array();
    let up = conditions.is_some_and(|all| all.iter().any(|c| c["type"] == "Established" && c["status"] == "True"));
    up && crd["status"]["acceptedNames"] == crd["spec"]["names"]
}
