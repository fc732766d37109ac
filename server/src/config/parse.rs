//! Collects what was set: the command line in Go's flag syntax, `ETCD_` variables, or a YAML file instead of both.

use std::collections::BTreeMap;
use std::time::Duration;

use super::flags::{self, Flag, Kind, Use};
use super::{ConfigError, duration};

/// Flags that were set, with their text. Every text fits its flag's kind.
#[derive(Debug, Default)]
pub struct Settings {
    set: BTreeMap<&'static str, String>,
    /// What an operator should know about settings that were ignored.
    pub warnings: Vec<String>,
    /// They come from a configuration file.
    pub from_file: bool,
}

impl Settings {
    /// Reads arguments (without the program's name), then variables for flags that no argument set. An empty variable
    /// counts as unset. If they name a configuration file, nothing else of them counts: the file replaces them.
    pub fn read(
        arguments: impl IntoIterator<Item = String>,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let given = given(arguments)?;
        let mut variables: Vec<_> = variables.into_iter().collect();
        variables.sort();
        let mut settings = Settings::default();
        let of_argument = given.iter().rev().find(|(flag, _)| flag.name == "config-file");
        let of_variable = variables.iter().find(|(name, _)| name == "ETCD_CONFIG_FILE");
        let file = match (of_argument, of_variable) {
            (Some((_, file)), _) | (None, Some((_, file))) => file.as_str(),
            (None, None) => "",
        };
        let version = given.iter().rev().find(|(flag, _)| flag.name == "version");
        if !file.is_empty() && version.is_none() {
            settings.set.insert("config-file", file.to_owned());
            return Ok(settings);
        }
        for (flag, value) in given {
            settings.set(flag, value)?;
        }
        for (name, value) in variables {
            settings.read_variable(&name, value)?;
        }
        Ok(settings)
    }

    fn read_variable(&mut self, variable: &str, value: String) -> Result<(), ConfigError> {
        let Some(name) = variable.strip_prefix("ETCD_") else {
            return Ok(());
        };
        let name = name.to_ascii_lowercase().replace('_', "-");
        match flags::find(&name) {
            Some(flag) if flag.name == "version" || value.is_empty() => {}
            Some(flag) if self.set.contains_key(flag.name) => {
                self.warnings.push(format!("{variable} is ignored: --{} is set on the command line", flag.name));
            }
            Some(flag) => self.set(flag, value)?,
            None => self.warnings.push(format!("unrecognized environment variable {variable}")),
        }
        Ok(())
    }

    /// Reads a configuration file in YAML. The keys are flags; those for TLS stand in two sections of their own.
    pub fn read_file(text: &str) -> Result<Self, ConfigError> {
        let document: serde_yaml::Value =
            serde_yaml::from_str(text).map_err(|error| ConfigError::File(error.to_string()))?;
        let mut settings = Settings { from_file: true, ..Settings::default() };
        settings.read_section(&document, |key| key.to_owned())?;
        Ok(settings)
    }

    fn read_section(&mut self, section: &serde_yaml::Value, flag_name: fn(&str) -> String) -> Result<(), ConfigError> {
        use serde_yaml::Value;
        let entries = match section {
            Value::Mapping(entries) => entries,
            Value::Null => return Ok(()),
            _ => {
                return Err(ConfigError::File("a mapping of settings is expected".into()));
            }
        };
        for (key, value) in entries {
            let Some(key) = key.as_str() else {
                return Err(ConfigError::File(format!("{key:?} is not the name of a setting")));
            };
            match key {
                "client-transport-security" => {
                    self.read_section(value, |key| key.to_owned())?;
                    continue;
                }
                "peer-transport-security" => {
                    self.read_section(value, |key| format!("peer-{key}"))?;
                    continue;
                }
                _ => {}
            }
            let Some(flag) = flags::find(&flag_name(key)) else {
                let hint = ConfigError::unknown(&flag_name(key));
                self.warnings.push(format!("setting {key:?} of the file is ignored: {hint}"));
                continue;
            };
            if let Some(text) = yaml_text(flag, value) {
                self.set(flag, text)?;
            }
        }
        Ok(())
    }

    fn set(&mut self, flag: &'static Flag, value: String) -> Result<(), ConfigError> {
        check_kind(flag, &value)?;
        match flag.usage {
            Use::Effective => {}
            Use::Refused(_) | Use::Inert(_) if same(flag.kind, &value, flag.default) => {}
            Use::Refused(reason) => return Err(ConfigError::Refused(flag.name, reason)),
            Use::Inert(reason) => self.warnings.push(format!("--{} has no effect: {reason}", flag.name)),
        }
        self.set.insert(flag.name, value);
        Ok(())
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

    /// A flag that counts.
    pub fn count(&self, name: &'static str) -> u32 {
        self.text(name).parse().unwrap_or(0)
    }

    /// A flag that is a number.
    pub fn number(&self, name: &'static str) -> i64 {
        self.text(name).parse().unwrap_or(0)
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

/// The flags that the command line gives, in order, each with a text that fits its kind.
fn given(arguments: impl IntoIterator<Item = String>) -> Result<Vec<(&'static Flag, String)>, ConfigError> {
    let mut given = Vec::new();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let Some(text) = argument.strip_prefix('-') else {
            return Err(ConfigError::NotAFlag(argument));
        };
        let text = text.strip_prefix('-').unwrap_or(text);
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, None),
        };
        if name.is_empty() || name.starts_with('-') {
            return Err(ConfigError::NotAFlag(argument));
        }
        if matches!(name, "h" | "help") {
            return Err(ConfigError::Help);
        }
        let flag = flags::find(name).ok_or_else(|| ConfigError::unknown(name))?;
        let value = match value {
            Some(value) => value,
            None if flag.kind == Kind::Bool => "true".to_owned(),
            None => arguments.next().ok_or(ConfigError::MissingValue(flag.name))?,
        };
        check_kind(flag, &value)?;
        given.push((flag, value));
    }
    Ok(given)
}

fn check_kind(flag: &'static Flag, value: &str) -> Result<(), ConfigError> {
    let fits = match flag.kind {
        Kind::Text => true,
        Kind::Bool => boolean(value).is_some(),
        Kind::Number => value.parse::<i64>().is_ok(),
        Kind::Count => value.parse::<u32>().is_ok(),
        Kind::Duration => duration::parse(value).is_some(),
    };
    match fits {
        true => Ok(()),
        false => Err(ConfigError::invalid(flag.name, value, "parse error")),
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

/// The text of a YAML value as a flag would have it. A duration may be a number of nanoseconds, as Go marshals it.
fn yaml_text(flag: &Flag, value: &serde_yaml::Value) -> Option<String> {
    use serde_yaml::Value;
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Number(number) if flag.kind == Kind::Duration => Some(format!("{number}ns")),
        Value::Number(number) => Some(number.to_string()),
        Value::Sequence(items) => {
            let texts: Vec<_> = items.iter().filter_map(|item| yaml_text(flag, item)).collect();
            Some(texts.join(","))
        }
        _ => None,
    }
}
