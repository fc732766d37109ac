//! Threads that serve connections, each with a runtime of its own: what belongs to a connection stays on one core, and
//! nobody is woken to take work over.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::{Builder, Handle, Runtime};

/// Long reads of one worker's connections that run at once, on threads beside it.
const LONG_READS: usize = 64;

/// One worker for each core.
pub struct Workers {
    runtimes: Vec<Runtime>,
    given: AtomicUsize,
}

impl Workers {
    /// Starts them.
    pub fn start() -> io::Result<Self> {
        let count = thread::available_parallelism().map_or(1, usize::from);
        // With one thread, the multi-threaded runtime wakes it from outside only when it sleeps; the other one always.
        let start = |_| {
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(1).max_blocking_threads(LONG_READS).thread_name("clients").enable_all().build()
        };
        Ok(Workers { runtimes: (0..count).map(start).collect::<io::Result<_>>()?, given: AtomicUsize::new(0) })
    }

    /// Whose turn it is to take a connection.
    pub fn next(&self) -> &Handle {
        self.runtimes[self.given.fetch_add(1, Ordering::Relaxed) % self.runtimes.len()].handle()
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.runtimes.drain(..).for_each(Runtime::shutdown_background);
    }
}
