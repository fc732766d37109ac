//! A cluster of the imagination: it keeps etcd's promises, and breaks one of them when told to. Clients, members that lag
//! and are restarted, lost answers, watches that are cut off and resumed: all by one seed.

#![allow(dead_code)]

mod bug;
mod watcher;

use keelson_faults::history::{Failure, Hash, History, Operation, Outcome, Request, Restart, Span, Time};
use keelson_faults::model::{Change, Store};
use keelson_faults::workload::Workload;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub use bug::Bug;
use watcher::Watcher;

const MEMBERS: usize = 3;

pub struct Plan {
    pub seed: u64,
    pub clients: u32,
    pub steps: usize,
    /// How likely it is that an answer is lost, and that the operation is executed later or never.
    pub loss: f64,
    pub compactions: bool,
    pub bug: Option<Bug>,
}

pub struct World {
    pub history: History,
    /// Whether the bug has shown so that clients could know.
    pub planted: bool,
    rng: StdRng,
    now: Time,
    /// The state at revision 1, 2, and so on, and what led to it.
    states: Vec<(Store, Vec<Change>)>,
    compacted: i64,
    granted: Vec<i64>,
    /// The revision that each member has applied.
    members: Vec<i64>,
    clients: Vec<Client>,
    /// Requests whose answer was given up before they were executed.
    late: Vec<Request>,
    watchers: Vec<Watcher>,
    loss: f64,
    bug: Option<Bug>,
}

struct Client {
    workload: Workload,
    pending: Option<Pending>,
}

struct Pending {
    request: Request,
    member: usize,
    call: Time,
    outcome: Option<Outcome>,
    /// The answer breaks a promise: it has to arrive.
    broken: bool,
}

pub fn run(plan: &Plan) -> World {
    let client = |id| Client { workload: Workload::new(id, plan.compactions), pending: None };
    let mut world = World {
        history: History::default(),
        planted: false,
        rng: StdRng::seed_from_u64(plan.seed),
        now: 0,
        states: vec![(Store::default(), Vec::new())],
        compacted: 0,
        granted: Vec::new(),
        members: vec![1; MEMBERS],
        clients: (0..plan.clients).map(client).collect(),
        late: Vec::new(),
        watchers: Vec::new(),
        loss: plan.loss,
        bug: plan.bug,
    };
    world.open(Span::all(), 1);
    for _ in 0..plan.steps {
        world.step();
    }
    world.finish();
    world
}

impl World {
    fn step(&mut self) {
        self.now += self.rng.random_range(1..5);
        match self.rng.random_range(0..20) {
            0..2 => {
                let member = self.rng.random_range(0..MEMBERS);
                self.members[member] = self.rng.random_range(self.members[member]..=self.revision());
            }
            2..5 => self.deliver(),
            5 if !self.is_left_alone() && self.rng.random_bool(0.1) => self.restart(),
            6 if !self.late.is_empty() => {
                let request = self.late.swap_remove(self.rng.random_range(0..self.late.len()));
                self.execute(&request);
            }
            7 if self.watchers.len() < 5 && self.rng.random_bool(0.2) => {
                let span = keelson_faults::workload::span(&mut self.rng);
                let start = if self.rng.random() { 0 } else { self.rng.random_range(1..=self.revision() + 2) };
                self.open(span, start);
            }
            _ => self.client(),
        }
    }

    /// Whether a restart, or a watch cut off, would make good what was broken.
    fn is_left_alone(&self) -> bool {
        matches!(self.bug, Some(Bug::MemberBack | Bug::MemberRefuses))
            || (self.bug == Some(Bug::WatchGap) && self.planted)
    }

    fn revision(&self) -> i64 {
        self.states.len() as i64
    }

    fn state(&self, revision: i64) -> &Store {
        &self.states[revision as usize - 1].0
    }

    fn client(&mut self) {
        let id = self.rng.random_range(0..self.clients.len());
        let Some(mut pending) = self.clients[id].pending.take() else {
            let request = self.clients[id].workload.next(&mut self.rng);
            let member = self.rng.random_range(0..MEMBERS);
            self.clients[id].pending = Some(Pending { request, member, call: self.now, outcome: None, broken: false });
            return;
        };
        if !pending.broken && self.rng.random_bool(self.loss) {
            if pending.outcome.is_none() && changes_anything(&pending.request) {
                self.late.push(pending.request.clone());
            }
            self.loses(id, pending);
        } else if let Some(outcome) = pending.outcome.take() {
            self.returns(id, pending, outcome);
        } else {
            let planted = self.planted;
            pending.outcome = Some(self.answer(&pending));
            pending.broken = self.planted != planted;
            self.clients[id].pending = Some(pending);
        }
    }

    fn returns(&mut self, id: usize, pending: Pending, outcome: Outcome) {
        let Pending { request, member, call, .. } = pending;
        let (client, member) = (id as u32, member as u32);
        let operation = Operation { client, member, call, returned: self.now, request, outcome };
        self.clients[id].workload.learn(&operation);
        self.history.operations.push(operation);
    }

    fn loses(&mut self, id: usize, pending: Pending) {
        let error = "lost".to_owned();
        let outcome = match changes_anything(&pending.request) {
            true => Outcome::Unknown { error },
            false => Outcome::Failed(Failure::Other(error)),
        };
        self.returns(id, pending, outcome);
    }

    fn answer(&mut self, pending: &Pending) -> Outcome {
        let Pending { request, member, call, .. } = pending;
        if let Some(outcome) = self.broken(request, *member, *call) {
            return outcome;
        }
        if request.is_serializable() {
            return self.read(request, self.members[*member]);
        }
        let outcome = match request {
            Request::Range { .. } => self.read(request, self.revision()),
            _ => self.execute(request),
        };
        // It answers when it has applied that far.
        self.members[*member] = self.revision();
        outcome
    }

    fn read(&self, request: &Request, revision: i64) -> Outcome {
        let Request::Range { span, revision: asked, limit, .. } = request else { unreachable!("a range") };
        if *asked > revision {
            return Outcome::Failed(Failure::FutureRevision);
        }
        if *asked != 0 && *asked < self.compacted {
            return Outcome::Failed(Failure::Compacted);
        }
        let at = if *asked == 0 { revision } else { *asked };
        Outcome::Ok { revision, response: self.state(at).range(span, *limit) }
    }

    fn execute(&mut self, request: &Request) -> Outcome {
        match request {
            Request::LeaseGrant { lease, .. } => self.granted.push(*lease),
            Request::LeaseRevoke { lease } | Request::LeaseKeepAlive { lease } if !self.granted.contains(lease) => {
                return Outcome::Failed(Failure::LeaseNotFound);
            }
            Request::LeaseRevoke { lease } => self.granted.retain(|granted| granted != lease),
            Request::Compact { revision } if *revision <= self.compacted => {
                return Outcome::Failed(Failure::Compacted);
            }
            Request::Compact { revision } => self.compacted = *revision,
            _ => {}
        }
        let mut store = self.state(self.revision()).clone();
        let (response, changes) = store.execute(request, self.revision() + 1);
        let leases = changes.iter().filter_map(|change| change.now.as_ref()).map(|kv| kv.lease);
        if leases.into_iter().any(|lease| lease != 0 && !self.granted.contains(&lease)) {
            return Outcome::Failed(Failure::LeaseNotFound);
        }
        if !changes.is_empty() {
            self.states.push((store, changes));
        }
        Outcome::Ok { revision: self.revision(), response }
    }

    /// A member's process ends; the next one starts with less than was applied, and its watches are resumed.
    fn restart(&mut self) {
        let member = self.rng.random_range(0..MEMBERS);
        let back = self.rng.random_range(0..10_i64);
        self.history.restarts.push(Restart { member: member as u32, time: self.now });
        self.now += 1;
        self.members[member] = (self.members[member] - back).max(1);
        self.cut(member);
    }

    fn finish(&mut self) {
        for id in 0..self.clients.len() {
            self.now += 2;
            if let Some(pending) = self.clients[id].pending.take() {
                self.planted &= !pending.broken;
                self.loses(id, pending);
            }
        }
        self.members = vec![self.revision(); MEMBERS];
        for member in 0..MEMBERS {
            for serializable in [false, true] {
                self.now += 2;
                let request = Request::Range { span: Span::all(), revision: 0, serializable, limit: 0 };
                let outcome = self.read(&request, self.revision());
                let pending = Pending { request, member, call: self.now - 1, outcome: None, broken: false };
                self.returns(0, pending, outcome);
            }
            let (revision, compact_revision) = (self.revision(), self.compacted);
            self.history.hashes.push(Hash { member: member as u32, revision, compact_revision, hash: 7 });
            if self.bug == Some(Bug::HashDiffers) && member == 1 {
                self.history.hashes[1].hash = 8;
                self.planted = true;
            }
        }
        self.finish_watches();
    }

    /// The newest revision of an answer that had come before `time`.
    fn answered(&self, time: Time) -> i64 {
        let answers = self.history.operations.iter().filter(|operation| operation.returned < time);
        answers.filter_map(Operation::revision).max().unwrap_or(1)
    }

    /// The newest one of this member.
    fn answered_by(&self, member: usize, time: Time) -> Option<i64> {
        let answers = self.history.operations.iter().filter(|operation| operation.returned < time);
        answers.filter(|operation| operation.member as usize == member).filter_map(Operation::revision).max()
    }
}

fn changes_anything(request: &Request) -> bool {
    request.may_write() || matches!(request, Request::Compact { .. } | Request::LeaseGrant { .. })
}
