//! A background thread of the store, which sleeps until there is something to do.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::thread::{self, JoinHandle};

/// The thread and what it is told.
#[derive(Debug, Default)]
pub struct Worker {
    orders: Arc<Orders>,
    thread: OnceLock<JoinHandle<()>>,
}

/// What the thread shall do.
#[derive(Debug, Default)]
pub struct Orders {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default, Clone, Copy)]
struct State {
    wanted: bool,
    closed: bool,
}

impl Worker {
    /// Starts the thread, once.
    pub fn start(&self, name: &str, run: impl FnOnce(&Orders) + Send + 'static) -> io::Result<()> {
        let orders = Arc::clone(&self.orders);
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || run(&orders))?;
        self.thread.get_or_init(|| thread);
        Ok(())
    }

    /// There is something to do.
    pub fn want(&self) {
        self.orders.change(|state| state.wanted = true);
    }

    /// Asks the thread to end soon.
    pub fn close(&self) {
        self.orders.change(|state| state.closed = true);
    }

    /// Waits for the end, unless it is the thread itself that asks.
    pub fn join(&mut self) {
        if let Some(thread) = self.thread.take().filter(|thread| thread.thread().id() != thread::current().id()) {
            let name = thread.thread().name().unwrap_or_default().to_owned();
            if thread.join().is_err() {
                tracing::error!(name, "a thread of the store panicked");
            }
        }
    }
}

impl Orders {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while holding it")
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Whether the thread shall end.
    pub fn closed(&self) -> bool {
        self.lock().closed
    }

    /// Waits for something to do; false when the thread shall end.
    pub fn wait(&self) -> bool {
        let idle = |state: &mut State| !state.closed && !state.wanted;
        let mut state = self.changed.wait_while(self.lock(), idle).expect("nothing panics while holding it");
        state.wanted = false;
        !state.closed
    }
}
