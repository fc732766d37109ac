//! The texts of `--help` and `--version`, and docs/flags.md.

use std::fmt::Write;

use super::features;
use super::flags::{FLAGS, Flag, Use};

/// The etcd version whose API and behaviour this server has; clients compare it.
pub const ETCD_VERSION: &str = "3.7.1";

/// The version of the stored data's meaning, as etcd counts it.
pub const STORAGE_VERSION: &str = "3.7.0";

/// What `--version` prints: etcd's four lines, so that scripts find what they look for.
pub fn version() -> String {
    let os_arch = match std::env::consts::ARCH {
        "x86_64" => "linux/amd64",
        "aarch64" => "linux/arm64",
        other => other,
    };
    format!(
        "etcd Version: {ETCD_VERSION}\nGit SHA: keelson-server {}\nGo Version: none, this is Rust\nGo OS/Arch: {os_arch}\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// How the program is called; as etcd does, on standard error, also behind a wrong flag.
pub fn usage() -> &'static str {
    "Usage:\n\n  keelson-server [flags]\n    Run a member of an etcd-compatible cluster.\n\n  \
     keelson-server snapshot --help\n    Restore a snapshot, or tell what is in it.\n\n  \
     keelson-server --version\n    Show the version of etcd that it is compatible with.\n\n  \
     keelson-server -h | --help\n    Show every flag.\n\n\
     A flag is written -x, --x, --x=value or --x value. Every flag has an environment variable: --data-dir is\n\
     ETCD_DATA_DIR. A flag and its variable must not both be set; --config-file replaces all of both.\n"
}

/// What `--help` prints: every flag with its default and effect.
pub fn help() -> String {
    let mut text = String::from("Flags:\n");
    for flag in FLAGS {
        let note = match flag.usage {
            Use::Effective => String::new(),
            Use::Inert(reason) => format!(" No effect: {reason}."),
            Use::Refused(reason) => format!(" Refused unless default: {reason}."),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  --{} '{}'\n    {}{note}", flag.name, flag.default, flag.help);
        if flag.name == "feature-gates" {
            for line in features::lines() {
                let _ = writeln!(text, "    {line}");
            }
        }
    }
    text
}

/// docs/flags.md: every flag of etcd and what becomes of it here.
pub fn flags_document() -> String {
    let count = |kind: fn(&Use) -> bool| FLAGS.iter().filter(|flag| kind(&flag.usage)).count();
    let mut text = format!(
        "# Flags\n\n\
         Every flag of etcd {ETCD_VERSION} and what `keelson-server` makes of it, with three of our own: `--force-new-cluster-bump`, `--max-inflight-bytes` and `--max-inflight-request-bytes`. This page is made by `make generate`.\n\n\
         - {} flags **work**.\n\
         - {} have **no effect**: they are accepted, and a value other than the default leaves a warning in the log.\n\
         - {} are **refused** unless they have their default, because ignoring them would be wrong.\n\n\
         Each has a variable: `--data-dir` is `ETCD_DATA_DIR`. In the file of `--config-file` the keys are etcd's.\n\n\
         | Flag | Default | What it is | Here |\n|---|---|---|---|\n",
        count(|usage| matches!(usage, Use::Effective)),
        count(|usage| matches!(usage, Use::Inert(_))),
        count(|usage| matches!(usage, Use::Refused(_))),
    );
    for Flag { name, default, usage, help, .. } in FLAGS {
        let default = match *default {
            "" => String::new(),
            default => format!("`{default}`"),
        };
        let effect = match usage {
            Use::Effective => "works".to_owned(),
            Use::Inert(reason) => format!("no effect: {reason}"),
            Use::Refused(reason) => format!("refused: {reason}"),
        };
        let _ = writeln!(text, "| `--{name}` | {default} | {help} | {effect} |");
    }
    text += "\n## Feature gates\n\n";
    for line in features::lines() {
        let _ = writeln!(text, "- `{}", line.replacen(' ', "` ", 1));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_is_in_both_texts() {
        for flag in FLAGS {
            assert!(help().contains(&format!("  --{} '", flag.name)), "{}", flag.name);
            assert!(flags_document().contains(&format!("| `--{}` |", flag.name)), "{}", flag.name);
        }
        assert!(help().contains("InitialCorruptCheck=true|false (ALPHA - default=false)"));
    }
}
