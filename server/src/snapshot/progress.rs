//! One line on a terminal that tells how far a command is.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(500);

/// Shows a line on standard error while it lives, if that is a terminal.
pub struct Progress {
    shown: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Progress {
    /// Of a command (what it does, such as "restoring") that will have read `expected_bytes`, about.
    pub fn show(what: &'static str, expected_bytes: u64, read_bytes: &Arc<AtomicU64>) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self { shown: None };
        }
        let (stop, stopped) = channel();
        let read_bytes = read_bytes.clone();
        let thread = std::thread::spawn(move || {
            while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let line = line(what, read_bytes.load(Ordering::Relaxed), expected_bytes);
                // Whoever cannot be told is not told.
                let _ = write!(std::io::stderr(), "\r{line}\x1b[K");
            }
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        });
        Self { shown: Some((stop, thread)) }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.shown.take() {
            drop(stop);
            let _ = thread.join();
        }
    }
}

fn line(what: &str, read: u64, expected: u64) -> String {
    format!("{what}: {} %", (read.saturating_mul(100) / expected.max(1)).min(100))
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_more_than_all_is_told() {
        for (read, expected, text) in [(0, 0, "0 %"), (1, 3, "33 %"), (9, 3, "100 %"), (u64::MAX, u64::MAX, "1 %")] {
            assert_eq!(super::line("restoring", read, expected), format!("restoring: {text}"));
        }
    }
}
