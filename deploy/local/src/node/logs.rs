//! Logs: what a container writes, one file for each run of it, each line with the time at which it came.

use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use tokio::fs::{self, File};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncSeekExt, AsyncWriteExt, BufReader};
use tokio::sync::{Mutex, mpsc, watch};

/// A file is started anew past this size in bytes; one older file is kept beside it.
const ROTATE_AT: u64 = 10 * 1024 * 1024;
/// Longer lines are cut into pieces of this many bytes.
const LINE_LIMIT: u64 = 64 * 1024;

/// The log of one run of a container.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: Mutex<(Option<File>, u64)>,
    /// Bytes written so far, over all rotations; closed with the run.
    written: watch::Sender<u64>,
}

impl Log {
    /// The file of run number `run` below a container's log directory.
    pub fn path(directory: &Path, run: i32) -> PathBuf {
        directory.join(format!("{run}.log"))
    }

    /// Starts the log of run number `run` and drops those older than the previous run.
    pub async fn create(directory: &Path, run: i32) -> std::io::Result<Arc<Self>> {
        fs::create_dir_all(directory).await?;
        for old in (0..run - 1).rev().take_while(|run| Self::path(directory, *run).exists()) {
            let path = Self::path(directory, old);
            drop(fs::remove_file(path.with_extension("log.1")).await);
            fs::remove_file(path).await?;
        }
        let path = Self::path(directory, run);
        let file = File::create(&path).await?;
        let written = watch::channel(0).0;
        Ok(Arc::new(Self { path, file: Mutex::new((Some(file), 0)), written }))
    }

    /// Copies lines of one of the container's outputs until it is closed.
    pub async fn pump(self: Arc<Self>, output: impl AsyncRead + Unpin) {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        loop {
            line.clear();
            let mut limited = (&mut output).take(LINE_LIMIT);
            match limited.read_until(b'\n', &mut line).await {
                Ok(0) | Err(_) => return,
                Ok(_) => self.append(&line).await,
            }
        }
    }

    /// Adds one line. A log that cannot be written loses lines, and the container goes on.
    pub async fn append(&self, line: &[u8]) {
        let mut entry = format!("{} ", Timestamp::now()).into_bytes();
        entry.extend_from_slice(line);
        if !entry.ends_with(b"\n") {
            entry.push(b'\n');
        }
        let mut guard = self.file.lock().await;
        let (file, length) = &mut *guard;
        if *length > ROTATE_AT {
            drop(fs::rename(&self.path, self.path.with_extension("log.1")).await);
            *file = File::create(&self.path).await.ok();
            *length = 0;
        }
        if let Some(file) = file {
            drop(file.write_all(&entry).await);
            drop(file.flush().await);
            *length += entry.len() as u64;
        }
        self.written.send_modify(|written| *written += entry.len() as u64);
    }

    fn subscribe(&self) -> watch::Receiver<u64> {
        self.written.subscribe()
    }
}

/// What `kubectl logs` asks for, in the API's names.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LogOptions {
    /// Go on with new lines.
    pub follow: bool,
    /// The run before this one.
    pub previous: bool,
    /// Only the last so many lines.
    pub tail_lines: Option<usize>,
    /// Only lines of the last so many seconds.
    pub since_seconds: Option<i64>,
    /// Only lines from this time on, RFC 3339.
    pub since_time: Option<Timestamp>,
    /// Each line with its time.
    pub timestamps: bool,
    /// At most so many bytes.
    pub limit_bytes: Option<usize>,
}

/// Reads the log at `path`, and with `follow` goes on while `live` is being written.
pub async fn read(
    path: PathBuf,
    options: LogOptions,
    live: Option<Arc<Log>>,
) -> impl Stream<Item = std::io::Result<Bytes>> + use<> {
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        let growth = live.as_ref().map(|log| log.subscribe());
        drop(live);
        if let Err(error) = send_lines(&path, &options, growth, &sender).await {
            tracing::debug!(%error, path = %path.display(), "reading a log ended early");
        }
    });
    tokio_stream::wrappers::ReceiverStream::new(receiver)
}

async fn send_lines(
    path: &Path,
    options: &LogOptions,
    growth: Option<watch::Receiver<u64>>,
    sender: &mpsc::Sender<std::io::Result<Bytes>>,
) -> std::io::Result<()> {
    let since = options.since_seconds.map(|seconds| {
        let age = k8s_openapi::jiff::SignedDuration::from_secs(seconds);
        Timestamp::now().checked_sub(age).unwrap_or(Timestamp::MIN)
    });
    let since = since.max(options.since_time);
    let mut budget = options.limit_bytes.unwrap_or(usize::MAX);
    let rotated = fs::read(path.with_extension("log.1")).await.unwrap_or_default();
    let current = fs::read(path).await.unwrap_or_default();
    let mut position = current.len() as u64;
    let whole = [rotated, current].concat();
    let mut lines: Vec<&[u8]> =
        whole.split_inclusive(|byte| *byte == b'\n').filter_map(|l| shown(l, since, options)).collect();
    if let Some(tail) = options.tail_lines {
        lines.drain(..lines.len().saturating_sub(tail));
    }
    if !give(&lines, &mut budget, sender).await {
        return Ok(());
    }
    let Some(mut growth) = growth.filter(|_| options.follow) else {
        return Ok(());
    };
    loop {
        let open = tokio::select! {
            changed = growth.changed() => changed.is_ok(),
            () = sender.closed() => return Ok(()),
        };
        let mut file = File::open(path).await?;
        if file.metadata().await?.len() < position {
            position = 0;
        }
        file.seek(SeekFrom::Start(position)).await?;
        let mut new = Vec::new();
        file.read_to_end(&mut new).await?;
        new.truncate(new.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1));
        position += new.len() as u64;
        let lines: Vec<_> =
            new.split_inclusive(|byte| *byte == b'\n').filter_map(|l| shown(l, since, options)).collect();
        if !give(&lines, &mut budget, sender).await || !open {
            return Ok(());
        }
    }
}

/// The part of a stored line that is to be seen, if it is new enough.
fn shown<'a>(line: &'a [u8], since: Option<Timestamp>, options: &LogOptions) -> Option<&'a [u8]> {
    let space = line.iter().position(|byte| *byte == b' ')?;
    if let Some(since) = since {
        let time: Timestamp = std::str::from_utf8(&line[..space]).ok()?.parse().ok()?;
        if time < since {
            return None;
        }
    }
    Some(if options.timestamps { line } else { &line[space + 1..] })
}

/// Sends lines within the budget of bytes; false when nobody wants more.
async fn give(lines: &[&[u8]], budget: &mut usize, sender: &mpsc::Sender<std::io::Result<Bytes>>) -> bool {
    let mut chunk = lines.concat();
    chunk.truncate(*budget);
    *budget -= chunk.len();
    if !chunk.is_empty() && sender.send(Ok(chunk.into())).await.is_err() {
        return false;
    }
    *budget > 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;

    async fn text(path: &Path, options: LogOptions) -> String {
        let chunks: Vec<_> = read(path.to_owned(), options, None).await.collect().await;
        chunks.into_iter().map(|c| String::from_utf8(c.unwrap().to_vec()).unwrap()).collect()
    }

    #[tokio::test]
    async fn tail_limit_and_follow() {
        let directory = tempfile::tempdir().unwrap();
        let log = Log::create(directory.path(), 0).await.unwrap();
        log.clone().pump(&b"one\ntwo\nthree"[..]).await;
        let path = Log::path(directory.path(), 0);
        assert_eq!(text(&path, LogOptions::default()).await, "one\ntwo\nthree\n");
        assert_eq!(text(&path, LogOptions { tail_lines: Some(1), ..Default::default() }).await, "three\n");
        assert_eq!(text(&path, LogOptions { limit_bytes: Some(5), ..Default::default() }).await, "one\nt");
        let old = LogOptions { since_time: Some(Timestamp::MAX), ..Default::default() };
        assert_eq!(text(&path, old).await, "");

        let options = LogOptions { follow: true, tail_lines: Some(1), ..Default::default() };
        let mut follow = Box::pin(read(path, options, Some(log.clone())).await);
        assert_eq!(follow.next().await.unwrap().unwrap(), "three\n");
        log.append(b"four\n").await;
        assert_eq!(follow.next().await.unwrap().unwrap(), "four\n");
        drop(log);
        assert!(follow.next().await.is_none(), "ends with the run");
    }
}
