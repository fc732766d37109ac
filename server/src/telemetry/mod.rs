//! What a member tells about itself: log lines and metrics. Nothing here is global; `main.rs` installs the logger.

mod journal;
pub mod logs;
pub mod metrics;
pub mod node;
pub mod peers;
pub mod process;
pub mod requests;
mod rotation;

pub use metrics::Metrics;
pub use node::NodeMetrics;
