//! The one place where the table of errors becomes gRPC statuses.

use tonic::{Code, Status};

use crate::error::EtcdError;
use crate::mvcc::WAY_OUT;

impl From<EtcdError> for Status {
    fn from(error: EtcdError) -> Self {
        Status::new(Code::from_i32(error.code() as i32), error.to_string())
    }
}

/// A failure that clients cannot do anything about; the details are in the log.
pub fn internal(context: &str, error: impl std::fmt::Display) -> Status {
    tracing::error!(%error, "{context}");
    Status::unknown(format!("etcdserver: {context}"))
}

/// The store is damaged, or its disk fails; the log tells what to do about it.
pub fn unreadable(error: impl std::fmt::Display) -> Status {
    internal("the store cannot be read", format!("{error}. {WAY_OUT}"))
}

/// Go's gRPC has its own code and words for messages over the limit; clients look for them. What nests too deep to be
/// decoded can only be a txn.
pub fn in_gos_words(status: Status) -> Status {
    if status.code() == Code::Internal && status.message().ends_with("recursion limit reached") {
        return EtcdError::TooManyOps.into();
    }
    let is_too_large = status.code() == Code::OutOfRange && status.message().contains("message length too large");
    if !is_too_large {
        return status;
    }
    let mut sizes = status.message().split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let whose = if status.message().contains("decoded") { "received" } else { "trying to send" };
    let message = match (sizes.next(), sizes.next()) {
        (Some(found), Some(limit)) => format!("grpc: {whose} message larger than max ({found} vs. {limit})"),
        _ => format!("grpc: {whose} message larger than max"),
    };
    Status::resource_exhausted(message)
}

/// An error as Go prints a status. Clients compare the reason of a cancelled watch with this, to log in again if that
/// helps.
pub fn in_gos_error(error: EtcdError) -> String {
    let status = Status::from(error);
    format!("rpc error: code = {} desc = {}", code_name(status.code()), status.message())
}

/// Go's name of a status code, as metrics have it.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_over_the_limit_is_refused_as_gos_grpc_does() {
        let tonics = "Error, decoded message length too large: found 2500005 bytes, the limit is: 2097152 bytes";
        let status = in_gos_words(Status::out_of_range(tonics));
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.message(), "grpc: received message larger than max (2500005 vs. 2097152)");
        let tonics = "Error, encoded message length too large: found 2147483653 bytes, the limit is: 2147483647 bytes";
        let status = in_gos_words(Status::out_of_range(tonics));
        assert_eq!(status.message(), "grpc: trying to send message larger than max (2147483653 vs. 2147483647)");
        let other = in_gos_words(Status::out_of_range("etcdserver: mvcc: required revision is a future revision"));
        assert_eq!(other.code(), Code::OutOfRange);
    }

    #[test]
    fn code_and_text_are_those_that_clients_compare() {
        let status = Status::from(EtcdError::NoLeader);
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(status.message(), "etcdserver: no leader");
        for error in EtcdError::ALL {
            // etcd has no code for this one.
            let is_unknown = *error == EtcdError::NoPasswordUser;
            assert_eq!(Status::from(*error).code() == Code::Unknown, is_unknown, "{error}");
        }
    }
}
