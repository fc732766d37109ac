//! What the operating system is asked for, answered by the simulation on threads that run one: time stands still while
//! anything can be done, randomness comes from the seed, and the simulated disks hear of syncs. So nothing in the server has
//! to know of any of this.
#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_long, c_uint, c_void};
use std::path::PathBuf;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// Hears of the path of a synced file or directory; whether it is simulated.
type OnSync = Rc<dyn Fn(PathBuf) -> bool>;

/// A step of time: the resolution of tokio's timers.
const STEP_NANOS: u64 = 1_000_000;

thread_local! {
    /// None on threads that are not simulated.
    static NANOS: Cell<Option<u64>> = const { Cell::new(None) };
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
    static ON_SYNC: RefCell<Option<OnSync>> = const { RefCell::new(None) };
    static TICK: RefCell<Option<Waker>> = const { RefCell::new(None) };
}

/// From now on this thread's requests are answered here. The runtime's time passes only with [`idle`].
pub fn simulate(seed: u64, on_sync: impl Fn(PathBuf) -> bool + 'static) {
    NANOS.set(Some(STEP_NANOS));
    SEED.set(Some(seed));
    ON_SYNC.set(Some(Rc::new(on_sync)));
}

/// A runtime of this thread alone, whose time passes when all its tasks wait for it.
pub fn runtime() -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        // Timers are looked at after each task, or they would only be looked at by a thread that sleeps.
        .event_interval(1)
        .on_thread_park(idle)
        .build()
        .expect("a runtime");
    runtime.spawn(std::future::poll_fn(|context| {
        TICK.set(Some(context.waker().clone()));
        Poll::<()>::Pending
    }));
    runtime
}

/// Nothing can be done now: time passes.
fn idle() {
    NANOS.set(NANOS.get().map(|nanos| nanos + STEP_NANOS));
    // A task to run instead of sleeping.
    TICK.with_borrow(|tick| tick.iter().for_each(Waker::wake_by_ref));
}

/// Does at once what takes another thread's help: nothing else happens meanwhile, as that thread's speed is not simulated.
pub fn at_once<T>(work: impl Future<Output = T>) -> T {
    futures::executor::block_on(work)
}

/// The next number of SplitMix64.
fn next(state: u64) -> (u64, u64) {
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (state, mixed ^ (mixed >> 31))
}

fn sync(file: c_int, number: c_long) -> c_int {
    let on_sync = ON_SYNC.try_with(|cell| cell.borrow().clone());
    if let Ok(Some(on_sync)) = on_sync
        && let Ok(path) = std::fs::read_link(format!("/proc/self/fd/{file}"))
        && on_sync(path)
    {
        return 0;
    }
    // SAFETY: the call that the caller meant, with its argument; it takes no pointers.
    unsafe { libc::syscall(number, file) as c_int }
}

/// As the C library's, which it takes the place of.
#[unsafe(no_mangle)]
extern "C" fn fdatasync(file: c_int) -> c_int {
    sync(file, libc::SYS_fdatasync)
}

/// Likewise.
#[unsafe(no_mangle)]
extern "C" fn fsync(file: c_int) -> c_int {
    sync(file, libc::SYS_fsync)
}

/// Likewise.
///
/// # Safety
/// Nobody else uses what `time` points to.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> c_int {
    match NANOS.try_with(Cell::get) {
        Ok(Some(nanos)) if clock == libc::CLOCK_MONOTONIC => {
            let seconds = (nanos / 1_000_000_000) as libc::time_t;
            let nanos = (nanos % 1_000_000_000) as c_long;
            // SAFETY: the caller says so.
            unsafe { time.write(libc::timespec { tv_sec: seconds, tv_nsec: nanos }) };
            0
        }
        // SAFETY: the call that the caller meant, with its arguments.
        _ => unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) as c_int },
    }
}

/// Likewise. The answer is the same each time, for some ask only once in a process, and who asks later must not notice. What needs many
/// random numbers makes them out of the first ones by itself.
///
/// # Safety
/// There are `length` bytes at `buffer`, which nobody else uses.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut c_void, length: usize, flags: c_uint) -> isize {
    let Ok(Some(mut state)) = SEED.try_with(Cell::get) else {
        // SAFETY: the call that the caller meant, with its arguments.
        return unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) as isize };
    };
    // SAFETY: the caller says so.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    for chunk in bytes.chunks_mut(8) {
        let random;
        (state, random) = next(state);
        chunk.copy_from_slice(&random.to_le_bytes()[..chunk.len()]);
    }
    length as isize
}
