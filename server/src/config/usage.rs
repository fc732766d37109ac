//! The texts of `--help` and `--version`.

use std::fmt::Write;

use super::flags::{FLAGS, Use};

/// The etcd version whose API and behaviour this server has; clients compare it.
pub const ETCD_VERSION: &str = "3.7.1";

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

/// What `--help` prints: every flag with its default, variable and effect.
pub fn usage() -> String {
    let mut text = String::from(
        "Usage:\n\n  keelson-server [flags]\n    Run a member of an etcd-compatible cluster.\n\n  keelson-server --version\n  keelson-server --help\n\n\
         A flag is written -x, --x, --x=value or --x value. Every flag has an environment variable:\n\
         --data-dir is ETCD_DATA_DIR. A flag beats its variable; --config-file replaces both.\n\nFlags:\n",
    );
    for flag in FLAGS {
        let note = match flag.usage {
            Use::Effective => String::new(),
            Use::Inert(reason) => format!(" No effect: {reason}."),
            Use::Refused(reason) => format!(" Refused unless default: {reason}."),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  --{} '{}'\n    {}{note}", flag.name, flag.default, flag.help);
    }
    text
}
