//! A vote that is forgotten, on real servers: a leader is cut off, the others elect another one, and the one who voted for it loses its
//! power and sees only the old leader then. If its vote was synced, what the two acknowledge stays. If its disk had lied, it does not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use keelson_faults::check::check;
use keelson_faults::client::{Recorder, connect, execute};
use keelson_faults::cluster::Cluster;
use keelson_faults::disk::{Condition, Disk};
use keelson_faults::history::{Operation, Request, Span};
use keelson_faults::network::{Link, Network};

const DEADLINE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// What went wrong, if something did.
type Wrong = Vec<String>;

struct Stage {
    cluster: Cluster,
    recorder: Recorder,
    /// Who led in which term, as the members told.
    led: BTreeMap<u64, u64>,
    wrong: Wrong,
}

impl Stage {
    fn disk(&self, member: usize) -> &Disk {
        self.cluster.members[member].disk().expect("a disk of ours")
    }

    /// Between one member and the others, in both directions.
    fn link(&self, member: usize, others: &[usize], cut: bool) {
        let switch = self.cluster.network.switch().expect("a switch");
        for other in others {
            for (from, to) in [(member, *other), (*other, member)] {
                switch.set(from, to, Link { cut, ..Link::default() });
            }
        }
    }

    /// Which of these says that it leads, and takes note of what they say.
    async fn leader(&mut self, of: &[usize]) -> Option<usize> {
        let mut found = None;
        for member in of {
            let Ok(status) = self.cluster.members[*member].status().await else { continue };
            if status.leads() {
                found = Some(*member);
            }
            let known = *self.led.entry(status.term).or_insert(status.leader_id);
            if status.leader_id != 0 && known != 0 && known != status.leader_id {
                self.wrong.push(format!("two members lead in term {}", status.term));
            }
            if known == 0 {
                self.led.insert(status.term, status.leader_id);
            }
        }
        found
    }

    async fn elected(&mut self, of: &[usize]) -> usize {
        let begun = Instant::now();
        loop {
            if let Some(leader) = self.leader(of).await {
                return leader;
            }
            assert!(begun.elapsed() < DEADLINE, "no leader among {of:?}");
            tokio::time::sleep(POLL).await;
        }
    }

    async fn ask(&self, member: usize, request: Request) -> Option<Operation> {
        let channel = connect(self.cluster.members[member].client()).await.ok()?;
        Some(execute(&self.recorder, 0, member, channel, request).await)
    }

    async fn put(&self, member: usize, value: &str) -> bool {
        let put = Request::Put { key: "a".into(), value: value.into(), lease: 0, prev_kv: false };
        self.ask(member, put).await.is_some_and(|done| done.revision().is_some())
    }
}

/// One of three members forgets its vote, or none does.
async fn vote(network: Network, forgotten: bool) -> Wrong {
    let (folder, recorder) = (std::env::temp_dir(), Recorder::default());
    let cluster = Cluster::start(&program(), &[], 3, &folder, network, true, &recorder).await.expect("a cluster");
    let mut stage = Stage { cluster, recorder, led: BTreeMap::new(), wrong: Vec::new() };
    assert!(stage.put(0, "before").await);
    let old = stage.elected(&[0, 1, 2]).await;
    let others: Vec<_> = (0..3).filter(|member| *member != old).collect();
    stage.link(old, &others, true);
    for member in &others {
        // What the old leader knows of them is on their disks.
        stage.disk(*member).quiet(Duration::from_millis(200)).await;
        stage.disk(*member).set(if forgotten { Condition::Lies } else { Condition::Sound });
    }
    let new = stage.elected(&others).await;
    let voter = 3 - old - new;
    stage.link(new, &[voter], true);
    stage.cluster.members[voter].kill().await;
    stage.disk(voter).lose_power(None).expect("lost");
    others.iter().for_each(|member| stage.disk(*member).set(Condition::Sound));
    stage.link(old, &[voter], false);
    stage.cluster.members[voter].start("existing").await.expect("started");
    let begun = Instant::now();
    let mut tries = 0;
    while !stage.put(old, &format!("after {tries}")).await {
        assert!(begun.elapsed() < DEADLINE, "two of three do not agree");
        tries += 1;
        stage.leader(&[0, 1, 2]).await;
    }
    stage.leader(&[0, 1, 2]).await;
    stage.cluster.network.switch().expect("a switch").heal();
    // Two leaders may not agree for long.
    if stage.wrong.is_empty() && !matches!(tokio::time::timeout(DEADLINE, stage.cluster.recovered()).await, Ok(Ok(_))) {
        stage.wrong.push("not all members serve".into());
    }
    let read = Request::Range { span: Span::all(), revision: 0, serializable: false, limit: 0 };
    for member in 0..3 {
        stage.leader(&[0, 1, 2]).await;
        stage.ask(member, read.clone()).await;
        stage.wrong.extend(stage.cluster.members[member].crashes().await);
    }
    stage.wrong.dedup();
    let history = stage.recorder.take();
    let report = check(&history);
    stage.wrong.extend(report.violations.iter().map(|violation| violation.with(&history).to_string()));
    stage.wrong
}

fn program() -> PathBuf {
    let ours = || Path::new(env!("CARGO_BIN_EXE_keelson-faults")).with_file_name("keelson-server");
    std::env::var_os("KEELSON_SERVER").map_or_else(ours, PathBuf::from)
}

#[test]
fn a_vote_outlives_a_loss_of_power_and_one_that_does_not_is_noticed() {
    if !rustix::process::geteuid().is_root() {
        return println!("not tried: only root can give members a network that can be cut");
    }
    let network = Network::switched(3).expect("a network");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
    runtime.block_on(async {
        assert_eq!(vote(network.clone(), false).await, [""; 0]);
        let wrong = vote(network, true).await;
        println!("{}", wrong.join("\n"));
        assert!(!wrong.is_empty(), "a member has voted twice, and nothing tells");
    });
}
