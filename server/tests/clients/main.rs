//! Clients as people have them, each against a member of its own: docs/clients.md lists them. They are installed by
//! `deploy/prerequisites.sh test`.

#[path = "../common/mod.rs"]
mod common;
mod etcdctl;
mod rust;
mod server;

/// The same tests for each etcdctl.
macro_rules! etcdctl {
    ($module:ident, $version:literal) => {
        mod $module {
            use crate::common::Cluster;
            use crate::etcdctl::{self, Etcdctl};
            use crate::server::{Server, ServerKind};

            async fn with(kind: ServerKind, scenarios: &[fn(&Etcdctl)]) {
                let server = Server::start(kind).await;
                scenarios.iter().for_each(|scenario| scenario(&Etcdctl::new($version, &server)));
            }

            #[tokio::test]
            async fn keys() {
                with(ServerKind::Plain, &[etcdctl::keys]).await;
            }

            #[tokio::test]
            async fn watches() {
                with(ServerKind::Plain, &[etcdctl::watches]).await;
            }

            #[tokio::test]
            async fn leases_locks_and_elections() {
                with(ServerKind::Plain, &[etcdctl::leases, etcdctl::locks_and_elections]).await;
            }

            #[tokio::test]
            async fn members_and_maintenance() {
                with(ServerKind::Plain, &[etcdctl::members, etcdctl::maintenance]).await;
            }

            #[tokio::test]
            async fn checks() {
                with(ServerKind::Plain, &[etcdctl::checks]).await;
            }

            #[tokio::test]
            async fn mirror() {
                let (from, to) = (Server::start(ServerKind::Plain).await, Server::start(ServerKind::Plain).await);
                etcdctl::mirror(&Etcdctl::new($version, &from), &to);
            }

            #[tokio::test]
            async fn snapshots() {
                let server = Server::start(ServerKind::Plain).await;
                etcdctl::snapshots(&Etcdctl::new($version, &server), server.member.folder.path());
            }

            #[tokio::test]
            async fn move_leader() {
                let mut cluster = Cluster::start(3);
                let mut clients = cluster.clients().await;
                let leader = cluster.leader().await;
                let target = (leader + 1) % 3;
                let status = clients[target].status().await.expect("told");
                let server = Server::of(cluster.members.swap_remove(leader));
                etcdctl::move_leader(&Etcdctl::new($version, &server), status.header().expect("a header").member_id());
            }

            #[tokio::test]
            async fn users_and_roles() {
                with(ServerKind::Plain, &[etcdctl::users_and_roles]).await;
            }

            #[tokio::test]
            async fn with_tls() {
                with(ServerKind::Tls, &[etcdctl::keys, etcdctl::leases, etcdctl::members, etcdctl::maintenance]).await;
            }

            #[tokio::test]
            async fn with_auth() {
                with(ServerKind::Auth, &[etcdctl::keys, etcdctl::leases, etcdctl::members, etcdctl::maintenance]).await;
            }
        }
    };
}

etcdctl!(etcdctl_3_4, "3.4");
etcdctl!(etcdctl_3_5, "3.5");

/// The same script against each kind of server.
macro_rules! script {
    ($module:ident, $interpreter:literal, $script:literal, $auth:ident) => {
        mod $module {
            use crate::server::{Server, ServerKind, program};

            #[tokio::test]
            async fn plain() {
                Server::start(ServerKind::Plain).await.script(&program($interpreter), $script);
            }

            #[tokio::test]
            async fn with_tls() {
                Server::start(ServerKind::Tls).await.script(&program($interpreter), $script);
            }

            #[tokio::test]
            async fn with_auth() {
                Server::start(ServerKind::$auth).await.script(&program($interpreter), $script);
            }
        }
    };
}

script!(python_etcd3, "python3", "etcd3_grpc.py", TlsAuth);
script!(python_etcd3gw, "python3", "etcd3_gateway.py", Auth);
script!(node_etcd3, "node", "etcd3_node.mjs", Auth);
