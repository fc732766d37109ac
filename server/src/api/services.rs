//! The services of gRPC, and which method is whose.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Body;
use tonic::Status;
use tower::Service as _;

use super::Api;
use crate::proto::etcdserverpb::auth_server::AuthServer;
use crate::proto::etcdserverpb::cluster_server::ClusterServer;
use crate::proto::etcdserverpb::kv_server::KvServer;
use crate::proto::etcdserverpb::lease_server::LeaseServer;
use crate::proto::etcdserverpb::maintenance_server::MaintenanceServer;
use crate::proto::etcdserverpb::watch_server::WatchServer;
use crate::proto::health::health_server::HealthServer;
use crate::proto::v3electionpb::election_server::ElectionServer;
use crate::proto::v3lockpb::lock_server::LockServer;

/// Larger answers are refused, as they are by etcd.
pub const MAX_ANSWER_BYTES: usize = i32::MAX as usize;

/// Kind, service and methods of everything that is served.
pub const METHODS: &[(&str, Service, &[&str])] = &[
    ("unary", Service::Kv, &["Range", "Put", "DeleteRange", "Txn", "Compact"]),
    ("server_stream", Service::Kv, &["RangeStream"]),
    ("bidi_stream", Service::Watch, &["Watch"]),
    ("unary", Service::Lease, &["LeaseGrant", "LeaseRevoke", "LeaseTimeToLive", "LeaseLeases"]),
    ("bidi_stream", Service::Lease, &["LeaseKeepAlive"]),
    ("unary", Service::Cluster, &["MemberAdd", "MemberRemove", "MemberUpdate", "MemberList", "MemberPromote"]),
    ("unary", Service::Maintenance, &["Alarm", "Status", "Defragment", "Hash", "HashKV", "MoveLeader", "Downgrade"]),
    ("server_stream", Service::Maintenance, &["Snapshot"]),
    ("unary", Service::Lock, &["Lock", "Unlock"]),
    ("unary", Service::Election, &["Campaign", "Proclaim", "Leader", "Resign"]),
    ("server_stream", Service::Election, &["Observe"]),
    (
        "unary",
        Service::Auth,
        &[
            "AuthEnable",
            "AuthDisable",
            "AuthStatus",
            "Authenticate",
            "UserAdd",
            "UserGet",
            "UserList",
            "UserDelete",
            "UserChangePassword",
            "UserGrantRole",
            "UserRevokeRole",
            "RoleAdd",
            "RoleGet",
            "RoleList",
            "RoleDelete",
            "RoleGrantPermission",
            "RoleRevokePermission",
        ],
    ),
    ("unary", Service::Health, &["Check"]),
    ("server_stream", Service::Health, &["Watch"]),
];

/// One of the services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Keys and values.
    Kv,
    /// Watches.
    Watch,
    /// Leases.
    Lease,
    /// Members.
    Cluster,
    /// Alarms, status, snapshots and the like.
    Maintenance,
    /// Locks.
    Lock,
    /// Elections.
    Election,
    /// Users and roles.
    Auth,
    /// gRPC's own health check.
    Health,
}

impl Service {
    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Service::Kv => "etcdserverpb.KV",
            Service::Watch => "etcdserverpb.Watch",
            Service::Lease => "etcdserverpb.Lease",
            Service::Cluster => "etcdserverpb.Cluster",
            Service::Maintenance => "etcdserverpb.Maintenance",
            Service::Lock => "v3lockpb.Lock",
            Service::Election => "v3electionpb.Election",
            Service::Auth => "etcdserverpb.Auth",
            Service::Health => "grpc.health.v1.Health",
        }
    }
}

/// The answer to a method that there is not, in the words of Go's gRPC.
pub fn unknown(path: &str) -> Status {
    let Some((service, method)) = path.strip_prefix('/').unwrap_or(path).rsplit_once('/') else {
        return Status::unimplemented(format!("malformed method name: {path:?}"));
    };
    match METHODS.iter().any(|(_, known, _)| known.name() == service) {
        true => Status::unimplemented(format!("unknown method {method} for service {service}")),
        false => Status::unimplemented(format!("unknown service {service}")),
    }
}

/// All of them, on the same doors.
pub struct Services {
    kv: KvServer<Api>,
    watch: WatchServer<Arc<Api>>,
    lease: LeaseServer<Arc<Api>>,
    cluster: ClusterServer<Api>,
    maintenance: MaintenanceServer<Api>,
    lock: LockServer<Arc<Api>>,
    election: ElectionServer<Arc<Api>>,
    auth: AuthServer<Api>,
    health: HealthServer<Api>,
}

impl Services {
    /// The services of `api`.
    pub fn new(api: &Arc<Api>) -> Self {
        let bytes = api.limits.max_message_bytes();
        macro_rules! limited {
            ($service:expr) => {
                $service.max_decoding_message_size(bytes).max_encoding_message_size(MAX_ANSWER_BYTES)
            };
        }
        Services {
            kv: limited!(KvServer::from_arc(api.clone())),
            watch: limited!(WatchServer::new(api.clone())),
            lease: limited!(LeaseServer::new(api.clone())),
            cluster: limited!(ClusterServer::from_arc(api.clone())),
            maintenance: limited!(MaintenanceServer::from_arc(api.clone())),
            lock: limited!(LockServer::new(api.clone())),
            election: limited!(ElectionServer::new(api.clone())),
            auth: limited!(AuthServer::from_arc(api.clone())),
            health: HealthServer::from_arc(api.clone()),
        }
    }

    /// Answers one call of a method of this service.
    pub async fn call<B>(&self, service: Service, request: Request<B>) -> Response<tonic::body::Body>
    where
        B: Body<Data = Bytes, Error: Into<tonic::codegen::StdError> + Send> + Send + 'static,
    {
        let Ok(response) = match service {
            Service::Kv => self.kv.clone().call(request),
            Service::Watch => self.watch.clone().call(request),
            Service::Lease => self.lease.clone().call(request),
            Service::Cluster => self.cluster.clone().call(request),
            Service::Maintenance => self.maintenance.clone().call(request),
            Service::Lock => self.lock.clone().call(request),
            Service::Election => self.election.clone().call(request),
            Service::Auth => self.auth.clone().call(request),
            Service::Health => self.health.clone().call(request),
        }
        .await;
        response
    }
}
