//! Create, read, update, patch and delete, generic over kinds. A write is: read, compute the new object (pure), compare
//! and swap; patches try again when someone else wrote in between.

use crate::App;
use crate::admission;
use crate::apply;
use crate::convert;
use crate::object::{self, Part};
use crate::patch::{self, PatchType};
use crate::request::{Query, Target};
use crate::schema;
use crate::selectors::{FieldSelector, LabelSelector};
use crate::status::{ApiError, ApiResult};
use crate::store::{Stored, Written};
use crate::validation::{self, FieldValidation};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Duration, Utc};
use serde_json::{Value, json};

/// How often a write without a resource version is tried when others write the same object.
pub const ATTEMPTS: usize = 20;

/// The parameters that all writes have in common.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    /// Compute and answer, but keep nothing.
    pub dry_run: bool,
    /// Who owns the fields that this write sets.
    pub manager: String,
    /// Server-side apply takes over fields of other managers.
    pub force: bool,
    /// What to do about fields that the schema does not know.
    pub validation: FieldValidation,
}

impl WriteOptions {
    /// From a request's query; the manager defaults to the program's name in `User-Agent`.
    pub fn new(query: &Query, user_agent: &str) -> WriteOptions {
        let program = user_agent.split('/').next().filter(|p| !p.is_empty()).unwrap_or("unknown");
        WriteOptions {
            dry_run: query.get("dryRun").is_some(),
            manager: query.get("fieldManager").unwrap_or(program).to_owned(),
            force: query.flag("force"),
            validation: FieldValidation::parse(query.get("fieldValidation")),
        }
    }
}

/// An object and the warnings that go with it.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status: 200, or 201 for what was created.
    pub code: u16,
    /// The object.
    pub object: Value,
    /// Texts for the client's `Warning` headers.
    pub warnings: Vec<String>,
}

impl Answer {
    /// 200 without warnings.
    pub fn ok(object: Value) -> Answer {
        Answer { code: 200, object, warnings: Vec::new() }
    }
}

/// A list's selectors.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selection {
    /// From the query and, when the path names one object, its name.
    pub fn new(target: &Target, query: &Query) -> ApiResult<Selection> {
        let mut fields = query.get("fieldSelector").unwrap_or_default().to_owned();
        if let Some(name) = &target.name {
            fields = format!("{fields},metadata.name={name}");
        }
        Ok(Selection {
            labels: LabelSelector::parse(query.get("labelSelector").unwrap_or_default())?,
            fields: FieldSelector::parse(&fields)?,
        })
    }

    /// Whether it selects the object.
    pub fn matches(&self, object: &Value) -> bool {
        self.labels.matches(object) && self.fields.matches(object)
    }
}

impl App {
    /// Reads the object at the target, in the target's version.
    pub async fn read(&self, target: &Target) -> ApiResult<Stored> {
        let mut stored = self.store.get(&target.key()?).await?.ok_or_else(|| target.not_found())?;
        convert::from_storage(&target.kind, &mut stored.value);
        Ok(stored)
    }

    /// A `List` of the target's kind.
    pub async fn list(&self, target: &Target, query: &Query) -> ApiResult<Value> {
        let selection = Selection::new(target, query)?;
        let prefix = target.kind.prefix(target.namespace.as_deref());
        let limit = query.number("limit").unwrap_or(0).max(0);
        let (mut after, mut revision) = match query.get("continue") {
            Some(token) => parse_continue(token)?,
            None if query.get("resourceVersionMatch") == Some("Exact") => {
                (None, query.number("resourceVersion").unwrap_or(0))
            }
            None => (None, 0),
        };
        let mut items = Vec::new();
        // With selectors a page is filled from as many pages of the store as it takes.
        let remaining = loop {
            let want = if limit > 0 { limit - items.len() as i64 } else { 0 };
            let page = self.store.list(&prefix, after.as_deref(), want, revision).await?;
            revision = page.revision;
            after = page.items.last().map(|stored| stored.key.clone()).or(after);
            for mut stored in page.items {
                convert::from_storage(&target.kind, &mut stored.value);
                if selection.matches(&stored.value) {
                    items.push(stored.value);
                }
            }
            if page.remaining <= 0 || (limit > 0 && items.len() as i64 >= limit) {
                break page.remaining;
            }
        };
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if let (true, Some(after)) = (remaining > 0, after) {
            let token = json!({"v": "meta.k8s.io/v1", "rv": revision, "start": after}).to_string();
            metadata["continue"] = json!(URL_SAFE_NO_PAD.encode(token));
            metadata["remainingItemCount"] = json!(remaining);
        }
        Ok(json!({
            "apiVersion": target.kind.api_version(), "kind": target.kind.list_kind, "metadata": metadata, "items": items,
        }))
    }

    /// Creates an object in the target's collection.
    pub async fn create(&self, target: &Target, mut object: Value, options: &WriteOptions) -> ApiResult<Answer> {
        let kind = &target.kind;
        object::check_type(kind, &mut object)?;
        object::check_namespace(kind, target.namespace.as_deref(), &mut object)?;
        let given_managers = object["metadata"]["managedFields"].take();
        let now = Utc::now();
        let generated = object::name(&object).is_empty();
        let before = object.clone();
        for _ in 0..ATTEMPTS {
            let mut object = before.clone();
            object::prepare_create(kind, &mut object, now)?;
            let warnings = self.admit(target, None, &mut object, options).await?;
            object["metadata"]["managedFields"] =
                if given_managers.is_array() { given_managers.clone() } else { json!([]) };
            apply::track(kind, Part::Main, &json!({}), &mut object, &options.manager, now);
            match self.insert(target, object, options).await {
                Err(error) if generated && error.reason == "AlreadyExists" => {}
                created => {
                    return created.map(|object| Answer { code: 201, object, warnings });
                }
            }
        }
        Err(ApiError::already_exists(&kind.group, &kind.plural, object::meta(&before, "generateName")))
    }

    /// Puts a complete new object into the store.
    async fn insert(&self, target: &Target, object: Value, options: &WriteOptions) -> ApiResult<Value> {
        let kind = &target.kind;
        let name = object::name(&object).to_owned();
        let key = kind.key(target.namespace.as_deref(), &name);
        let exists = || ApiError::already_exists(&kind.group, &kind.plural, &name);
        if options.dry_run {
            return match self.store.get(&key).await? {
                Some(_) => Err(exists()),
                None => Ok(object),
            };
        }
        let mut kept = object.clone();
        convert::to_storage(kind, &mut kept);
        match self.store.create(&key, &kept).await? {
            Written::At(revision) => Ok(with_revision(object, revision)),
            Written::Conflict => Err(exists()),
        }
    }

    /// Schema, defaults and rules: everything that may change or refuse an object before it is kept.
    async fn admit(
        &self,
        target: &Target,
        old: Option<&Value>,
        object: &mut Value,
        options: &WriteOptions,
    ) -> ApiResult<Vec<String>> {
        let kind = &target.kind;
        let warnings = validation::shape(kind, object, options.validation)?;
        if old.is_none() {
            self.check_namespace_is_live(target).await?;
        }
        schema::default(object, kind.schema.node());
        admission::defaults(kind, old, object);
        self.allocate(kind, old, object).await?;
        admission::check(kind, old, object)?;
        validation::check(kind, old, object)?;
        Ok(warnings)
    }

    async fn check_namespace_is_live(&self, target: &Target) -> ApiResult<()> {
        let Some(namespace) = target.namespace.as_deref().filter(|_| target.kind.namespaced) else {
            return Ok(());
        };
        let key = format!("{}namespaces/{namespace}", crate::store::ROOT);
        match self.store.get(&key).await? {
            None => Err(ApiError::not_found("", "namespaces", namespace)),
            Some(found) if object::is_deleting(&found.value) => {
                let why =
                    format!("unable to create new content in namespace {namespace} because it is being terminated");
                let kind = &target.kind;
                let mut error = ApiError::forbidden(&kind.group, &kind.plural, "", &why);
                error.details["causes"] = json!([{"reason": "NamespaceTerminating", "field": "metadata.namespace",
                    "message": format!("namespace {namespace} is being terminated")}]);
                Err(error)
            }
            Some(_) => Ok(()),
        }
    }

    /// Replaces an object; a body without a resource version replaces whatever is there. Creates nothing.
    pub async fn update(
        &self,
        target: &Target,
        part: Part,
        mut new: Value,
        options: &WriteOptions,
    ) -> ApiResult<Answer> {
        object::check_type(&target.kind, &mut new)?;
        object::check_namespace(&target.kind, target.namespace.as_deref(), &mut new)?;
        self.modify(target, part, options, |_| Ok(new.clone())).await
    }

    /// Patches an object: JSON, merge or strategic merge patch.
    pub async fn patch(
        &self,
        target: &Target,
        part: Part,
        (patch_type, patch): (PatchType, &Value),
        options: &WriteOptions,
    ) -> ApiResult<Answer> {
        self.modify(target, part, options, |old| patch::patched(patch_type, &target.kind, old, patch)).await
    }

    /// Reads, computes, checks, compares and swaps, until it worked or the change itself is refused.
    pub async fn modify(
        &self,
        target: &Target,
        part: Part,
        options: &WriteOptions,
        change: impl Fn(&Value) -> ApiResult<Value>,
    ) -> ApiResult<Answer> {
        let track = |old: &Value, new: &mut Value| {
            apply::track(&target.kind, part, old, new, &options.manager, Utc::now());
        };
        self.rewrite(target, part, options, change, track).await
    }

    /// As [`App::modify`], with a way of its own to keep the record of who owns which field.
    async fn rewrite(
        &self,
        target: &Target,
        part: Part,
        options: &WriteOptions,
        change: impl Fn(&Value) -> ApiResult<Value>,
        track: impl Fn(&Value, &mut Value),
    ) -> ApiResult<Answer> {
        for _ in 0..ATTEMPTS {
            let old = self.read(target).await?;
            let changed = change(&old.value)?;
            let mut new = object::prepare_update(&target.kind, part, &old.value, changed)?;
            let warnings = self.admit(target, Some(&old.value), &mut new, options).await?;
            object::count_generation(&target.kind, &old.value, &mut new);
            track(&old.value, &mut new);
            // Someone else wrote: a change that names a resource version is refused in the next turn.
            if let Some(object) = self.replace(target, old, new, options).await? {
                return Ok(Answer { code: 200, object, warnings });
            }
        }
        Err(target.stale())
    }

    /// Server-side apply: creates the object, or merges the configuration into it.
    pub async fn apply(&self, target: &Target, part: Part, config: Value, options: &WriteOptions) -> ApiResult<Answer> {
        let (kind, mut config) = (&target.kind, config);
        object::check_type(kind, &mut config)?;
        object::check_namespace(kind, target.namespace.as_deref(), &mut config)?;
        if config["metadata"]["managedFields"].as_array().is_some_and(|m| !m.is_empty()) {
            return Err(ApiError::bad_request("metadata.managedFields must be nil"));
        }
        if object::name(&config).is_empty() {
            config["metadata"]["name"] = json!(target.name()?);
        }
        // What is compared with the stored object has its form.
        let warnings = validation::shape(kind, &mut config, options.validation)?;
        admission::write_only(kind, &mut config);
        let merge = |old: &Value| apply::apply(kind, part, old, &config, &options.manager, options.force, Utc::now());
        let may_create = part == Part::Main && object::meta(&config, "uid").is_empty();
        for _ in 0..ATTEMPTS {
            let applied = match self.rewrite(target, part, options, merge, |_, _| {}).await {
                Err(error) if error.code == 404 && may_create => self.apply_new(target, &config, options).await,
                applied => applied,
            };
            match applied {
                Err(error) if error.reason == "AlreadyExists" => {}
                applied => return applied.map(|answer| Answer { warnings, ..answer }),
            }
        }
        Err(target.stale())
    }

    async fn apply_new(&self, target: &Target, config: &Value, options: &WriteOptions) -> ApiResult<Answer> {
        let now = Utc::now();
        let mut object = config.clone();
        object::prepare_create(&target.kind, &mut object, now)?;
        let warnings = self.admit(target, None, &mut object, options).await?;
        object["metadata"]["managedFields"] = apply::first_owner(&target.kind, config, &options.manager, now);
        let object = self.insert(target, object, options).await?;
        Ok(Answer { code: 201, object, warnings })
    }

    /// Writes `new` over `old`, or removes it when its last finalizer went; None when the object was changed meanwhile.
    async fn replace(
        &self,
        target: &Target,
        old: Stored,
        new: Value,
        options: &WriteOptions,
    ) -> ApiResult<Option<Value>> {
        if new == old.value {
            return Ok(Some(new));
        }
        if options.dry_run {
            return Ok(Some(new));
        }
        let written = if object::is_finished(&target.kind, &new) {
            self.store.delete_if(&old.key, old.revision).await?
        } else {
            let mut kept = new.clone();
            convert::to_storage(&target.kind, &mut kept);
            self.store.put_if(&old.key, &kept, old.revision).await?
        };
        Ok(match written {
            Written::At(revision) => Some(with_revision(new, revision)),
            Written::Conflict => None,
        })
    }

    /// Deletes an object at once, or begins its deletion where finalizers or a grace period hold it.
    pub async fn delete(&self, target: &Target, options: &DeleteOptions) -> ApiResult<Answer> {
        for _ in 0..ATTEMPTS {
            let old = self.read(target).await?;
            options.check_preconditions(target, &old.value)?;
            let new = begin_deletion(target, &old.value, options, Utc::now());
            if options.dry_run {
                return Ok(Answer::ok(new));
            }
            let finished = object::is_finished(&target.kind, &new);
            let write = WriteOptions::default();
            if let Some(object) = self.replace(target, old, new, &write).await? {
                return Ok(Answer::ok(if finished { deleted_status(target, &object) } else { object }));
            }
        }
        Err(target.stale())
    }

    /// Deletes every selected object of a collection; answers with the list of them.
    pub async fn delete_collection(&self, target: &Target, query: &Query, options: &DeleteOptions) -> ApiResult<Value> {
        let list = self.list(target, query).await?;
        for item in list["items"].as_array().into_iter().flatten() {
            let one = Target {
                name: Some(object::name(item).to_owned()),
                namespace: object::namespace(item).map(str::to_owned),
                ..target.clone()
            };
            match self.delete(&one, options).await {
                Err(error) if error.code != 404 => return Err(error),
                _ => {}
            }
        }
        Ok(list)
    }
}

fn with_revision(mut object: Value, revision: i64) -> Value {
    object["metadata"]["resourceVersion"] = json!(revision.to_string());
    object
}

fn parse_continue(token: &str) -> ApiResult<(Option<String>, i64)> {
    let bad = || ApiError::bad_request("continue key is not valid");
    let bytes = URL_SAFE_NO_PAD.decode(token.trim_end_matches('=')).map_err(|_| bad())?;
    let token: Value = serde_json::from_slice(&bytes).map_err(|_| bad())?;
    match (token["start"].as_str(), token["rv"].as_i64()) {
        (Some(start), Some(revision)) if start.starts_with(crate::store::ROOT) => {
            Ok((Some(start.to_owned()), revision))
        }
        _ => Err(bad()),
    }
}

/// What happens to the objects that the deleted one owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Propagation {
    /// They are deleted after it.
    #[default]
    Background,
    /// It goes after those that block its deletion.
    Foreground,
    /// They stay without an owner.
    Orphan,
}

/// `metav1.DeleteOptions`.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// Seconds a pod gets to stop; 0 removes it at once.
    pub grace_seconds: Option<i64>,
    /// What becomes of dependents.
    pub propagation: Propagation,
    /// The uid that the object must have.
    pub uid: Option<String>,
    /// The resource version that the object must have.
    pub resource_version: Option<String>,
    /// Keep everything.
    pub dry_run: bool,
}

impl DeleteOptions {
    /// From the query and the body, if there is one.
    pub fn new(query: &Query, body: &Value) -> DeleteOptions {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let policy = body["propagationPolicy"].as_str().or(query.get("propagationPolicy"));
        let orphan = body["orphanDependents"].as_bool().unwrap_or(query.flag("orphanDependents"));
        DeleteOptions {
            grace_seconds: body["gracePeriodSeconds"].as_i64().or(query.number("gracePeriodSeconds")),
            propagation: match policy {
                Some("Orphan") => Propagation::Orphan,
                Some("Foreground") => Propagation::Foreground,
                None if orphan => Propagation::Orphan,
                _ => Propagation::Background,
            },
            uid: text(&body["preconditions"]["uid"]),
            resource_version: text(&body["preconditions"]["resourceVersion"]),
            dry_run: query.get("dryRun").is_some() || body["dryRun"].as_array().is_some_and(|d| !d.is_empty()),
        }
    }

    fn check_preconditions(&self, target: &Target, object: &Value) -> ApiResult<()> {
        for (field, label, wanted) in
            [("uid", "UID", &self.uid), ("resourceVersion", "ResourceVersion", &self.resource_version)]
        {
            let found = object::meta(object, field);
            if let Some(wanted) = wanted.as_ref().filter(|w| *w != found) {
                let why =
                    format!("Precondition failed: {label} in precondition: {wanted}, {label} in object meta: {found}");
                return Err(ApiError::conflict(&target.kind.group, &target.kind.plural, object::name(object), &why));
            }
        }
        Ok(())
    }
}

/// Finalizer of a foreground deletion.
pub const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of a deletion that leaves the dependents.
pub const ORPHAN: &str = "orphan";

/// The object after a delete request: with a deletion time, and with what holds it until the garbage collector or the
/// node has done its part.
fn begin_deletion(target: &Target, old: &Value, options: &DeleteOptions, now: DateTime<Utc>) -> Value {
    let mut new = old.clone();
    let mut finalizers = object::finalizers(old);
    let marker = match options.propagation {
        Propagation::Foreground => Some(FOREGROUND),
        Propagation::Orphan => Some(ORPHAN),
        Propagation::Background => None,
    };
    finalizers.retain(|f| (f != FOREGROUND && f != ORPHAN) || (object::is_deleting(old) && marker.is_none()));
    finalizers.extend(marker.map(str::to_owned));
    object::set_finalizers(&mut new, finalizers);
    let mut grace = if target.kind.is("", "Pod") { pod_grace_seconds(old, options) } else { 0 };
    if object::is_deleting(old) {
        // A second request may shorten the grace, never lengthen it.
        grace = grace.min(old["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0));
        if new == *old && grace == old["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) {
            return new;
        }
    } else if let Some(generation) = old["metadata"]["generation"].as_i64() {
        new["metadata"]["generation"] = json!(generation + 1);
    }
    new["metadata"]["deletionTimestamp"] = json!(object::timestamp(now + Duration::seconds(grace)));
    new["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
    if target.kind.is("", "Namespace") {
        new["status"]["phase"] = json!("Terminating");
    }
    new
}

/// Seconds a pod gets to stop: none when no node has it or it has ended.
fn pod_grace_seconds(pod: &Value, options: &DeleteOptions) -> i64 {
    let unscheduled = pod["spec"]["nodeName"].as_str().unwrap_or_default().is_empty();
    let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if unscheduled || ended {
        return 0;
    }
    let own = pod["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
    options.grace_seconds.unwrap_or(own).max(0)
}

fn deleted_status(target: &Target, object: &Value) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": {"name": object::name(object), "group": target.kind.group, "kind": target.kind.plural,
            "uid": object["metadata"]["uid"]},
    })
}
