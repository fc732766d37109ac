//! Subresources that are more than a part of the object: scale, eviction, binding, and the relay to the node for logs
//! and exec.

use crate::App;
use crate::http::Body;
use crate::object::{self, Part};
use crate::request::{Query, Target};
use crate::selectors::LabelSelector;
use crate::status::{ApiError, ApiResult};
use crate::verbs::{Answer, DeleteOptions, WriteOptions};
use bytes::Bytes;
use chrono::Utc;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::copy_bidirectional;
use tokio::net::UnixStream;

/// The value at a path like `.spec.replicas`.
fn at<'a>(object: &'a Value, path: &str) -> &'a Value {
    path.split('.').filter(|step| !step.is_empty()).fold(object, |value, step| &value[step])
}

impl App {
    /// The Scale of an object.
    pub async fn scale(&self, target: &Target) -> ApiResult<Value> {
        let paths = target.kind.scale().ok_or_else(ApiError::no_such_path)?;
        let object = self.read(target).await?.value;
        let selector = match &paths.selector_path {
            Some(path) => at(&object, path).as_str().unwrap_or_default().to_owned(),
            None => LabelSelector::of_object(&object["spec"]["selector"]).text(),
        };
        let metadata = &object["metadata"];
        let mut scale = json!({
            "apiVersion": "autoscaling/v1", "kind": "Scale",
            "metadata": {"name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
                "resourceVersion": metadata["resourceVersion"], "creationTimestamp": metadata["creationTimestamp"]},
            "spec": {"replicas": at(&object, &paths.spec_path).as_i64().unwrap_or(0)},
            "status": {"replicas": at(&object, &paths.status_path).as_i64().unwrap_or(0)},
        });
        if !selector.is_empty() {
            scale["status"]["selector"] = json!(selector);
        }
        Ok(scale)
    }

    /// Writes a Scale's replicas into the object.
    pub async fn set_scale(&self, target: &Target, scale: &Value, options: &WriteOptions) -> ApiResult<Answer> {
        let paths = target.kind.scale().ok_or_else(ApiError::no_such_path)?;
        let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
        if replicas < 0 {
            let cause = crate::status::FieldError::invalid(
                "spec.replicas",
                &json!(replicas),
                "must be greater than or equal to 0",
            );
            return Err(ApiError::invalid("autoscaling", "Scale", target.name()?, vec![cause]));
        }
        let version = &scale["metadata"]["resourceVersion"];
        self.modify(target, Part::Main, options, |old| {
            let mut new = old.clone();
            let steps = paths.spec_path.split('.').filter(|step| !step.is_empty());
            *steps.fold(&mut new, |value, step| &mut value[step]) = json!(replicas);
            if version.as_str().is_some_and(|v| !v.is_empty()) {
                new["metadata"]["resourceVersion"] = version.clone();
            }
            Ok(new)
        })
        .await?;
        Ok(Answer::ok(self.scale(target).await?))
    }

    /// Deletes a pod if its PodDisruptionBudget allows one more disruption, which it then counts.
    pub async fn evict(&self, target: &Target, body: &Value, write: &WriteOptions) -> ApiResult<Answer> {
        let mut options = DeleteOptions::new(&Query::default(), &body["deleteOptions"]);
        options.dry_run |= write.dry_run;
        let pod = self.read(target).await?.value;
        let registry = self.registry();
        let kind = registry.find("policy", "v1", "poddisruptionbudgets").ok_or_else(ApiError::no_such_path)?;
        let budgets = self.store.list(&kind.prefix(target.namespace.as_deref()), None, 0, 0).await?.items;
        let mut covering = budgets.iter().filter(|budget| {
            budget.value["spec"]["selector"].is_object()
                && LabelSelector::of_object(&budget.value["spec"]["selector"]).matches(&pod)
        });
        let budget = covering.next();
        if covering.next().is_some() {
            let message =
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            return Err(ApiError::new(500, "InternalError", message));
        }
        let running = matches!(pod["status"]["phase"].as_str(), Some("Running"));
        if let Some(budget) = budget.filter(|_| running && !object::is_deleting(&pod)) {
            let target = Target {
                kind,
                namespace: target.namespace.clone(),
                name: Some(object::name(&budget.value).to_owned()),
                subresource: None,
            };
            self.count_disruption(&target, object::name(&pod), options.dry_run).await?;
        }
        options.uid = options.uid.or_else(|| pod["metadata"]["uid"].as_str().map(str::to_owned));
        self.delete(target, &options).await?;
        Ok(created())
    }

    async fn count_disruption(&self, target: &Target, pod: &str, dry_run: bool) -> ApiResult<()> {
        let options = WriteOptions { manager: "kube-apiserver".into(), dry_run, ..WriteOptions::default() };
        let write = self.modify(target, Part::Status, &options, |old| {
            let status = &old["status"];
            let allowed = status["disruptionsAllowed"].as_i64().unwrap_or(0);
            let observed = status["observedGeneration"].as_i64() >= old["metadata"]["generation"].as_i64();
            if allowed < 1 || !observed {
                return Err(disruption_refused(old));
            }
            let mut new = old.clone();
            new["status"]["disruptionsAllowed"] = json!(allowed - 1);
            new["status"]["disruptedPods"][pod] = json!(object::timestamp(Utc::now()));
            Ok(new)
        });
        write.await.map(|_| ())
    }

    /// Gives a pod its node.
    pub async fn bind(&self, target: &Target, body: &Value, options: &WriteOptions) -> ApiResult<Answer> {
        let node = body["target"]["name"].clone();
        let write = self.modify(target, Part::Main, options, |old| {
            let mut new = old.clone();
            new["spec"]["nodeName"] = node.clone();
            Ok(new)
        });
        write.await?;
        Ok(created())
    }

    /// Forwards a request for logs or exec to the node's socket, and the streams after an upgrade.
    pub async fn relay(&self, target: &Target, mut request: Request<Incoming>) -> ApiResult<Response<Body>> {
        let pod = self.read(target).await?.value;
        let query = Query::parse(request.uri().query());
        let container = container(&pod, &query)?;
        let raw = request.uri().query().unwrap_or_default();
        let endpoint = if target.subresource.as_deref() == Some("log") { "containerLogs" } else { "exec" };
        let namespace = target.namespace.as_deref().unwrap_or_default();
        let uri = format!("/{endpoint}/{namespace}/{}/{container}?{raw}", target.name()?);
        let unavailable = |error: String| ApiError::internal(format!("error dialing the node: {error}"));
        let stream = UnixStream::connect(&self.config.node_socket).await.map_err(|e| unavailable(e.to_string()))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| unavailable(e.to_string()))?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection to the node ended");
            }
        });
        let mut forwarded = Request::builder().method(request.method()).uri(uri).header(header::HOST, "node");
        for (name, value) in request.headers() {
            let upgrade =
                name.as_str().starts_with("sec-websocket") || [header::CONNECTION, header::UPGRADE].contains(name);
            if upgrade {
                forwarded = forwarded.header(name, value);
            }
        }
        let forwarded = forwarded.body(Empty::<Bytes>::new()).map_err(|e| ApiError::bad_request(e.to_string()))?;
        let mut response = sender.send_request(forwarded).await.map_err(|e| unavailable(e.to_string()))?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let (client, node) = (hyper::upgrade::on(&mut request), hyper::upgrade::on(&mut response));
            tokio::spawn(async move {
                let (Ok(client), Ok(node)) = (client.await, node.await) else {
                    return;
                };
                let (mut client, mut node) = (TokioIo::new(client), TokioIo::new(node));
                if let Err(error) = copy_bidirectional(&mut client, &mut node).await {
                    tracing::debug!(%error, "upgraded stream ended");
                }
            });
        }
        let (parts, body) = response.into_parts();
        Ok(Response::from_parts(parts, body.map_err(Into::into).boxed()))
    }
}

fn created() -> Answer {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Answer { code: 201, ..Answer::ok(status) }
}

fn disruption_refused(budget: &Value) -> ApiError {
    let status = &budget["status"];
    let message = "Cannot evict pod as it would violate the pod's disruption budget.";
    let needs = format!(
        "The disruption budget {} needs {} healthy pods and has {} currently",
        object::name(budget),
        status["desiredHealthy"].as_i64().unwrap_or(0),
        status["currentHealthy"].as_i64().unwrap_or(0)
    );
    ApiError {
        details: json!({"causes": [{"reason": "DisruptionBudget", "message": needs}]}),
        ..ApiError::new(429, "TooManyRequests", message)
    }
}

/// The container that the query names, or the pod's default.
fn container(pod: &Value, query: &Query) -> ApiResult<String> {
    let lists = ["containers", "initContainers"];
    let named = lists.iter().flat_map(|list| pod["spec"][list].as_array().into_iter().flatten());
    let names: Vec<&str> = named.filter_map(|container| container["name"].as_str()).collect();
    let default = pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str();
    let containers = pod["spec"]["containers"].as_array().map_or(0, Vec::len);
    let pod_name = object::name(pod);
    match query.get("container").or(default) {
        Some(name) if names.contains(&name) => Ok(name.to_owned()),
        Some(name) => Err(ApiError::bad_request(format!("container {name} is not valid for pod {pod_name}"))),
        None if containers == 1 => Ok(names[0].to_owned()),
        None => Err(ApiError::bad_request(format!(
            "a container name must be specified for pod {pod_name}, choose one of: [{}]",
            names.join(" ")
        ))),
    }
}
