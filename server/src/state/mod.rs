//! What commands do to the store. Pure and deterministic: every member applies the same entries with the same result.
//!
//! One file per command family; [`write`] is what they write with. The caller stages the effects, commits them,
//! publishes the events and answers.

use bytes::Bytes;

use crate::error::EtcdError;
use crate::mvcc::{Effects, Event, ReadError, View, ViewError};
use crate::proto::command::command::Op;
use crate::proto::command::outcome::Result as Answer;
use crate::proto::command::{Command, Done, Outcome};
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::{AuthenticateResponse, ResponseHeader};

mod alarm;
pub mod auth;
mod compact;
mod kv;
mod lease;
mod member;
mod replay;
pub mod txn;
mod write;

#[cfg(test)]
mod tests;

pub use replay::{ReplayError, replay};

use auth::{Access, TokenChange};
use write::Writer;

/// What one command did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Applied {
    /// Changes to stage; empty if the command was refused or changed nothing.
    pub effects: Effects,
    /// What the client is told.
    pub outcome: Outcome,
    /// Changes of keys, in order, with the previous versions, all of one revision.
    pub events: Vec<Event>,
    /// What it means for tokens that members remember.
    pub tokens: Option<TokenChange>,
}

/// Applies one command. An error means that the store could not be read: nothing may be applied any more.
pub fn apply<V: View>(view: &V, command: &Command) -> Result<Applied, ViewError> {
    let mut writer = Writer::new(view);
    match answer(&mut writer, command) {
        Ok(answer) => {
            let (effects, events) = writer.finish();
            let tokens = command.op.as_ref().and_then(TokenChange::of);
            Ok(Applied { effects, events, outcome: Outcome { result: Some(answer) }, tokens })
        }
        Err(ReadError::Refused(error)) => {
            let result = Some(Answer::Error(error.name().to_owned()));
            Ok(Applied { outcome: Outcome { result }, ..Default::default() })
        }
        Err(ReadError::View(error)) => Err(error),
    }
}

/// Keys that applying the command is likely to ask for one by one.
pub fn asked_for(command: &Command) -> impl Iterator<Item = &Bytes> {
    let (one, several) = match &command.op {
        Some(Op::Put(request)) => (Some(&request.key), None),
        Some(Op::DeleteRange(request)) if request.range_end.is_empty() => (Some(&request.key), None),
        Some(Op::Txn(request)) => (None, Some(request)),
        _ => (None, None),
    };
    let compared = several.into_iter().flat_map(|txn| &txn.compare).filter(|compare| compare.range_end.is_empty());
    let put = several.into_iter().flat_map(|txn| &txn.success).filter_map(|op| match &op.request {
        Some(Request::RequestPut(request)) => Some(&request.key),
        _ => None,
    });
    one.into_iter().chain(compared.map(|compare| &compare.key)).chain(put)
}

fn answer<V: View>(writer: &mut Writer<'_, V>, command: &Command) -> Result<Answer, ReadError> {
    // An entry without an operation only moves the log on.
    let Some(op) = &command.op else {
        return Ok(Answer::Done(Done {}));
    };
    alarm::check(writer.base(), op)?;
    if let Some(access) = Access::of(writer.base().auth(), command.caller.as_ref()) {
        access.command(writer.base(), op)?;
    }
    Ok(match op {
        Op::Put(request) => Answer::Put(kv::put(writer, request)?),
        Op::DeleteRange(request) => Answer::DeleteRange(kv::delete_range(writer, request)?),
        Op::Txn(request) => Answer::Txn(txn::apply(writer, request)?),
        Op::Compact(request) => Answer::Compact(compact::compact(writer, request)?),
        Op::LeaseGrant(request) => Answer::LeaseGrant(lease::grant(writer, request)?),
        Op::LeaseRevoke(request) => Answer::LeaseRevoke(lease::revoke(writer, request)?),
        Op::LeaseCheckpoint(request) => {
            lease::checkpoint(writer, request)?;
            Answer::Done(Done {})
        }
        Op::Alarm(request) => Answer::Alarm(alarm::apply(writer, request)?),
        Op::MemberAttributes(attributes) => {
            member::publish(writer, attributes);
            Answer::Done(Done {})
        }
        Op::Downgrade(request) => {
            writer.effects().downgrade_target = Some(request.target_version.clone());
            Answer::Done(Done {})
        }
        Op::Advance(by) => {
            compact::advance(writer, *by);
            Answer::Done(Done {})
        }
        Op::Authenticate(request) => {
            auth::authenticate(writer.base().auth(), request)?;
            Answer::Authenticate(AuthenticateResponse {
                header: header(writer.revision()),
                token: request.simple_token.clone(),
            })
        }
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
        | Op::RoleRevokePermission(_) => {
            auth::apply(writer, op)?;
            Answer::Done(Done {})
        }
    })
}

/// The header of an answer, as far as the state machine knows it.
fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..Default::default() })
}

impl Outcome {
    /// The error that the command was refused with, if it was.
    pub fn refusal(&self) -> Option<EtcdError> {
        match &self.result {
            Some(Answer::Error(name)) => Some(EtcdError::from_name(name).unwrap_or(EtcdError::Corrupt)),
            _ => None,
        }
    }
}
