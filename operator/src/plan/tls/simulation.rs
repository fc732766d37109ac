//! Certificates under random delays: kubelets and applications that read Secrets late, members that stop and come back, members
//! that join and leave, an operator that is killed between any two writes, authorities that are replaced or lost.
//!
//! Whatever happens, any two members that run accept each other, and an application that reads its Secret within the overlap
//! accepts and is accepted by each of them.

use proptest::prelude::*;

use super::tests::{HOUR, NOW, cluster, issue, observed, root, source};
use super::*;
use crate::crd::EtcdCluster;
use crate::plan::{check, plan};
use crate::status::render;

#[derive(Debug, Clone)]
enum Event {
    /// A pass; the operator is killed after so many writes, if there are as many.
    Pass(usize),
    /// The n-th member's files follow its Secret.
    Follow(usize),
    /// The application reads its Secret.
    Read,
    /// The n-th member's process ends, or starts again.
    Toggle(usize),
    /// Time goes by, in minutes.
    Wait(i64),
    /// A person wants another authority.
    Replace,
    /// A person wants certificates of other hours.
    Validity(u16),
    /// The Secret of the authority is deleted.
    Lose,
    /// Certificates come from another authority elsewhere.
    Give,
    /// The same authority elsewhere gives other certificates.
    Renew,
    /// Certificates come from the operator again.
    Take,
    /// A member joins, or the last one leaves.
    Resize(bool),
}

#[derive(Debug)]
struct World {
    cluster: EtcdCluster,
    tls: Tls,
    /// Members with what they have read; those that do not run read it at their start.
    members: BTreeMap<u32, Option<Held>>,
    /// What the application has read.
    application: Option<Held>,
    serial: u64,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            cluster: cluster(3),
            tls: Tls { now: NOW, ..Default::default() },
            members: (0..3).map(|n| (n, None)).collect(),
            application: None,
            serial: 0,
        };
        world.rest();
        world
    }

    fn fresh(&mut self) -> String {
        self.serial += 1;
        format!("#{}", self.serial)
    }

    fn pass(&mut self, survives: usize) {
        let mut tls = self.tls.clone();
        for (ordinal, held) in self.members.iter().filter_map(|(n, held)| Some((*n, held.as_ref()?))) {
            let next = tls.authority.iter().flat_map(|authority| &authority.next);
            let mut next = next.map(|root| &root.fingerprint).peekable();
            if next.peek().is_some() && next.all(|next| held.bundle.contains(next)) {
                tls.trusting.insert(ordinal);
            }
            tls.served.extend(held.shown().map(|shown| (ordinal, shown.to_string())));
        }
        let ordinals: Vec<u32> = self.members.keys().copied().collect();
        let observed = observed(&self.cluster, &ordinals, tls);
        let plan = plan(&self.cluster, &observed);
        assert_eq!(check(&self.cluster, &observed, &plan), Ok(()), "{plan:#?}");
        let writes = plan.tls.clone().unwrap_or_default().writes;
        for write in writes.iter().take(survives) {
            self.write(*write);
        }
        if survives > writes.len() {
            let now = k8s_openapi::jiff::Timestamp::from_second(self.tls.now).unwrap();
            self.cluster.status = Some(render(&self.cluster, &observed, &plan, None, now));
        }
    }

    fn write(&mut self, write: Write) {
        let (now, name) = (self.tls.now, self.fresh());
        let generation = self.cluster.spec.tls.as_ref().unwrap().authority.generation;
        if let (Write::Introduce, Some(authority)) = (write, &mut self.tls.authority) {
            let replaced = std::mem::take(&mut authority.next);
            authority.old.extend(replaced);
        }
        let source = self.tls.source.clone();
        match write {
            Write::Found if source.is_some() => {
                let roots = source.unwrap().roots;
                let trusted: BTreeSet<String> = self.tls.held.values().flat_map(|held| held.bundle.clone()).collect();
                let mut authority = Authority::default();
                match trusted.is_empty() {
                    true => authority.current = roots,
                    false => {
                        let trusted = trusted.iter().map(|name| root(name, NOW));
                        authority.current = trusted.filter(|it| !roots.contains(it)).collect();
                        authority.next = roots;
                    }
                }
                self.tls.authority = Some(authority);
            }
            Write::Introduce if source.is_some() => {
                let authority = self.tls.authority.as_mut().unwrap();
                let roots = source.unwrap().roots;
                let fresh: Vec<Root> = roots.iter().filter(|it| !authority.current.contains(it)).cloned().collect();
                authority.next = if fresh.is_empty() { roots } else { fresh };
                authority.next_can_sign = false;
            }
            Write::Promote if source.is_some() => {
                let authority = self.tls.authority.as_mut().unwrap();
                let roots = source.unwrap().roots;
                let mut all = std::mem::take(&mut authority.current);
                all.append(&mut authority.next);
                all.append(&mut authority.old);
                all.dedup();
                authority.old = all.into_iter().filter(|it| !roots.contains(it)).collect();
                authority.current = roots;
                (authority.can_sign, authority.next_can_sign) = (false, false);
            }
            Write::Issue(holder) if source.is_some() => {
                let (source, bundle) = (source.unwrap(), self.tls.authority.as_ref().unwrap().bundle());
                let leaves = source.of(holder).into_iter().cloned().collect();
                let held = Held { version: name, leaves, bundle, written: now };
                self.tls.held.insert(holder, held);
            }
            Write::Found => {
                let trusted: BTreeSet<String> = self.tls.held.values().flat_map(|held| held.bundle.clone()).collect();
                let made = vec![root(&name, NOW)];
                let mut authority = Authority { generation, can_sign: trusted.is_empty(), ..Default::default() };
                match trusted.is_empty() {
                    true => authority.current = made,
                    false => {
                        authority.current = trusted.iter().map(|name| root(name, NOW)).collect();
                        authority.next = made;
                        authority.next_can_sign = true;
                    }
                }
                self.tls.authority = Some(authority);
            }
            Write::Introduce => {
                let authority = self.tls.authority.as_mut().unwrap();
                (authority.next, authority.generation) = (vec![root(&name, NOW)], generation);
                authority.next_can_sign = true;
            }
            Write::Promote => {
                let authority = self.tls.authority.as_mut().unwrap();
                authority.old.append(&mut authority.current);
                authority.current = std::mem::take(&mut authority.next);
                (authority.can_sign, authority.next_can_sign) = (true, false);
            }
            Write::Drop => self.tls.authority.as_mut().unwrap().old.clear(),
            Write::Issue(holder) => {
                let authority = self.tls.authority.clone().unwrap();
                assert!(authority.can_sign);
                let held = issue(&self.cluster, holder, &authority, now, &name);
                self.tls.held.insert(holder, held);
            }
            Write::Bundle(holder) => {
                let bundle = self.tls.authority.as_ref().unwrap().bundle();
                let held = self.tls.held.get_mut(&holder).unwrap();
                (held.bundle, held.written, held.version) = (bundle, now, name);
            }
            Write::Remove(holder) => drop(self.tls.held.remove(&holder)),
        }
    }

    /// An application that keeps to the rule has read whatever is older than the overlap.
    fn wait(&mut self, minutes: i64) {
        self.tls.now += minutes * 60;
        let overlap = self.cluster.spec.tls.as_ref().unwrap().overlap_seconds();
        let client = self.tls.held.get(&Holder::Client);
        if client.is_some_and(|held| held.written + overlap <= self.tls.now) {
            self.application = client.cloned();
        }
    }

    fn nth(&self, n: usize) -> u32 {
        *self.members.keys().nth(n % self.members.len()).unwrap()
    }

    /// The process reads its files; without a Secret it does not start.
    fn start(&mut self, ordinal: u32) {
        let held = self.tls.held.get(&Holder::Member(ordinal)).cloned();
        self.members.insert(ordinal, held);
    }

    fn happen(&mut self, event: &Event) {
        match event {
            Event::Pass(writes) => self.pass(*writes),
            Event::Follow(n) => {
                let ordinal = self.nth(*n);
                if self.members[&ordinal].is_some() {
                    self.start(ordinal);
                }
            }
            Event::Read => self.application = self.tls.held.get(&Holder::Client).cloned(),
            Event::Toggle(n) => {
                let ordinal = self.nth(*n);
                match self.members[&ordinal] {
                    Some(_) => drop(self.members.insert(ordinal, None)),
                    None => self.start(ordinal),
                }
            }
            Event::Wait(minutes) => self.wait(*minutes),
            Event::Replace => self.cluster.spec.tls.as_mut().unwrap().authority.generation += 1,
            Event::Validity(hours) => self.cluster.spec.tls.as_mut().unwrap().validity = format!("{hours}h"),
            Event::Give => {
                let signer = self.fresh();
                self.tls.source = Some(source(&signer, &format!("given{signer}")));
            }
            Event::Renew => {
                let serial = self.fresh();
                if let Some(given) = &mut self.tls.source {
                    *given = source(&given.roots[0].fingerprint, &format!("given{serial}"));
                }
            }
            Event::Take => self.tls.source = None,
            Event::Lose => self.tls.authority = None,
            Event::Resize(true) if self.members.len() < 5 => {
                let next = self.members.keys().last().unwrap() + 1;
                self.members.insert(next, None);
            }
            Event::Resize(false) if self.members.len() > 2 => drop(self.members.pop_last()),
            Event::Resize(_) => {}
        }
        self.cluster.spec.size = i32::try_from(self.members.len()).unwrap();
        self.all_accept_each_other();
    }

    fn all_accept_each_other(&self) {
        let running: Vec<&Held> = self.members.values().flatten().chain(&self.application).collect();
        for shows in &running {
            for judges in &running {
                let trusted = |leaf: &Leaf| leaf.signed_by.iter().any(|signer| judges.bundle.contains(signer));
                assert!(shows.leaves.iter().all(trusted), "{shows:#?} is refused by {judges:#?}");
            }
        }
    }

    /// Nothing happens any more but what must.
    fn rest(&mut self) {
        for _ in 0..120 {
            self.pass(usize::MAX);
            for ordinal in self.members.keys().copied().collect::<Vec<_>>() {
                self.start(ordinal);
            }
            self.wait(5);
            self.all_accept_each_other();
        }
    }
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        20 => prop_oneof![4 => Just(usize::MAX), 1 => 0..6usize].prop_map(Event::Pass),
        12 => (0..5usize).prop_map(Event::Follow),
        3 => Just(Event::Read),
        3 => (0..5usize).prop_map(Event::Toggle),
        8 => (1..=15i64).prop_map(Event::Wait),
        2 => (600..=6000i64).prop_map(Event::Wait),
        2 => Just(Event::Replace),
        1 => (48..=4000u16).prop_map(Event::Validity),
        1 => Just(Event::Lose),
        1 => Just(Event::Give),
        1 => Just(Event::Renew),
        1 => Just(Event::Take),
        1 => any::<bool>().prop_map(Event::Resize),
    ]
}

proptest! {
    #![proptest_config(crate::plan::simulation::cases(96))]

    #[test]
    fn all_accept_each_other_at_any_time(events in prop::collection::vec(event(), 0..200)) {
        let mut world = World::new();
        for event in &events {
            world.happen(event);
        }
        world.rest();
        let wanted = world.cluster.spec.tls.as_ref().unwrap().authority.generation;
        let authority = world.tls.authority.clone().unwrap();
        prop_assert_eq!(authority.stage(), TlsStage::Stable);
        match &world.tls.source {
            None => prop_assert!(authority.can_sign && authority.generation == wanted),
            Some(source) => prop_assert_eq!(&authority.current, &source.roots),
        }
        for held in world.members.values().map(|held| held.as_ref().unwrap()) {
            prop_assert_eq!(&held.bundle, &authority.bundle());
            prop_assert!(held.leaves.iter().all(|leaf| authority.signed(leaf) && leaf.not_after > world.tls.now + 12 * HOUR));
        }
        prop_assert_eq!(world.tls.held.len(), world.members.len() + 2, "Secrets are left over");
    }
}
