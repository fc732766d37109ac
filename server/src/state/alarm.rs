//! Alarms: raised and disarmed through the log, and what they forbid.

use super::write::Writer;
use super::{header, txn};
use crate::error::EtcdError;
use crate::mvcc::{AlarmMember, ReadError, View, ViewError};
use crate::proto::command::command::Op;
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::etcdserverpb::{AlarmRequest, AlarmResponse, AlarmType};

/// Refuses what a raised alarm forbids: NOSPACE what takes space, CORRUPT whatever touches keys.
pub fn check<V: View>(view: &V, op: &Op) -> Result<(), ReadError> {
    let touches_keys = matches!(
        op,
        Op::Put(_) | Op::DeleteRange(_) | Op::Txn(_) | Op::Compact(_) | Op::LeaseGrant(_) | Op::LeaseRevoke(_)
    );
    if !touches_keys {
        return Ok(());
    }
    let alarms = view.alarms()?;
    let raised = |kind| alarms.iter().any(|alarm| alarm.alarm() == kind);
    if raised(AlarmType::Corrupt) {
        return Err(EtcdError::Corrupt.into());
    }
    let takes_space = match op {
        Op::Put(_) | Op::LeaseGrant(_) => true,
        Op::Txn(request) => txn::has_put(request),
        _ => false,
    };
    if takes_space && raised(AlarmType::Nospace) {
        return Err(EtcdError::NoSpace.into());
    }
    Ok(())
}

/// Lists, raises or disarms alarms; answers with those listed, or the one that was raised or disarmed.
pub fn apply<V: View>(writer: &mut Writer<'_, V>, request: &AlarmRequest) -> Result<AlarmResponse, ViewError> {
    let mut alarms = writer.base().alarms()?;
    let subject = AlarmMember { member_id: request.member_id, alarm: request.alarm };
    let order = |alarm: &AlarmMember| (alarm.alarm, alarm.member_id);
    let place = alarms.binary_search_by_key(&order(&subject), order);
    let answer = match (request.action(), place) {
        (AlarmAction::Get, _) => {
            let all = request.alarm() == AlarmType::None;
            alarms.retain(|alarm| all || alarm.alarm == request.alarm);
            alarms
        }
        (AlarmAction::Activate, _) if request.alarm() == AlarmType::None => Vec::new(),
        (AlarmAction::Activate, Ok(_)) => vec![subject],
        (AlarmAction::Activate, Err(at)) => {
            alarms.insert(at, subject);
            writer.effects().alarms = Some(alarms);
            vec![subject]
        }
        (AlarmAction::Deactivate, Err(_)) => Vec::new(),
        (AlarmAction::Deactivate, Ok(at)) => {
            alarms.remove(at);
            writer.effects().alarms = Some(alarms);
            vec![subject]
        }
    };
    Ok(AlarmResponse { header: header(writer.revision()), alarms: answer })
}
