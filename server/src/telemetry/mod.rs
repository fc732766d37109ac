//! What a member tells about itself: log lines and metrics. Nothing here is global; `main.rs` installs the logger.

mod journal;
pub mod logs;
pub mod metrics;
pub mod process;
mod rotation;

pub use metrics::Metrics;
