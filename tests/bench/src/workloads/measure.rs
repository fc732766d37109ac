//! Runs clients against a cluster, and makes figures of what came of it and what the servers used.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{Figures, Scene};
use crate::case::On;
use crate::cluster::Usage;
use crate::load::{Client, Load, Measured, Observer, Watches, Window};
use crate::progress::{Progress, grouped};

/// Who works, and how their work is counted.
pub struct Plan {
    pub clients: Vec<Box<dyn Client>>,
    /// Bytes of keys and values that an operation writes.
    pub user_bytes: usize,
    /// What an operation counts for.
    pub units: u64,
    /// Shown as progress.
    pub goal: Option<u64>,
    /// The clients end by themselves, at most so late; otherwise the time is the settings'.
    pub until_done: Option<Duration>,
    /// The time is that of what goes on beside them.
    pub until_action: bool,
    pub watches: Option<Watches>,
}

impl Plan {
    /// One for clients that go on as long as they may.
    pub fn of(clients: Vec<Box<dyn Client>>, user_bytes: usize) -> Self {
        Self { clients, user_bytes, units: 1, goal: None, until_done: None, until_action: false, watches: None }
    }
}

/// What goes on beside clients, again and again while they are measured.
pub type Action = fn(&mut Scene<'_>) -> Result<()>;

pub fn measure(scene: &mut Scene<'_>, plan: Plan, action: Option<Action>) -> Result<Figures> {
    let endpoints = scene.cluster.endpoints()?;
    let chosen = match scene.case.on {
        On::Leader => &endpoints[..1],
        On::Followers => &endpoints[1..],
        On::All => &endpoints[..],
    };
    let mut load = Load::new(chosen, scene.settings.connections, plan.clients)?;
    if let Some(watches) = &plan.watches {
        load.watch(chosen, watches)?;
    }
    let done = AtomicBool::new(action.is_none());
    let window = Window {
        warm_up: if plan.until_done.is_some() { Duration::ZERO } else { scene.settings.warm_up },
        length: if plan.until_action { Duration::ZERO } else { plan.until_done.unwrap_or(scene.settings.length) },
        rate: if plan.until_done.is_some() { None } else { scene.case.rate },
        held_by: Some(&done),
    };
    let mut meter = Meter::new(scene, plan.units, plan.goal);
    let (measured, actions) = std::thread::scope(|scope| {
        let loading = scope.spawn(|| {
            let _ = rustix::thread::set_current_timer_slack(Some(1.try_into().expect("not zero")));
            load.run(&window, &mut meter)
        });
        let actions = action.map(|action| repeat(scene, action, &window));
        done.store(true, Ordering::Release);
        let measured = loading.join().expect("the load thread does not panic");
        (measured, actions.transpose())
    });
    let (measured, actions) = (measured?, actions?);
    let mut figures = meter.figures(&measured, plan.user_bytes, plan.watches.is_some())?;
    figures.seconds = actions;
    Ok(figures)
}

/// Does it from the end of the warm-up to the end of the window, at least once; the mean time that it took.
fn repeat(scene: &mut Scene<'_>, action: Action, window: &Window<'_>) -> Result<f64> {
    std::thread::sleep(window.warm_up);
    let begun = Instant::now();
    let mut times = 0;
    while times == 0 || begun.elapsed() < window.length {
        action(scene)?;
        times += 1;
    }
    Ok(begun.elapsed().as_secs_f64() / f64::from(times))
}

/// Looks at the processes and the disk when the window begins and ends.
struct Meter {
    pids: Vec<u32>,
    disk: Box<dyn Fn() -> Option<u64> + Send>,
    units: u64,
    goal: Option<u64>,
    progress: Progress,
    shown: (u64, Instant),
    begin: Option<Look>,
    end: Option<Look>,
}

/// What was used so far.
#[derive(Clone, Copy)]
struct Look {
    servers: Usage,
    generator: Usage,
    disk: Option<u64>,
}

impl Meter {
    fn new(scene: &Scene<'_>, units: u64, goal: Option<u64>) -> Self {
        Self {
            pids: scene.cluster.pids(),
            disk: Box::new(scene.cluster.disk()),
            units,
            goal,
            progress: scene.progress.clone(),
            shown: (0, Instant::now()),
            begin: None,
            end: None,
        }
    }

    fn look(&self) -> Option<Look> {
        let servers = self.pids.iter().try_fold(Usage::default(), |sum, pid| anyhow::Ok(sum.plus(Usage::of(*pid)?)));
        Some(Look { servers: servers.ok()?, generator: Usage::of(std::process::id()).ok()?, disk: (self.disk)() })
    }

    fn figures(&self, measured: &Measured, user_bytes: usize, is_watch: bool) -> Result<Figures> {
        let begin = self.begin.context("a server ended before the measurement")?;
        let end = self.end.context("a server ended during the measurement")?;
        let servers = end.servers - begin.servers;
        let (count, latencies) = match is_watch {
            true => (measured.events, &measured.event_latencies),
            false => (measured.operations, &measured.latencies),
        };
        let units = (count * self.units) as f64;
        let per_unit = |cpu: Duration| (count > 0).then(|| cpu.as_secs_f64() * 1e6 / units);
        let user_bytes = (measured.operations as usize * user_bytes) as f64;
        let per_byte = |bytes: u64| (user_bytes > 0.0).then(|| bytes as f64 / user_bytes);
        let disk = begin.disk.zip(end.disk).map(|(begin, end)| end.saturating_sub(begin));
        Ok(Figures {
            per_second: Some(units / measured.seconds),
            p50_ms: latencies.quantile_ms(0.5),
            p99_ms: latencies.quantile_ms(0.99),
            p999_ms: latencies.quantile_ms(0.999),
            max_ms: latencies.quantile_ms(1.0),
            cpu_us: per_unit(servers.cpu),
            written_per_byte: disk.and_then(per_byte),
            dirtied_per_byte: per_byte(servers.written),
            generator_cpu_us: per_unit((end.generator - begin.generator).cpu),
            failed: measured.failed,
            error: measured.error.clone(),
            ..Figures::default()
        }
        .with_memory(&servers))
    }
}

impl Observer for Meter {
    fn begins(&mut self) {
        self.begin = self.look();
    }

    fn ends(&mut self) {
        self.end = self.look();
    }

    fn progress(&mut self, done: u64) {
        let (before, then) = std::mem::replace(&mut self.shown, (done, Instant::now()));
        let rate = done.saturating_sub(before) as f64 * self.units as f64 / then.elapsed().as_secs_f64();
        let done = grouped(done * self.units);
        self.progress.show(&match self.goal {
            Some(goal) => format!("{done} of {}, {}/s", grouped(goal), grouped(rate as u64)),
            None => format!("{}/s", grouped(rate as u64)),
        });
    }
}
