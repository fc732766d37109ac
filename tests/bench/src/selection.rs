//! Which cases run: those that the options name, or the default ones.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::case::{Case, Environment, On};
use crate::options::Options;
use crate::workloads::{Settings, WORKLOADS, Workload};

/// Cases that share clusters, in the order of the table of workloads.
pub struct Group {
    pub environment: Environment,
    pub cases: Vec<Case>,
}

/// Members, TLS, keys, bytes of a value; workloads with their numbers of clients.
type Selected = (usize, bool, u64, usize, &'static [(&'static str, &'static [usize])]);

const DEFAULT: &[Selected] = &[
    (
        3,
        false,
        100_000,
        256,
        &[
            ("get-linearizable", &[]),
            ("get-serializable", &[]),
            ("get-linearizable-followers", &[]),
            ("get-serializable-followers", &[]),
            ("put", &[1, 100, 1000]),
            ("mix", &[]),
            ("txn", &[]),
            ("join", &[]),
            ("put-while-catching-up", &[]),
        ],
    ),
    (
        1,
        false,
        100_000,
        256,
        &[
            ("get-linearizable", &[]),
            ("get-serializable", &[]),
            ("range-1000", &[]),
            ("put", &[1, 100, 1000]),
            ("txn", &[]),
            ("delete", &[]),
            ("watch-one-key", &[]),
            ("watch-prefixes", &[]),
            ("watch-kubernetes", &[]),
            ("lease-grant", &[]),
            ("lease-keep-alive", &[]),
        ],
    ),
    (
        1,
        false,
        1_000_000,
        256,
        &[
            ("list-page", &[]),
            ("count", &[]),
            ("put", &[100]),
            ("put-while-compacting", &[]),
            ("put-while-defragmenting", &[]),
            ("snapshot", &[]),
            ("restart", &[]),
        ],
    ),
    (1, true, 10_000, 256, &[("get-linearizable", &[]), ("put", &[100])]),
    (3, true, 10_000, 256, &[("get-linearizable", &[]), ("put", &[100])]),
    (1, false, 10_000, 2048, &[("put", &[100])]),
    (1, false, 1_000, 65_536, &[("put", &[100])]),
];

/// # Errors
/// There is no such workload, or it has nobody to talk to.
pub fn groups(options: &Options) -> Result<Vec<Group>> {
    if options.workload.is_empty() {
        let groups = DEFAULT.iter().map(|(members, tls, keys, value_bytes, workloads)| {
            let mut options = options.clone();
            or(&mut options.members, *members);
            or(&mut options.tls, *tls);
            or(&mut options.keys, *keys);
            or(&mut options.value_bytes, *value_bytes);
            product(&options, workloads)
        });
        let groups: Result<Vec<_>> = groups.collect();
        return Ok(groups?.into_iter().flatten().collect());
    }
    let workloads: Vec<(&str, &[usize])> = options.workload.iter().map(|name| (name.as_str(), &[][..])).collect();
    product(options, &workloads)
}

impl Options {
    pub fn settings(&self) -> Settings {
        let (length, warm_up, settle) = if self.quick { (0.3, 0.1, 0.0) } else { (2.5, 0.5, 3.0) };
        Settings {
            warm_up: Duration::from_secs_f64(self.warm_up.unwrap_or(warm_up)),
            length: Duration::from_secs_f64(self.seconds.unwrap_or(length)),
            settle: Duration::from_secs_f64(settle),
            rounds: if self.quick { 1 } else { self.rounds.max(1) },
            connections: self.connections.max(1),
            leases: if self.quick { self.leases.min(100) } else { self.leases }.max(1),
        }
    }
}

fn or<T>(list: &mut Vec<T>, value: T) {
    if list.is_empty() {
        list.push(value);
    }
}

fn product(options: &Options, workloads: &[(&str, &[usize])]) -> Result<Vec<Group>> {
    const QUICK_KEYS: u64 = 2000;
    let one = |list: &[usize], default| if list.is_empty() { vec![default] } else { list.to_vec() };
    let keys = if options.keys.is_empty() { vec![100_000] } else { options.keys.clone() };
    let tls = if options.tls.is_empty() { vec![false] } else { options.tls.clone() };
    let rates: Vec<_> =
        if options.rate.is_empty() { vec![None] } else { options.rate.iter().copied().map(Some).collect() };
    let mut groups = Vec::new();
    for members in one(&options.members, 1) {
        ensure!((1..=7).contains(&members), "--members {members}: 1 to 7");
        for (tls, keys) in tls.iter().flat_map(|tls| keys.iter().map(|keys| (*tls, *keys))) {
            let keys = if options.quick { keys.min(QUICK_KEYS) } else { keys };
            ensure!(keys >= 1000, "--keys {keys}: at least 1,000, which are one namespace");
            for value_bytes in one(&options.value_bytes, 256) {
                ensure!(value_bytes <= 1 << 20, "--value-bytes {value_bytes}: etcd takes requests of 1.5 MiB at most");
                let environment = Environment { members, tls, keys, value_bytes };
                let cases = cases(options, environment, workloads, &rates)?;
                groups.push(Group { environment, cases });
            }
        }
    }
    groups.retain(|group| !group.cases.is_empty());
    ensure!(!groups.is_empty(), "nothing to measure: a single member has no followers");
    Ok(groups)
}

fn cases(
    options: &Options,
    environment: Environment,
    workloads: &[(&str, &[usize])],
    rates: &[Option<f64>],
) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for (name, clients) in workloads {
        let workload = Workload::find(name).with_context(|| format!("{name}: no such workload; --list prints them"))?;
        let clients = match (workload.clients, &options.clients[..], clients) {
            (0, ..) => vec![0],
            (default, [], []) => vec![default],
            (_, [], chosen) => chosen.to_vec(),
            (_, chosen, _) => chosen.to_vec(),
        };
        ensure!(workload.clients == 0 || !clients.contains(&0), "--clients 0: somebody has to do it");
        let on = if options.on.is_empty() { vec![workload.on] } else { options.on.clone() };
        for clients in clients {
            for (on, rate) in on.iter().flat_map(|on| rates.iter().map(|rate| (*on, *rate))) {
                if on == On::Followers && environment.members == 1 {
                    continue;
                }
                ensure!(rate.is_none_or(|rate| rate > 0.0), "--rate: more than 0");
                cases.push(Case { workload, environment, clients, on, rate });
            }
        }
    }
    // Those that leave a lot behind come last.
    cases.sort_by_key(|case| WORKLOADS.iter().position(|workload| std::ptr::eq(workload, case.workload)));
    Ok(cases)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn titles(arguments: &str) -> Result<Vec<String>> {
        let options = Options::parse_from(std::iter::once("bench").chain(arguments.split_whitespace()));
        let groups = groups(&options)?;
        let title = |case: &Case| format!("{}: {}", case.environment.title(), case.title());
        Ok(groups.iter().flat_map(|group| group.cases.iter().map(title)).collect())
    }

    #[test]
    fn options_select_every_combination() {
        let found =
            titles("--workload put,get-linearizable --clients 1,1000 --members 1,3 --keys 5000").expect("cases");
        assert_eq!(found.len(), 8);
        assert_eq!(found[0], "1 member, 5,000 keys of 256 B: get-linearizable, 1 client");
        assert_eq!(found[7], "3 members, 5,000 keys of 256 B: put, 1,000 clients");
        let found =
            titles("--workload put --on followers --members 3 --tls --value-bytes 2048 --rate 500").expect("cases");
        assert_eq!(found, ["3 members, TLS, 100,000 keys of 2 KiB: put, 100 clients, on followers, 500/s"]);
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        assert!(titles("--workload nonsense").is_err());
        assert!(titles("--workload get-linearizable-followers --members 1").is_err());
        assert!(titles("--workload put --keys 10").is_err());
        assert!(titles("--workload put --rate 0").is_err());
        assert!(titles("--workload put --clients 0").is_err());
    }

    #[test]
    fn the_default_selection_names_workloads_that_exist() {
        assert!(titles("").expect("cases").len() > 20);
    }
}
