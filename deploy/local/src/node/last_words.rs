//! What a container leaves when it ends: the content of its termination file, or the end of its log.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use k8s_openapi::api::core::v1::Container;

use super::volumes::Mount;

/// The limits of the kubelet.
const FILE_BYTES: u64 = 4096;
const LOG_BYTES: usize = 2048;
const LOG_LINES: usize = 80;

/// An empty file for one run of the container, where the container expects it.
pub fn mount(container: &Container, file: &Path) -> io::Result<Mount> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    File::create(file)?;
    let path = container.termination_message_path.clone().filter(|path| !path.is_empty());
    let path = path.unwrap_or_else(|| "/dev/termination-log".into());
    Ok(Mount { source: file.to_owned(), path, read_only: false })
}

/// What the run left, if it left something.
pub fn read(container: &Container, exit: i32, file: &Path, log: &Path) -> Option<String> {
    let mut left = Vec::new();
    // A file that cannot be read says nothing.
    let _ = File::open(file).and_then(|file| file.take(FILE_BYTES).read_to_end(&mut left));
    let text = String::from_utf8_lossy(&left).into_owned();
    let falls_back = container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
    let text = if text.is_empty() && falls_back && exit != 0 { end_of(log) } else { text };
    (!text.is_empty()).then_some(text)
}

/// The last lines of a log, without their times.
fn end_of(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().rev().take(LOG_LINES).collect();
    let lines = lines.iter().rev().map(|line| line.split_once(' ').map_or("", |(_, line)| line));
    let text: String = lines.map(|line| format!("{line}\n")).collect();
    let mut start = text.len().saturating_sub(LOG_BYTES);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text[start..].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_counts_and_the_log_where_it_is_asked_for_after_a_failure() {
        let folder = tempfile::tempdir().unwrap();
        let (file, log) = (folder.path().join("runs/0"), folder.path().join("0.log"));
        let mut container = Container { name: "c".into(), ..Container::default() };
        assert_eq!(mount(&container, &file).unwrap().path, "/dev/termination-log");
        fs::write(&log, "2026-01-01T00:00:00Z first\n2026-01-01T00:00:01Z last words\n").unwrap();
        assert_eq!(read(&container, 1, &file, &log), None);
        container.termination_message_policy = Some("FallbackToLogsOnError".into());
        assert_eq!(read(&container, 1, &file, &log).unwrap(), "first\nlast words\n");
        assert_eq!(read(&container, 0, &file, &log), None);
        fs::write(&file, "told").unwrap();
        assert_eq!(read(&container, 1, &file, &log).unwrap(), "told");
        fs::write(&log, format!("2026-01-01T00:00:00Z {}\n", "ä".repeat(5000))).unwrap();
        fs::write(&file, "").unwrap();
        assert!(read(&container, 1, &file, &log).unwrap().len() <= LOG_BYTES);
    }
}
