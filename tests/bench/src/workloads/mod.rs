//! The table of workloads, and what each of them gets and gives.

mod data;
pub mod fill;
mod kv;
mod lease;
mod list;
mod maintenance;
mod measure;
mod table;
mod txn;
mod watch;

use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize, Serializer};

use crate::case::{Case, On};
use crate::cluster::{Cluster, Usage};
use crate::load::Client;
use crate::progress::Progress;
use measure::{Action, Plan, measure};
pub use table::WORKLOADS;

/// One line of the table.
#[derive(Debug)]
pub struct Workload {
    pub name: &'static str,
    /// What `--list` says.
    pub about: &'static str,
    /// Clients unless it is told otherwise; none where there is a single operation.
    pub clients: usize,
    pub on: On,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Fill,
    /// Clients, after some preparation.
    Load(fn(&mut Scene<'_>) -> Result<Plan>),
    /// Clients, and something else meanwhile, again and again.
    Beside(fn(&mut Scene<'_>) -> Result<Plan>, Action),
    /// Clients, as long as something else takes.
    During(fn(&mut Scene<'_>) -> Result<Plan>, Action),
    /// Something that is done once and takes its time.
    Single(fn(&mut Scene<'_>) -> Result<Figures>),
}

/// By its name.
impl Serialize for Workload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name)
    }
}

/// How long and how hard.
#[derive(Debug, Clone, Serialize)]
pub struct Settings {
    #[serde(serialize_with = "seconds")]
    pub warm_up: Duration,
    #[serde(serialize_with = "seconds")]
    pub length: Duration,
    /// How long a cluster may take to get quiet before the next measurement.
    #[serde(serialize_with = "seconds")]
    pub settle: Duration,
    pub rounds: usize,
    /// That clients share.
    pub connections: usize,
    /// That are kept alive.
    pub leases: u64,
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

/// What a workload works with.
pub struct Scene<'a> {
    pub cluster: &'a mut Cluster,
    pub case: &'a Case,
    pub settings: &'a Settings,
    pub progress: Progress,
}

/// What was measured once. What does not apply is none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Figures {
    /// Operations; keys of a fill; events that watchers heard of.
    pub per_second: Option<f64>,
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub p999_ms: Option<f64>,
    pub max_ms: Option<f64>,
    /// Of all members, for each of what `per_second` counts.
    pub cpu_us: Option<f64>,
    /// Of all members.
    pub resident_mib: Option<f64>,
    pub resident_anonymous_mib: Option<f64>,
    /// Bytes that the disk was written, by anyone, for each byte of keys and values.
    pub written_per_byte: Option<f64>,
    /// The same by the members' /proc/PID/io, which exaggerates (see `cluster::disk`).
    pub dirtied_per_byte: Option<f64>,
    /// Of a single operation, or of what went on beside the clients.
    pub seconds: Option<f64>,
    pub generator_cpu_us: Option<f64>,
    pub failed: u64,
    /// Why the first of them failed.
    pub error: Option<String>,
}

impl Figures {
    fn with_memory(self, usage: &Usage) -> Self {
        let mib = |bytes: u64| Some(bytes as f64 / f64::from(1 << 20));
        Self { resident_mib: mib(usage.resident), resident_anonymous_mib: mib(usage.resident_anonymous), ..self }
    }
}

impl Workload {
    pub fn find(name: &str) -> Option<&'static Workload> {
        WORKLOADS.iter().find(|workload| workload.name == name)
    }

    pub fn run(&self, scene: &mut Scene<'_>) -> Result<Figures> {
        match self.kind {
            Kind::Fill => fill::fill_environment(scene),
            Kind::Load(plan) => {
                let plan = plan(scene)?;
                measure(scene, plan, None)
            }
            Kind::Beside(plan, action) => {
                let plan = plan(scene)?;
                measure(scene, plan, Some(action))
            }
            Kind::During(plan, action) => {
                let plan = Plan { until_action: true, ..plan(scene)? };
                measure(scene, plan, Some(action))
            }
            Kind::Single(run) => run(scene),
        }
    }

    /// Whether something else goes on beside its clients.
    pub fn is_beside(&self) -> bool {
        matches!(self.kind, Kind::Beside(..) | Kind::During(..))
    }

    /// Whether it is the fill of a cluster, which every cluster begins with.
    pub fn is_fill(&self) -> bool {
        matches!(self.kind, Kind::Fill)
    }
}

/// As many clients as the case says, each made by `make` with its number.
fn clients<C: Client + 'static>(scene: &Scene<'_>, make: impl Fn(usize) -> C) -> Vec<Box<dyn Client>> {
    (0..scene.case.clients).map(|index| -> Box<dyn Client> { Box::new(make(index)) }).collect()
}
