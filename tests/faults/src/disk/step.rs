//! The system calls that matter, and what they are about.

use std::fmt::{Display, Formatter, Result};
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use libc::c_long;

use super::filter::{Call, Question};

/// Where a call has what it is about.
#[derive(Debug, Clone, Copy, PartialEq)]
enum About {
    /// A file in argument 0; it is to be synced.
    Sync,
    /// A file in argument 0, a length in 2, a place in it in 3.
    Write,
    /// A file in argument 0.
    File,
    /// The same, which is to have more room.
    Room,
    /// A path in this argument, in the folder in the argument before if there is one.
    Path(usize),
    /// The same, and a folder or another name is to be there.
    Name(usize),
    /// Such a path, and a file is to be there. Like what follows it is no step: what comes after it tells enough.
    New(usize),
    /// A file in argument 0, which grows by a length in 2.
    Append,
    /// A file in argument 0.
    Read,
}

const CALLS: &[(c_long, &str, About)] = &[
    (libc::SYS_fsync, "sync", About::Sync),
    (libc::SYS_fdatasync, "sync", About::Sync),
    (libc::SYS_pwrite64, "write", About::Write),
    (libc::SYS_ftruncate, "truncate", About::File),
    (libc::SYS_fallocate, "allocate", About::Room),
    (libc::SYS_renameat, "rename to", About::Path(3)),
    (libc::SYS_renameat2, "rename to", About::Path(3)),
    (libc::SYS_linkat, "link", About::Name(3)),
    (libc::SYS_unlinkat, "remove", About::Path(1)),
    (libc::SYS_mkdirat, "create", About::Name(1)),
    (libc::SYS_openat, "open", About::New(1)),
    (libc::SYS_write, "append to", About::Append),
    (libc::SYS_read, "read", About::Read),
    (libc::SYS_pread64, "read", About::Read),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rename, "rename to", About::Path(1)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_link, "link", About::Name(1)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_unlink, "remove", About::Path(0)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rmdir, "remove", About::Path(0)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mkdir, "create", About::Name(0)),
];

/// More than any path in a data directory.
const PATH_BYTES: usize = 512;

pub fn calls() -> Vec<Question> {
    CALLS.iter().map(|(number, ..)| (*number, only(*number))).collect()
}

/// Threads are woken up by writes of 8 bytes, lines of the server's log go to the first descriptors, and a clock of ours is read in
/// one piece of 4096 bytes whenever the time is asked for.
fn only(number: c_long) -> &'static [(usize, u32)] {
    match number {
        libc::SYS_openat => &[(2, libc::O_CREAT as u32)],
        libc::SYS_write => &[(0, !3), (2, !8)],
        libc::SYS_read => &[(2, !4096)],
        _ => &[],
    }
}

/// Something that is about to happen to a file below the disk's folder.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    what: &'static str,
    /// Below the disk's folder.
    path: PathBuf,
    about: About,
    pub(super) written: Option<Range<u64>>,
}

impl Step {
    /// None of a call that is about something else.
    pub(super) fn of(call: &Call, root: &Path) -> Option<Self> {
        let (_, what, about) = CALLS.iter().find(|(number, ..)| *number == call.number)?;
        let path = match about {
            About::Path(argument) | About::Name(argument) | About::New(argument) => path(call, *argument)?,
            _ => fs::read_link(descriptor(call, call.arguments[0])).ok()?,
        };
        let path = path.strip_prefix(root).ok()?.to_owned();
        let start = match about {
            About::Write => Some(call.arguments[3]),
            About::Append => Some(fs::metadata(descriptor(call, call.arguments[0])).ok()?.len()),
            _ => None,
        };
        let written = start.map(|start| start..start.saturating_add(call.arguments[2]));
        Some(Self { what, path, about: *about, written })
    }

    /// The file that it is about; none if the process has ended.
    pub(super) fn open(&self, call: &Call) -> Option<File> {
        File::open(descriptor(call, call.arguments[0])).ok()
    }

    /// Whether it is one towards what is durable: the messages that RocksDB writes down are none.
    pub(super) fn counts(&self) -> bool {
        match self.about {
            About::New(_) | About::Read => false,
            About::Append => self.path.file_name().is_none_or(|name| name != "LOG"),
            _ => true,
        }
    }

    pub(super) fn is_read(&self) -> bool {
        self.about == About::Read
    }

    pub(super) fn is_sync(&self) -> bool {
        self.about == About::Sync
    }

    /// Whether it needs room in the disk's folder: for what it makes longer or new, and, where files are `copied`, for what it
    /// writes over.
    pub(super) fn needs_room(&self, call: &Call, root: &Path, copied: bool) -> bool {
        let length = || self.open(call).and_then(|file| Some(file.metadata().ok()?.len()));
        match (self.about, &self.written) {
            (About::Room | About::Append, _) => true,
            (About::Name(_) | About::New(_), _) => !root.join(&self.path).exists(),
            (_, Some(written)) => copied || length().is_none_or(|length| written.end > length),
            _ => false,
        }
    }

    /// With `#` for the numbers in names.
    pub fn class(&self) -> String {
        let mut class = String::new();
        for part in self.to_string().split_inclusive(|c: char| !c.is_ascii_hexdigit()) {
            let end = part.trim_start_matches(|c: char| c.is_ascii_hexdigit());
            let digits = &part[..part.len() - end.len()];
            // Names of numbers in hexadecimal are long.
            let is_number = digits.len() >= 8 || digits.starts_with(|c: char| c.is_ascii_digit());
            class.push_str(if is_number { "#" } else { digits });
            class.push_str(end);
        }
        class
    }
}

impl Display for Step {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{} {}", self.what, self.path.display())
    }
}

fn descriptor(call: &Call, number: u64) -> PathBuf {
    format!("/proc/{}/fd/{}", call.pid, number as i32).into()
}

fn path(call: &Call, argument: usize) -> Option<PathBuf> {
    let mut bytes = vec![0; PATH_BYTES];
    // Up to where the process has no more memory.
    let read =
        File::open(format!("/proc/{}/mem", call.pid)).ok()?.read_at(&mut bytes, call.arguments[argument]).ok()?;
    bytes.truncate(bytes[..read].iter().position(|byte| *byte == 0)?);
    let path = PathBuf::from(std::ffi::OsString::from_vec(bytes));
    if path.is_absolute() {
        return Some(path);
    }
    let folder = call.arguments[argument.checked_sub(1)?] as i32;
    match folder {
        libc::AT_FDCWD => Some(fs::read_link(format!("/proc/{}/cwd", call.pid)).ok()?.join(path)),
        _ => Some(fs::read_link(descriptor(call, folder as u64)).ok()?.join(path)),
    }
}
