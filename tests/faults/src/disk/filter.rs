//! A seccomp filter: the kernel asks the one who started a process before it executes certain system calls of it. They are
//! executed, or answered in the kernel's place. Neither root nor a change of the program is needed.
#![allow(unsafe_code)] // The kernel's interface to it has no safe wrapper.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;

use libc::{c_long, c_ulong, sock_filter, sock_fprog};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use tokio::process::Command;

/// A system call that has not been executed yet.
pub struct Call {
    id: u64,
    /// Of the thread.
    pub pid: u32,
    pub number: c_long,
    pub arguments: [u64; 6],
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Answer {
    Execute,
    /// It returns 0, and nothing was executed.
    Done,
    /// The same, with this error.
    Error(i32),
}

/// Where the calls of a process arrive, once it runs.
pub struct Arriving(UnixDatagram);

/// A call by its number, and bits of arguments: it is asked about if each of these arguments has one of its bits.
pub type Question = (c_long, &'static [(usize, u32)]);

/// Makes the command's process ask before it executes one of these calls.
pub fn attach(command: &mut Command, calls: &[Question]) -> io::Result<Arriving> {
    let (ours, theirs) = UnixDatagram::pair()?;
    let program = program(calls);
    // SAFETY: between fork and exec it makes system calls only: no memory is allocated, no lock taken.
    unsafe {
        command.pre_exec(move || {
            let listener = install(&program)?;
            let fds = [listener.as_fd()];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut message = SendAncillaryBuffer::new(&mut space);
            message.push(SendAncillaryMessage::ScmRights(&fds));
            sendmsg(&theirs, &[IoSlice::new(b"f")], &mut message, SendFlags::empty())?;
            Ok(())
        });
    }
    Ok(Arriving(ours))
}

/// Compares the number of the call with one after the other; where that is the one, its arguments, too.
fn program(calls: &[Question]) -> Vec<sock_filter> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    // What does not hold jumps over so many steps.
    let step = |code, jf, k| sock_filter { code, jt: 0, jf, k };
    let load = |offset: usize| step(LOAD, 0, offset as u32);
    let allow = step(RETURN, 0, libc::SECCOMP_RET_ALLOW);
    let mut program = vec![load(std::mem::offset_of!(libc::seccomp_data, nr))];
    for (number, only) in calls {
        let tests = 2 * only.len() as u8;
        program.push(step(EQUAL, tests + 2, *number as u32));
        for (at, (argument, bits)) in (2..=tests).step_by(2).zip(*only) {
            // The lower half comes first.
            program.push(load(std::mem::offset_of!(libc::seccomp_data, args) + 8 * argument));
            program.push(step(ANY_BIT, tests - at + 1, *bits));
        }
        program.extend([step(RETURN, 0, libc::SECCOMP_RET_USER_NOTIF), allow]);
    }
    program.push(allow);
    program
}

fn install(program: &[sock_filter]) -> io::Result<OwnedFd> {
    let program = sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    // SAFETY: `program` and what it points to live until the call returns; the descriptor it returns is new.
    unsafe {
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
            return Err(io::Error::last_os_error());
        }
        let (mode, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
        let listener = libc::syscall(libc::SYS_seccomp, c_ulong::from(mode), flags, &raw const program);
        match i32::try_from(listener) {
            Ok(listener) if listener >= 0 => Ok(OwnedFd::from_raw_fd(listener)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Arriving {
    /// To be called when the command was spawned.
    pub fn listen(self) -> io::Result<Listener> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut message = RecvAncillaryBuffer::new(&mut space);
        recvmsg(&self.0, &mut [IoSliceMut::new(&mut [0])], &mut message, RecvFlags::CMSG_CLOEXEC)?;
        let received = message.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        received.map(Listener).ok_or_else(|| io::Error::other("no listener came from the new process"))
    }
}

pub struct Listener(OwnedFd);

impl Listener {
    /// The next call; none when the process and all its children have ended.
    pub fn next(&self) -> io::Result<Option<Call>> {
        loop {
            let mut ready = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            match poll(&mut ready, PollTimeout::NONE) {
                Err(nix::Error::EINTR) => continue,
                polled => polled?,
            };
            if !ready[0].revents().is_some_and(|events| events.contains(PollFlags::POLLIN)) {
                return Ok(None);
            }
            // SAFETY: zeros are a valid value of it, and what the kernel expects.
            let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
            match self.control(libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut call) {
                Ok(()) => {
                    let (pid, number) = (call.pid, call.data.nr.into());
                    return Ok(Some(Call { id: call.id, pid, number, arguments: call.data.args }));
                }
                // It was killed meanwhile.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// To one who may have been killed meanwhile.
    pub fn answer(&self, call: &Call, answer: Answer) {
        let (error, flags) = match answer {
            Answer::Execute => (0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
            Answer::Done => (0, 0),
            Answer::Error(error) => (-error, 0),
        };
        let mut response = libc::seccomp_notif_resp { id: call.id, val: 0, error, flags };
        let _ = self.control(libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut response);
    }

    fn control<T>(&self, request: libc::Ioctl, argument: *mut T) -> io::Result<()> {
        // SAFETY: both requests take a pointer to the type that their caller gives, which lives until this returns.
        match unsafe { libc::ioctl(self.0.as_raw_fd(), request, argument) } {
            0.. => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
