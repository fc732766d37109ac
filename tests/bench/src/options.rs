//! The command line.

use std::path::PathBuf;

use clap::Parser;

use crate::case::On;
use crate::cluster::Kind;

/// Compares keelson-server with etcd: the same load on one and the other in turn, on this machine.
///
/// Without --workload, a selection of workloads runs in at most a quarter of an hour. Lists are separated by commas;
/// each combination is measured.
#[derive(Debug, Clone, Parser)]
#[command(name = "keelson-bench", version)]
pub struct Options {
    /// Print the workloads
    #[arg(long)]
    pub list: bool,
    /// Put the reports of earlier runs together instead: folders, of which each one's newest counts, or JSON files
    #[arg(long, value_delimiter = ',', num_args = 1..)]
    pub merge: Vec<PathBuf>,
    /// Workloads to run; see --list
    #[arg(long, value_delimiter = ',')]
    pub workload: Vec<String>,
    /// Clients, each with one operation at a time [default: the workload's]
    #[arg(long, value_delimiter = ',')]
    pub clients: Vec<usize>,
    /// Members of a cluster [default: 1]
    #[arg(long, value_delimiter = ',')]
    pub members: Vec<usize>,
    /// Keys that a cluster is filled with [default: 100000]
    #[arg(long, value_delimiter = ',')]
    pub keys: Vec<u64>,
    /// Bytes of a value [default: 256]
    #[arg(long, value_delimiter = ',')]
    pub value_bytes: Vec<usize>,
    /// TLS for clients and between members
    #[arg(long, value_delimiter = ',', num_args = 0..=1, default_missing_value = "true")]
    pub tls: Vec<bool>,
    /// Members that clients talk to [default: the workload's]
    #[arg(long, value_delimiter = ',')]
    pub on: Vec<On>,
    /// Operations a second, begun whether or not earlier ones are answered [default: as many as are answered]
    #[arg(long, value_delimiter = ',')]
    pub rate: Vec<f64>,
    /// Seconds of each measurement [default: 2.5]
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Times that each case is measured on each server
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// Seconds before a measurement in which clients work already [default: 0.5]
    #[arg(long)]
    pub warm_up: Option<f64>,
    /// Connections that clients share
    #[arg(long, default_value_t = 8)]
    pub connections: usize,
    /// Leases that lease-keep-alive keeps alive
    #[arg(long, default_value_t = 100_000)]
    pub leases: u64,
    /// Everything small and short: whether it works, not how fast
    #[arg(long)]
    pub quick: bool,
    /// Minutes after which nothing more is begun
    #[arg(long, default_value_t = 15.0)]
    pub minutes: f64,
    /// Servers to measure, in turn
    #[arg(long, value_delimiter = ',', default_value = "etcd,keelson")]
    pub servers: Vec<Kind>,
    /// Our server [default: the one beside this program]
    #[arg(long, env = "KEELSON_SERVER")]
    pub keelson: Option<PathBuf>,
    /// The etcd to compare with [default: the one on the PATH]
    #[arg(long, env = "KEELSON_REFERENCE_ETCD")]
    pub etcd: Option<PathBuf>,
    /// More flags for our server, separated by spaces
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    pub keelson_flags: String,
    /// More flags for etcd, separated by spaces
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    pub etcd_flags: String,
    /// Where the members keep their data: the disk that is measured [default: TMPDIR]
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// Where the reports go [default: KEELSON_CACHE/bench, or ./bench]
    #[arg(long)]
    pub output: Option<PathBuf>,
}
