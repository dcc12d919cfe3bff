//! The way of the child, from the first fork to exec.
//!
//! Only async-signal-safe calls are made here and nothing is allocated.

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::signal::{SigmaskHow, Signal, sigprocmask};
use nix::sys::stat::{Mode, fstat};

use super::ids::{Ids, check, drop_for_good, set_ids};
use super::{Limit, Program, Stage, Substitute, Way, attributes};

/// `execve` arguments as the kernel wants them, built before the fork.
pub(super) struct Pointers {
    argv: Vec<*const libc::c_char>,
    env: Vec<*const libc::c_char>,
}

impl Pointers {
    pub(super) fn of(program: &Program<'_>) -> Self {
        Self { argv: terminated(program.argv), env: terminated(program.env) }
    }
}

fn terminated(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

/// The child's ends of the two pipes between it and the parent.
#[derive(Clone, Copy)]
pub(super) struct Lines {
    pub(super) report: RawFd,
    pub(super) go: RawFd,
}

/// Becomes the program, or tells the parent at which stage it could not, and ends.
pub(super) fn run(program: &Program<'_>, way: &Way<'_>, pointers: Pointers, lines: Lines) -> ! {
    let (lines, arranged) = match arrange(program.descriptors, way, lines) {
        Ok(arranged) => arranged,
        Err(errno) => leave(lines, Stage::Descriptors, errno),
    };
    if let Err((stage, errno)) = travel(&arranged, lines) {
        leave(lines, stage, errno);
    }
    match fork_sibling() {
        Ok(0) => {
            let (stage, errno) = become_program(program, way.limits, pointers, lines);
            leave(lines, stage, errno)
        }
        Ok(pid) => {
            tell(lines.report, 0, pid);
            end(0)
        }
        Err(errno) => leave(lines, Stage::Fork, errno),
    }
}

/// [`Way`] after its descriptors were moved.
struct Arranged {
    cgroup: Option<RawFd>,
    user: Option<Ids>,
    namespaces: Option<RawFd>,
}

/// Moves what the program shall have to 0, 1, 2, …, what the way needs right behind it, and closes all others.
fn arrange(descriptors: &[BorrowedFd<'_>], way: &Way<'_>, lines: Lines) -> Result<(Lines, Arranged), Errno> {
    let raw = |fd: &BorrowedFd<'_>| fd.as_raw_fd();
    let own = [
        lines.report,
        lines.go,
        way.cgroup.as_ref().map_or(-1, raw),
        way.namespaces.as_ref().map_or(-1, raw),
    ];
    let count = RawFd::try_from(descriptors.len()).map_err(|_| Errno::EMFILE)?;
    let all = || descriptors.iter().map(raw).chain(own);
    // Copies above everything in use: then no move to a low number hits a descriptor that is still wanted.
    let above = all().max().unwrap_or(0).max(count + 4) + 1;
    for (next, fd) in (above..).zip(all().filter(|fd| *fd >= 0)) {
        duplicate(fd, next, libc::O_CLOEXEC)?;
    }
    let mut copy = above;
    for target in 0..count {
        duplicate(copy, target, 0)?;
        copy += 1;
    }
    let mut moved = [-1; 4];
    let mut target = count;
    for (slot, fd) in moved.iter_mut().zip(own) {
        if fd >= 0 {
            duplicate(copy, target, libc::O_CLOEXEC)?;
            *slot = target;
            copy += 1;
            target += 1;
        }
    }
    close_from(target)?;
    let [report, go, cgroup, namespaces] = moved;
    let present = |fd: RawFd| (fd >= 0).then_some(fd);
    let arranged = Arranged { cgroup: present(cgroup), user: way.user, namespaces: present(namespaces) };
    Ok((Lines { report, go }, arranged))
}

/// Cgroup, drop, namespaces, root inside: in this order.
fn travel(way: &Arranged, lines: Lines) -> Result<(), (Stage, Errno)> {
    begin(lines, Stage::Cgroup);
    if let Some(procs) = way.cgroup {
        nix::unistd::write(borrow(procs), b"0\n").map_err(|errno| (Stage::Cgroup, errno))?;
    }
    begin(lines, Stage::Drop);
    if let Some(ids) = way.user {
        drop_for_good(ids)?;
    }
    let Some(process) = way.namespaces else { return Ok(()) };
    begin(lines, Stage::Join);
    let kinds = CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    setns(borrow(process), kinds).map_err(|errno| (Stage::Join, errno))?;
    set_ids(Ids { uid: 0, gid: 0 }).map_err(|errno| (Stage::Root, errno))
}

/// A fork that is a child of our parent: it waits for the program itself and sees its exit status as it is.
fn fork_sibling() -> Result<i32, Errno> {
    // SAFETY: clone_args is a plain structure of numbers for which all zeroes is a valid value.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = libc::CLONE_PARENT.unsigned_abs().into();
    // SAFETY: without CLONE_VM and without a stack this is a fork: the child runs on its own copy of this stack.
    // `arguments` is a live clone_args of the size that is given.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>()) };
    Errno::result(pid).map(|pid| i32::try_from(pid).unwrap_or(-1))
}

/// The last stretch, inside every namespace; returns only with a failure.
fn become_program(
    program: &Program<'_>,
    limits: &[Limit],
    mut pointers: Pointers,
    lines: Lines,
) -> (Stage, Errno) {
    begin(lines, Stage::Session);
    if let Err(errno) = begin_session(program, lines).and_then(|()| attributes::limit(limits)) {
        return (Stage::Session, errno);
    }
    begin(lines, Stage::Directory);
    if nix::unistd::chdir(program.directory).is_err() {
        // A caller's directory that is not there inside is common (/root of the host), and / always is.
        let _ = nix::unistd::chdir(c"/");
    }
    begin(lines, Stage::Arguments);
    for substitute in program.substitutes {
        if names_the_file(substitute) {
            if let Some(descriptor) = substitute.descriptor {
                let _ = fcntl(borrow(descriptor), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
            }
        } else if let Some(argument) = pointers.argv.get_mut(substitute.index) {
            *argument = substitute.instead.as_ptr();
        }
    }
    begin(lines, Stage::Exec);
    (Stage::Exec, execute(program.candidates, &pointers))
}

fn begin_session(program: &Program<'_>, lines: Lines) -> Result<(), Errno> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // The parent says go after we asked to die with it: if it died before, this is the end of file.
    let mut byte = [0];
    if nix::unistd::read(borrow(lines.go), &mut byte)? == 0 {
        return Err(Errno::ECANCELED);
    }
    nix::unistd::setsid()?;
    if let Some(terminal) = program.terminal {
        // SAFETY: TIOCSCTTY takes a number, 0: do not steal it from another session.
        check(unsafe { libc::ioctl(terminal, libc::TIOCSCTTY, 0) }.into())?;
    }
    // SAFETY: SIG_DFL is a valid disposition of SIGPIPE, which the Rust runtime ignores.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&program.mask), None)
}

/// Whether the argument, opened here and as this user, is the file that the caller meant.
fn names_the_file(substitute: &Substitute) -> bool {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let Ok(file) = nix::fcntl::open(substitute.path.as_c_str(), flags, Mode::empty()) else { return false };
    fstat(&file).is_ok_and(|found| (found.st_dev, found.st_ino) == substitute.identity)
}

/// Tries the candidates in order, as execvp(3) does, but for one thing: whatever ails one of them (a dead mount over a
/// directory of PATH), the next one is tried. Of all errors the one that tells most is kept.
fn execute(candidates: &[CString], pointers: &Pointers) -> Errno {
    let mut worst = Errno::ENOENT;
    for candidate in candidates {
        // SAFETY: path, argv and env are NUL-terminated strings, the arrays end with a null pointer, and all of them
        // live in memory that was built before the fork.
        unsafe { libc::execve(candidate.as_ptr(), pointers.argv.as_ptr(), pointers.env.as_ptr()) };
        worst = more_telling(worst, Errno::last());
    }
    worst
}

/// The program was found and does not run; it is not known whether it is there; it is not there.
fn more_telling(known: Errno, new: Errno) -> Errno {
    let rank = |errno| match errno {
        Errno::ENOENT => 0,
        Errno::ENOTDIR => 1,
        Errno::ENOEXEC | Errno::E2BIG | Errno::ENOMEM | Errno::ETXTBSY | Errno::EAGAIN => 4,
        Errno::EACCES | Errno::EPERM => 3,
        _ => 2,
    };
    if rank(new) > rank(known) { new } else { known }
}

/// Eight bytes are written at once or not at all: pipe(7), `PIPE_BUF`.
fn tell(report: RawFd, stage: i32, value: i32) {
    let ([a, b, c, d], [e, f, g, h]) = (stage.to_ne_bytes(), value.to_ne_bytes());
    let _ = nix::unistd::write(borrow(report), &[a, b, c, d, e, f, g, h]);
}

/// From here on the child stands at this stage.
fn begin(lines: Lines, stage: Stage) {
    tell(lines.report, -(stage as i32), 0);
}

fn leave(lines: Lines, stage: Stage, errno: Errno) -> ! {
    tell(lines.report, stage as i32, errno as i32);
    end(127)
}

fn end(status: i32) -> ! {
    // SAFETY: _exit never returns and runs no handler of the original process.
    unsafe { libc::_exit(status) }
}

fn duplicate(from: RawFd, to: RawFd, flags: libc::c_int) -> Result<(), Errno> {
    // SAFETY: dup3 takes three numbers; in the forked child no owner of a descriptor is ever dropped, so replacing
    // what was at `to` takes nothing from anybody.
    check(unsafe { libc::syscall(libc::SYS_dup3, from, to, flags) })
}

fn close_from(first: RawFd) -> Result<(), Errno> {
    // SAFETY: close_range takes three numbers; in the forked child no owner of a descriptor is ever dropped.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) })
}

/// A descriptor that `arrange` put there and that stays open until exec.
fn borrow<'a>(fd: RawFd) -> BorrowedFd<'a> {
    // SAFETY: only called in the forked child with numbers that `arrange` filled; nothing closes them before exec.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_errno_that_tells_most_is_kept_whatever_the_order() {
        let all = [Errno::ENOENT, Errno::ENOTDIR, Errno::ENOTCONN, Errno::EACCES, Errno::ENOEXEC];
        for (index, errno) in all.into_iter().enumerate() {
            for known in all.into_iter().take(index + 1) {
                assert_eq!((more_telling(known, errno), more_telling(errno, known)), (errno, errno));
            }
        }
        assert_eq!(more_telling(Errno::EIO, Errno::ESTALE), Errno::EIO, "the first of equals");
    }
}
