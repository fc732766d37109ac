use super::*;

/// `crds/` is what the types say.
#[test]
fn committed_definitions_are_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds/etcdclusters.yaml");
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(committed, definitions().unwrap(), "crds/ is not what the types say; run `make generate`");
}
