//! What an operator should know about settings, kept until there is a log to write it to.

use std::fmt;

/// One line for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// Something to look at.
    Warning(String),
    /// A variable was used.
    Variable {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
    },
    /// A variable with the prefix that is no flag's, as `NAME=value`.
    UnknownVariable(String),
    /// Settings come from this file, and from nowhere else.
    File(String),
}

impl Note {
    /// Writes it to the log, with etcd's messages and fields for what scripts look for.
    pub fn log(&self) {
        match self {
            Note::Warning(text) => tracing::warn!("{text}"),
            Note::Variable { name, value } => {
                tracing::info!(
                    "variable-name" = name,
                    "variable-value" = value,
                    "recognized and used environment variable"
                );
            }
            Note::UnknownVariable(variable) => {
                tracing::warn!("environment-variable" = variable, "unrecognized environment variable");
            }
            Note::File(path) => {
                tracing::info!(path, "settings are those of the file; flags and variables do not count");
            }
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::Warning(text) => f.write_str(text),
            Note::Variable { name, value } => write!(f, "recognized and used environment variable {name}={value}"),
            Note::UnknownVariable(variable) => write!(f, "unrecognized environment variable {variable}"),
            Note::File(path) => write!(f, "settings of {path}"),
        }
    }
}
