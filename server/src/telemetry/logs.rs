//! Log lines as etcd writes them, for the collectors that parse them: one JSON object with level, ts, caller, msg.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::sync::Arc;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;

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
    let lines = tracing_subscriber::fmt::layer()
        .event_format(Lines(config.format))
        .with_writer(Outputs::open(&config.outputs)?);
    Ok(tracing_subscriber::registry().with(filter).with(lines))
}

/// Every output gets every line.
#[derive(Clone)]
struct Outputs(Arc<[Output]>);

enum Output {
    Stdout,
    Stderr,
    File(File),
}

impl Outputs {
    fn open(outputs: &[LogOutput]) -> io::Result<Self> {
        let open = |output: &LogOutput| match output {
            LogOutput::Stdout => Ok(Output::Stdout),
            LogOutput::Stderr => Ok(Output::Stderr),
            LogOutput::File(path) => {
                let file = OpenOptions::new().create(true).append(true).open(path);
                file.map(Output::File)
            }
        };
        let outputs: io::Result<Vec<_>> = outputs.iter().map(open).collect();
        Ok(Outputs(outputs?.into()))
    }
}

impl<'a> MakeWriter<'a> for Outputs {
    type Writer = Outputs;

    fn make_writer(&'a self) -> Outputs {
        self.clone()
    }
}

impl Write for Outputs {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        for output in self.0.iter() {
            match output {
                Output::Stdout => io::stdout().write_all(line)?,
                Output::Stderr => io::stderr().write_all(line)?,
                Output::File(file) => (&*file).write_all(line)?,
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Lines(LogFormat);

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        let now = chrono::Utc::now().format("%Y-%m-%dT%H:%M:%S%.3fZ");
        let level = level(metadata);
        match self.0 {
            LogFormat::Json => writeln!(
                writer,
                "{{\"level\":\"{level}\",\"ts\":\"{now}\",\"caller\":\"{}\",\"msg\":{}{}}}",
                caller(metadata),
                json(&fields.message),
                fields.json
            ),
            LogFormat::Console => {
                write!(writer, "{now}\t{level}\t{}\t{}", caller(metadata), fields.message)?;
                match fields.json.strip_prefix(',') {
                    Some(rest) => writeln!(writer, "\t{{{rest}}}"),
                    None => writeln!(writer),
                }
            }
        }
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

/// A line's message, and its other fields as the rest of a JSON object.
#[derive(Default)]
struct Fields {
    message: String,
    json: String,
}

impl Fields {
    fn raw(&mut self, field: &Field, value: impl fmt::Display) {
        // Writing to a String cannot fail.
        let _ = write!(self.json, ",{}:{value}", json(field.name()));
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
        let config = LogConfig { level: LogLevel::Info, format, outputs: vec![LogOutput::File(file.clone())] };
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
        assert!(chrono::DateTime::parse_from_rfc3339(ts).is_ok(), "{ts}");
    }

    #[test]
    fn console_lines_are_for_people() {
        let line = line(LogFormat::Console);
        assert!(line.ends_with("\telected\t{\"member\":\"a\\\"b\",\"term\":7,\"ok\":true}\n"), "{line}");
    }
}
