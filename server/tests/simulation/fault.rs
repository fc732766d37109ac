//! What befalls the members, and who starts them again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::disk::Loss;
use crate::member::Member;
use crate::network::Conditions;
use crate::world::World;

/// Lets something happen every now and then until the world closes, then heals everything.
pub async fn run(world: Arc<World>) {
    while !world.is_closing() {
        sleep(world.between(100, 1500)).await;
        happen(&world).await;
    }
    world.change_network(|network| *network = Conditions::default());
    world.slow_disks(BTreeMap::new());
}

async fn happen(world: &Arc<World>) {
    world.count_fault();
    let victim = 1 + world.below(world.size);
    let leader = world.leader().unwrap_or(victim);
    match world.below(13) {
        0 => end(world, victim),
        1 => end(world, leader),
        2 => (1..=world.size).for_each(|member| end(world, member)),
        3 => world.lose_power_after(victim, 1 + world.below(12) as u32),
        4 => world.lose_power_after(leader, 1 + world.below(12) as u32),
        5 => {
            let groups: BTreeMap<u64, u32> = (1..=world.size).map(|member| (member, world.below(2) as u32)).collect();
            for_a_while(world, |network| network.groups = groups).await;
        }
        6 => for_a_while(world, |network| network.groups = BTreeMap::from([(leader, 1)])).await,
        7 => for_a_while(world, |network| network.mute = Some(leader)).await,
        8 => {
            let slowest = world.between(20, 600);
            for_a_while(world, |network| network.slowest = slowest).await;
        }
        9 => for_a_while(world, |network| network.lost = 20).await,
        10 => {
            world.slow_disks(BTreeMap::from([(victim, world.between(50, 800))]));
            sleep(world.between(200, 2000)).await;
            world.slow_disks(BTreeMap::new());
        }
        11 => {
            // Two of those who look for a leader do not reach each other.
            end(world, leader);
            let others: Vec<u64> = (1..=world.size).filter(|member| *member != leader).collect();
            // Two elections, and a start between them.
            let time = world.between(5000, 9000);
            hold(world, time, |network| network.cut = Some([others[0], others[1]])).await;
        }
        _ => {
            if let Some(leader) = world.member(leader) {
                // Whoever does not lead does nothing.
                let _ = leader.raft.trigger().transfer_leader(victim).await;
            }
        }
    }
}

fn end(world: &World, member: u64) {
    let loss = match world.below(3) {
        0 => Loss::Nothing,
        1 => Loss::Unsynced,
        _ => Loss::Torn,
    };
    if let Some(member) = world.member(member) {
        member.life.end(loss);
    }
}

async fn for_a_while(world: &World, change: impl FnOnce(&mut Conditions)) {
    hold(world, world.between(200, 5000), change).await;
}

async fn hold(world: &World, time: Duration, change: impl FnOnce(&mut Conditions)) {
    world.change_network(change);
    sleep(time).await;
    world.change_network(|network| *network = Conditions::default());
}

/// Starts again who has ended, and tells of who did so by itself. Ends with the world.
pub async fn look_after(world: Arc<World>) {
    loop {
        sleep(Duration::from_millis(5)).await;
        for member in world.members() {
            if let Some(failure) = member.failure() {
                world.violate(format!("{} has ended: {failure}", member.life.member));
            }
            if member.life.is_over() {
                tokio::spawn(again(world.clone(), member));
            }
        }
    }
}

async fn again(world: Arc<World>, member: Arc<Member>) {
    let id = member.life.member;
    world.remove(id);
    let dir = world.new_dir();
    member.bury(&world, dir.clone()).await;
    sleep(world.between(20, 1500)).await;
    match Member::start(&world, id, dir).await {
        Ok(member) => world.add(member),
        Err(error) => world.violate(error),
    }
}
