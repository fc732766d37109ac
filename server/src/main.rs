//! The program `keelson-server`: flags in, one member running, until a signal; or a command on a snapshot or a backup.

use std::convert::Infallible;
use std::process::ExitCode;

use keelson_server::config::{Config, ConfigError, Invocation, LogConfig, Note, flags_document, help, usage, version};
use keelson_server::telemetry::logs;
use keelson_server::{backup, server, snapshot};
use rustix::mm::{MlockAllFlags, mlockall};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};

/// Serving allocates much, in many sizes: see docs/performance.md.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let text = |os: std::ffi::OsString| os.to_string_lossy().into_owned();
    let arguments: Vec<String> = std::env::args_os().skip(1).map(text).collect();
    if let Some(done) = snapshot::command::run(&arguments).or_else(|| backup::command::run(&arguments)) {
        return match done {
            Ok(text) => {
                print!("{text}");
                ExitCode::SUCCESS
            }
            Err(failure) => {
                eprintln!("Error: {failure}");
                ExitCode::from(failure.exit_code)
            }
        };
    }
    let variables = std::env::vars_os().map(|(name, value)| (text(name), text(value)));
    let (config, notes) = match Invocation::read(arguments.clone(), variables) {
        Ok(Invocation::Run(config, notes)) => (*config, notes),
        Ok(other) => return print(&other),
        Err(ConfigError::Syntax(error)) => {
            eprintln!("{error}\n{}", usage());
            return ExitCode::from(2);
        }
        Err(error) => return refuse(&arguments, &error),
    };
    if let Err(error) = install_logger(&config.log) {
        eprintln!("keelson-server: --log-outputs: {error}");
        return ExitCode::FAILURE;
    }
    tracing::info!(args = ?arguments, version = env!("CARGO_PKG_VERSION"), "starting");
    notes.iter().for_each(Note::log);
    if config.memory_mlock
        && let Err(error) = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)
    {
        tracing::error!(%error, "--memory-mlock: memory cannot be locked; is the limit (ulimit -l) too low?");
        return ExitCode::FAILURE;
    }
    end_with_raft();
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "stopped");
            ExitCode::FAILURE
        }
    }
}

/// Prints what was asked for instead of a member.
fn print(invocation: &Invocation) -> ExitCode {
    match invocation {
        Invocation::Help => {
            eprint!("{}", usage());
            print!("{}", help());
        }
        Invocation::FlagsDocument => print!("{}", flags_document()),
        Invocation::Version | Invocation::Run(..) => print!("{}", version()),
    }
    ExitCode::SUCCESS
}

/// Settings that can be read but not be used are told in the log, where whoever looks after the member looks first.
fn refuse(arguments: &[String], error: &ConfigError) -> ExitCode {
    match install_logger(&LogConfig::default()) {
        Ok(()) => tracing::warn!(args = ?arguments, %error, "failed to verify flags"),
        Err(_) => eprintln!("failed to verify flags: {error}"),
    }
    ExitCode::FAILURE
}

fn install_logger(config: &LogConfig) -> anyhow::Result<()> {
    let subscriber = logs::subscriber(config)?;
    Ok(tracing::subscriber::set_global_default(subscriber)?)
}

/// A panic in Raft's threads or the store's leaves a member that answers and does not follow: it ends instead.
fn end_with_raft() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        let thread = std::thread::current();
        let name = thread.name().unwrap_or_default();
        if name.starts_with("raft") || name == "compaction" {
            tracing::error!(thread = name, %panic, "a panic; the process ends");
            std::process::abort();
        }
    }));
}

/// Tells systemd, if it is asking, that clients can come.
fn notify_systemd() {
    tracing::info!("notifying init daemon");
    match sd_notify::notify(&[NotifyState::Ready]) {
        Ok(()) => tracing::info!("successfully notified init daemon"),
        Err(error) => tracing::error!(%error, "failed to notify systemd for readiness"),
    }
}

/// How long a server that cannot go on may take to stop in order.
const FAILED_SHUTDOWN: std::time::Duration = std::time::Duration::from_secs(5);

#[tokio::main]
async fn run(config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let server = tokio::select! {
        server = server::start(config) => server?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    let ready = async {
        if server.ready().await.is_ok() {
            notify_systemd();
        }
        std::future::pending::<Infallible>().await
    };
    let name = tokio::select! {
        never = ready => match never {},
        error = server.failed() => {
            // Threads that still use RocksDB must not meet its static destructors: that would end in a crash, not in
            // an exit code.
            let _ = tokio::time::timeout(FAILED_SHUTDOWN, server.shutdown()).await;
            return Err(error);
        }
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    tracing::info!(signal = name, "stopping");
    server.shutdown().await;
    tracing::info!("stopped");
    Ok(())
}
