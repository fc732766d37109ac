//! May the caller do this? Asked with the users and roles of the very state that is read or changed.

use bytes::Bytes;

use crate::error::EtcdError;
use crate::mvcc::auth::{Account, Auth};
use crate::mvcc::{KeyRange, ReadError, View};
use crate::proto::command::Caller;
use crate::proto::command::command::Op;
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RequestOp, TxnRequest};

/// A caller before the users and roles, while authentication is enabled.
#[derive(Debug, Clone, Copy)]
pub struct Access<'a> {
    auth: &'a Auth,
    username: &'a str,
    /// 0 if nobody said who it is.
    revision: u64,
}

impl<'a> Access<'a> {
    /// None if authentication is not enabled: then everybody may do everything.
    pub fn of(auth: &'a Auth, caller: Option<&'a Caller>) -> Option<Self> {
        auth.enabled.then(|| Access {
            auth,
            username: caller.map_or("", |caller| &caller.username),
            revision: caller.map_or(0, |caller| caller.auth_revision),
        })
    }

    /// Only a user with the role root may. What the caller was at an older revision does not matter here, as in etcd.
    pub fn root(self) -> Result<(), EtcdError> {
        if self.username.is_empty() {
            return Err(EtcdError::UserEmpty);
        }
        match self.auth.user(self.username) {
            None => Err(EtcdError::UserNotFound),
            Some(account) if account.is_root => Ok(()),
            Some(_) => Err(EtcdError::PermissionDenied),
        }
    }

    /// A user may see itself.
    pub fn see_user(self, name: &str) -> Result<(), EtcdError> {
        self.root().or_else(|error| if name == self.username { Ok(()) } else { Err(error) })
    }

    /// A user may see its roles.
    pub fn see_role(self, name: &str) -> Result<(), EtcdError> {
        let has_it = || self.auth.user(self.username).is_some_and(|account| account.has_role(name));
        self.root().or_else(|error| if has_it() { Ok(()) } else { Err(error) })
    }

    /// Reads every key of the range.
    pub fn read(self, key: &Bytes, range_end: &Bytes) -> Result<(), EtcdError> {
        self.keys(key, range_end, |account, range| account.readable.cover(range))
    }

    /// Writes every key of the range.
    pub fn write(self, key: &Bytes, range_end: &Bytes) -> Result<(), EtcdError> {
        self.keys(key, range_end, |account, range| account.writable.cover(range))
    }

    fn keys(
        self,
        key: &Bytes,
        range_end: &Bytes,
        covers: impl FnOnce(&Account, &KeyRange) -> bool,
    ) -> Result<(), EtcdError> {
        if self.revision == 0 {
            return Err(EtcdError::UserEmpty);
        }
        if self.revision < self.auth.revision {
            return Err(EtcdError::AuthOldRevision);
        }
        let account = self.auth.user(self.username).ok_or(EtcdError::PermissionDenied)?;
        let permitted = account.is_root || covers(account, &KeyRange::new(key.clone(), range_end.clone()));
        if permitted { Ok(()) } else { Err(EtcdError::PermissionDenied) }
    }

    /// Deletes whatever hangs on a lease, or hangs something on it: whoever may not revoke it may not use it.
    pub fn write_lease<V: View>(self, view: &V, id: i64) -> Result<(), ReadError> {
        self.lease_keys(view, id, |key| self.write(key, &Bytes::new()))
    }

    /// Sees the keys that hang on a lease.
    pub fn read_lease<V: View>(self, view: &V, id: i64) -> Result<(), ReadError> {
        self.lease_keys(view, id, |key| self.read(key, &Bytes::new()))
    }

    fn lease_keys<V: View>(
        self,
        view: &V,
        id: i64,
        may: impl Fn(&Bytes) -> Result<(), EtcdError>,
    ) -> Result<(), ReadError> {
        if id != 0 && self.root().is_err() {
            for key in view.lease_keys(id)? {
                may(&key)?;
            }
        }
        Ok(())
    }

    /// Any command. Those that no user is checked for here are checked at their door, or come from members.
    pub fn command<V: View>(self, view: &V, op: &Op) -> Result<(), ReadError> {
        match op {
            Op::Put(request) => self.put(view, request),
            Op::DeleteRange(request) => self.delete(request),
            Op::Txn(request) => self.txn(view, request),
            Op::LeaseRevoke(request) => self.write_lease(view, request.id),
            Op::AuthEnable(_)
            | Op::AuthDisable(_)
            | Op::UserAdd(_)
            | Op::UserDelete(_)
            | Op::UserChangePassword(_)
            | Op::UserGrantRole(_)
            | Op::UserRevokeRole(_)
            | Op::RoleAdd(_)
            | Op::RoleDelete(_)
            | Op::RoleGrantPermission(_)
            | Op::RoleRevokePermission(_) => Ok(self.root()?),
            Op::Compact(_)
            | Op::LeaseGrant(_)
            | Op::LeaseCheckpoint(_)
            | Op::Alarm(_)
            | Op::Downgrade(_)
            | Op::Advance(_)
            | Op::MemberAttributes(_)
            | Op::Authenticate(_) => Ok(()),
        }
    }

    fn put<V: View>(self, view: &V, request: &PutRequest) -> Result<(), ReadError> {
        let nothing = Bytes::new();
        self.write(&request.key, &nothing)?;
        self.write_lease(view, request.lease)?;
        if request.prev_kv {
            self.read(&request.key, &nothing)?;
        }
        Ok(())
    }

    fn delete(self, request: &DeleteRangeRequest) -> Result<(), ReadError> {
        self.write(&request.key, &request.range_end)?;
        if request.prev_kv {
            self.read(&request.key, &request.range_end)?;
        }
        Ok(())
    }

    /// All compares and both branches, whatever will be chosen.
    pub fn txn<V: View>(self, view: &V, request: &TxnRequest) -> Result<(), ReadError> {
        for compare in &request.compare {
            self.read(&compare.key, &compare.range_end)?;
        }
        let mut operations = request.success.iter().chain(&request.failure);
        operations.try_for_each(|operation| self.operation(view, operation))
    }

    fn operation<V: View>(self, view: &V, operation: &RequestOp) -> Result<(), ReadError> {
        match &operation.request {
            Some(Request::RequestRange(request)) => Ok(self.read(&request.key, &request.range_end)?),
            Some(Request::RequestPut(request)) => self.put(view, request),
            Some(Request::RequestDeleteRange(request)) => self.delete(request),
            Some(Request::RequestTxn(request)) => self.txn(view, request),
            None => Ok(()),
        }
    }
}
