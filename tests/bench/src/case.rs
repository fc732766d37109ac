//! What is measured: a workload under certain circumstances.

use serde::{Deserialize, Serialize};

use crate::progress::grouped;
use crate::workloads::Workload;

/// Which members clients talk to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum On {
    Leader,
    Followers,
    All,
}

/// What a cluster is started and filled with. Cases that agree in it share clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    pub members: usize,
    pub tls: bool,
    pub keys: u64,
    pub value_bytes: usize,
}

impl Environment {
    /// "3 members, TLS, 100,000 keys of 256 B".
    pub fn title(&self) -> String {
        let members = if self.members == 1 { "1 member".to_owned() } else { format!("{} members", self.members) };
        let tls = if self.tls { ", TLS" } else { "" };
        let value = match self.value_bytes {
            bytes if bytes >= 1024 && bytes.is_multiple_of(1024) => format!("{} KiB", bytes / 1024),
            bytes => format!("{bytes} B"),
        };
        format!("{members}{tls}, {} keys of {value}", grouped(self.keys))
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct Case {
    pub workload: &'static Workload,
    #[serde(flatten)]
    pub environment: Environment,
    pub clients: usize,
    pub on: On,
    /// Operations a second, in an open loop.
    pub rate: Option<f64>,
}

impl Case {
    /// "put, 100 clients".
    pub fn title(&self) -> String {
        let mut title = self.workload.name.to_owned();
        if self.clients > 0 {
            title += &format!(", {} client{}", grouped(self.clients as u64), if self.clients == 1 { "" } else { "s" });
        }
        if self.on != self.workload.on {
            title += &format!(", on {}", format!("{:?}", self.on).to_lowercase());
        }
        if let Some(rate) = self.rate {
            title += &format!(", {}/s", grouped(rate as u64));
        }
        title
    }
}
