//! `kubectl keelson`: what a person does with clusters, through the API server with that person's rights. It never talks to members:
//! what takes a member, the operator is asked for by an annotation, so that its safety rules hold.
//!
//! The program answers to the name `kubectl-keelson`, by which kubectl finds its plugins, and to `keelson-operator kubectl`.

mod ask;
mod objects;
mod report;
mod table;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::config::KubeConfigOptions;
use kube::core::NamespaceResourceScope;
use kube::{Client, Config, Resource, ResourceExt};
use serde_json::{Value, json};

use crate::crd::{BackupPhase, EtcdBackup, EtcdBackupSchedule, EtcdCluster, Role};
use crate::names::{DEFRAGMENT, DISARM, MOVE_LEADER, REPLACE_MEMBER};

const PLUGIN: &str = "kubectl-keelson";

/// Look after Keelson's etcd clusters.
#[derive(Debug, Parser)]
#[command(name = PLUGIN, bin_name = "kubectl keelson", version)]
pub struct Cli {
    /// The namespace; by default that of the kubeconfig's context.
    #[arg(short, long, global = true)]
    namespace: Option<String>,
    /// The context of the kubeconfig; by default the current one.
    #[arg(long, global = true)]
    context: Option<String>,
    /// How long to wait for the operator, in seconds.
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 120)]
    timeout: u64,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show all clusters, or one with its members.
    Status {
        /// The EtcdCluster.
        cluster: Option<String>,
        /// Print the objects in place of a table.
        #[arg(short, long)]
        output: Option<Output>,
    },
    /// Take a backup: make an EtcdBackup.
    Backup(BackupArgs),
    /// Make a new EtcdCluster with the data of a backup.
    Restore(RestoreArgs),
    /// Have another member lead.
    MoveLeader {
        /// The EtcdCluster.
        cluster: String,
        /// The member that is to lead, such as `demo-1`.
        member: String,
    },
    /// Replace a member by a new one with another id. What is on its volume is not used again.
    ReplaceMember {
        /// The EtcdCluster.
        cluster: String,
        /// The member, by name or id.
        member: String,
    },
    /// Give back the space that members do not use, one member at a time.
    Defrag {
        /// The EtcdCluster.
        cluster: String,
        /// Members; by default all.
        members: Vec<String>,
    },
    /// Show the alarms of a cluster, or end them.
    Alarm {
        /// The EtcdCluster.
        cluster: String,
        /// End the alarms of this kind, if their cause is gone.
        #[arg(long, value_name = "KIND")]
        disarm: Option<AlarmName>,
    },
    /// Show the certificates of a cluster and when they expire, or change their authority.
    Certs {
        /// The EtcdCluster.
        cluster: String,
        /// Have the operator make a new authority, and certificates of it.
        #[arg(long)]
        new_authority: bool,
    },
    /// Have the operator change nothing about a cluster.
    Pause {
        /// The EtcdCluster.
        cluster: String,
    },
    /// End a pause.
    Resume {
        /// The EtcdCluster.
        cluster: String,
    },
    /// Print what somebody needs who is to help with a cluster: objects, events and logs, but no Secrets.
    Report {
        /// The EtcdCluster.
        cluster: String,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    Json,
}

/// The kinds of alarms, as etcd names them.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum AlarmName {
    #[value(name = "NOSPACE", alias = "nospace")]
    NoSpace,
    #[value(name = "CORRUPT", alias = "corrupt")]
    Corrupt,
}

impl AlarmName {
    fn as_str(self) -> &'static str {
        match self {
            Self::NoSpace => "NOSPACE",
            Self::Corrupt => "CORRUPT",
        }
    }
}

/// Without a source, the backup is as the only EtcdBackupSchedule of the cluster makes them.
#[derive(Debug, Args)]
struct BackupArgs {
    /// The EtcdCluster.
    cluster: String,
    /// The name of the EtcdBackup; by default one is made up.
    #[arg(long)]
    name: Option<String>,
    /// As this EtcdBackupSchedule makes them.
    #[arg(long, group = "source")]
    schedule: Option<String>,
    /// As this EtcdBackup was made.
    #[arg(long, group = "source", value_name = "BACKUP")]
    like: Option<String>,
    /// To this volume claim.
    #[arg(long, group = "source")]
    claim: Option<String>,
    /// To this store: `spec.store` of an EtcdBackup, as YAML or JSON.
    #[arg(long, group = "source", value_name = "YAML")]
    store: Option<String>,
    /// Try the backup out by a restore.
    #[arg(long)]
    verify: bool,
    /// Wait until it is complete.
    #[arg(long)]
    wait: bool,
    /// Print the EtcdBackup, and make none.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
struct RestoreArgs {
    /// The name of the new EtcdCluster.
    cluster: String,
    /// The EtcdBackup.
    #[arg(long)]
    backup: String,
    /// Take size, storage and whatever else from this EtcdCluster; by default from the one that was backed up, if there is one.
    #[arg(long, value_name = "CLUSTER")]
    like: Option<String>,
    /// The size.
    #[arg(long)]
    size: Option<i32>,
    /// Wait until it is available.
    #[arg(long)]
    wait: bool,
    /// Print the EtcdCluster, and make none.
    #[arg(long)]
    dry_run: bool,
}

/// The arguments, if the program was called as a plugin.
pub fn called() -> Option<Cli> {
    let name = std::env::args_os().next()?;
    (Path::new(&name).file_stem()? == PLUGIN).then(Cli::parse)
}

/// Carries out a command.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command(cli))
}

async fn command(cli: Cli) -> anyhow::Result<()> {
    let config = match cli.context {
        Some(context) => {
            let options = KubeConfigOptions { context: Some(context), ..Default::default() };
            Config::from_kubeconfig(&options).await?
        }
        None => Config::infer().await.context("finding the API server (set KUBECONFIG)")?,
    };
    let namespace = cli.namespace.unwrap_or_else(|| config.default_namespace.clone());
    let there = Place { client: Client::try_from(config)?, namespace, patience: Duration::from_secs(cli.timeout) };
    match cli.command {
        Command::Status { cluster, output } => there.status(cluster.as_deref(), output).await,
        Command::Backup(arguments) => there.back_up(&arguments).await,
        Command::Restore(arguments) => there.restore(&arguments).await,
        Command::MoveLeader { cluster, member } => there.move_leader(&cluster, &member).await,
        Command::ReplaceMember { cluster, member } => there.replace_member(&cluster, &member).await,
        Command::Defrag { cluster, members } => there.defragment(&cluster, &members).await,
        Command::Alarm { cluster, disarm } => there.alarm(&cluster, disarm).await,
        Command::Certs { cluster, new_authority } => there.certificates(&cluster, new_authority).await,
        Command::Pause { cluster } => there.pause(&cluster, true).await,
        Command::Resume { cluster } => there.pause(&cluster, false).await,
        Command::Report { cluster } => there.report(&cluster).await,
    }
}

/// A namespace, and who looks at it.
struct Place {
    client: Client,
    namespace: String,
    patience: Duration,
}

impl Place {
    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn cluster(&self, name: &str) -> anyhow::Result<EtcdCluster> {
        let found = self.api::<EtcdCluster>().get_opt(name).await.context("reading the EtcdCluster")?;
        found.with_context(|| format!("there is no EtcdCluster {name} in namespace {}", self.namespace))
    }

    async fn patch(&self, name: &str, patch: Value) -> anyhow::Result<()> {
        let api = self.api::<EtcdCluster>();
        api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.context("changing the EtcdCluster")?;
        Ok(())
    }

    async fn status(&self, name: Option<&str>, output: Option<Output>) -> anyhow::Result<()> {
        let now = Timestamp::now().as_second();
        match (name, output) {
            (Some(name), None) => print!("{}", table::cluster(&self.cluster(name).await?, now)),
            (Some(name), Some(Output::Json)) => print_json(&json!(self.cluster(name).await?))?,
            (None, output) => {
                let list =
                    self.api::<EtcdCluster>().list(&ListParams::default()).await.context("reading EtcdClusters")?;
                match output {
                    Some(Output::Json) => {
                        print_json(&json!({"apiVersion": "v1", "kind": "List", "items": list.items}))?;
                    }
                    None if list.items.is_empty() => eprintln!("No EtcdClusters in namespace {}", self.namespace),
                    None => print!("{}", table::clusters(&list.items, now)),
                }
            }
        }
        Ok(())
    }

    async fn back_up(&self, arguments: &BackupArgs) -> anyhow::Result<()> {
        let spec = match arguments {
            BackupArgs { like: Some(like), .. } => {
                self.api::<EtcdBackup>().get(like).await.with_context(|| format!("reading EtcdBackup {like}"))?.spec
            }
            BackupArgs { claim: Some(claim), .. } => objects::backup_to_claim(claim),
            BackupArgs { store: Some(store), .. } => objects::backup_to_store(store)?,
            BackupArgs { schedule, .. } => {
                let schedules = self.api::<EtcdBackupSchedule>().list(&ListParams::default()).await;
                let schedules = schedules.context("reading EtcdBackupSchedules")?.items;
                objects::backup_by_schedule(&schedules, &arguments.cluster, schedule.as_deref())?
            }
        };
        let backup = objects::backup(&arguments.cluster, arguments.name.as_deref(), spec, arguments.verify)?;
        if arguments.dry_run {
            return print_yaml(&backup);
        }
        let api = self.api::<EtcdBackup>();
        let name = api.create(&PostParams::default(), &backup).await.context("making the EtcdBackup")?.name_any();
        println!("etcdbackup/{name} created");
        if !arguments.wait {
            return Ok(());
        }
        let what = format!("etcdbackup/{name} to be complete");
        let ended = self.wait(&what, || async {
            let backup = api.get(&name).await.context("reading the EtcdBackup")?;
            let over = matches!(backup.phase(), BackupPhase::Succeeded | BackupPhase::Failed);
            let reason = backup.status.clone().unwrap_or_default().reason;
            Ok(if over { Ok(backup) } else { Err(reason) })
        });
        let ended = ended.await?;
        let status = ended.status.clone().unwrap_or_default();
        if !ended.succeeded() {
            bail!("etcdbackup/{name} failed: {}", status.reason);
        }
        println!(
            "etcdbackup/{name} is complete: revision {} at {}",
            status.revision.unwrap_or_default(),
            status.location.unwrap_or_default()
        );
        Ok(())
    }

    async fn restore(&self, arguments: &RestoreArgs) -> anyhow::Result<()> {
        let backup = self.api::<EtcdBackup>().get(&arguments.backup).await;
        let backup = backup.with_context(|| format!("reading EtcdBackup {}", arguments.backup))?;
        let model = match &arguments.like {
            Some(like) => Some(self.cluster(like).await?),
            None => self.api::<EtcdCluster>().get_opt(&backup.spec.cluster).await.context("reading the EtcdCluster")?,
        };
        let cluster = objects::restored(&arguments.cluster, &arguments.backup, model.as_ref(), arguments.size);
        if arguments.dry_run {
            return print_yaml(&cluster);
        }
        let api = self.api::<EtcdCluster>();
        api.create(&PostParams::default(), &cluster).await.context("making the EtcdCluster")?;
        let name = &arguments.cluster;
        println!("etcdcluster/{name} created");
        if arguments.wait {
            let what = format!("etcdcluster/{name} to be available");
            let waited = self.wait(&what, || async {
                let cluster = self.cluster(name).await?;
                let status = cluster.status.clone().unwrap_or_default();
                let available = status.conditions.iter().any(|it| it.type_ == "Available" && it.status == "True");
                Ok(if available { Ok(()) } else { Err(ask::stands(&cluster)) })
            });
            waited.await?;
            println!("etcdcluster/{name} is available");
        }
        Ok(())
    }

    async fn move_leader(&self, name: &str, member: &str) -> anyhow::Result<()> {
        let cluster = self.cluster(name).await?;
        let member = ask::member(&cluster, member)?;
        if !member.healthy || member.role == Role::Learner {
            bail!("{} cannot lead: it is no voter that is healthy (kubectl keelson status {name})", member.name);
        }
        let after = self.ask(&cluster, MOVE_LEADER, &member.name).await?;
        match after.status.clone().unwrap_or_default().leader {
            Some(leader) if leader == member.name => println!("{leader} leads etcdcluster/{name}"),
            leader => bail!(
                "{} leads, not {} (kubectl events --for etcdcluster/{name} tells why)",
                leader.as_deref().unwrap_or("nobody"),
                member.name
            ),
        }
        Ok(())
    }

    async fn replace_member(&self, name: &str, member: &str) -> anyhow::Result<()> {
        let cluster = self.cluster(name).await?;
        let member = ask::member(&cluster, member)?;
        ask::may_be_asked(&cluster)?;
        self.patch(name, ask::annotation(REPLACE_MEMBER, Some(&member.id))).await?;
        println!("etcdcluster/{name}: {} ({}) is to be replaced", member.name, member.id);
        let what = format!("{} ({}) to be removed", member.name, member.id);
        let replaced = self.wait(&what, || async {
            let cluster = self.cluster(name).await?;
            let gone = ask::member(&cluster, &member.id).is_err();
            Ok(if gone { Ok(()) } else { Err(ask::stands(&cluster)) })
        });
        replaced
            .await
            .context("the request stays until it is done or the annotation keelson.dev/replace-member is removed")?;
        println!(
            "{} ({}) is removed; a new member takes its place (kubectl keelson status {name})",
            member.name, member.id
        );
        Ok(())
    }

    async fn defragment(&self, name: &str, members: &[String]) -> anyhow::Result<()> {
        let cluster = self.cluster(name).await?;
        let members = ask::members(&cluster, members)?;
        self.ask(&cluster, DEFRAGMENT, &members.join(",")).await?;
        println!("etcdcluster/{name}: {} defragmented (kubectl events --for etcdcluster/{name})", members.join(", "));
        Ok(())
    }

    async fn alarm(&self, name: &str, disarm: Option<AlarmName>) -> anyhow::Result<()> {
        let mut cluster = self.cluster(name).await?;
        if let Some(kind) = disarm.map(AlarmName::as_str) {
            cluster = self.ask(&cluster, DISARM, kind).await?;
            if cluster.status.iter().flat_map(|status| &status.alarms).any(|alarm| alarm.starts_with(kind)) {
                let hint =
                    "NOSPACE ends when no member is near its quota, CORRUPT when the member that it names is replaced";
                bail!("{kind} stays: {hint}");
            }
        }
        match cluster.status.unwrap_or_default().alarms.as_slice() {
            [] => println!("etcdcluster/{name} has no alarms"),
            alarms => println!("{}", alarms.join("\n")),
        }
        Ok(())
    }

    async fn certificates(&self, name: &str, new_authority: bool) -> anyhow::Result<()> {
        let cluster = self.cluster(name).await?;
        if new_authority {
            let generation = objects::next_authority(&cluster)?;
            self.patch(name, json!({"spec": {"tls": {"authority": {"generation": generation}}}})).await?;
            println!("etcdcluster/{name}: authority {generation} is introduced (kubectl keelson certs {name})");
            return Ok(());
        }
        let Some(tls) = cluster.status.clone().unwrap_or_default().tls else {
            bail!("etcdcluster/{name} has no certificates: spec.tls is not set");
        };
        print!("{}", table::certificates(&tls, Timestamp::now().as_second()));
        Ok(())
    }

    async fn pause(&self, name: &str, paused: bool) -> anyhow::Result<()> {
        self.cluster(name).await?;
        self.patch(name, json!({"spec": {"paused": paused}})).await?;
        println!("etcdcluster/{name} {}", if paused { "paused" } else { "resumed" });
        Ok(())
    }
}

fn print_json(value: &Value) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

fn print_yaml(object: &impl serde::Serialize) -> anyhow::Result<()> {
    print!("{}", serde_yaml::to_string(object)?);
    Ok(())
}

#[cfg(test)]
mod tests;
