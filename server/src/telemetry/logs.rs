//! Log lines as etcd writes them, for the collectors that parse them: one JSON object with level, ts, caller, msg.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::sync::Mutex;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, SubscriberExt};

use super::journal::Journal;
use super::rotation::{self, Rotating};
use crate::config::{LogConfig, LogFormat, LogLevel, LogOutput};

/// A logger as configured. Libraries below us log from `warn` up, and Raft's errors only, unless the level is `debug`.
pub fn subscriber(config: &LogConfig) -> io::Result<impl Subscriber + Send + Sync + use<>> {
    let (own, others) = match config.level {
        LogLevel::Debug => (LevelFilter::DEBUG, LevelFilter::INFO),
        LogLevel::Info => (LevelFilter::INFO, LevelFilter::WARN),
        LogLevel::Warn => (LevelFilter::WARN, LevelFilter::WARN),
        LogLevel::Error => (LevelFilter::ERROR, LevelFilter::ERROR),
    };
    let filter = Targets::new()
        .with_default(others)
        // What it warns of (a member that cannot be reached) is told once by our own rooms.
        .with_target("openraft", others.min(LevelFilter::ERROR))
        .with_target(env!("CARGO_CRATE_NAME"), own);
    let lines = Lines { format: config.format, outputs: Outputs::open(config)? };
    Ok(tracing_subscriber::registry().with(filter).with(lines))
}

/// Every output gets every line.
struct Outputs(Vec<Output>);

enum Output {
    Stdout,
    Stderr,
    Journal(Journal),
    File(File),
    Rotating(Mutex<Box<Rotating>>),
}

impl Outputs {
    fn open(config: &LogConfig) -> io::Result<Self> {
        let open = |output: &LogOutput| match (output, &config.rotation) {
            (LogOutput::Stdout, _) => Ok(Output::Stdout),
            (LogOutput::Stderr, _) => Ok(Output::Stderr),
            (LogOutput::Journal, _) => Journal::open().map(Output::Journal),
            (LogOutput::File(path), Some(rotation)) => {
                rotation::open(path, rotation).map(|file| Output::Rotating(Mutex::new(Box::new(file))))
            }
            (LogOutput::File(path), None) => OpenOptions::new().create(true).append(true).open(path).map(Output::File),
        };
        let name = |output: &LogOutput, error: io::Error| match output {
            LogOutput::File(path) => io::Error::new(error.kind(), format!("{}: {error}", path.display())),
            _ => error,
        };
        let opened = config.outputs.iter().map(|output| open(output).map_err(|error| name(output, error)));
        Ok(Outputs(opened.collect::<io::Result<_>>()?))
    }

    /// There is nobody to tell when a line cannot be written, so that is left.
    fn write(&self, level: Level, caller: &str, line: &str) {
        for output in &self.0 {
            let _ = match output {
                Output::Stdout => io::stdout().write_all(line.as_bytes()),
                Output::Stderr => io::stderr().write_all(line.as_bytes()),
                // Too long for a datagram, or the journal is gone.
                Output::Journal(journal) => {
                    journal.send(level, caller, line).or_else(|_| io::stderr().write_all(line.as_bytes()))
                }
                Output::File(file) => (&*file).write_all(line.as_bytes()),
                Output::Rotating(file) => match file.lock() {
                    Ok(mut file) => file.write_all(line.as_bytes()),
                    Err(_) => Ok(()),
                },
            };
        }
    }
}

/// Writes each event as a line.
struct Lines {
    format: LogFormat,
    outputs: Outputs,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        let caller = caller(metadata);
        let line = fields.line(self.format, metadata, &caller);
        self.outputs.write(*metadata.level(), &caller, &line);
    }
}

fn level(metadata: &Metadata<'_>) -> &'static str {
    match *metadata.level() {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        _ => "debug",
    }
}

/// The last folder, the file and the line, as in `api/kv.rs:42`.
fn caller(metadata: &Metadata<'_>) -> String {
    let file = metadata.file().unwrap_or("unknown");
    let start = file.rmatch_indices('/').nth(1).map_or(0, |(i, _)| i + 1);
    format!("{}:{}", &file[start..], metadata.line().unwrap_or(0))
}

fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A line's message, and its other fields as JSON.
#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, String)>,
}

impl Fields {
    fn raw(&mut self, field: &Field, value: impl fmt::Display) {
        self.others.push((field.name(), value.to_string()));
    }

    fn line(&self, format: LogFormat, metadata: &Metadata<'_>, caller: &str) -> String {
        // Local time, which is UTC in most containers, and then ends in Z.
        let now = chrono::Local::now().format("%Y-%m-%dT%H:%M:%S%.6f%z").to_string().replace("+0000", "Z");
        let level = level(metadata);
        // Writing to a String cannot fail.
        let mut line = String::new();
        match format {
            LogFormat::Json => {
                let message = json(&self.message);
                let _ =
                    write!(line, "{{\"level\":\"{level}\",\"ts\":\"{now}\",\"caller\":\"{caller}\",\"msg\":{message}");
                for (name, value) in &self.others {
                    let _ = write!(line, ",{}:{value}", json(name));
                }
                line.push('}');
            }
            LogFormat::Console => {
                let _ = write!(line, "{now}\t{level}\t{caller}\t{}", self.message);
                if !self.others.is_empty() {
                    let others: Vec<_> =
                        self.others.iter().map(|(name, value)| format!("{}: {value}", json(name))).collect();
                    let _ = write!(line, "\t{{{}}}", others.join(", "));
                }
            }
        }
        line.push('\n');
        line
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message = value.to_owned(),
            _ => self.raw(field, json(value)),
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.raw(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.raw(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.raw(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        match value.is_finite() {
            true => self.raw(field, value),
            false => self.record_str(field, &value.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(format: LogFormat) -> String {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("log");
        let outputs = vec![LogOutput::File(file.clone())];
        let config = LogConfig { level: LogLevel::Info, format, outputs, rotation: None };
        tracing::subscriber::with_default(subscriber(&config).expect("opened"), || {
            tracing::info!(member = "a\"b", term = 7u64, ok = true, "elected");
            tracing::debug!("not shown");
        });
        std::fs::read_to_string(file).expect("written")
    }

    #[test]
    fn json_lines_have_the_fields_that_collectors_read() {
        let line: serde_json::Value = serde_json::from_str(&line(LogFormat::Json)).expect("one line");
        assert_eq!(line["level"], "info");
        assert_eq!(line["msg"], "elected");
        assert_eq!(line["member"], "a\"b");
        assert_eq!(line["term"], 7);
        assert_eq!(line["ok"], true);
        let caller = line["caller"].as_str().expect("a text");
        assert!(caller.starts_with("telemetry/logs.rs:"), "{caller}");
        let ts = line["ts"].as_str().expect("a text");
        let (_, fraction) = ts.split_once('.').expect("a fraction");
        assert_eq!(fraction.find(|c: char| !c.is_ascii_digit()), Some(6), "{ts}");
        assert!(chrono::DateTime::parse_from_rfc3339(&ts.replace("Z", "+00:00")).is_ok(), "{ts}");
    }

    #[test]
    fn console_lines_are_for_people() {
        let line = line(LogFormat::Console);
        assert!(line.ends_with("\telected\t{\"member\": \"a\\\"b\", \"term\": 7, \"ok\": true}\n"), "{line}");
    }
}
