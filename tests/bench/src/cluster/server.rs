//! The two programs that are compared.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Keelson,
    Etcd,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Keelson => "keelson",
            Kind::Etcd => "etcd",
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Server {
    pub kind: Kind,
    #[serde(skip)]
    pub program: PathBuf,
    /// Of etcd's API.
    pub version: String,
    /// What else says which program it is.
    pub build: String,
    /// Flags beyond those that both get.
    pub flags: Vec<String>,
}

impl Server {
    /// # Errors
    /// There is no such program.
    pub fn find(kind: Kind, named: Option<&Path>, flags: &str) -> Result<Self> {
        let program = match named {
            Some(path) if path.is_file() => path.to_owned(),
            Some(path) => bail!("{}: no such program; `make bench` builds ours and fetches etcd", path.display()),
            None => match kind {
                Kind::Keelson => beside_this_program("keelson-server")?,
                Kind::Etcd => on_the_path("etcd").context("no etcd: KEELSON_REFERENCE_ETCD=/path/to/etcd names one")?,
            },
        };
        let output = Command::new(&program).arg("--version").env_clear().output();
        let output = output.with_context(|| program.display().to_string())?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let value =
            |line: usize| text.lines().nth(line).and_then(|line| line.split_once(": ")).map_or("", |(_, value)| value);
        let mut build = value(1).to_owned();
        if let (Kind::Keelson, Ok(revision)) = (kind, std::env::var("KEELSON_REVISION")) {
            build = format!("{build}, {revision}");
        }
        let flags = flags.split_whitespace().map(str::to_owned).collect();
        Ok(Self { kind, program, version: value(0).to_owned(), build, flags })
    }
}

/// In the folder of this program, or above it, where tests are.
fn beside_this_program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let found = own.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|file| file.is_file());
    found.with_context(|| format!("no {name} beside {}: `make build` makes it", own.display()))
}

fn on_the_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}
