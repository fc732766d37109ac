//! The settings of the log, and etcd's rules between them.

use std::path::PathBuf;

use super::ConfigError;
use super::parse::Settings;

/// What is logged, and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// The least important level that is written.
    pub level: LogLevel,
    /// JSON lines, or lines for a person.
    pub format: LogFormat,
    /// Where lines go to; each gets every line.
    pub outputs: Vec<LogOutput>,
    /// When the file among the outputs begins anew; never, if nothing is set.
    pub rotation: Option<LogRotation>,
}

impl Default for LogConfig {
    /// etcd's defaults.
    fn default() -> Self {
        LogConfig { level: LogLevel::Info, format: LogFormat::Json, outputs: vec![LogOutput::Stderr], rotation: None }
    }
}

/// `--log-level`; etcd's panic and fatal show errors only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Everything.
    Debug,
    /// What an operator may want to know.
    Info,
    /// What somebody should look at.
    Warn,
    /// What failed.
    Error,
}

/// `--log-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// Tab-separated text.
    Console,
}

/// One of `--log-outputs`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogOutput {
    /// Standard output.
    Stdout,
    /// Standard error; also what `default` means.
    Stderr,
    /// systemd's journal.
    Journal,
    /// A file that lines are appended to.
    File(PathBuf),
}

/// `--log-rotation-config-json`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(default)]
pub struct LogRotation {
    /// Size of a file in megabytes; 0 is 100.
    pub maxsize: u32,
    /// Days after which an old file is removed; 0 is never.
    pub maxage: u32,
    /// Old files that are kept; 0 is all.
    pub maxbackups: u32,
    /// Names of old files tell the local time, not UTC.
    pub localtime: bool,
    /// Old files are compressed with gzip.
    pub compress: bool,
}

impl Default for LogRotation {
    fn default() -> Self {
        LogRotation { maxsize: 100, maxage: 0, maxbackups: 0, localtime: false, compress: false }
    }
}

/// Reads the log's settings.
pub fn read(settings: &Settings) -> Result<LogConfig, ConfigError> {
    let rule = |text: String| Err(ConfigError::Rule(text));
    match settings.text("logger") {
        "zap" => {}
        "capnslog" => return rule("--logger=capnslog is removed in v3.5".to_owned()),
        other => return rule(format!("unknown logger option {other:?}")),
    }
    let (outputs, rotation) = outputs(settings)?;
    Ok(LogConfig {
        level: match settings.text("log-level").to_ascii_lowercase().as_str() {
            "debug" => LogLevel::Debug,
            "" | "info" => LogLevel::Info,
            "warn" | "warning" => LogLevel::Warn,
            "error" | "dpanic" | "panic" | "fatal" => LogLevel::Error,
            _ => return rule(format!("unrecognized level: {:?}", settings.text("log-level"))),
        },
        format: match settings.text("log-format") {
            "" | "json" => LogFormat::Json,
            "console" => LogFormat::Console,
            other => return rule(format!("unknown log format: {other}, supported values json, console")),
        },
        outputs,
        rotation,
    })
}

fn outputs(settings: &Settings) -> Result<(Vec<LogOutput>, Option<LogRotation>), ConfigError> {
    let rule = |text: String| Err(ConfigError::Rule(text));
    let mut words: Vec<&str> = settings.text("log-outputs").split(',').filter(|word| !word.is_empty()).collect();
    words.sort_unstable();
    words.dedup();
    if words.is_empty() {
        words.push("default");
    }
    if words.len() > 1 && words.contains(&"default") {
        return rule("multi logoutput for \"default\" is not supported yet".to_owned());
    }
    let rotation = match settings.boolean("enable-log-rotation") {
        true => Some(rotation(settings, &words)?),
        false => None,
    };
    if words.len() > 1 && words.contains(&"systemd/journal") {
        return rule(format!(
            "running with systemd/journal but other '--log-outputs' values ({words:?}) are configured with 'default'; \
             override 'default' value with something else"
        ));
    }
    if words.contains(&"/dev/null") {
        return Ok((Vec::new(), None));
    }
    let outputs = words.into_iter().map(|word| match word {
        "default" | "stderr" => LogOutput::Stderr,
        "stdout" => LogOutput::Stdout,
        "systemd/journal" => LogOutput::Journal,
        file => LogOutput::File(file.strip_prefix("file://").unwrap_or(file).into()),
    });
    Ok((outputs.collect(), rotation))
}

fn rotation(settings: &Settings, outputs: &[&str]) -> Result<LogRotation, ConfigError> {
    let files = outputs.iter().filter(|output| !matches!(**output, "default" | "stderr" | "stdout")).count();
    if files > 1 || (files == 0 && outputs.len() == 1) {
        let message = "--log-outputs requires a single file path when --log-rotate-config-json is defined";
        return Err(ConfigError::Rule(message.to_owned()));
    }
    let json = settings.text("log-rotation-config-json");
    serde_json::from_str(json).map_err(|error| {
        let kind = match error.classify() {
            serde_json::error::Category::Data => "invalid log rotation config",
            _ => "improperly formatted log rotation config",
        };
        ConfigError::Rule(format!("{kind}: {error}"))
    })
}
