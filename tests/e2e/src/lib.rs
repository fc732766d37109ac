//! What the end-to-end tests share: clusters on the Kubernetes that KUBECONFIG names, and writers that remember
//! every write that was acknowledged.
//!
//! The tests must run where pod addresses can be reached: `tests/e2e/run.sh` sees to it.

pub mod apiserver;
pub mod cluster;
pub mod faulty;
pub mod issuer;
pub mod operator;
pub mod page;
pub mod s3;
pub mod writer;

use std::{future::Future, time::Duration};

use anyhow::{Result, bail};
use tokio::time::Instant;

/// Asks again every quarter of a second until the answer is `Some`; after `limit` fails with the last reason.
pub async fn wait_for<T, F, Fut>(what: &str, limit: Duration, mut question: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Option<T>>>,
{
    let start = Instant::now();
    let mut reason = String::from("not yet");
    loop {
        match question().await {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => {}
            Err(error) => reason = format!("{error:#}"),
        }
        if start.elapsed() > limit {
            bail!("{what}: not within {limit:?}; last: {reason}");
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}
