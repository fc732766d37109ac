//! A member's disk, between the program and the kernel: each step that the program takes towards what is durable is seen before it
//! is taken. It can be its last one, fail, or take long; and what was not synced can be lost, as when the power fails.

mod filter;
mod image;
mod step;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;

use filter::{Answer, Arriving, Call, Listener};
use image::Image;
pub use step::Step;

/// What it does when something is to be made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Condition {
    #[default]
    Sound,
    /// It says that it is done, and forgets it with the power: what a program that does not sync does.
    Lies,
    /// It says that this failed, as it does for what is written.
    Fails,
    /// After so many reads, it says that what is read cannot be read.
    FailsReads { after: u64 },
    /// It has no room for what is new or longer; nor, where it copies what is changed, for what is written over.
    Full { copies: bool },
    /// It is done after this time.
    Slow(Duration),
}

/// Cheap to clone; all clones are the same disk.
#[derive(Clone)]
pub struct Disk(Arc<Mutex<State>>);

struct State {
    root: PathBuf,
    image: Image,
    condition: Condition,
    /// How many a program has taken since it was started last.
    steps: u64,
    last: u64,
    died_at: Option<Step>,
    failed: u64,
}

impl Disk {
    /// Of what is in the folder, all of which is durable.
    pub fn new(root: &Path) -> io::Result<Self> {
        let (root, image) = (root.to_owned(), Image::scan(root)?);
        let (condition, last) = (Condition::Sound, u64::MAX);
        Ok(Self(Arc::new(Mutex::new(State { root, image, condition, steps: 0, last, died_at: None, failed: 0 }))))
    }

    /// The command's process will use it. To be called before it is spawned.
    pub fn attach(&self, command: &mut Command) -> io::Result<Attached> {
        let arriving = filter::attach(command, &step::calls())?;
        Ok(Attached { disk: self.clone(), arriving })
    }

    pub fn set(&self, condition: Condition) {
        self.state().condition = condition;
    }

    /// The next process is killed before it takes this step, the first one being 0.
    pub fn kill_at(&self, step: u64) {
        self.state().last = step;
    }

    /// The step before which it was killed.
    pub fn died_at(&self) -> Option<Step> {
        self.state().died_at.clone()
    }

    /// How many steps the process has taken.
    pub fn steps(&self) -> u64 {
        self.state().steps
    }

    /// Waits until no step has been taken for so long, or the process was killed before one.
    pub async fn quiet(&self, time: Duration) {
        let (mut steps, mut since) = (self.steps(), Instant::now());
        while since.elapsed() < time && self.died_at().is_none() {
            tokio::time::sleep(time / 20).await;
            let now = self.steps();
            if now != steps {
                (steps, since) = (now, Instant::now());
            }
        }
    }

    /// How often a write, a sync or a read has failed.
    pub fn failed(&self) -> u64 {
        self.state().failed
    }

    /// What is not durable is gone, or torn. No process may use it meanwhile.
    pub fn lose_power(&self, torn: Option<&mut StdRng>) -> io::Result<()> {
        self.state().image.lose(torn)
    }

    /// Everything that there is now is durable.
    pub fn settle(&self) -> io::Result<()> {
        let mut state = self.state();
        state.image = Image::scan(&state.root)?;
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, listener: &Listener) -> io::Result<()> {
        while let Some(call) = listener.next()? {
            // What it waits for without the lock.
            let (answer, wait) = self.state().take(&call)?;
            thread::sleep(wait);
            match answer {
                Some(answer) => listener.answer(&call, answer),
                None => {
                    let thread = Pid::from_raw(call.pid as i32);
                    thread.map(|thread| kill_process(thread, Signal::KILL)).transpose()?;
                }
            }
        }
        Ok(())
    }
}

/// A process that is about to begin.
pub struct Attached {
    disk: Disk,
    arriving: Arriving,
}

impl Attached {
    /// To be called when the process was spawned. What serves it ends with it.
    pub fn serve(self) -> io::Result<()> {
        let listener = self.arriving.listen()?;
        {
            let mut state = self.disk.state();
            (state.steps, state.died_at) = (0, None);
        }
        let serve = move || {
            if let Err(error) = self.disk.serve(&listener) {
                eprintln!("keelson-faults: a disk: {error}");
            }
        };
        thread::Builder::new().name("disk".into()).spawn(serve)?;
        Ok(())
    }
}

impl State {
    /// No answer to what it does not live to see.
    fn take(&mut self, call: &Call) -> io::Result<(Option<Answer>, Duration)> {
        let execute = Ok((Some(Answer::Execute), Duration::ZERO));
        // One that has ended meanwhile has no files any more.
        let Some(step) = Step::of(call, &self.root) else { return execute };
        if self.died_at.is_some() {
            return Ok((None, Duration::ZERO));
        }
        if step.counts() && self.steps == self.last {
            (self.died_at, self.last) = (Some(step), u64::MAX);
            return Ok((None, Duration::ZERO));
        }
        self.steps += u64::from(step.counts());
        let error = match self.condition {
            Condition::Fails => step.counts().then_some(libc::EIO),
            Condition::FailsReads { after: 0 } => step.is_read().then_some(libc::EIO),
            Condition::FailsReads { after } => {
                self.condition = Condition::FailsReads { after: after - u64::from(step.is_read()) };
                None
            }
            Condition::Full { copies } => step.needs_room(call, &self.root, copies).then_some(libc::ENOSPC),
            Condition::Sound | Condition::Lies | Condition::Slow(_) => None,
        };
        if let Some(error) = error {
            self.failed += u64::from(step.is_sync() || step.is_read() || step.written.is_some());
            return Ok((Some(Answer::Error(error)), Duration::ZERO));
        }
        match &step.written {
            Some(part) => {
                step.open(call).map_or(Ok(()), |file| self.image.write(file, part.clone()))?;
                execute
            }
            None if step.is_sync() => {
                let wait = if let Condition::Slow(wait) = self.condition { wait } else { Duration::ZERO };
                if self.condition != Condition::Lies {
                    step.open(call).map_or(Ok(()), |file| self.image.sync(file))?;
                }
                Ok((Some(Answer::Done), wait))
            }
            None => execute,
        }
    }
}
