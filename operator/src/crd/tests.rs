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
