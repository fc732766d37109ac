//! Questions about who may do what: everyone with the token may do everything.

use crate::App;
use crate::kinds::Kind;
use chrono::{Duration, Utc};
use serde_json::{Value, json};

const USER: &str = "keelson-local:admin";

impl App {
    /// Answers a review.
    pub fn review(&self, kind: &Kind, mut body: Value) -> Value {
        body["apiVersion"] = json!(kind.api_version());
        body["kind"] = json!(kind.kind);
        let user = json!({"username": USER, "groups": ["system:masters", "system:authenticated"]});
        body["status"] = match kind.kind.as_str() {
            "SelfSubjectRulesReview" => json!({
                "incomplete": false, "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
                "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
            }),
            "TokenReview" if body["spec"]["token"] == json!(self.config.token) => {
                json!({"authenticated": true, "user": user})
            }
            "TokenReview" => json!({"authenticated": false}),
            "SelfSubjectReview" => json!({"userInfo": user}),
            _ => json!({"allowed": true}),
        };
        body
    }

    /// A ServiceAccount's token: the one token that there is.
    pub fn token_request(&self, mut body: Value) -> Value {
        let seconds = body["spec"]["expirationSeconds"].as_i64().unwrap_or(3600);
        let expiry = crate::object::timestamp(Utc::now() + Duration::seconds(seconds.clamp(600, 1 << 32)));
        body["apiVersion"] = json!("authentication.k8s.io/v1");
        body["kind"] = json!("TokenRequest");
        body["status"] = json!({"token": self.config.token, "expirationTimestamp": expiry});
        body
    }
}
