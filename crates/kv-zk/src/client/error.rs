//! Errors: from what the client crates say to what the store says.

use kv_core::{Error, ErrorKind};

/// The backend's name, as in errors and capabilities.
pub(crate) const BACKEND: &str = "zookeeper";

/// What became of one request: ZooKeeper's error codes, and what happens below them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[cfg_attr(
    not(all(feature = "zookeeper-async", feature = "zookeeper-client")),
    allow(dead_code, reason = "each client hides some")
)]
pub(crate) enum Fault {
    #[error("the node does not exist")]
    NoNode,
    #[error("the node exists")]
    NodeExists,
    #[error("the node's data is at another version")]
    BadVersion,
    #[error("the node has children")]
    NotEmpty,
    #[error("an ephemeral node cannot have children")]
    NoChildrenForEphemerals,
    #[error("the node's access control list does not allow it")]
    NoAuth,
    #[error("the server refused the credentials")]
    AuthFailed,
    #[error("the server did not take the access control list")]
    InvalidAcl,
    #[error("the server does not do this")]
    Unimplemented,
    #[error("the quota of the path is used up")]
    QuotaExceeded,
    #[error("the server throttles requests")]
    Throttled,
    #[error("the server is read-only: it has lost its quorum")]
    ReadOnly,
    #[error("the session was moved to another server")]
    SessionMoved,
    #[error("the request makes no sense to the server: {0}")]
    BadRequest(String),
    #[error("the connection broke while the request was on its way")]
    ConnectionLost,
    #[error("there is no connection; the request was not sent")]
    Unsent,
    #[error("the session expired")]
    SessionExpired,
    #[error("the client was closed")]
    ClientClosed,
    #[error("the server's answer makes no sense: {0}")]
    Protocol(String),
    #[error("error code {0}")]
    Code(i32),
}

impl Fault {
    /// Whether a read that failed so may be made again at once, on another connection or session.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::ConnectionLost
                | Self::Unsent
                | Self::SessionExpired
                | Self::SessionMoved
                | Self::ClientClosed
                | Self::Protocol(_)
        )
    }

    /// The store's error for it. What only one operation can judge (a node that is absent, a
    /// version that differs) is `Internal` here: operations decide on those before they get here.
    pub(crate) fn into_error(self) -> Error {
        let error = match &self {
            Self::NoAuth => Error::new(ErrorKind::PermissionDenied),
            Self::AuthFailed => Error::new(ErrorKind::Unauthenticated),
            Self::QuotaExceeded => Error::new(ErrorKind::NoSpace).not_applied(),
            Self::Throttled => Error::new(ErrorKind::Overloaded),
            Self::ReadOnly | Self::Unsent | Self::SessionMoved => {
                Error::new(ErrorKind::Unavailable).not_applied()
            }
            // The request may have been carried out before the session went.
            Self::ConnectionLost | Self::SessionExpired | Self::ClientClosed => {
                Error::new(ErrorKind::Unavailable).maybe_applied()
            }
            Self::Protocol(_) => Error::new(ErrorKind::Protocol).maybe_applied(),
            Self::Unimplemented => Error::unsupported("the server does not do this"),
            Self::NoChildrenForEphemerals => Error::unsupported(EXPIRING_PARENT),
            Self::InvalidAcl => Error::invalid_config(
                "the server refuses access control lists for these credentials: it does not know them",
            ),
            Self::NoNode | Self::NodeExists | Self::BadVersion | Self::NotEmpty => {
                Error::new(ErrorKind::Internal).not_applied()
            }
            Self::BadRequest(_) => Error::new(ErrorKind::Internal).not_applied(),
            Self::Code(_) => Error::new(ErrorKind::Internal).maybe_applied(),
        };
        error.with_backend(BACKEND).with_source(self)
    }
}

/// Why a key below an expiring one is refused.
pub(crate) const EXPIRING_PARENT: &str =
    "expiry_with_children: ZooKeeper keeps no key below one that expires";

/// From zookeeper-async's error. Its codes -122, -125 and -127 reach us as `Unimplemented`.
#[cfg(feature = "zookeeper-async")]
impl From<zookeeper_async::ZkError> for Fault {
    fn from(error: zookeeper_async::ZkError) -> Self {
        use zookeeper_async::ZkError;
        match error {
            ZkError::NoNode => Self::NoNode,
            ZkError::NodeExists => Self::NodeExists,
            ZkError::BadVersion => Self::BadVersion,
            ZkError::NotEmpty => Self::NotEmpty,
            ZkError::NoChildrenForEphemerals => Self::NoChildrenForEphemerals,
            ZkError::NoAuth => Self::NoAuth,
            ZkError::AuthFailed => Self::AuthFailed,
            ZkError::InvalidACL => Self::InvalidAcl,
            ZkError::Unimplemented => Self::Unimplemented,
            ZkError::NotReadOnly => Self::ReadOnly,
            ZkError::SessionMoved => Self::SessionMoved,
            ZkError::SessionExpired => Self::SessionExpired,
            ZkError::ConnectionLoss | ZkError::OperationTimeout => Self::ConnectionLost,
            // The crate uses it for answers it cannot read.
            ZkError::MarshallingError => Self::Protocol("it cannot be read".to_owned()),
            ZkError::BadArguments | ZkError::EphemeralOnLocalSession => Self::BadRequest(error.to_string()),
            ZkError::APIError
            | ZkError::SystemError
            | ZkError::DataInconsistency
            | ZkError::RuntimeInconsistency
            | ZkError::InvalidCallback
            | ZkError::NoWatcher => Self::Code(error as i32),
        }
    }
}

#[cfg(feature = "zookeeper-client")]
impl From<zookeeper_client::Error> for Fault {
    fn from(error: zookeeper_client::Error) -> Self {
        use zookeeper_client::Error as Native;
        match error {
            Native::NoNode => Self::NoNode,
            Native::NodeExists => Self::NodeExists,
            Native::BadVersion => Self::BadVersion,
            Native::NotEmpty => Self::NotEmpty,
            Native::NoChildrenForEphemerals => Self::NoChildrenForEphemerals,
            Native::NoAuth => Self::NoAuth,
            Native::AuthFailed => Self::AuthFailed,
            Native::InvalidAcl => Self::InvalidAcl,
            Native::Unimplemented => Self::Unimplemented,
            Native::QuotaExceeded => Self::QuotaExceeded,
            Native::Throttled => Self::Throttled,
            Native::NotReadOnly => Self::ReadOnly,
            Native::SessionMoved => Self::SessionMoved,
            Native::SessionExpired => Self::SessionExpired,
            Native::ClientClosed => Self::ClientClosed,
            Native::ConnectionLoss | Native::Timeout => Self::ConnectionLost,
            // No server took the connection: nothing was sent.
            Native::NoHosts => Self::Unsent,
            Native::UnmarshalError { .. } | Native::UnexpectedError(_) => Self::Protocol(error.to_string()),
            Native::MarshallingError | Native::BadArguments(_) | Native::ReconfigDisabled => {
                Self::BadRequest(error.to_string())
            }
            Native::UnexpectedErrorCode(code) => Self::Code(code),
            // An I/O error of the connection comes as `Custom`.
            Native::Custom(_) => Self::ConnectionLost,
            other => Self::Protocol(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use kv_core::{Applied, Operation};

    use super::*;

    fn check(error: impl Into<Fault> + std::fmt::Debug, fault: &Fault, kind: &str, applied: Applied) {
        let what = format!("{error:?}");
        let found: Fault = error.into();
        assert_eq!(std::mem::discriminant(&found), std::mem::discriminant(fault), "{what} became {found:?}");
        let error = found.into_error().with_operation(Operation::Put);
        assert!(format!("{:?}", error.kind()).starts_with(kind), "{what}: {error:?}");
        assert_eq!(error.applied(), applied, "{what}");
        assert!(std::error::Error::source(&error).is_some(), "{what}");
    }

    const NO: Applied = Applied::No;
    const UNKNOWN: Applied = Applied::Unknown;

    #[cfg(feature = "zookeeper-async")]
    #[test]
    fn each_error_of_zookeeper_async_has_its_kind() {
        use zookeeper_async::ZkError;
        let text = String::new;
        for (error, fault, kind, applied) in [
            (ZkError::NoAuth, Fault::NoAuth, "PermissionDenied", NO),
            (ZkError::AuthFailed, Fault::AuthFailed, "Unauthenticated", NO),
            (ZkError::InvalidACL, Fault::InvalidAcl, "InvalidConfig", NO),
            (ZkError::Unimplemented, Fault::Unimplemented, "Unsupported", NO),
            (ZkError::NoChildrenForEphemerals, Fault::NoChildrenForEphemerals, "Unsupported", NO),
            (ZkError::NotReadOnly, Fault::ReadOnly, "Unavailable", NO),
            (ZkError::SessionMoved, Fault::SessionMoved, "Unavailable", NO),
            (ZkError::ConnectionLoss, Fault::ConnectionLost, "Unavailable", UNKNOWN),
            (ZkError::OperationTimeout, Fault::ConnectionLost, "Unavailable", UNKNOWN),
            (ZkError::SessionExpired, Fault::SessionExpired, "Unavailable", UNKNOWN),
            (ZkError::MarshallingError, Fault::Protocol(text()), "Protocol", UNKNOWN),
            (ZkError::NoNode, Fault::NoNode, "Internal", NO),
            (ZkError::NodeExists, Fault::NodeExists, "Internal", NO),
            (ZkError::BadVersion, Fault::BadVersion, "Internal", NO),
            (ZkError::NotEmpty, Fault::NotEmpty, "Internal", NO),
            (ZkError::BadArguments, Fault::BadRequest(text()), "Internal", NO),
            (ZkError::EphemeralOnLocalSession, Fault::BadRequest(text()), "Internal", NO),
            (ZkError::SystemError, Fault::Code(0), "Internal", UNKNOWN),
            (ZkError::DataInconsistency, Fault::Code(0), "Internal", UNKNOWN),
        ] {
            check(error, &fault, kind, applied);
        }
    }

    #[cfg(feature = "zookeeper-client")]
    #[test]
    fn each_error_of_zookeeper_client_has_its_kind() {
        use zookeeper_client::Error as Native;
        let text = String::new;
        for (error, fault, kind, applied) in [
            (Native::NoAuth, Fault::NoAuth, "PermissionDenied", NO),
            (Native::AuthFailed, Fault::AuthFailed, "Unauthenticated", NO),
            (Native::InvalidAcl, Fault::InvalidAcl, "InvalidConfig", NO),
            (Native::Unimplemented, Fault::Unimplemented, "Unsupported", NO),
            (Native::NoChildrenForEphemerals, Fault::NoChildrenForEphemerals, "Unsupported", NO),
            (Native::QuotaExceeded, Fault::QuotaExceeded, "NoSpace", NO),
            (Native::Throttled, Fault::Throttled, "Overloaded", NO),
            (Native::NotReadOnly, Fault::ReadOnly, "Unavailable", NO),
            (Native::NoHosts, Fault::Unsent, "Unavailable", NO),
            (Native::ConnectionLoss, Fault::ConnectionLost, "Unavailable", UNKNOWN),
            (Native::Timeout, Fault::ConnectionLost, "Unavailable", UNKNOWN),
            (Native::SessionExpired, Fault::SessionExpired, "Unavailable", UNKNOWN),
            (Native::ClientClosed, Fault::ClientClosed, "Unavailable", UNKNOWN),
            (Native::UnexpectedError(text()), Fault::Protocol(text()), "Protocol", UNKNOWN),
            (Native::NoNode, Fault::NoNode, "Internal", NO),
            (Native::BadVersion, Fault::BadVersion, "Internal", NO),
            (Native::BadArguments(&"x"), Fault::BadRequest(text()), "Internal", NO),
            (Native::UnexpectedErrorCode(-1), Fault::Code(0), "Internal", UNKNOWN),
            (Native::RuntimeInconsistent, Fault::Protocol(text()), "Protocol", UNKNOWN),
        ] {
            check(error, &fault, kind, applied);
        }
    }
}
