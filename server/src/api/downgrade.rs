//! Maintenance.Downgrade: whether the cluster may go back to the minor version before, and that it shall be able to.
//!
//! All that is stored here is what etcd 3.6 knows too. So the cluster and its data are of the older version as soon as
//! the job is enabled, and of the newer one again when it is cancelled.

use tonic::Status;

use super::{Api, read_failed};
use crate::config::STORAGE_VERSION;
use crate::error::EtcdError;
use crate::mvcc::View;
use crate::proto::command::command::Op;
use crate::proto::command::{Caller, Downgrade};
use crate::proto::etcdserverpb::downgrade_request::DowngradeAction;
use crate::proto::etcdserverpb::{DowngradeInfo, DowngradeRequest, DowngradeResponse};

impl Api {
    /// Answers the call; who calls was checked.
    pub(super) async fn change_version(
        &self,
        caller: Option<Caller>,
        request: DowngradeRequest,
    ) -> Result<DowngradeResponse, Status> {
        let action = DowngradeAction::try_from(request.action);
        let action = action.map_err(|_| Status::unknown("etcdserver: unknown method"))?;
        let target = match action {
            DowngradeAction::Cancel => String::new(),
            _ => minor_version(&request.version).ok_or(EtcdError::WrongDowngradeVersionFormat)?,
        };
        self.node.linearize().await?;
        let current = self.cluster_version()?;
        let running = self.downgrade_info()?.enabled;
        if action != DowngradeAction::Cancel {
            if target != version_before(&current) {
                return Err(EtcdError::InvalidDowngradeTargetVersion.into());
            }
            if running {
                return Err(EtcdError::DowngradeInProcess.into());
            }
        }
        match action {
            DowngradeAction::Validate => {}
            // As etcd, which only logs it.
            DowngradeAction::Cancel if !running => tracing::warn!("there is no downgrade to cancel"),
            _ => {
                self.propose(Op::Downgrade(Downgrade { target_version: target }), caller).await?;
            }
        }
        let version = current.rsplit_once('.').map_or(current.as_str(), |(minor, _)| minor).to_owned();
        Ok(DowngradeResponse { header: Some(self.header(self.node.view().revision())), version })
    }

    /// The version that all members agree on.
    pub(super) fn cluster_version(&self) -> Result<String, Status> {
        Ok(self.downgrade_target()?.unwrap_or_else(|| STORAGE_VERSION.to_owned()))
    }

    /// The job, if one is enabled.
    pub(super) fn downgrade_info(&self) -> Result<DowngradeInfo, Status> {
        Ok(match self.downgrade_target()? {
            Some(target_version) => DowngradeInfo { enabled: true, target_version },
            None => DowngradeInfo::default(),
        })
    }

    fn downgrade_target(&self) -> Result<Option<String>, Status> {
        self.node.view().downgrade_target().map_err(|error| read_failed(error.into()))
    }
}

/// `3.6`, `3.6.1` and `3.6.0-rc.1` are all `3.6.0`.
fn minor_version(text: &str) -> Option<String> {
    let numbers = text.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<u64> = numbers.split('.').map(|number| number.parse().ok()).collect::<Option<_>>()?;
    match numbers.as_slice() {
        [major, minor] | [major, minor, _] => Some(format!("{major}.{minor}.0")),
        _ => None,
    }
}

fn version_before(version: &str) -> String {
    let mut numbers = version.split('.').map(|number| number.parse::<u64>().unwrap_or(0));
    let (major, minor) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    format!("{major}.{}.0", minor.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_etcd_reads_them() {
        for (text, version) in [
            ("3.6", Some("3.6.0")),
            ("3.6.2", Some("3.6.0")),
            ("3.6.0-rc.1", Some("3.6.0")),
            ("3", None),
            ("3.6.0.0", None),
            ("v3.6", None),
            ("", None),
        ] {
            assert_eq!(minor_version(text).as_deref(), version, "{text}");
        }
        assert_eq!(version_before("3.7.0"), "3.6.0");
    }
}
