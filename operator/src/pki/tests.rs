use super::*;

const NOW: i64 = 1_800_000_000;
const HOUR: i64 = 3600;

fn request(names: &[&str], seconds: i64) -> Request {
    let names = names.iter().map(|name| (*name).to_string()).collect();
    Request { common_name: "c".into(), names, purpose: Purpose::Member, seconds }
}

#[test]
fn a_certificate_says_what_was_asked_for_and_who_signed_it() {
    let first = authority("first", NOW, 1000 * HOUR).unwrap();
    let second = authority("second", NOW, 1000 * HOUR).unwrap();
    let bundle = format!("{}{}", second.certificate, first.certificate);
    let roots = authorities(bundle.as_bytes()).unwrap();
    assert_eq!(roots.len(), 2);
    let made = leaf(&first, roots[1].not_after, &request(&["*.a.b", "127.0.0.1", "::1"], 24 * HOUR), NOW).unwrap();
    let read = read_leaf(made.certificate.as_bytes(), bundle.as_bytes()).unwrap();
    assert_eq!(read.not_after - read.not_before, 24 * HOUR);
    assert!(read.not_before < NOW, "clocks differ");
    assert_eq!(read.names.iter().map(String::as_str).collect::<Vec<_>>(), ["*.a.b", "127.0.0.1", "::1"]);
    assert_eq!(read.signed_by.into_iter().collect::<Vec<_>>(), [roots[1].fingerprint.clone()]);
    assert!(signers(made.certificate.as_bytes(), second.certificate.as_bytes()).unwrap().is_empty());
}

/// Two authorities of one name are told apart by their keys.
#[test]
fn a_name_does_not_make_an_authority() {
    let first = authority("same", NOW, 1000 * HOUR).unwrap();
    let second = authority("same", NOW, 1000 * HOUR).unwrap();
    let made = leaf(&first, NOW + 1000 * HOUR, &request(&["a"], HOUR), NOW).unwrap();
    assert!(signers(made.certificate.as_bytes(), second.certificate.as_bytes()).unwrap().is_empty());
    assert_eq!(signers(made.certificate.as_bytes(), first.certificate.as_bytes()).unwrap().len(), 1);
}

#[test]
fn no_certificate_outlives_its_authority() {
    let short = authority("short", NOW, 2 * HOUR).unwrap();
    let ends = authorities(short.certificate.as_bytes()).unwrap()[0].not_after;
    let made = leaf(&short, ends, &request(&["a"], 24 * HOUR), NOW + HOUR).unwrap();
    let read = read_leaf(made.certificate.as_bytes(), short.certificate.as_bytes()).unwrap();
    assert_eq!(read.not_after, ends);
}

#[test]
fn rubbish_is_an_error() {
    assert!(read_leaf(b"", b"").is_err());
    assert!(read_leaf(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"").is_err());
    assert!(authorities(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").is_err());
    assert_eq!(authorities(b"").unwrap(), []);
}
