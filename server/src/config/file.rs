//! The configuration file: YAML, with etcd's keys and etcd's strictness about their types.
//!
//! Most keys are flags. TLS, socket options and discovery stand in sections of their own; keys that mean nothing are
//! ignored, as in etcd, but not silently.

use serde_yaml::{Mapping, Value};

use super::ConfigError;
use super::flags::{self, Flag, Kind};
use super::note::Note;
use super::parse::Settings;

/// Keys of a section, and the flags that they are.
struct Section {
    name: &'static str,
    keys: &'static [(&'static str, &'static str)],
}

const SECTIONS: &[Section] = &[
    Section {
        name: "client-transport-security",
        keys: &[
            ("cert-file", "cert-file"),
            ("key-file", "key-file"),
            ("client-cert-file", "client-cert-file"),
            ("client-key-file", "client-key-file"),
            ("client-cert-auth", "client-cert-auth"),
            ("trusted-ca-file", "trusted-ca-file"),
            ("auto-tls", "auto-tls"),
            ("allowed-hostname", "client-cert-allowed-hostname"),
        ],
    },
    Section {
        name: "peer-transport-security",
        keys: &[
            ("cert-file", "peer-cert-file"),
            ("key-file", "peer-key-file"),
            ("client-cert-file", "peer-client-cert-file"),
            ("client-key-file", "peer-client-key-file"),
            ("client-cert-auth", "peer-client-cert-auth"),
            ("trusted-ca-file", "peer-trusted-ca-file"),
            ("auto-tls", "peer-auto-tls"),
            ("allowed-cn", "peer-cert-allowed-cn"),
            ("allowed-hostname", "peer-cert-allowed-hostname"),
            ("skip-client-san-verification", "peer-skip-client-san-verification"),
        ],
    },
    Section {
        name: "socket-options",
        keys: &[("reuse-port", "socket-reuse-port"), ("reuse-address", "socket-reuse-address")],
    },
    Section { name: "discovery-config", keys: &[("token", "discovery-token")] },
];

/// Flags whose value is a list in the file.
const LISTS: &[&str] = &[
    "cipher-suites",
    "client-cert-allowed-hostname",
    "log-outputs",
    "peer-cert-allowed-cn",
    "peer-cert-allowed-hostname",
];

/// Flags that etcd's file does not have, beside those of the sections.
const NOT_IN_FILE: &[&str] =
    &["client-crl-file", "config-file", "peer-crl-file", "raft-read-timeout", "raft-write-timeout", "version"];

/// Reads the text of a configuration file.
pub fn read(text: &str) -> Result<Settings, ConfigError> {
    let document: Value = serde_yaml::from_str(text).map_err(|error| ConfigError::File(error.to_string()))?;
    let mut settings = Settings::of_file();
    let Some(entries) = mapping(&document, "a mapping of settings")? else {
        return Ok(settings);
    };
    for (key, value) in entries {
        let key = key_text(key)?;
        match SECTIONS.iter().find(|section| section.name == key) {
            Some(section) => read_section(&mut settings, section, value)?,
            None => match top_level(&key) {
                Some(flag) => set(&mut settings, flag, &key, value)?,
                None => ignored(&mut settings, &key),
            },
        }
    }
    Ok(settings)
}

fn mapping<'a>(value: &'a Value, expected: &str) -> Result<Option<&'a Mapping>, ConfigError> {
    match value {
        Value::Mapping(entries) => Ok(Some(entries)),
        Value::Null => Ok(None),
        _ => Err(ConfigError::File(format!("{expected} is expected"))),
    }
}

/// Keys are compared without regard to case, as Go does.
fn key_text(key: &Value) -> Result<String, ConfigError> {
    let text = key.as_str().map(str::to_ascii_lowercase);
    text.ok_or_else(|| ConfigError::File(format!("{key:?} is not the name of a setting")))
}

fn top_level(key: &str) -> Option<&'static Flag> {
    let in_section = SECTIONS.iter().any(|section| section.keys.iter().any(|(_, flag)| *flag == key));
    let discovery = key.starts_with("discovery-") && !matches!(key, "discovery-srv" | "discovery-srv-name");
    flags::find(key).filter(|_| !in_section && !discovery && !NOT_IN_FILE.contains(&key))
}

fn read_section(settings: &mut Settings, section: &Section, value: &Value) -> Result<(), ConfigError> {
    let Some(entries) = mapping(value, &format!("{}: a mapping", section.name))? else {
        return Ok(());
    };
    for (key, value) in entries {
        let key = key_text(key)?;
        let path = format!("{}.{key}", section.name);
        match section.keys.iter().find(|(name, _)| *name == key) {
            Some((_, flag)) => set(settings, flags::find(flag).expect("sections name flags"), &path, value)?,
            None if section.name == "client-transport-security" && key == "allowed-cn" => {
                let names = list(value).map_err(|reason| ConfigError::File(format!("{path}: {reason}")))?;
                settings.client_allowed_cns = names.unwrap_or_default();
            }
            None if section.name == "client-transport-security" && key == "skip-client-san-verification" => {
                let skip = value.as_bool();
                let wrong = || ConfigError::File(format!("{path}: true or false is expected"));
                settings.client_skip_san_verification = skip.or(value.is_null().then_some(false)).ok_or_else(wrong)?;
            }
            None if section.name == "discovery-config" && !is_empty(value) => {
                return Err(ConfigError::Refused("discovery-endpoints", flags::NO_DISCOVERY));
            }
            None => ignored(settings, &path),
        }
    }
    Ok(())
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Sequence(items) => items.is_empty(),
        Value::Mapping(entries) => entries.is_empty(),
        _ => false,
    }
}

fn ignored(settings: &mut Settings, key: &str) {
    let section = SECTIONS.iter().find(|section| section.keys.iter().any(|(_, flag)| *flag == key));
    let hint = match section {
        Some(section) => format!("in a file it belongs to {}", section.name),
        None => "etcd's configuration file has no such key".to_owned(),
    };
    settings.note(Note::Warning(format!("setting {key:?} of the file is ignored: {hint}")));
}

fn set(settings: &mut Settings, flag: &'static Flag, key: &str, value: &Value) -> Result<(), ConfigError> {
    let wrong = |reason: &str| ConfigError::File(format!("{key}: {reason}"));
    match text(flag, value).map_err(wrong)? {
        Some(text) => settings.set(flag, text, |reason| wrong(&reason)),
        None => Ok(()),
    }
}

/// A list of texts; none for null.
fn list(value: &Value) -> Result<Option<Vec<String>>, &'static str> {
    match value {
        Value::Null => Ok(None),
        Value::Sequence(items) => {
            let texts: Option<Vec<String>> = items.iter().map(|item| item.as_str().map(str::to_owned)).collect();
            texts.map(Some).ok_or("a list of texts is expected")
        }
        _ => Err("a list is expected"),
    }
}

/// The text of a value as the flag would have it; none for null, which leaves the default.
fn text(flag: &Flag, value: &Value) -> Result<Option<String>, &'static str> {
    if LISTS.contains(&flag.name) {
        return list(value).map(|texts| texts.map(|texts| texts.join(",")));
    }
    match (flag.kind, value) {
        (_, Value::Null) => Ok(None),
        (Kind::Bool, Value::Bool(value)) => Ok(Some(value.to_string())),
        (Kind::Bool, Value::String(text)) => yaml_1_1_boolean(text).map(|on| Some(on.to_string())),
        (Kind::Bool, _) => Err("true or false is expected"),
        (Kind::Duration, Value::Number(nanoseconds)) => Ok(Some(format!("{nanoseconds}ns"))),
        (Kind::Duration, _) => Err("whole nanoseconds are expected in a file, such as 600000000000 for 10m"),
        (Kind::Number | Kind::Count | Kind::Uint32, Value::Number(number)) => Ok(Some(number.to_string())),
        (Kind::Number | Kind::Count | Kind::Uint32, _) => Err("a number is expected"),
        (_, Value::String(text)) => Ok(Some(text.clone())),
        (_, Value::Number(number)) => Ok(Some(number.to_string())),
        (_, Value::Bool(value)) => Ok(Some(value.to_string())),
        _ => Err("a text is expected"),
    }
}

/// etcd's parser knows the booleans of YAML 1.1.
fn yaml_1_1_boolean(text: &str) -> Result<bool, &'static str> {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Ok(true),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Ok(false),
        _ => Err("true or false is expected"),
    }
}
