//! What would be left of a folder if the power failed now: contents as they were last synced, under the names that their
//! folders had when those were. A file system may keep more; a program must not count on it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rand::Rng;
use rand::rngs::StdRng;

/// What a disk writes as a whole.
const SECTOR: u64 = 512;

/// Device and number.
type Inode = (u64, u64);

pub struct Image {
    root: PathBuf,
    files: HashMap<Inode, Content>,
    folders: HashMap<Inode, Folder>,
}

/// Held open, so that its number is no other file's.
struct Content {
    file: File,
    bytes: Vec<u8>,
    /// Written at these places since.
    unsynced: Vec<Range<u64>>,
}

struct Folder {
    file: File,
    /// With whether it is a folder.
    entries: BTreeMap<OsString, (Inode, bool)>,
}

fn inode(metadata: &fs::Metadata) -> Inode {
    (metadata.dev(), metadata.ino())
}

impl Image {
    /// Everything in the folder is durable.
    pub fn scan(root: &Path) -> io::Result<Self> {
        let mut image = Self { root: root.to_owned(), files: HashMap::new(), folders: HashMap::new() };
        image.scan_folder(root)?;
        Ok(image)
    }

    fn scan_folder(&mut self, path: &Path) -> io::Result<()> {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            match entry.file_type()? {
                kind if kind.is_dir() => self.scan_folder(&entry.path())?,
                kind if kind.is_file() => self.sync(File::open(entry.path())?)?,
                _ => {}
            }
        }
        self.sync(File::open(path)?)
    }

    /// A file or folder is durable as it is now.
    pub fn sync(&mut self, file: File) -> io::Result<()> {
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            let entries = fs::read_dir(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
            // One may be gone already.
            let entries = entries.flatten().filter_map(|entry| Some((entry.file_name(), entry.metadata().ok()?)));
            let entries = entries.map(|(name, metadata)| (name, (inode(&metadata), metadata.is_dir()))).collect();
            self.folders.insert(inode(&metadata), Folder { file, entries });
            self.forget_removed();
            return Ok(());
        }
        let content = self.files.entry(inode(&metadata)).or_insert_with(|| Content::new(file));
        // What was never synced, or of which not all parts are known, is read as a whole.
        let parts = std::mem::take(&mut content.unsynced);
        let size = metadata.len();
        let end = parts.iter().map(|part| part.end).fold(content.bytes.len() as u64, u64::max);
        let whole = 0..size;
        let parts = if content.bytes.is_empty() || parts.is_empty() || end != size { vec![whole] } else { parts };
        content.bytes.resize(size as usize, 0);
        for part in parts {
            content.file.read_exact_at(&mut content.bytes[part.start as usize..part.end as usize], part.start)?;
        }
        Ok(())
    }

    /// Something is about to be written there.
    pub fn write(&mut self, file: File, part: Range<u64>) -> io::Result<()> {
        let content = self.files.entry(inode(&file.metadata()?)).or_insert_with(|| Content::new(file));
        content.unsynced.push(part);
        Ok(())
    }

    /// What has no name any more, neither now nor after a failure.
    fn forget_removed(&mut self) {
        let named: HashSet<_> =
            self.folders.values().flat_map(|folder| folder.entries.values().map(|(inode, _)| *inode)).collect();
        let has_name = |file: &File| file.metadata().is_ok_and(|metadata| metadata.nlink() > 0);
        self.files.retain(|inode, content| named.contains(inode) || has_name(&content.file));
        self.folders.retain(|inode, folder| named.contains(inode) || has_name(&folder.file));
    }

    /// The power fails: the folder has what is durable. With `torn`, some of what was written since the last sync, too.
    pub fn lose(&mut self, torn: Option<&mut StdRng>) -> io::Result<()> {
        if let Some(rng) = torn {
            self.files.values_mut().try_for_each(|content| content.tear(rng))?;
        }
        let root = inode(&fs::metadata(&self.root)?);
        for entry in fs::read_dir(&self.root)? {
            let path = entry?.path();
            if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
        }
        self.write_folder(root, &self.root)?;
        *self = Self::scan(&self.root)?;
        Ok(())
    }

    fn write_folder(&self, inode: Inode, path: &Path) -> io::Result<()> {
        for (name, (inode, is_folder)) in self.folders.get(&inode).iter().flat_map(|folder| &folder.entries) {
            let path = path.join(name);
            if *is_folder {
                fs::create_dir(&path)?;
                self.write_folder(*inode, &path)?;
            } else {
                fs::write(&path, self.files.get(inode).map_or(&[][..], |content| &content.bytes))?;
            }
        }
        Ok(())
    }
}

impl Content {
    /// Of which nothing is durable.
    fn new(file: File) -> Self {
        Self { file, bytes: Vec::new(), unsynced: Vec::new() }
    }

    /// Each sector that was written is the new one, or still the old one.
    fn tear(&mut self, rng: &mut StdRng) -> io::Result<()> {
        for part in std::mem::take(&mut self.unsynced) {
            let mut at = part.start;
            while at < part.end {
                let end = ((at / SECTOR + 1) * SECTOR).min(part.end);
                if rng.random() {
                    let mut bytes = vec![0; (end - at) as usize];
                    let read = self.file.read_at(&mut bytes, at)?;
                    let end = at as usize + read;
                    if self.bytes.len() < end {
                        self.bytes.resize(end, 0);
                    }
                    self.bytes[at as usize..end].copy_from_slice(&bytes[..read]);
                }
                at = end;
            }
        }
        Ok(())
    }
}
