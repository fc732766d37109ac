//! The same resources are judged by the definition's rules, evaluated as an API server does, and by [`validate`].

use std::sync::Arc;

use cel::extractors::This;
use cel::{Context, Program, Value as CelValue};
use serde::Deserialize;
use serde_json::{Value, json};

use super::*;
use crate::crd;

/// What the rules of its kind's definition refuse in `new`: CEL rules, bounds and enumerations, with defaults filled in before.
fn refused_by_definition(mut new: Value, old: Option<Value>) -> Vec<String> {
    let mut definitions = crd::definitions().into_iter().map(|(_, definition)| definition);
    let definition = definitions.find(|definition| new["kind"] == definition.spec.names.kind).unwrap();
    let definition = serde_json::to_value(definition).unwrap();
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    fill(schema, &mut new);
    let old = old.map(|mut old| {
        fill(schema, &mut old);
        old
    });
    let mut problems = Vec::new();
    walk(schema, &new, old.as_ref(), "", &mut problems);
    problems
}

fn fill(schema: &Value, value: &mut Value) {
    let (Some(properties), Some(object)) = (schema["properties"].as_object(), value.as_object_mut()) else {
        return;
    };
    for (name, schema) in properties {
        if !object.contains_key(name) && !schema["default"].is_null() {
            object.insert(name.clone(), schema["default"].clone());
        }
        if let Some(value) = object.get_mut(name) {
            fill(schema, value);
        }
    }
}

fn walk(schema: &Value, new: &Value, old: Option<&Value>, path: &str, problems: &mut Vec<String>) {
    bounds(schema, new, path, problems);
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        let text = rule["rule"].as_str().unwrap();
        let transition = text.contains("oldSelf");
        if transition && old.is_none() {
            continue;
        }
        let mut context = Context::default();
        context.add_function("quantity", |text: Arc<String>| crd::bytes(&text).unwrap_or(f64::NAN)).unwrap();
        context.add_function("isLessThan", |This(one): This<f64>, other: f64| one < other).unwrap();
        context.add_variable("self", new).unwrap();
        context.add_variable("oldSelf", old.unwrap_or(&Value::Null)).unwrap();
        let outcome = Program::compile(text).unwrap().execute(&context);
        if !matches!(outcome, Ok(CelValue::Bool(true))) {
            assert!(matches!(outcome, Ok(CelValue::Bool(false))), "{text}: {outcome:?}");
            problems.push(rule["message"].as_str().unwrap().to_string());
        }
    }
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        if let Some(value) = new.get(name) {
            let old = old.and_then(|old| old.get(name));
            walk(schema, value, old, &format!("{path}.{name}"), problems);
        }
    }
}

fn bounds(schema: &Value, value: &Value, path: &str, problems: &mut Vec<String>) {
    let path = path.trim_start_matches('.');
    if let (Some(number), Some(most)) = (value.as_f64(), schema["maximum"].as_f64())
        && number > most
    {
        problems.push(format!("{path} should be less than or equal to {most}"));
    }
    if let (Some(number), Some(least)) = (value.as_f64(), schema["minimum"].as_f64())
        && number < least
    {
        problems.push(format!("{path} should be greater than or equal to {least}"));
    }
    if let (Some(text), Some(pattern)) = (value.as_str(), schema["pattern"].as_str()) {
        let mut context = Context::default();
        context.add_variable("self", text).unwrap();
        context.add_variable("pattern", pattern).unwrap();
        let matches = Program::compile("self.matches(pattern)").unwrap().execute(&context);
        if !matches!(matches, Ok(CelValue::Bool(true))) {
            problems.push(format!("{path} should match {pattern}"));
        }
    }
}

fn resource(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "keelson.dev/v1alpha1",
        "kind": "EtcdCluster",
        "metadata": {"name": name},
        "spec": spec,
    })
}

#[test]
fn good_resources_are_accepted() {
    let good = [
        json!({}),
        json!({"size": 0}),
        json!({"size": 1}),
        json!({"size": 9, "image": "registry.example/keelson:1"}),
        json!({"version": "v0.2.0", "options": {"snapshot-count": "100"}}),
        json!({"storage": {"size": "1.5Ti", "storageClassName": "fast"}}),
        json!({"storage": {"size": "1Gi", "medium": "Memory"}, "resources": {"limits": {"memory": "2Gi"}}}),
        json!({"tls": {}}),
        json!({"tls": {"issuerRef": {"name": "ca", "kind": "ClusterIssuer"}}}),
        json!({"tls": {"secrets": {"server": "a", "peer": "b", "client": "c"}}}),
        json!({"tls": {"validity": "2m"}}),
        json!({"tls": {"validity": "120s"}}),
        json!({"tls": {"validity": "10m"}}),
        json!({"tls": {"validity": "24h", "overlap": "90s", "extraNames": ["*.example.org", "::1"], "authority": {"generation": 3}}}),
    ];
    for spec in good {
        let resource = resource("demo-1", spec);
        assert_eq!(refused_by_definition(resource.clone(), None), [""; 0], "{resource}");
        let cluster: EtcdCluster = serde_json::from_value(resource).unwrap();
        assert_eq!(validate(&cluster), [""; 0]);
    }
}

#[test]
fn bad_resources_are_refused_twice_with_the_name_of_the_field() {
    let long = "x".repeat(49);
    let bad = [
        ("demo", json!({"size": -1}), "spec.size"),
        ("demo", json!({"size": 10}), "spec.size"),
        ("demo", json!({"image": "a:b", "version": "v1"}), "spec.version"),
        ("demo", json!({"storage": {"size": "many"}}), "spec.storage.size"),
        ("demo", json!({"storage": {"size": "0"}}), "spec.storage.size"),
        ("demo", json!({"size": 0, "storage": {"medium": "Memory"}}), "spec.size"),
        ("demo", json!({"storage": {"medium": "Memory", "storageClassName": "fast"}}), "spec.storage.storageClassName"),
        (
            "demo",
            json!({"storage": {"medium": "Memory", "accessModes": ["ReadWriteOncePod"]}}),
            "spec.storage.accessModes",
        ),
        ("demo", json!({"options": {"name": "x"}}), "spec.options"),
        ("demo", json!({"options": {"initial-cluster-state": "new"}}), "spec.options"),
        ("demo", json!({"options": {"force-new-cluster": "true"}}), "spec.options"),
        ("demo", json!({"options": {"cert-file": "/x"}}), "spec.options"),
        ("demo", json!({"tls": {"validity": "90d"}}), "tls.validity"),
        ("demo", json!({"tls": {"validity": "1m"}}), "tls.validity"),
        ("demo", json!({"tls": {"validity": "119s"}}), "tls.validity"),
        ("demo", json!({"tls": {"validity": "30m", "issuerRef": {"name": "a"}}}), "tls.validity"),
        ("demo", json!({"tls": {"overlap": "soon"}}), "tls.overlap"),
        (
            "demo",
            json!({"tls": {"issuerRef": {"name": "a"}, "secrets": {"server": "a", "peer": "b", "client": "c"}}}),
            "spec.tls.secrets",
        ),
        ("1demo", json!({}), "metadata.name"),
        ("a.b", json!({}), "metadata.name"),
        (long.as_str(), json!({}), "metadata.name"),
    ];
    for (name, spec, field) in bad {
        let resource = resource(name, spec);
        let problems = refused_by_definition(resource.clone(), None);
        assert!(problems.iter().any(|it| it.contains(field)), "{resource}: {problems:?}");
        let cluster: EtcdCluster = serde_json::from_value(resource).unwrap();
        let problems = validate(&cluster);
        assert!(problems.iter().any(|it| it.contains(field)), "{name}: {problems:?}");
    }
}

#[test]
fn what_a_volume_keeps_for_life_cannot_be_changed() {
    let before = json!({"storage": {"size": "1Gi", "storageClassName": "fast"}});
    let changes = [
        (json!({"storage": {"size": "1Gi", "storageClassName": "slow"}}), "spec.storage.storageClassName"),
        (json!({"storage": {"size": "1Gi"}}), "spec.storage.storageClassName"),
        (
            json!({"storage": {"size": "1Gi", "storageClassName": "fast", "accessModes": ["ReadWriteOncePod"]}}),
            "spec.storage.accessModes",
        ),
    ];
    let old = resource("demo", before.clone());
    assert_eq!(refused_by_definition(old.clone(), Some(old.clone())), [""; 0]);
    for (spec, field) in changes {
        let problems = refused_by_definition(resource("demo", spec), Some(old.clone()));
        assert!(problems.iter().any(|it| it.contains(field)), "{field}: {problems:?}");
    }
    let mut resized = before;
    resized["size"] = json!(5);
    assert_eq!(refused_by_definition(resource("demo", resized), Some(old)), [""; 0]);
}

#[test]
fn what_is_in_memory_stays_there_and_keeps_its_size() {
    let of = |medium: &str, size: &str| resource("demo", json!({"storage": {"size": size, "medium": medium}}));
    let plain = resource("demo", json!({"storage": {"size": "1Gi"}}));
    assert_eq!(refused_by_definition(of("Volume", "2Gi"), Some(plain.clone())), [""; 0]);
    assert_eq!(refused_by_definition(of("Memory", "1Gi"), Some(of("Memory", "1Gi"))), [""; 0]);
    for (before, after, field) in [
        (plain, of("Memory", "1Gi"), "spec.storage.medium"),
        (of("Memory", "1Gi"), of("Volume", "1Gi"), "spec.storage.medium"),
        (of("Memory", "1Gi"), of("Memory", "2Gi"), "spec.storage.size"),
    ] {
        let problems = refused_by_definition(after, Some(before));
        assert!(problems.len() == 1 && problems[0].starts_with(field), "{field}: {problems:?}");
    }
    let mut tight = of("Memory", "1Gi");
    tight["spec"]["resources"] = json!({"limits": {"memory": "1024Mi"}});
    let problems = validate(&serde_json::from_value(tight).unwrap());
    assert!(problems[0].starts_with("spec.resources.limits.memory: 1024Mi has no room"), "{problems:?}");
}

#[test]
fn volumes_may_grow_and_not_shrink() {
    let of = |size: &str, has: Option<&str>| {
        let mut resource = resource("demo", json!({"storage": {"size": size}}));
        resource["status"] = has.map_or(json!({}), |has| json!({"volumeSize": has}));
        resource
    };
    for (before, after, has) in [("1Gi", "2Gi", Some("1Gi")), ("2Gi", "1Gi", Some("1Gi")), ("2Gi", "1Gi", None)] {
        assert_eq!(refused_by_definition(of(after, has), Some(of(before, has))), [""; 0], "{before} to {after}");
    }
    let problems = refused_by_definition(of("1023Mi", Some("1Gi")), Some(of("1Gi", Some("1Gi"))));
    assert!(problems[0].contains("volumes do not shrink"), "{problems:?}");
    // A size that is not changed is no reason to refuse what is.
    assert_eq!(refused_by_definition(of("1Gi", Some("2Gi")), Some(of("1Gi", Some("2Gi")))), [""; 0]);
}

#[test]
fn tls_may_come_and_go_and_its_authority_only_grows() {
    let (plain, secure) = (json!({}), json!({"tls": {"authority": {"generation": 2}}}));
    for (before, after) in [(&plain, &secure), (&secure, &plain)] {
        let (old, new) = (resource("demo", before.clone()), resource("demo", after.clone()));
        assert_eq!(refused_by_definition(new, Some(old)), [""; 0]);
    }
    let older = json!({"tls": {"authority": {"generation": 1}}});
    let problems = refused_by_definition(resource("demo", older), Some(resource("demo", secure)));
    assert!(problems.iter().any(|it| it.contains("can only grow")), "{problems:?}");
    let long = resource("demo", json!({"tls": {"validity": "87600h"}}));
    assert!(validate(&serde_json::from_value(long).unwrap())[0].contains("spec.tls.authority.validity"));
}

#[test]
fn dashes_in_front_of_an_option_are_pointed_out() {
    let cluster = resource("demo", json!({"options": {"--snapshot-count": "1"}}));
    let cluster: EtcdCluster = serde_json::from_value(cluster).unwrap();
    assert!(validate(&cluster)[0].contains("without dashes"));
}

/// The samples are what a person tries first.
#[test]
fn the_samples_are_accepted() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/samples");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let documents = serde_yaml::Deserializer::from_str(&text).map(|document| Value::deserialize(document).unwrap());
        for value in documents.filter(|value| value["apiVersion"] == "keelson.dev/v1alpha1") {
            if value["kind"] == "EtcdCluster" {
                assert_eq!(validate(&serde_json::from_value(value.clone()).unwrap()), [""; 0]);
            }
            assert_eq!(refused_by_definition(value, None), [""; 0], "{text}");
            count += 1;
        }
    }
    assert!(count >= 8, "{count} samples");
}

/// One store, one backup in it, and a beginning that stays as it was.
#[test]
fn backups_and_what_is_recovered_from_them_name_one_source_and_keep_it() {
    let backup = |store: Value, verify: bool| {
        let spec = json!({"cluster": "demo", "store": store, "verify": verify});
        json!({"kind": "EtcdBackup", "metadata": {"name": "one"}, "spec": spec})
    };
    let (s3, volume) = (json!({"bucket": "b"}), json!({"claimName": "v"}));
    let good = backup(json!({"s3": s3}), false);
    assert_eq!(refused_by_definition(good.clone(), None), [""; 0]);
    for store in [json!({}), json!({"s3": s3, "volume": volume})] {
        assert!(refused_by_definition(backup(store, false), None)[0].contains("exactly one of s3"));
    }
    for changed in [backup(json!({"volume": volume}), false), backup(json!({"s3": s3}), true)] {
        assert!(refused_by_definition(changed, Some(good.clone()))[0].contains("cannot be changed"));
    }
    let mut policy = good.clone();
    policy["spec"]["deletionPolicy"] = "Delete".into();
    assert_eq!(refused_by_definition(policy, Some(good)), [""; 0]);

    let recovered = |recovery: Value| resource("demo", json!({"bootstrap": {"recovery": recovery}}));
    let one = recovered(json!({"backup": "one"}));
    assert_eq!(refused_by_definition(one.clone(), None), [""; 0]);
    let etcd = |endpoint: &str| recovered(json!({"etcd": {"endpoint": endpoint}}));
    assert_eq!(refused_by_definition(etcd("https://old.db:2379"), None), [""; 0]);
    let both = recovered(json!({"backup": "one", "etcd": {"endpoint": "http://old:2379"}}));
    for not_one in [recovered(json!({})), both] {
        assert!(refused_by_definition(not_one, None)[0].contains("exactly one of backup, file and etcd"));
    }
    for no_url in ["old:2379", "http://old:2379/path", "http://one:2379,http://two:2379"] {
        assert!(refused_by_definition(etcd(no_url), None)[0].contains("endpoint"), "{no_url}");
    }
    for other in [recovered(json!({"backup": "two"})), etcd("http://old:2379"), resource("demo", json!({}))] {
        assert!(refused_by_definition(other, Some(one.clone()))[0].contains("spec.bootstrap cannot be changed"));
    }
}

/// What is no cron at a glance is refused when it is applied; what cron is, never.
#[test]
fn schedules_that_are_no_cron_are_refused() {
    let refused = |schedule: &str, zone: &str| {
        let store = json!({"s3": {"bucket": "b"}});
        let spec = json!({"schedule": schedule, "timeZone": zone, "backup": {"cluster": "demo", "store": store}});
        let resource = json!({"kind": "EtcdBackupSchedule", "metadata": {"name": "nightly"}, "spec": spec});
        refused_by_definition(resource, None)
    };
    let good = [
        "@daily",
        "@yearly",
        "0 3 * * *",
        "59 23 31 12 7",
        "00 09 01 01 00",
        "*/10 0-23/2 1,15 * MON-FRI",
        "0,30 8-18 ? jan,Jul sun",
        "0  0  L  *  *",
        "0 0 LW * *",
        "0 0 15W 2-4 *",
        "5-55/5 0 * FEB-oct 5#2",
        "0 0 1-7 * +MON",
        "0 0 * * fril",
    ];
    for schedule in good {
        assert_eq!(crate::schedule::problem(schedule, "Etc/UTC"), None);
        assert_eq!(refused(schedule, "Etc/UTC"), [""; 0], "{schedule}");
    }
    let bad = [
        "daily",
        "@midday",
        "0 3 * *",
        "0 0 3 * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * 32 * *",
        "* * * 13 *",
        "* * * * 8",
        "0 3 * * every",
        "3h * * * *",
    ];
    for schedule in bad {
        let problems = refused(schedule, "Etc/UTC");
        assert!(
            problems.len() == 1 && problems[0].starts_with("spec.schedule must be cron"),
            "{schedule}: {problems:?}"
        );
    }
    for zone in ["UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "America/Port-au-Prince", "Etc/GMT+5"] {
        assert_eq!(crate::schedule::problem("@daily", zone), None);
        assert_eq!(refused("@daily", zone), [""; 0], "{zone}");
    }
    for zone in ["Europe / Berlin", "+02:00", "/etc/localtime"] {
        assert!(refused("@daily", zone)[0].starts_with("spec.timeZone"), "{zone}");
    }
}
