//! What a member tells about itself: log lines and metrics. Nothing here is global; `main.rs` installs the logger.

pub mod logs;
pub mod metrics;
mod process;

pub use metrics::Metrics;
