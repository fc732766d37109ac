//! A real Kubernetes API server on three members of ours, with certificates on every connection.

mod certificates;
mod processes;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use kube::{Client, Config};

use crate::wait_for;
use certificates::Certificates;
pub use processes::Process;

/// How long starting, or coming back after a kill, may take on a 2-core machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// Who calls the API server, with every right.
const TOKEN: &str = "keelson-e2e";

/// Three members and the API server on them; all of it goes when this is dropped.
pub struct ControlPlane {
    _folder: tempfile::TempDir,
    certificates: Certificates,
    /// The members, which may be killed and started again.
    pub members: Vec<Process>,
    /// The API server.
    pub apiserver: Process,
    /// A client of the API server.
    pub client: Client,
}

impl ControlPlane {
    /// Starts everything and waits until the API server is ready. The programs are files.
    pub async fn start(server: &Path, kube_apiserver: &Path) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let certificates = Certificates::write(&folder.path().join("pki"))?;
        let members: Vec<Process> = (0..3).map(|n| member(server, folder.path(), n)).collect::<Result<_>>()?;
        let apiserver = apiserver(kube_apiserver, folder.path())?;
        let client = client(&certificates)?;
        let this = Self { _folder: folder, certificates, members, apiserver, client };
        this.ready().await?;
        Ok(this)
    }

    /// Waits until the API server says that it is ready.
    pub async fn ready(&self) -> Result<()> {
        let request = || http::Request::get("/readyz").body(Vec::new());
        wait_for("the API server", PATIENCE, || async {
            let answer = self.client.request_text(request()?).await;
            let answer = answer.with_context(|| self.apiserver.last_lines())?;
            Ok((answer == "ok").then_some(()))
        })
        .await
    }

    /// Waits until every member by itself answers a linearizable read.
    pub async fn members_answer(&self) -> Result<()> {
        for n in 0..self.members.len() {
            wait_for(&format!("member {n}"), PATIENCE, || async {
                let mut client = self.etcd_at(vec![client_url(n)]).await?;
                client.get("/registry/ready", None).await.with_context(|| self.members[n].last_lines())?;
                Ok(Some(()))
            })
            .await?;
        }
        Ok(())
    }

    /// An etcd client of all members.
    pub async fn etcd(&self) -> Result<etcd_client::Client> {
        self.etcd_at((0..self.members.len()).map(client_url).collect()).await
    }

    async fn etcd_at(&self, endpoints: Vec<String>) -> Result<etcd_client::Client> {
        use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};
        let tls = TlsOptions::new()
            .ca_certificate(Certificate::from_pem(&self.certificates.ca))
            .identity(Identity::from_pem(&self.certificates.certificate, &self.certificates.key));
        let options = ConnectOptions::new().with_tls(tls).with_timeout(Duration::from_secs(5));
        Ok(etcd_client::Client::connect(endpoints, Some(options)).await?)
    }
}

fn address(member: usize) -> String {
    format!("127.86.0.{}", 1 + member)
}

fn client_url(member: usize) -> String {
    format!("https://{}:2379", address(member))
}

fn peer_url(member: usize) -> String {
    format!("https://{}:2380", address(member))
}

fn pki(folder: &Path, file: &str) -> String {
    folder.join("pki").join(file).display().to_string()
}

/// The flags are those that kubeadm writes into its etcd manifest.
fn member(program: &Path, folder: &Path, n: usize) -> Result<Process> {
    let name = format!("member-{n}");
    let cluster: Vec<String> = (0..3).map(|n| format!("member-{n}={}", peer_url(n))).collect();
    let flags = vec![
        format!("--name={name}"),
        format!("--data-dir={}", folder.join(&name).display()),
        format!("--listen-client-urls={}", client_url(n)),
        format!("--advertise-client-urls={}", client_url(n)),
        format!("--listen-peer-urls={}", peer_url(n)),
        format!("--initial-advertise-peer-urls={}", peer_url(n)),
        format!("--initial-cluster={}", cluster.join(",")),
        "--initial-cluster-state=new".into(),
        "--snapshot-count=10000".into(),
        "--feature-gates=InitialCorruptCheck=true".into(),
        "--watch-progress-notify-interval=5s".into(),
        format!("--cert-file={}", pki(folder, "cert.pem")),
        format!("--key-file={}", pki(folder, "key.pem")),
        format!("--trusted-ca-file={}", pki(folder, "ca.pem")),
        "--client-cert-auth=true".into(),
        format!("--peer-cert-file={}", pki(folder, "cert.pem")),
        format!("--peer-key-file={}", pki(folder, "key.pem")),
        format!("--peer-trusted-ca-file={}", pki(folder, "ca.pem")),
        "--peer-client-cert-auth=true".into(),
    ];
    Process::start(program, flags, &folder.join(format!("{name}.log")))
}

const APISERVER: (&str, u16) = ("127.86.0.9", 6443);

fn apiserver(program: &Path, folder: &Path) -> Result<Process> {
    let tokens = folder.join("tokens.csv");
    std::fs::write(&tokens, format!("{TOKEN},e2e,1,\"system:masters\"\n"))?;
    let servers: Vec<String> = (0..3).map(client_url).collect();
    let flags = vec![
        format!("--etcd-servers={}", servers.join(",")),
        format!("--etcd-cafile={}", pki(folder, "ca.pem")),
        format!("--etcd-certfile={}", pki(folder, "cert.pem")),
        format!("--etcd-keyfile={}", pki(folder, "key.pem")),
        // Compacted often enough to be seen within the test.
        "--etcd-compaction-interval=15s".into(),
        "--delete-collection-workers=16".into(),
        format!("--bind-address={}", APISERVER.0),
        format!("--advertise-address={}", APISERVER.0),
        format!("--secure-port={}", APISERVER.1),
        format!("--tls-cert-file={}", pki(folder, "cert.pem")),
        format!("--tls-private-key-file={}", pki(folder, "key.pem")),
        "--service-account-issuer=https://keelson.test".into(),
        format!("--service-account-key-file={}", pki(folder, "cert.pem")),
        format!("--service-account-signing-key-file={}", pki(folder, "key.pem")),
        "--service-cluster-ip-range=10.86.0.0/24".into(),
        format!("--token-auth-file={}", tokens.display()),
        "--authorization-mode=RBAC".into(),
    ];
    Process::start(program, flags, &folder.join("apiserver.log"))
}

fn client(certificates: &Certificates) -> Result<Client> {
    let mut config = Config::new(format!("https://{}:{}", APISERVER.0, APISERVER.1).parse()?);
    config.root_cert = Some(vec![certificates.ca_der.clone()]);
    config.auth_info.token = Some(TOKEN.to_owned().into());
    config.default_namespace = "default".into();
    Ok(Client::try_from(config)?)
}

/// The program that an environment variable names.
pub fn program(variable: &str) -> Result<PathBuf> {
    let path = std::env::var_os(variable).with_context(|| format!("{variable} must name a program"))?;
    Ok(path.into())
}
