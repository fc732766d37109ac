//! Which certificates are refused, and why: the same on ours and on a real etcd, for clients and for peers.
//!
//! The real etcd is the one that KEELSON_REFERENCE_ETCD names, as make sets it; without one the test says so and passes.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use rcgen::ExtendedKeyUsagePurpose;

use super::common::authority::{Authority, Leaf, Pair};
use super::common::{Member, PROGRAM, eventually};
use super::ready;
use super::server::reference;

/// Reasons to refuse, and how the logs of both servers word them.
const REASONS: [(&str, &str); 6] = [
    ("none was shown", "didn't provide a certificate"),
    ("authority", "signed by unknown authority"),
    ("time", "has expired or is not yet valid"),
    ("revoked", "revoked"),
    ("usage", "incompatible key usage"),
    ("name", "client certificate authentication failed"),
];

/// Who shows what, and why that is refused at the door for clients, and at that for peers.
const CALLERS: [(&str, Option<&str>, Option<&str>); 9] = [
    ("nobody", Some("none was shown"), Some("none was shown")),
    ("good", None, None),
    ("stranger", Some("authority"), Some("authority")),
    ("expired", Some("time"), Some("time")),
    ("early", Some("time"), Some("time")),
    ("revoked", Some("revoked"), Some("revoked")),
    ("for-servers", Some("usage"), Some("usage")),
    ("other-host", Some("name"), None),
    ("other-name", None, Some("name")),
];

/// A server whose doors let those in that CALLERS says.
async fn server(program: OsString, folder: &Path, ca: &Authority) -> Member {
    let path = |name: &str| folder.join(name).display().to_string();
    let mut member = Member::new("one");
    member.schemes = ("https", "https");
    member.program = vec![program];
    // It is a client of its own: so etcd's gateway asks it.
    let address = member.address().to_string();
    let names = [address.as_str(), "127.0.0.1", "client.example"];
    write(folder, &address, &ca.issue(&Leaf { serial: 1, ..Leaf::new("peer", &names) }));
    let own = path(&address);
    let mut flags = vec![
        format!("--initial-cluster=one={}", member.peer_url()),
        "--client-cert-auth".to_owned(),
        "--peer-client-cert-auth".to_owned(),
        "--client-cert-allowed-hostname=client.example".to_owned(),
        "--peer-cert-allowed-cn=peer".to_owned(),
        format!("--client-crl-file={}", path("crl")),
    ];
    for door in ["", "peer-"] {
        flags.push(format!("--{door}cert-file={own}.crt"));
        flags.push(format!("--{door}key-file={own}.key"));
        flags.push(format!("--{door}trusted-ca-file={}", path("ca")));
    }
    flags.push(format!("--peer-crl-file={}", path("crl")));
    member.start(&flags.iter().map(String::as_str).collect::<Vec<_>>());
    ready(&member).await;
    member
}

fn write(folder: &Path, name: &str, pair: &Pair) {
    std::fs::write(folder.join(format!("{name}.crt")), &pair.cert).expect("written");
    std::fs::write(folder.join(format!("{name}.key")), &pair.key).expect("written");
}

/// Why the log says that connections at a door were refused, one after the other.
fn refusals(member: &Member, door: &str) -> Vec<&'static str> {
    let rejected = format!("rejected connection on {door} endpoint");
    let reason = |line: &str| REASONS.iter().find(|(_, words)| line.contains(words)).map(|(reason, _)| *reason);
    member.log().lines().filter(|line| line.contains(&rejected)).filter_map(reason).collect()
}

/// Calls at a door; why it is refused.
async fn call(member: &Member, folder: &Path, caller: &str, door: &str, version: &str) -> Option<&'static str> {
    let before = refusals(member, door).len();
    let path = |name: &str| folder.join(name).display().to_string();
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--max-time", "20", "--output", "/dev/null", version, "--cacert", &path("ca")]);
    if caller != "nobody" {
        curl.args(["--cert", &path(&format!("{caller}.crt")), "--key", &path(&format!("{caller}.key"))]);
    }
    let url = if door == "client" { member.client_url() } else { member.peer_url() };
    if curl.arg(format!("{url}/version")).status().expect("curl is installed").success() {
        return None;
    }
    let what = format!("{} tells why {caller} is refused at the door for {door}s", member.program[0].display());
    Some(eventually(&what, || async { refusals(member, door).get(before).copied() }).await)
}

#[tokio::test]
async fn certificates_are_refused_as_by_a_real_etcd() {
    let Some(etcd) = reference() else { return eprintln!("skipped: there is no etcd to compare with") };
    let (ca, other, folder) = (Authority::new("ca"), Authority::new("other"), tempfile::tempdir().expect("a folder"));
    let good = Leaf { serial: 2, ..Leaf::new("peer", &["client.example", "127.0.0.1"]) };
    let elsewhere = vec!["other.example".to_owned(), "127.0.0.1".to_owned()];
    for (name, authority, leaf) in [
        ("good", &ca, good.clone()),
        ("stranger", &other, good.clone()),
        ("expired", &ca, Leaf { years: (2020, 2021), ..good.clone() }),
        ("early", &ca, Leaf { years: (3999, 4000), ..good.clone() }),
        ("revoked", &ca, Leaf { serial: 666, ..good.clone() }),
        ("for-servers", &ca, Leaf { usages: vec![ExtendedKeyUsagePurpose::ServerAuth], ..good.clone() }),
        ("other-host", &ca, Leaf { names: elsewhere, ..good.clone() }),
        ("other-name", &ca, Leaf { common_name: "other", ..good }),
    ] {
        write(folder.path(), name, &authority.issue(&leaf));
    }
    std::fs::write(folder.path().join("ca"), ca.pem()).expect("written");
    std::fs::write(folder.path().join("crl"), ca.revoke(&[666]).der()).expect("written");
    // Ours speaks nothing but gRPC with peers, etcd HTTP/1.1.
    for (program, with_peers) in [(etcd.into_os_string(), "--http1.1"), (PROGRAM.into(), "--http2")] {
        let member = server(program, folder.path(), &ca).await;
        for (caller, by_clients, by_peers) in CALLERS {
            for (door, version, expected) in [("client", "--http2", by_clients), ("peer", with_peers, by_peers)] {
                let refused = call(&member, folder.path(), caller, door, version).await;
                let who = member.program[0].display();
                assert_eq!(refused, expected, "{who}: {caller} at the door for {door}s");
            }
        }
    }
}
