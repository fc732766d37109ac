//! A second opinion on the judge: of a small history every order is tried. Nothing is looked up by revision here, and nothing guessed: an
//! order is right if each operation comes after those that had ended when it began, and is answered as the model answers it.

use keelson_faults::check::check;
use keelson_faults::history::{
    Compare, Comparison, Failure, History, Operation, Outcome, Request, Response, Span, Target,
};
use keelson_faults::model::Store;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

const MOST: usize = 7;
const HISTORIES: u64 = 20_000;
const KEYS: [&str; 2] = ["a", "b"];
const MEMBERS: u32 = 3;

/// The states so far: that of revision 1, of revision 2, and so on.
struct States(Vec<Store>);

impl States {
    fn new() -> Self {
        Self(vec![Store::default()])
    }

    /// Executes it on the newest state, of which nothing is left if it makes none; whether it made one.
    fn execute(&mut self, request: &Request) -> (Outcome, bool) {
        let newest = self.0.len();
        if let Request::Range { span, revision: asked @ 1.., limit, .. } = request {
            let outcome = self.0.get(*asked as usize - 1).map(|state| state.range(span, *limit));
            let outcome = outcome.map(|response| Outcome::Ok { revision: newest as i64, response });
            return (outcome.unwrap_or(Outcome::Failed(Failure::FutureRevision)), false);
        }
        let mut state = self.0[newest - 1].clone();
        let (response, changes) = state.execute(request, newest as i64 + 1);
        if !changes.is_empty() {
            self.0.push(state);
        }
        (Outcome::Ok { revision: self.0.len() as i64, response }, !changes.is_empty())
    }
}

/// Whether these, of which the first ones have their place already, can be put in an order.
fn are_explained(placed: &[&Operation], open: &[&Operation], states: &mut States) -> bool {
    if open.iter().all(|operation| operation.is_unknown()) {
        return true;
    }
    open.iter().enumerate().any(|(at, next)| {
        let had_ended = |other: &&&Operation| !other.is_unknown() && other.returned < next.call;
        // A serializable read may be of an older state; but what it saw was there before whatever begins later.
        if !next.request.is_serializable() && open.iter().any(|other| had_ended(&other)) {
            return false;
        }
        // None of what it saw had not been asked for.
        if next.request.is_serializable() && placed.iter().any(|before| writes(before) && before.call > next.returned) {
            return false;
        }
        let (answer, made_one) = states.execute(&next.request);
        let placed = [placed, &[next]].concat();
        let others: Vec<_> = open.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, of)| *of).collect();
        let is_right = next.is_unknown() || next.outcome == answer;
        let explained = is_right && are_explained(&placed, &others, states);
        if made_one {
            states.0.pop();
        }
        explained
    })
}

/// Other operations may be anywhere in the order.
fn writes(operation: &Operation) -> bool {
    operation.is_unknown() || operation.response().is_some_and(Response::wrote)
}

fn no_member_goes_back(history: &History) -> bool {
    let mut answers = history.operations.iter().filter_map(|operation| Some((operation, operation.revision()?)));
    let of_all = || history.operations.iter().filter_map(|operation| Some((operation, operation.at_most()?)));
    answers.all(|(earlier, newest)| {
        of_all().all(|(later, revision)| {
            earlier.member != later.member || earlier.returned >= later.call || newest <= revision
        })
    })
}

fn is_right(history: &History) -> bool {
    let open: Vec<_> = history.operations.iter().collect();
    no_member_goes_back(history) && are_explained(&[], &open, &mut States::new())
}

fn request(rng: &mut StdRng) -> Request {
    let key = (*KEYS.choose(rng).expect("keys")).to_owned();
    let span = if rng.random_bool(0.3) { Span::all() } else { Span::key(key.clone()) };
    // Others write the same.
    let value = ["x", "y"][rng.random_range(0..2)].to_owned();
    let put = Request::Put { key: key.clone(), value, lease: 0, prev_kv: rng.random() };
    let limit = rng.random_range(0..2);
    match rng.random_range(0..10) {
        0..4 => put,
        4 => Request::Delete { span, prev_kv: rng.random() },
        5..8 => {
            let revision = if rng.random_bool(0.2) { rng.random_range(1..4) } else { 0 };
            Request::Range { span, revision, serializable: rng.random_bool(0.3), limit }
        }
        _ => {
            let target = Target::ModRevision(rng.random_range(0..4));
            let read = Request::Range { span, revision: 0, serializable: false, limit: 0 };
            let compares = vec![Compare { key, comparison: Comparison::Equal, target }];
            Request::Txn { compares, then: vec![put], otherwise: vec![read] }
        }
    }
}

/// What clients of a store that is right may see.
fn history(rng: &mut StdRng) -> History {
    let mut operations: Vec<(u64, Operation)> = (0..rng.random_range(1..=MOST))
        .map(|id| {
            let call = rng.random_range(0..20);
            let effect = call + rng.random_range(0..8);
            let (request, outcome) = (request(rng), Outcome::Unknown { error: "lost".into() });
            // Mostly each has its own, since serializable reads are of any state here.
            let member = if rng.random_bool(0.2) { rng.random_range(0..MEMBERS) } else { MEMBERS + id as u32 };
            let returned = effect + rng.random_range(0..8);
            (effect, Operation { client: id as u32, member, call, returned, request, outcome })
        })
        .collect();
    operations.sort_by_key(|(effect, _)| *effect);
    let mut states = States::new();
    for (_, operation) in &mut operations {
        let is_lost = operation.request.may_write() && rng.random_bool(0.25);
        if is_lost && rng.random() {
            continue;
        }
        let seen =
            if operation.request.is_serializable() { rng.random_range(1..=states.0.len()) } else { states.0.len() };
        let newer = states.0.split_off(seen);
        let (outcome, _) = states.execute(&operation.request);
        states.0.extend(newer);
        if !is_lost {
            operation.outcome = outcome;
        }
    }
    History { operations: operations.into_iter().map(|(_, operation)| operation).collect(), ..History::default() }
}

/// Changes something of it; what comes of that may be right all the same.
fn spoil(history: &mut History, rng: &mut StdRng) {
    let (one, other) = (rng.random_range(0..history.operations.len()), rng.random_range(0..history.operations.len()));
    let swapped = history.operations[other].outcome.clone();
    let operation = &mut history.operations[one];
    match rng.random_range(0..5) {
        0 => {
            if let Outcome::Ok { revision, .. } = &mut operation.outcome {
                *revision += [-1, 1][rng.random_range(0..2)];
            }
        }
        1 => {
            let same = std::mem::discriminant(&operation.request);
            let mine = std::mem::replace(&mut operation.outcome, swapped);
            if same == std::mem::discriminant(&history.operations[other].request) {
                history.operations[other].outcome = mine;
            } else {
                history.operations[one].outcome = mine;
            }
        }
        2 => {
            let later = rng.random_range(0..12);
            (operation.call, operation.returned) = (operation.call + later, operation.returned + later);
        }
        3 => operation.member = 0,
        _ => match &mut operation.outcome {
            Outcome::Ok { response: Response::Range { kvs, .. }, .. } if !kvs.is_empty() => {
                let kv = kvs.last_mut().expect("not empty");
                match rng.random_range(0..3) {
                    0 => kv.value = if kv.value == "x" { "y" } else { "x" }.to_owned(),
                    1 => kv.version += 1,
                    _ => kv.mod_revision = (kv.mod_revision - 1).max(1),
                }
            }
            Outcome::Ok { response: Response::Delete { deleted, .. }, .. } => *deleted = 1 - (*deleted).min(1),
            _ => operation.outcome = Outcome::Unknown { error: "lost".into() },
        },
    }
}

#[test]
fn the_judge_agrees_with_a_search_of_every_order() {
    let (mut right, mut wrong) = (0, 0);
    for seed in 0..HISTORIES {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut history = history(&mut rng);
        assert!(!no_member_goes_back(&history) || is_right(&history), "seed {seed}: {history:#?}");
        for _ in 0..rng.random_range(0..6) {
            spoil(&mut history, &mut rng);
        }
        let (is_right, report) = (is_right(&history), check(&history));
        if report.gave_up.is_some() || report.is_good() != is_right {
            let shown: Vec<_> = history.operations.iter().map(ToString::to_string).collect();
            let verdict = report.violations.iter().map(|violation| violation.with(&history).to_string());
            let verdict: Vec<_> = verdict.chain(report.gave_up).collect();
            panic!("seed {seed}: right is {is_right}, judged: {verdict:#?}\n{}", shown.join("\n"));
        }
        if is_right { right += 1 } else { wrong += 1 }
    }
    println!("{right} right histories, {wrong} wrong ones");
    assert!(right > 4_000 && wrong > 4_000, "{right} right, {wrong} wrong");
}
