//! Collects what was set: the command line in Go's flag syntax, `ETCD_` variables, or a file instead of both.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::flags::{self, Flag, Kind, Use};
use super::note::Note;
use super::number::{self, NumberError};
use super::{ConfigError, Features, check_advertised, duration};

/// Flags that were set, with their text. Every text fits its flag's kind.
#[derive(Debug, Default)]
pub struct Settings {
    set: BTreeMap<&'static str, String>,
    notes: Vec<Note>,
    /// They come from a configuration file.
    pub from_file: bool,
    /// Common Names that clients' certificates may have; only a file can tell, there is no flag.
    pub client_allowed_cns: Vec<String>,
    /// Do not compare the addresses of those who read metrics with their certificates; likewise.
    pub client_skip_san_verification: bool,
}

/// The command line, before anything else is looked at.
#[derive(Debug, Default)]
pub struct Given {
    /// Flags in order, each with a text that fits its kind.
    flags: Vec<(&'static Flag, String)>,
    /// Flags that etcd had once and takes without meaning.
    obsolete: BTreeSet<&'static str>,
    /// The first word that is no flag; the words behind it are not read.
    pub stray: Option<String>,
}

impl Given {
    /// The last value of a flag.
    pub fn last(&self, name: &str) -> Option<&str> {
        self.flags.iter().rev().find(|(flag, _)| flag.name == name).map(|(_, value)| value.as_str())
    }
}

impl Settings {
    /// Settings that a file is about to give.
    pub fn of_file() -> Self {
        Settings { from_file: true, ..Settings::default() }
    }

    /// Takes the command line, and variables for flags that it does not set. An empty variable counts as unset.
    pub fn read(given: Given, variables: Vec<(String, String)>) -> Result<Self, ConfigError> {
        let mut settings = Settings::default();
        for name in given.obsolete {
            settings.warn(format!("flag is no longer supported - ignoring: --{name}"));
        }
        for (flag, value) in given.flags {
            let refused = |reason| ConfigError::Syntax(invalid(flag, "", reason));
            settings.set(flag, value, refused)?;
        }
        let on_command_line: BTreeSet<_> = settings.set.keys().copied().collect();
        for (name, value) in variables {
            settings.read_variable(&name, value, &on_command_line)?;
        }
        Ok(settings)
    }

    fn read_variable(
        &mut self,
        variable: &str,
        value: String,
        on_command_line: &BTreeSet<&'static str>,
    ) -> Result<(), ConfigError> {
        let Some(name) = variable.strip_prefix("ETCD_") else {
            return Ok(());
        };
        let flag = flags::find(&name.to_ascii_lowercase().replace('_', "-")).filter(|_| !name.contains('-'));
        match flag {
            Some(flag) if on_command_line.contains(flag.name) => {
                return Err(ConfigError::Shadowed { variable: variable.to_owned(), flag: flag.name });
            }
            Some(flag) if flag.name == "version" && !value.is_empty() => {
                self.warn(format!("cannot set special environment variable: {variable}={value}"));
            }
            Some(flag) if !value.is_empty() => {
                let refused = |reason| ConfigError::Rule(format!("invalid value {value:?} for {variable}: {reason}"));
                self.set(flag, value.clone(), refused)?;
                self.note(Note::Variable { name: variable.to_owned(), value });
            }
            _ => self.note(Note::UnknownVariable(format!("{variable}={value}"))),
        }
        Ok(())
    }

    /// Takes one value; `refused` makes the error of a text that does not fit.
    pub fn set(
        &mut self,
        flag: &'static Flag,
        value: String,
        refused: impl FnOnce(String) -> ConfigError,
    ) -> Result<(), ConfigError> {
        if let Err(reason) = check_kind(flag, &value) {
            return Err(refused(reason));
        }
        match flag.usage {
            Use::Effective => {}
            Use::Refused(_) | Use::Inert(_) if same(flag.kind, &value, flag.default) => {}
            Use::Refused(reason) => return Err(ConfigError::Refused(flag.name, reason)),
            Use::Inert(reason) => self.warn(format!("--{} has no effect: {reason}", flag.name)),
        }
        let set = self.set.entry(flag.name).or_default();
        match flag.kind {
            // Gates add up.
            Kind::Gates if !set.is_empty() => *set = format!("{set},{value}"),
            _ => *set = value,
        }
        Ok(())
    }

    /// Keeps something for the log.
    pub fn note(&mut self, note: Note) {
        self.notes.push(note);
    }

    /// Keeps a warning for the log.
    pub fn warn(&mut self, text: impl Into<String>) {
        self.note(Note::Warning(text.into()));
    }

    /// What is to be logged.
    pub fn into_notes(self) -> Vec<Note> {
        self.notes
    }

    /// Whether the flag was set at all.
    pub fn is_set(&self, name: &str) -> bool {
        self.set.contains_key(name)
    }

    /// The flag's text, or its default.
    pub fn text(&self, name: &'static str) -> &str {
        match self.set.get(name) {
            Some(text) => text,
            None => flags::find(name).map_or("", |flag| flag.default),
        }
    }

    /// A boolean flag.
    pub fn boolean(&self, name: &'static str) -> bool {
        boolean(self.text(name)).unwrap_or(false)
    }

    /// A flag that counts; one above `u32` counts as its maximum.
    pub fn count(&self, name: &'static str) -> u32 {
        u32::try_from(self.unsigned(name)).unwrap_or(u32::MAX)
    }

    /// A flag that counts.
    pub fn unsigned(&self, name: &'static str) -> u64 {
        let number = number::parse(self.text(name), 0, u64::MAX.into());
        number.ok().and_then(|number| u64::try_from(number).ok()).unwrap_or(0)
    }

    /// A flag that is a number.
    pub fn number(&self, name: &'static str) -> i64 {
        let number = number::parse(self.text(name), i64::MIN.into(), i64::MAX.into());
        number.ok().and_then(|number| i64::try_from(number).ok()).unwrap_or(0)
    }

    /// A flag that is a duration.
    pub fn duration(&self, name: &'static str) -> Duration {
        duration::parse(self.text(name)).unwrap_or_default()
    }

    /// What a flag that is a duration is when nobody sets it.
    pub fn default_duration(&self, name: &'static str) -> Duration {
        let default = flags::find(name).map_or("", |flag| flag.default);
        duration::parse(default).unwrap_or_default()
    }
}

/// Reads the command line up to the first word that is no flag.
pub fn command_line(arguments: impl IntoIterator<Item = String>) -> Result<Given, ConfigError> {
    let mut given = Given::default();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        if argument == "--" {
            given.stray = arguments.next();
            break;
        }
        let Some(text) = argument.strip_prefix('-').filter(|text| !text.is_empty()) else {
            given.stray = Some(argument);
            break;
        };
        let text = text.strip_prefix('-').unwrap_or(text);
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, None),
        };
        if name.is_empty() || name.starts_with('-') {
            return Err(ConfigError::Syntax(format!("bad flag syntax: {argument}")));
        }
        if matches!(name, "h" | "help") {
            return Err(ConfigError::Help(value.unwrap_or_default()));
        }
        if let Some(name) = flags::OBSOLETE.iter().find(|obsolete| **obsolete == name) {
            given.obsolete.insert(name);
            continue;
        }
        let flag = flags::find(name).ok_or_else(|| ConfigError::unknown(name))?;
        let value = match value {
            Some(value) => value,
            None if flag.kind == Kind::Bool => "true".to_owned(),
            None => arguments
                .next()
                .ok_or_else(|| ConfigError::Syntax(format!("flag needs an argument: -{}", flag.name)))?,
        };
        check_kind(flag, &value).map_err(|reason| ConfigError::Syntax(invalid(flag, &value, reason)))?;
        given.flags.push((flag, value));
    }
    Ok(given)
}

fn invalid(flag: &Flag, value: &str, reason: String) -> String {
    match flag.kind {
        Kind::Bool => format!("invalid boolean value {value:?} for -{}: {reason}", flag.name),
        _ => format!("invalid value {value:?} for flag -{}: {reason}", flag.name),
    }
}

/// Whether a text fits a flag; if not, why, in etcd's words.
fn check_kind(flag: &'static Flag, value: &str) -> Result<(), String> {
    let number = |min: i128, max: i128| match number::parse(value, min, max) {
        Ok(_) => Ok(()),
        Err(NumberError::Syntax) => Err("parse error".to_owned()),
        Err(NumberError::Range) => Err("value out of range".to_owned()),
    };
    let fits = |fits: bool, reason: &str| if fits { Ok(()) } else { Err(reason.to_owned()) };
    match flag.kind {
        Kind::Text => Ok(()),
        Kind::Bool => fits(boolean(value).is_some(), "parse error"),
        Kind::Number => number(i64::MIN.into(), i64::MAX.into()),
        Kind::Count => number(0, u64::MAX.into()),
        Kind::Uint32 => number(0, u32::MAX.into()).map_err(|reason| {
            let reason = if reason == "parse error" { "invalid syntax" } else { &reason };
            format!("strconv.ParseUint: parsing {value:?}: {reason}")
        }),
        Kind::Duration => fits(duration::parse(value).is_some(), "parse error"),
        Kind::Urls if value.is_empty() => Ok(()),
        Kind::Urls => {
            let mut checked = value.split(',').map(|url| check_advertised(url.trim()));
            checked.find_map(Result::err).map_or(Ok(()), |error| Err(error.to_string()))
        }
        Kind::Choice(choices) => fits(choices.contains(&value), "invalid value"),
        Kind::Gates => Features::parse(value).map(drop),
    }
}

/// Go's spellings of a boolean.
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn same(kind: Kind, value: &str, default: &str) -> bool {
    match kind {
        Kind::Bool => boolean(value) == boolean(default),
        Kind::Duration => duration::parse(value) == duration::parse(default),
        // An empty text takes the default.
        _ => value == default || value.is_empty(),
    }
}
