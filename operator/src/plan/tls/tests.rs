//! A cluster of three with all its certificates, and what follows from one change of it.

use super::*;
use crate::crd::{EtcdCluster, EtcdClusterSpec, EtcdClusterStatus};
use crate::names::FINALIZER;
use crate::plan::{Answer, Child, Member, Observed, Plan, Pod, Violation, check, plan};

pub(super) const HOUR: i64 = 3600;
pub(super) const NOW: i64 = 1_800_000_000;

pub(super) fn cluster(size: i32) -> EtcdCluster {
    let tls = Some(TlsSpec::default());
    let mut cluster = EtcdCluster::new("c", EtcdClusterSpec { size, tls, ..Default::default() });
    cluster.metadata.namespace = Some("ns".into());
    cluster.metadata.uid = Some("uid".into());
    cluster.metadata.finalizers = Some(vec![FINALIZER.into()]);
    cluster.status = Some(EtcdClusterStatus { cluster_id: Some("c1".into()), ..Default::default() });
    cluster
}

pub(super) fn root(name: &str, now: i64) -> Root {
    Root { fingerprint: name.into(), not_before: now, not_after: now + 87600 * HOUR }
}

/// What the operator would make for a holder.
pub(super) fn issue(cluster: &EtcdCluster, holder: Holder, authority: &Authority, now: i64, serial: &str) -> Held {
    let signer = &authority.current[0];
    let requests = build::requests(cluster, holder).into_iter().enumerate();
    Held {
        version: serial.into(),
        leaves: requests
            .map(|(n, request)| Leaf {
                fingerprint: format!("{serial}-{n}"),
                not_before: now,
                not_after: now + request.seconds.min(signer.not_after - now),
                names: request.names.into_iter().collect(),
                signed_by: BTreeSet::from([signer.fingerprint.clone()]),
            })
            .collect(),
        bundle: authority.bundle(),
        written: now,
    }
}

/// Members of the store that answer, with their objects in Kubernetes.
pub(super) fn observed(cluster: &EtcdCluster, ordinals: &[u32], tls: Tls) -> Observed {
    let child = |uid: String| Child { uid, ours: true, ..Default::default() };
    let pod = |ordinal: u32| Pod {
        uid: format!("p{ordinal}"),
        ours: true,
        running: true,
        config_hash: Some(build::config_hash(cluster)),
        image: Some(cluster.spec.server_image()),
        ..Default::default()
    };
    let member = |ordinal: u32| Member {
        id: u64::from(ordinal) + 1,
        ordinal: Some(ordinal),
        started: true,
        learner: false,
        secure: true,
        answer: tls.served.contains_key(&ordinal).then(|| Answer { leader: 1, raft_index: 9, ..Default::default() }),
    };
    let each = ordinals.iter().copied();
    Observed {
        now: tls.now,
        statefulsets: each.clone().map(|n| (n, child(format!("s{n}")))).collect(),
        pods: each.clone().map(|n| (n, pod(n))).collect(),
        claims: each.clone().map(|n| (n, child(format!("c{n}")))).collect(),
        store: Store::Listed { cluster_id: 0xc1, members: each.map(member).collect() },
        tls,
        ..Default::default()
    }
}

struct Scene {
    cluster: EtcdCluster,
    tls: Tls,
}

impl Scene {
    /// All in order.
    fn new() -> Self {
        let cluster = cluster(3);
        let authority =
            Authority { generation: 1, can_sign: true, current: vec![root("a", NOW)], ..Default::default() };
        let holders = [Holder::Operator, Holder::Client, Holder::Member(0), Holder::Member(1), Holder::Member(2)];
        let held: BTreeMap<Holder, Held> =
            holders.into_iter().map(|it| (it, issue(&cluster, it, &authority, NOW, &format!("{it}")))).collect();
        let served = (0..3).map(|n| (n, format!("member {n}-0"))).collect();
        let tls = Tls { now: NOW + HOUR, authority: Some(authority), held, served, ..Default::default() };
        Self { cluster, tls }
    }

    fn with(mut self, change: impl FnOnce(&mut Tls)) -> Self {
        change(&mut self.tls);
        self
    }

    fn whole(&self) -> (Observed, Plan) {
        let observed = observed(&self.cluster, &[0, 1, 2], self.tls.clone());
        let plan = plan(&self.cluster, &observed);
        assert_eq!(check(&self.cluster, &observed, &plan), Ok(()), "{plan:#?}");
        (observed, plan)
    }

    /// The writes that follow, or what is waited for.
    fn next(&self) -> String {
        let plan = self.whole().1.tls.unwrap();
        match (plan.writes.is_empty(), plan.waiting_for) {
            (true, Some(waiting_for)) => format!("wait: {waiting_for}"),
            (true, None) => "nothing".into(),
            (false, _) => plan.writes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        }
    }
}

fn introducing(tls: &mut Tls) {
    let authority = tls.authority.as_mut().unwrap();
    (authority.next, authority.next_can_sign) = (vec![root("b", NOW)], true);
    for held in tls.held.values_mut() {
        held.bundle.insert("b".into());
    }
}

fn reissuing(tls: &mut Tls) {
    let authority = tls.authority.as_mut().unwrap();
    authority.old = std::mem::replace(&mut authority.current, vec![root("b", NOW)]);
    for held in tls.held.values_mut() {
        held.bundle.insert("b".into());
        for leaf in &mut held.leaves {
            leaf.signed_by = BTreeSet::from(["b".to_string()]);
        }
    }
}

#[test]
fn a_new_cluster_gets_an_authority_and_all_certificates_before_its_first_member() {
    let mut scene = Scene::new().with(|tls| *tls = Tls { now: NOW, ..Default::default() });
    scene.cluster.status = None;
    let unborn = Observed { tls: scene.tls.clone(), ..Default::default() };
    let plan = plan(&scene.cluster, &unborn).tls.unwrap();
    let all = [Holder::Operator, Holder::Client, Holder::Member(0)].map(Write::Issue);
    assert_eq!(plan.writes[0], Write::Found);
    assert_eq!(plan.writes[1..], all);
}

#[test]
fn nothing_is_written_while_all_is_in_order() {
    assert_eq!(Scene::new().next(), "nothing");
    let mut plain = Scene::new();
    plain.cluster.spec.tls = None;
    assert_eq!(plain.whole().1.tls, None);
}

#[test]
fn clients_are_renewed_at_once_and_members_one_at_a_time() {
    let late = |tls: &mut Tls| tls.now = NOW + 1441 * HOUR;
    let first = "issue certificates for the operator, issue certificates for clients, issue certificates for member 0";
    assert_eq!(Scene::new().with(late).next(), first);
    assert_eq!(Scene::new().with(|tls| tls.now = NOW + 1439 * HOUR).next(), "nothing");
    let then = |tls: &mut Tls| {
        late(tls);
        let now = tls.now;
        for holder in [Holder::Operator, Holder::Client, Holder::Member(0)] {
            let authority = tls.authority.clone().unwrap();
            tls.held.insert(holder, issue(&cluster(3), holder, &authority, now, "renewed"));
        }
    };
    let waits = "wait: c-0 to show the certificate of its Secret";
    assert_eq!(Scene::new().with(then).next(), waits);
    let shows = |tls: &mut Tls| {
        then(tls);
        tls.served.insert(0, "renewed-0".into());
    };
    assert_eq!(Scene::new().with(shows).next(), "issue certificates for member 1");
    let silent = |tls: &mut Tls| {
        shows(tls);
        tls.served.remove(&0);
    };
    assert_eq!(Scene::new().with(silent).next(), waits, "its new certificate may be why it is silent");
    let urgent = |tls: &mut Tls| {
        silent(tls);
        tls.now = NOW + 2000 * HOUR;
    };
    let both = "issue certificates for member 1, issue certificates for member 2";
    assert_eq!(Scene::new().with(urgent).next(), both);
}

#[test]
fn while_tls_is_turned_off_what_expires_is_made_anew_as_it_is_and_nothing_else_happens() {
    let mut named = cluster(3);
    named.spec.tls.as_mut().unwrap().extra_names = vec!["db.example.org".into()];
    let authority = Scene::new().tls.authority.unwrap();
    let held = issue(&named, Holder::Member(0), &authority, NOW, "named");
    let leaving = |hours: i64| {
        let mut scene = Scene::new().with(introducing).with(|tls| tls.now = NOW + hours * HOUR);
        scene.tls.held.insert(Holder::Member(0), held.clone());
        scene.tls.served.insert(0, "named-0".into());
        scene.cluster.spec.tls = None;
        scene
    };
    assert_eq!(leaving(1).whole().1.tls, None, "other names, authorities and Secrets are left");
    let first = "issue certificates for the operator, issue certificates for clients, issue certificates for member 0";
    let due = leaving(1441);
    assert_eq!(due.next(), first);
    let requests = build::requests_alike(&due.cluster, Holder::Member(0), &held.leaves);
    let wanted = build::requests(&named, Holder::Member(0));
    for (request, wanted) in requests.iter().zip(&wanted) {
        let names = |request: &crate::pki::Request| request.names.iter().cloned().collect::<BTreeSet<_>>();
        assert_eq!((&request.common_name, request.seconds), (&wanted.common_name, wanted.seconds));
        assert_eq!(names(request), names(wanted));
    }
    assert_eq!(requests.len(), 2);
}

#[test]
fn other_names_or_times_are_a_reason_to_reissue() {
    let mut named = Scene::new();
    named.cluster.spec.tls.as_mut().unwrap().extra_names = vec!["db.example.org".into()];
    assert_eq!(named.next(), "issue certificates for member 0");
    let mut shorter = Scene::new();
    shorter.cluster.spec.tls.as_mut().unwrap().validity = "100h".into();
    assert!(shorter.next().starts_with("issue certificates for the operator, "));
}

#[test]
fn a_secret_that_is_gone_or_broken_is_made_again() {
    let gone = Scene::new().with(|tls| drop(tls.held.remove(&Holder::Member(1))));
    assert_eq!(gone.next(), "issue certificates for member 1");
    let broken = Scene::new().with(|tls| tls.held.get_mut(&Holder::Client).unwrap().leaves.clear());
    assert_eq!(broken.next(), "issue certificates for clients");
}

#[test]
fn a_new_authority_is_trusted_by_all_before_anything_comes_from_it() {
    let mut asked = Scene::new();
    asked.cluster.spec.tls.as_mut().unwrap().authority.generation = 2;
    assert_eq!(asked.next(), "introduce a new authority");
    let told = Scene::new().with(|tls| {
        let authority = tls.authority.as_mut().unwrap();
        (authority.next, authority.next_can_sign) = (vec![root("b", NOW)], true);
    });
    assert_eq!(told.next().matches("update the authorities").count(), 5);
    let known = Scene::new().with(introducing);
    assert_eq!(known.next(), "wait: c-0 to trust the new authority");
    let almost = Scene::new().with(introducing).with(|tls| tls.trusting = BTreeSet::from([0, 1]));
    assert_eq!(almost.next(), "wait: c-2 to trust the new authority");
    let all = |tls: &mut Tls| {
        introducing(tls);
        tls.trusting = BTreeSet::from([0, 1, 2]);
    };
    assert_eq!(Scene::new().with(all).next(), "issue from the new authority");
    let early = Scene::new().with(all).with(|tls| tls.held.get_mut(&Holder::Client).unwrap().written = tls.now - 599);
    assert_eq!(early.next(), "wait: clients to read their Secret again, within 10m");
}

#[test]
fn an_old_authority_is_dropped_after_all_show_certificates_of_the_new_one() {
    assert_eq!(Scene::new().with(reissuing).next(), "drop the old authority");
    let one_lags = Scene::new().with(reissuing).with(|tls| drop(tls.served.insert(2, "before".into())));
    assert_eq!(one_lags.next(), "wait: c-2 to show a certificate of the new authority");
    let one_silent = Scene::new().with(reissuing).with(|tls| drop(tls.served.remove(&2)));
    assert_eq!(one_silent.next(), "wait: c-2 to show a certificate of the new authority");
    let dropped = Scene::new().with(reissuing).with(|tls| tls.authority.as_mut().unwrap().old.clear());
    assert_eq!(dropped.next().matches("update the authorities").count(), 5);
}

#[test]
fn an_authority_is_replaced_before_it_expires() {
    let at = |hours: i64| {
        Scene::new().with(|tls| {
            tls.now = NOW + hours * HOUR;
            let authority = tls.authority.clone().unwrap();
            for (holder, held) in &mut tls.held {
                *held = issue(&cluster(3), *holder, &authority, tls.now - HOUR, &format!("{holder}"));
            }
        })
    };
    assert_eq!(at(70079).next(), "nothing");
    assert_eq!(at(70080).next(), "introduce a new authority");
}

/// Certificates for everybody from an authority elsewhere.
pub(super) fn source(signer: &str, serial: &str) -> Source {
    let leaf = |kind: SourceKind| Leaf {
        fingerprint: format!("{serial}-{}", kind.as_str()),
        not_before: NOW,
        not_after: NOW + 87600 * HOUR,
        names: BTreeSet::new(),
        signed_by: BTreeSet::from([signer.to_string()]),
    };
    Source { lacks: None, roots: vec![root(signer, NOW)], leaves: SourceKind::ALL.map(leaf).to_vec() }
}

/// A cluster whose certificates come from elsewhere, all handed out.
fn given() -> Scene {
    Scene::new().with(|tls| {
        let source = source("a", "given");
        tls.authority.as_mut().unwrap().can_sign = false;
        for (holder, held) in &mut tls.held {
            held.leaves = source.of(*holder).into_iter().cloned().collect();
        }
        tls.served = (0..3).map(|n| (n, "given-server".to_string())).collect();
        tls.source = Some(source);
    })
}

#[test]
fn certificates_from_elsewhere_are_handed_out_in_the_same_order() {
    assert_eq!(given().next(), "nothing");
    let missing = given().with(|tls| tls.source = Some(Source::lacking("Secret x to be there".into())));
    assert_eq!(missing.next(), "wait: Secret x to be there");
    let unborn = missing.with(|tls| {
        tls.authority = None;
        tls.held.clear();
    });
    assert_eq!(unborn.next(), "wait: Secret x to be there");
    let renewed = given().with(|tls| tls.source = Some(source("a", "renewed")));
    let first = "issue certificates for the operator, issue certificates for clients, issue certificates for member 0";
    assert_eq!(renewed.next(), first);
    let another = given().with(|tls| tls.source = Some(source("b", "other")));
    assert_eq!(another.next(), "introduce a new authority");
    let known = another.with(introducing);
    assert_eq!(known.next(), "wait: c-0 to trust the new authority", "nothing comes from it yet");
    let yet_another = known.with(|tls| tls.source = Some(source("c", "other")));
    assert_eq!(yet_another.next(), "introduce a new authority", "in place of the one that is not used yet");
}

#[test]
fn where_certificates_come_from_may_change() {
    let to_elsewhere = Scene::new().with(|tls| tls.source = Some(source("b", "given")));
    assert_eq!(to_elsewhere.next(), "introduce a new authority");
    let to_own = given().with(|tls| tls.source = None);
    assert_eq!(to_own.next(), "introduce a new authority");
}

#[test]
fn an_authority_whose_secret_was_lost_is_replaced_by_an_overlap() {
    let lost = Scene::new().with(|tls| tls.authority = None);
    assert_eq!(lost.next(), "make an authority");
    let adopted = |tls: &mut Tls| {
        introducing(tls);
        tls.authority.as_mut().unwrap().can_sign = false;
    };
    assert_eq!(Scene::new().with(adopted).next(), "wait: c-0 to trust the new authority");
    let joining = Scene::new().with(adopted).with(|tls| drop(tls.held.remove(&Holder::Member(2))));
    let joining = joining.with(|tls| {
        tls.served.remove(&2);
        tls.trusting = BTreeSet::from([0, 1]);
    });
    assert_eq!(joining.next(), "issue from the new authority", "without it the third never gets a certificate");
}

#[test]
fn what_a_former_member_had_is_deleted_when_nothing_else_is_left_of_it() {
    let authority = Scene::new().tls.authority.unwrap();
    let left = Scene::new().with(|tls| {
        tls.held.insert(Holder::Member(7), issue(&cluster(3), Holder::Member(7), &authority, NOW, "7"));
    });
    assert_eq!(left.next(), "delete the certificates of member 7");
    let mut observed = observed(&left.cluster, &[0, 1, 2], left.tls.clone());
    observed.pods.insert(7, Pod { ours: true, running: true, ..Default::default() });
    assert_eq!(plan(&left.cluster, &observed).tls.unwrap().writes, []);
}

#[test]
fn paused_and_deleted_clusters_keep_their_certificates() {
    let mut paused = Scene::new().with(|tls| tls.now = NOW + 2000 * HOUR);
    paused.cluster.spec.paused = true;
    assert_eq!(paused.whole().1.tls, None);
}

#[test]
fn the_check_refuses_unsafe_writes() {
    let refused = |scene: &Scene, writes: Vec<Write>| {
        let observed = observed(&scene.cluster, &[0, 1, 2], scene.tls.clone());
        let mut plan = plan(&scene.cluster, &observed);
        plan.tls = Some(TlsPlan { writes, ..Default::default() });
        let verdict = check(&scene.cluster, &observed, &plan);
        assert!(matches!(verdict, Err(Violation::Distrust(..) | Violation::InUse(_))), "{verdict:?}");
    };
    let known = Scene::new().with(introducing);
    refused(&known, vec![Write::Promote]);
    let untold = Scene::new().with(|tls| {
        introducing(tls);
        tls.trusting = BTreeSet::from([0, 1, 2]);
        tls.held.get_mut(&Holder::Client).unwrap().bundle.remove("b");
    });
    refused(&untold, vec![Write::Promote]);
    refused(&Scene::new().with(reissuing).with(|tls| drop(tls.served.remove(&1))), vec![Write::Drop]);
    let signed_by_old = |tls: &mut Tls| {
        reissuing(tls);
        tls.held.get_mut(&Holder::Client).unwrap().leaves[0].signed_by = BTreeSet::from(["a".to_string()]);
    };
    refused(&Scene::new().with(signed_by_old), vec![Write::Drop]);
    refused(&Scene::new().with(reissuing), vec![Write::Bundle(Holder::Client), Write::Drop]);
    refused(&Scene::new(), vec![Write::Issue(Holder::Member(0)), Write::Issue(Holder::Member(1))]);
    refused(&Scene::new(), vec![Write::Remove(Holder::Member(1))]);
}
