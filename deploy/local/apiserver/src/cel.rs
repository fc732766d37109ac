//! `x-kubernetes-validations`: CEL rules of CRDs over `self` and `oldSelf`, with the functions of Kubernetes that
//! operators commonly use: the string and list extensions, `quantity`, `isQuantity` and the comparisons of quantities,
//! and `isURL`. Not there: cost limits, `ip`, `cidr`, `format` and `semver`.

use crate::fields;
use crate::schema::{ListKind, Node, join};
use crate::status::FieldError;
use cel::extractors::This;
use cel::objects::{Key, Map};
use cel::{Context, Env, ExecutionError, Program, Value as Cel, extensions};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut environment = Env::stdlib();
    for added in [environment.add_extension(extensions::strings), environment.add_extension(extensions::lists)] {
        if let Err(error) = added {
            tracing::error!(%error, "a CEL extension is missing");
        }
    }
    Arc::new(environment)
});

/// Compiled rules by their text.
static PROGRAMS: LazyLock<Mutex<HashMap<String, Arc<Program>>>> = LazyLock::new(Mutex::default);

fn compile(rule: &str) -> Result<Arc<Program>, String> {
    let mut programs = PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(program) = programs.get(rule) {
        return Ok(program.clone());
    }
    let program = Arc::new(ENVIRONMENT.compile(rule).map_err(|errors| errors.to_string())?);
    programs.insert(rule.to_owned(), program.clone());
    Ok(program)
}

/// Rules of a CRD's schema that do not compile, by their place in the schema.
pub fn check_rules(schema: &Value, path: &str, causes: &mut Vec<FieldError>) {
    match schema {
        Value::Object(map) => {
            for (name, child) in map {
                if name != "x-kubernetes-validations" {
                    check_rules(child, &join(path, name), causes);
                    continue;
                }
                for (index, rule) in child.as_array().into_iter().flatten().enumerate() {
                    if let Err(error) = compile(rule["rule"].as_str().unwrap_or_default()) {
                        let field = format!("{path}.x-kubernetes-validations[{index}].rule");
                        causes.push(FieldError::invalid(
                            &field,
                            &rule["rule"],
                            &format!("compilation failed: {error}"),
                        ));
                    }
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| check_rules(item, path, causes)),
        _ => {}
    }
}

/// Runs every rule of the schema over the object; rules that name `oldSelf` only where there is an old value.
pub fn check(node: Node<'_>, old: Option<&Value>, new: &Value, path: &str, causes: &mut Vec<FieldError>) {
    let rules = node.value().get("x-kubernetes-validations").and_then(Value::as_array);
    for rule in rules.into_iter().flatten() {
        causes.extend(broken(rule, node, old, new, path));
    }
    match new {
        Value::Object(map) => {
            for (name, child) in map {
                if let Some(child_node) = node.field(name) {
                    check(child_node, old.and_then(|o| o.get(name)), child, &join(path, name), causes);
                }
            }
        }
        Value::Array(items) => {
            let Some(item_node) = node.items() else {
                return;
            };
            for (index, item) in items.iter().enumerate() {
                // Only items with keys can be told to be the same as before.
                let before = match node.list_kind() {
                    ListKind::Map(keys) => {
                        let olds = old.and_then(Value::as_array).into_iter().flatten();
                        olds.into_iter().find(|before| fields::same_item(before, item, keys))
                    }
                    _ => None,
                };
                check(item_node, before, item, &format!("{path}[{index}]"), causes);
            }
        }
        _ => {}
    }
}

fn broken(rule: &Value, node: Node<'_>, old: Option<&Value>, new: &Value, path: &str) -> Option<FieldError> {
    let source = rule["rule"].as_str().unwrap_or_default();
    let failed = |detail: &str| {
        let field = match rule["fieldPath"].as_str() {
            Some(below) => format!("{path}{below}").trim_start_matches('.').to_owned(),
            None => path.to_owned(),
        };
        // Objects are named by their type only.
        let shown = if new.is_object() { Value::from("object") } else { new.clone() };
        let mut error = FieldError::invalid(&field, &shown, detail);
        match rule["reason"].as_str() {
            Some("FieldValueForbidden") => {
                error.reason = "FieldValueForbidden";
                error.message = format!("Forbidden: {detail}");
            }
            Some("FieldValueRequired") => {
                error.reason = "FieldValueRequired";
                error.message = format!("Required value: {detail}");
            }
            Some("FieldValueDuplicate") => error.reason = "FieldValueDuplicate",
            _ => {}
        }
        Some(error)
    };
    let program = match compile(source) {
        Ok(program) => program,
        Err(error) => return failed(&format!("rule compile error: {error}")),
    };
    if program.references().has_variable("oldSelf") && old.is_none() {
        return None;
    }
    let context = context(node, old, new);
    match program.execute(&context) {
        Ok(Cel::Bool(true)) => None,
        Ok(_) => failed(&message(rule, source, &context)),
        Err(error) => failed(&format!("rule evaluation error: {error}")),
    }
}

/// The rule's message: computed, fixed, or the rule itself.
fn message(rule: &Value, source: &str, context: &Context<'_, '_>) -> String {
    let computed = rule["messageExpression"].as_str().and_then(|expression| compile(expression).ok());
    match computed.map(|program| program.execute(context)) {
        Some(Ok(Cel::String(text))) => text.to_string(),
        _ => rule["message"].as_str().map_or_else(|| format!("failed rule: {source}"), str::to_owned),
    }
}

fn context<'v>(node: Node<'_>, old: Option<&Value>, new: &Value) -> Context<'static, 'v> {
    let mut context = Context::with_env(ENVIRONMENT.clone());
    context.add_variable_from_value("self", to_cel(new, Some(node)));
    if let Some(old) = old {
        context.add_variable_from_value("oldSelf", to_cel(old, Some(node)));
    }
    let added = [
        context.add_function("isQuantity", |text: Arc<String>| parse_quantity(&text).is_some()),
        context.add_function("quantity", |text: Arc<String>| {
            parse_quantity(&text)
                .ok_or_else(|| ExecutionError::function_error("quantity", format!("bad quantity {text}")))
        }),
        context.add_function("isGreaterThan", |This(a): This<f64>, b: f64| a > b),
        context.add_function("isLessThan", |This(a): This<f64>, b: f64| a < b),
        context.add_function("compareTo", |This(a): This<f64>, b: f64| a.total_cmp(&b) as i64),
        context.add_function("isURL", |text: Arc<String>| {
            text.parse::<http::Uri>().is_ok_and(|uri| uri.scheme().is_some() && uri.authority().is_some())
        }),
    ];
    for error in added.into_iter().filter_map(Result::err) {
        tracing::error!(%error, "a CEL function is missing");
    }
    context
}

/// A quantity's amount in its base unit; None for what is not one.
pub fn parse_quantity(text: &str) -> Option<f64> {
    const SUFFIXES: [(&str, f64); 15] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("Ei", 1_152_921_504_606_846_976.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("E", 1e18),
    ];
    let suffix = SUFFIXES.iter().find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, *factor)));
    let (number, factor) = suffix.unwrap_or((text, 1.0));
    let legal = !number.is_empty() && number.chars().all(|c| c.is_ascii_digit() || "+-.eE".contains(c));
    number.parse::<f64>().ok().filter(|_| legal).map(|number| number * factor)
}

/// A JSON value as a rule sees it: integers are `int`, numbers of type `number` are `double`.
fn to_cel(value: &Value, node: Option<Node<'_>>) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(b) => Cel::Bool(*b),
        Value::String(text) => Cel::String(Arc::new(text.clone())),
        Value::Number(number) => match number.as_i64() {
            Some(integer) if node.is_none_or(|n| n.value()["type"] != "number") => Cel::Int(integer),
            _ => Cel::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::Array(items) => {
            let item_node = node.and_then(Node::items);
            Cel::List(Arc::new(items.iter().map(|item| to_cel(item, item_node)).collect()))
        }
        Value::Object(map) => {
            let key = |name: &str| match node.and_then(|n| n.property(name)) {
                Some(_) => escape(name),
                None => name.to_owned(),
            };
            let entries = map.iter().map(|(name, child)| {
                (Key::String(Arc::new(key(name))), to_cel(child, node.and_then(|n| n.field(name))))
            });
            Cel::Map(Map { map: Arc::new(entries.collect()) })
        }
    }
}

const RESERVED: [&str; 19] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "while",
];

/// A property's name as an identifier, in Kubernetes' way.
fn escape(name: &str) -> String {
    if RESERVED.contains(&name) {
        return format!("__{name}__");
    }
    name.replace("__", "__underscores__").replace('.', "__dot__").replace('-', "__dash__").replace('/', "__slash__")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn causes(rules: Value, old: Option<Value>, new: Value) -> Vec<String> {
        let schema = json!({"type": "object", "properties": {
            "spec": {"type": "object", "x-kubernetes-validations": rules, "properties": {
                "size": {"type": "integer"}, "ratio": {"type": "number"}, "storage": {"type": "string"},
                "a-b": {"type": "string"},
                "members": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                    "items": {"type": "object", "properties": {"name": {"type": "string"}, "zone": {"type": "string",
                        "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "zone is fixed"}]}}}},
            }},
        }});
        let (old, new) = (old.map(|spec| json!({"spec": spec})), json!({"spec": new}));
        let mut causes = Vec::new();
        check(Node::of(&schema), old.as_ref(), &new, "", &mut causes);
        causes.into_iter().map(|c| format!("{}: {}", c.field, c.message)).collect()
    }

    #[test]
    fn rules_accept_or_name_the_field() {
        let held = [
            json!({"rule": "self.size % 2 == 1"}),
            json!({"rule": "self.ratio < 1.5"}),
            json!({"rule": "has(self.storage) && !has(self.other)"}),
            json!({"rule": "isQuantity(self.storage) && quantity(self.storage).isGreaterThan(quantity('1Mi'))"}),
            json!({"rule": "quantity(self.storage).compareTo(quantity('1Gi')) == 0"}),
            json!({"rule": "['x', 'y'].all(f, !(f in self))"}),
            json!({"rule": "self.storage.matches('^[0-9]+Gi$') && self.storage.lowerAscii() == '1gi'"}),
            json!({"rule": "self.a__dash__b == 'c'"}),
        ];
        let spec = json!({"size": 3, "ratio": 1, "storage": "1Gi", "a-b": "c"});
        for rule in held {
            assert_eq!(causes(json!([rule]), None, spec.clone()), Vec::<String>::new(), "{rule}");
        }
        assert_eq!(
            causes(json!([{"rule": "self.size > 3", "message": "too small"}]), None, spec.clone()),
            ["spec: Invalid value: \"object\": too small"]
        );
        assert_eq!(
            causes(
                json!([{"rule": "self.size > 3", "fieldPath": ".size", "messageExpression": "'size is ' + string(self.size)"}]),
                None,
                spec.clone()
            ),
            ["spec.size: Invalid value: \"object\": size is 3"]
        );
        let undefined = causes(json!([{"rule": "self.nothing > 3"}]), None, spec);
        assert!(undefined[0].starts_with("spec: Invalid value: \"object\": rule evaluation error"), "{undefined:?}");
    }

    #[test]
    fn transition_rules_need_an_old_value() {
        let rule = json!([{"rule": "self.size >= oldSelf.size", "message": "cannot shrink"}]);
        assert!(causes(rule.clone(), None, json!({"size": 1})).is_empty());
        assert!(causes(rule.clone(), Some(json!({"size": 1})), json!({"size": 3})).is_empty());
        assert_eq!(
            causes(rule, Some(json!({"size": 3})), json!({"size": 1})),
            ["spec: Invalid value: \"object\": cannot shrink"]
        );
        let members = |zone: &str| json!({"members": [{"name": "b"}, {"name": "a", "zone": zone}]});
        let before = json!({"members": [{"name": "a", "zone": "x"}]});
        assert!(causes(json!([]), Some(before.clone()), members("x")).is_empty());
        assert_eq!(
            causes(json!([]), Some(before), members("y")),
            ["spec.members[1].zone: Invalid value: \"y\": zone is fixed"]
        );
    }

    #[test]
    fn rules_that_do_not_compile_are_found() {
        let schema = json!({"properties": {"spec": {"x-kubernetes-validations": [{"rule": "self.a =="}]}}});
        let mut causes = Vec::new();
        check_rules(&schema, "schema", &mut causes);
        assert_eq!(causes[0].field, "schema.properties.spec.x-kubernetes-validations[0].rule");
    }

    #[test]
    fn quantities_are_numbers() {
        for (text, number) in
            [("1", 1.0), ("1.5", 1.5), ("100m", 0.1), ("2Ki", 2048.0), ("1e3", 1000.0), ("3M", 3e6), ("-1", -1.0)]
        {
            assert_eq!(parse_quantity(text), Some(number), "{text}");
        }
        for text in ["", "Gi", "one", "1 Gi", "inf", "NaN"] {
            assert_eq!(parse_quantity(text), None, "{text}");
        }
    }
}
