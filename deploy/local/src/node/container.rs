//! A container is a process in `bwrap`: its own mounts, process ids, host name and the pod's network, but no image layers, no
//! users of its own and no resource limits.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use rustix::io::FdFlags;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

use super::volumes::Mount;

/// `PATH` of containers that set none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Parts of the host that all containers see, read-only, as far as they exist.
const HOST_DIRECTORIES: [&str; 6] = ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32"];
const HOST_FILES: [&str; 10] = [
    "/etc/ssl",
    "/etc/ca-certificates",
    "/etc/passwd",
    "/etc/group",
    "/etc/nsswitch.conf",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/alternatives",
    "/etc/localtime",
];
/// What container runtimes leave a container's root user, without the rights over the machine.
const CAPABILITIES: [&str; 9] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
];

/// Which binary on the host stands for an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// With or without tag: `keelson/keelson-server` matches all tags.
    pub name: String,
    /// The program that is the image's entrypoint.
    pub binary: PathBuf,
}

impl std::str::FromStr for Image {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, binary) = text.split_once('=').ok_or("expected NAME=BINARY")?;
        Ok(Self { name: name.to_owned(), binary: PathBuf::from(binary) })
    }
}

/// The binary for an image reference: an entry with exactly this tag, or else one for the repository.
pub fn find_image<'a>(images: &'a [Image], reference: &str) -> Option<&'a Path> {
    let reference = reference.strip_prefix("docker.io/").unwrap_or(reference);
    let reference = reference.strip_prefix("library/").unwrap_or(reference);
    let undigested = reference.split('@').next().unwrap_or(reference);
    let repository = match undigested.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => undigested,
    };
    let exact = images.iter().find(|image| image.name == undigested);
    let found = exact.or_else(|| images.iter().find(|image| image.name == repository));
    found.map(|image| image.binary.as_path())
}

/// Everything needed to start one run of a container.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// The pod's network namespace file.
    pub network: PathBuf,
    /// The pod's host name.
    pub hostname: String,
    /// The pod's directory with `hosts`, `resolv.conf` and `hostname`.
    pub etc: PathBuf,
    /// The image's binary.
    pub binary: PathBuf,
    /// Volumes, outer ones first.
    pub mounts: Vec<Mount>,
    /// The whole environment.
    pub variables: BTreeMap<String, String>,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Where it starts.
    pub directory: String,
}

impl Bundle {
    /// Adds the arguments of `bwrap` that come after the info descriptor.
    fn describe(&self, command: &mut Command) {
        command.args(["--die-with-parent", "--unshare-pid", "--unshare-uts", "--unshare-ipc", "--as-pid-1"]);
        command.args(["--hostname", &self.hostname, "--cap-drop", "ALL"]);
        for capability in CAPABILITIES {
            command.args(["--cap-add", capability]);
        }
        for path in HOST_DIRECTORIES {
            match std::fs::read_link(path) {
                Ok(target) => command.arg("--symlink").arg(target).arg(path),
                Err(_) => command.args(["--ro-bind-try", path, path]),
            };
        }
        for path in HOST_FILES {
            command.args(["--ro-bind-try", path, path]);
        }
        for name in ["hosts", "resolv.conf", "hostname"] {
            command.arg("--ro-bind").arg(self.etc.join(name)).arg(format!("/etc/{name}"));
        }
        command.args(["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", "/run", "--dir", "/root"]);
        command.args(["--tmpfs", "/usr/local/bin"]);
        if let Some(name) = self.binary.file_name() {
            command.arg("--ro-bind").arg(&self.binary).arg(Path::new("/usr/local/bin").join(name));
        }
        for mount in &self.mounts {
            let flag = if mount.read_only { "--ro-bind" } else { "--bind" };
            command.arg(flag).arg(&mount.source).arg(&mount.path);
        }
        command.args(["--chdir", &self.directory, "--"]).args(&self.command);
    }

    /// Starts the container's process; its outputs are pipes of the returned child.
    pub async fn start(&self) -> anyhow::Result<Process> {
        // The write end goes to bwrap by inheritance. This runtime has one thread, and nothing else is started between
        // here and spawn(), so no other child gets it.
        let (read, write) = rustix::pipe::pipe()?;
        rustix::io::fcntl_setfd(&read, FdFlags::CLOEXEC)?;
        let mut net = OsString::from("--net=");
        net.push(&self.network);
        let mut command = Command::new("/usr/bin/nsenter");
        command.arg(net).arg("--").arg("/usr/bin/bwrap").arg("--info-fd").arg(write.as_raw_fd().to_string());
        self.describe(&mut command);
        let child = command
            .env_clear()
            .envs(&self.variables)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start nsenter")?;
        drop(write);
        let mut info = String::new();
        tokio::net::unix::pipe::Receiver::from_owned_fd(read)?.read_to_string(&mut info).await?;
        let init = first_process(&info);
        if let Some(init) = init {
            executed(init).await;
        }
        Ok(Process { child, init })
    }
}

/// Waits until the container's program has taken bwrap's place: before that, joining it would find no files.
async fn executed(init: Pid) {
    let program = format!("/proc/{}/exe", init.as_raw_nonzero());
    while tokio::fs::read_link(&program).await.is_ok_and(|exe| exe.ends_with("bwrap")) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The host's number of the container's first process, from what bwrap says about it. None if bwrap failed before that.
fn first_process(info: &str) -> Option<Pid> {
    let info: serde_json::Value = serde_json::from_str(info).ok()?;
    Pid::from_raw(i32::try_from(info.get("child-pid")?.as_i64()?).ok()?)
}

/// A running container.
#[derive(Debug)]
pub struct Process {
    child: Child,
    init: Option<Pid>,
}

impl Process {
    /// The container's first process, as the host numbers it.
    pub fn init(&self) -> Option<Pid> {
        self.init
    }

    /// Standard output and standard error, once.
    pub fn outputs(&mut self) -> (Option<tokio::process::ChildStdout>, Option<tokio::process::ChildStderr>) {
        (self.child.stdout.take(), self.child.stderr.take())
    }

    /// Waits for the end. May be cancelled and called again.
    pub async fn wait(&mut self) -> i32 {
        match self.child.wait().await {
            Ok(status) => exit_code(status),
            Err(error) => {
                tracing::warn!(%error, "lost track of a container");
                255
            }
        }
    }

    /// Signals the container's first process, which as number 1 of its namespace only gets what it handles, and SIGKILL.
    pub fn signal(&mut self, signal: Signal) {
        let sent = match self.init.filter(|_| self.child.id().is_some()) {
            Some(init) => kill_process(init, signal).map_err(std::io::Error::from),
            None => self.child.start_kill(),
        };
        tracing::trace!(?sent, ?signal, "signalled a container");
    }
}

/// An exit status as Kubernetes counts it: 128 + N for signal N.
pub fn exit_code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(255)
}

/// A command that joins a running container, with the container's environment.
pub fn join(init: Pid, bundle: &Bundle, words: &[String], controlling_terminal: bool) -> Command {
    let mut command = if controlling_terminal {
        let mut command = Command::new("/usr/bin/setsid");
        command.args(["--ctty", "--wait", "/usr/bin/nsenter"]);
        command
    } else {
        let mut command = Command::new("/usr/bin/nsenter");
        command.process_group(0);
        command
    };
    let mut directory = OsString::from("--wdns=");
    directory.push(&bundle.directory);
    command
        .args(["--mount", "--uts", "--ipc", "--pid", "--net", "--target"])
        .arg(init.as_raw_nonzero().to_string())
        .arg(directory)
        .arg("--")
        .args(words)
        .env_clear()
        .envs(&bundle.variables)
        .kill_on_drop(true);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_found_by_tag_or_repository() {
        let images: Vec<Image> = ["keelson/server=/new", "keelson/server:v1=/old", "busybox=/bin/sh"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        for (reference, expected) in [
            ("keelson/server:v2", Some("/new")),
            ("keelson/server:v1", Some("/old")),
            ("keelson/server", Some("/new")),
            ("keelson/server@sha256:00", Some("/new")),
            ("docker.io/library/busybox:1.36", Some("/bin/sh")),
            ("localhost:5000/busybox", None),
            ("nginx", None),
        ] {
            assert_eq!(find_image(&images, reference), expected.map(Path::new), "{reference}");
        }
        assert!("x".parse::<Image>().is_err());
    }

    #[test]
    fn the_first_process_is_read_from_bwraps_answer() {
        assert_eq!(first_process("{\n \"child-pid\": 42\n}\n"), Pid::from_raw(42));
        assert_eq!(first_process(""), None);
    }
}
