//! Programs that run beside the test.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

/// A program with its flags, running or not. It is killed when dropped.
pub struct Process {
    program: PathBuf,
    flags: Vec<String>,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts a program; what it prints is appended to `log`.
    pub fn start(program: &Path, flags: Vec<String>, log: &Path) -> Result<Self> {
        let child = spawn(program, &flags, log)?;
        Ok(Self { program: program.to_owned(), flags, log: log.to_owned(), child })
    }

    /// Ends it as a crash does.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts it again with the same flags.
    pub fn restart(&mut self) -> Result<()> {
        self.child = spawn(&self.program, &self.flags, &self.log)?;
        Ok(())
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The end of what it printed, to explain a failure.
    pub fn last_lines(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

fn spawn(program: &Path, flags: &[String], log: &Path) -> Result<Child> {
    let log = File::options().create(true).append(true).open(log)?;
    Command::new(program)
        .args(flags)
        .stdout(log.try_clone()?)
        .stderr(log)
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("start {}", program.display()))
}
