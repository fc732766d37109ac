//! Volumes that grow.

use super::life::Life;
use super::*;

#[test]
fn volumes_grow_one_after_the_other_without_a_restart() {
    let volume = |requested: &str, capacity: &str| Volume {
        requested: requested.into(),
        capacity: Some(capacity.into()),
        file_system_pending: None,
    };
    let mut life = Life::settled("0L 1 2");
    life.0.cluster.spec.storage.size = "2Gi".into();
    life.0.observed.volumes = (0..4).map(|ordinal| (ordinal, volume("1Gi", "1Gi"))).collect();
    life.0.observed.claims.insert(3, child("retained".into()));
    life.0.cluster.spec.storage.retention.when_scaled = crate::crd::RetentionPolicy::Retain;
    for ordinal in 0..3 {
        assert_eq!(life.pass(), format!("expand the volume of member {ordinal} to 2Gi"));
        life.0.observed.volumes.insert(ordinal, volume("2048Mi", "1Gi"));
    }
    assert_eq!(life.pass(), "wait: data-c-0-0, data-c-1-0, data-c-2-0 to grow");
    assert_eq!(life.0.cluster.status.clone().unwrap().volume_size.as_deref(), Some("2048Mi"));
    for ordinal in 0..3 {
        life.0.observed.volumes.insert(ordinal, volume("2Gi", "2Gi"));
    }
    assert_eq!(life.pass(), "Running");
    // That they are full may be why there is no quorum.
    life.0.cluster.spec.storage.size = "3Gi".into();
    life.0.observed.store = Store::Silent;
    assert_eq!(life.0.step(), "expand the volume of member 0 to 3Gi");
    // What was written down before CEL rules forbade it: nothing shrinks.
    life.0.cluster.spec.storage.size = "1Gi".into();
    assert_eq!(life.0.plan().action, None);
}

#[test]
fn a_member_is_restarted_for_its_volume_only_if_its_file_system_does_not_grow_otherwise() {
    let mut life = Life::settled("0L 1 2");
    let since = life.0.observed.now;
    let size = life.0.cluster.spec.storage.size.clone();
    let volume = Volume { requested: size.clone(), capacity: Some(size), file_system_pending: Some(since) };
    life.0.observed.volumes.insert(0, volume);
    assert_eq!(life.pass(), "wait: data-c-0-0 to grow");
    life.0.observed.now += 300;
    assert_eq!(life.pass(), "move leadership from 100 to 101");
    assert_eq!(life.pass(), "restart member 0");
    life.0.observed.pods.get_mut(&0).unwrap().created = life.0.observed.now;
    assert_eq!(life.pass(), "wait: data-c-0-0 to grow", "once is enough");
}
