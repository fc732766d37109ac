use super::*;

/// `crds/` is what the types say.
#[test]
fn committed_definitions_are_current() {
    for (plural, _) in definitions() {
        let path = format!("{}/../crds/{plural}.yaml", env!("CARGO_MANIFEST_DIR"));
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(committed, yaml(Some(&plural)).unwrap(), "{path} is not what the types say; run `make generate`");
    }
}

/// So is the reference.
#[test]
fn the_committed_reference_is_current() {
    let path = format!("{}/../docs/crds.md", env!("CARGO_MANIFEST_DIR"));
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(committed, reference::markdown(), "{path} is not what the types say; run `make generate`");
}

/// Kubernetes' API server warns of any other, at each `kubectl apply` and `helm upgrade`.
#[test]
fn definitions_have_only_formats_that_kubernetes_knows() {
    for (plural, _) in definitions() {
        let text = yaml(Some(&plural)).unwrap();
        let formats = text.lines().filter_map(|line| line.trim().strip_prefix("format: "));
        for format in formats {
            assert!(["int32", "int64", "double", "date-time"].contains(&format), "{plural}: {format}");
        }
    }
}
