//! What a round was, in a few lines; what a failed one leaves behind.

use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::check::Report;
use crate::crash::{self, Scenario};
use crate::history::{History, Outcome};
use crate::options::Options;
use crate::round::{Round, Settings};

pub fn exit(good: bool) -> ExitCode {
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Kinds of faults that were asked for and will not happen.
pub fn left_out(options: &Options, settings: &Settings) -> Option<String> {
    let asked = options.kinds().into_iter().filter(|kind| !settings.kinds.contains(kind));
    let names: Vec<_> = asked.map(|kind| kind.to_string()).collect();
    let needs = "network namespaces, libfaketime or disks of ours";
    (!names.is_empty()).then(|| format!("without {}, for want of {needs}", names.join(", ")))
}

/// With the command that does it again.
pub fn begin(options: &Options, settings: &Settings) -> String {
    let Settings { seed, members, duration, program, .. } = settings;
    let seconds = duration.as_secs_f64();
    let mut again = format!("keelson-faults --server {} --seed {seed} --seconds {seconds}", program.display());
    let _ = write!(
        again,
        " --round-seconds {seconds} --members {members} --clients {} --watchers {}",
        options.clients, options.watchers
    );
    let _ = write!(again, " --pace {}", options.pace);
    if options.loopback {
        again.push_str(" --loopback");
    }
    if let Some(bug) = options.plant {
        let _ = write!(again, " --plant {}", name(&bug));
    }
    if options.plain_disks {
        again.push_str(" --plain-disks");
    }
    if !options.faults.is_empty() {
        let names: Vec<_> = settings.kinds.iter().map(ToString::to_string).collect();
        let _ = write!(again, " --faults {}", names.join(","));
    }
    if !options.server_flags.is_empty() {
        let _ = write!(again, " --server-flags '{}'", options.server_flags);
    }
    format!("seed {seed}: {members} members, {seconds} s; once more: {again}")
}

/// Tells the round, and saves it if it is to be kept; whether nothing was wrong with it.
pub fn end(options: &Options, settings: &Settings, round: &Round) -> Result<bool> {
    let Round { report, failures, .. } = round;
    let good = report.is_good() && failures.is_empty();
    let faults: Vec<_> = round.faults.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    let mut text = format!("faults: {}; {}", faults.join(", "), history(&round.history, report));
    for failure in failures {
        let _ = write!(text, "\nFAILURE: {failure}");
    }
    println!("seed {}: {text}", settings.seed);
    if !good || options.keep {
        save(options, settings, round, &text)?;
    }
    Ok(good)
}

/// Figures of a history, and the verdict.
pub fn history(history: &History, report: &Report) -> String {
    let count = |wanted: fn(&Outcome) -> bool| history.operations.iter().filter(|of| wanted(&of.outcome)).count();
    let mut text = format!(
        "{} operations ({} failed, {} of unknown outcome), {} watches with {} events, {} revisions explained",
        history.operations.len(),
        count(|outcome| matches!(outcome, Outcome::Failed(_))),
        count(|outcome| matches!(outcome, Outcome::Unknown { .. })),
        history.watches.len(),
        history.watches.iter().flat_map(|watch| &watch.responses).map(|response| response.events.len()).sum::<usize>(),
        report.revisions,
    );
    if report.is_good() {
        text.push_str(", no violation");
    }
    for violation in &report.violations {
        let _ = write!(text, "\nVIOLATION of {}", violation.with(history));
    }
    if let Some(why) = &report.gave_up {
        let _ = write!(text, "\nUNDECIDED: {why}");
    }
    text
}

/// With the command that does it again.
pub fn begin_crashes(settings: &crash::Settings, scenarios: &[Scenario]) -> String {
    let mut text = format!("seed {}; once more: {}", settings.seed, crash_command(settings, scenarios));
    let _ = match settings.step {
        None => write!(text, " --every {}", settings.every),
        Some(step) => write!(text, " --step {step}"),
    };
    let loss = settings.loss.map(|loss| format!(" --loss {}", name(&loss)));
    text + &loss.unwrap_or_default()
}

fn crash_command(settings: &crash::Settings, scenarios: &[Scenario]) -> String {
    let crash::Settings { program, seed, early_ack, .. } = settings;
    let plant = if *early_ack { " --plant early-ack" } else { "" };
    let names = scenarios.iter().map(name).collect::<Vec<_>>().join(",");
    format!("keelson-faults --server {} --crash {names} --seed {seed}{plant}", program.display())
}

/// As the command line has it.
fn name(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

pub fn crashes(settings: &crash::Settings, scenario: Scenario, outcome: &crash::Outcome) -> String {
    let crash::Outcome { steps, restarts, .. } = outcome;
    let deaths: usize = outcome.deaths.values().sum();
    let mut text = format!("{scenario:?}: {steps} steps, killed {deaths} times, {restarts} restarts, ");
    let _ = write!(text, "{} violations; before", outcome.failures.len());
    for (step, count) in &outcome.deaths {
        let _ = write!(text, "\n{count:6} {step}");
    }
    for crash::Failure { step, loss, why } in &outcome.failures {
        let again = crash_command(settings, &[scenario]);
        let _ = write!(text, "\nVIOLATION: {why}\nonce more: {again} --step {step} --loss {}", name(loss));
    }
    text
}

/// All of a run, in a line.
pub fn all_crashes(outcomes: &[(Scenario, crash::Outcome)], time: Duration) -> String {
    let sum = |of: fn(&crash::Outcome) -> usize| outcomes.iter().map(|(_, outcome)| of(outcome)).sum::<usize>();
    let (steps, deaths) = (sum(|of| of.steps as usize), sum(|of| of.deaths.values().sum()));
    let mut text = format!("{} situations of {steps} steps: killed {deaths} times, ", outcomes.len());
    let _ = write!(text, "{} restarts, {} violations", sum(|of| of.restarts), sum(|of| of.failures.len()));
    let _ = write!(text, ", in {} s", time.as_secs());
    match sum(|of| of.left) {
        0 => text,
        left => text + &format!("; there was no time for {left} deaths more"),
    }
}

fn save(options: &Options, settings: &Settings, round: &Round, text: &str) -> Result<()> {
    let folder = options.output.join(format!("seed-{}", settings.seed));
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let file = folder.join("history.json");
    std::fs::write(&file, serde_json::to_vec(&round.history)?).with_context(|| file.display().to_string())?;
    std::fs::write(folder.join("report.txt"), format!("{}\n{text}\n", begin(options, settings)))?;
    for log in round.cluster.logs() {
        let name = log.file_name().context("a log has a name")?;
        std::fs::copy(&log, folder.join(name)).with_context(|| log.display().to_string())?;
    }
    println!(
        "seed {}: saved with the members' logs; judge it again: keelson-faults --judge {}",
        settings.seed,
        file.display()
    );
    Ok(())
}
