//! The caller's terminal and the new one that stands in for it.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::termios::{LocalFlags, OutputFlags, SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{Uid, fchown, getpgrp, tcgetpgrp};
use u7s_sys::tty;

use super::shown::Edit;

/// Bytes that were read on one side and not yet written on the other; reading waits for an empty one.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    bytes: Vec<u8>,
    written: usize,
    edit: Edit,
}

/// What one reading gave.
enum Read {
    /// These many bytes, of which the edit may have left nothing.
    Some,
    /// Nothing is there now.
    Nothing,
    /// The other side is gone.
    Gone,
}

impl Pending {
    /// What is read is edited before it is written.
    pub(crate) fn edited(edit: Edit) -> Self {
        Self { edit, ..Self::default() }
    }

    /// Nothing is left to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.written >= self.bytes.len()
    }

    /// What is left to write.
    pub(crate) fn left(&self) -> &[u8] {
        self.bytes.get(self.written..).unwrap_or_default()
    }

    /// Nothing but these bytes.
    pub(crate) fn set(&mut self, bytes: &[u8]) {
        self.written = 0;
        self.bytes = bytes.to_vec();
    }

    /// Reads once; `false`: the other side is gone.
    pub(crate) fn fill(&mut self, from: BorrowedFd<'_>) -> bool {
        !matches!(self.read(from), Read::Gone)
    }

    fn read(&mut self, from: BorrowedFd<'_>) -> Read {
        let mut chunk = [0; 4096];
        let (bytes, read) = match nix::unistd::read(from, &mut chunk) {
            Ok(count) if count > 0 => (self.edit.apply(chunk.get(..count).unwrap_or_default()), Read::Some),
            Err(Errno::EINTR | Errno::EAGAIN) => return Read::Nothing,
            _ => (self.edit.end(), Read::Gone),
        };
        self.written = 0;
        self.bytes = bytes;
        read
    }

    /// Shows what is there now; more than a terminal holds is not taken.
    ///
    /// The program's user may open its terminal anew and write without end: nobody waits for that end.
    ///
    /// Source: Linux, drivers/tty/tty_buffer.c, `TTYB_DEFAULT_MEM_LIMIT`: 64 KiB, 16 of our reads.
    pub(crate) fn pass_on(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, heard: &mut dyn FnMut(&[u8])) {
        for _ in 0..64 {
            if !self.write_out(to) {
                return;
            }
            if !matches!(self.read(from), Read::Some) {
                break;
            }
            heard(self.left());
        }
        self.bytes.extend(self.edit.end());
        self.write_out(to);
    }

    /// Writes what is left, as far as the other side takes it; `false`: it does not take all.
    pub(crate) fn write_out(&mut self, to: BorrowedFd<'_>) -> bool {
        for _ in 0..64 {
            if self.is_empty() {
                return true;
            }
            if !self.empty(to) {
                return false;
            }
        }
        self.is_empty()
    }

    /// Writes once; `false`: the other side is gone.
    pub(crate) fn empty(&mut self, to: BorrowedFd<'_>) -> bool {
        match nix::unistd::write(to, self.left()) {
            Ok(count) => {
                self.written += count;
                true
            }
            Err(Errno::EINTR | Errno::EAGAIN) => true,
            Err(_) => {
                self.bytes.clear();
                false
            }
        }
    }
}

/// A new terminal, relayed to the caller's own.
#[derive(Debug)]
pub(crate) struct Terminal {
    /// Our end, which never blocks.
    pub(crate) master: OwnedFd,
    /// The program's end; given up once it runs.
    pub(crate) slave: Option<OwnedFd>,
    /// Where its output goes: the caller's terminal.
    pub(crate) screen: OwnedFd,
    /// Where its input comes from, if that is the caller's terminal and we are in the foreground there.
    pub(crate) keyboard: Option<Keyboard>,
}

/// The caller's terminal as a source of bytes.
///
/// It is raw once the program runs, so that every key reaches that; until then Control-C is for us. In a pipeline
/// (`kubeadm … | less`) the terminal may belong to the next program: then it stays as it is, and is read only while it
/// hands out whole lines.
#[derive(Debug)]
pub(crate) struct Keyboard {
    pub(crate) terminal: OwnedFd,
    /// It is to be raw.
    raw: bool,
    /// Settings to go back to, if we made it raw.
    former: Option<Termios>,
}

impl Terminal {
    /// Makes a terminal that behaves as the caller's: same size, same line settings. `owner` may open it by its path.
    ///
    /// `keyboard` is the source of input, `screen` the terminal that shows the output, `settings` were its own.
    pub(crate) fn open(
        mut settings: Termios,
        keyboard: Option<Keyboard>,
        screen: OwnedFd,
        owner: u32,
    ) -> io::Result<Self> {
        let pty = tty::open().map_err(sys)?;
        let flags = fcntl(&pty.master, FcntlArg::F_GETFL)?;
        fcntl(&pty.master, FcntlArg::F_SETFL(OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK))?;
        fchown(&pty.slave, Some(Uid::from_raw(owner)), None).or_else(|errno| match errno {
            // The caller is that user already, or is nobody to give anything away.
            Errno::EPERM => Ok(()),
            other => Err(other),
        })?;
        if !keyboard.as_ref().is_some_and(Keyboard::is_raw) {
            // The caller's terminal goes on echoing and turning line feeds into new lines by itself.
            settings.output_flags.remove(OutputFlags::OPOST);
            settings.local_flags.remove(LocalFlags::ECHO);
        }
        tcsetattr(&pty.slave, SetArg::TCSANOW, &settings)?;
        let terminal = Self { master: pty.master, slave: Some(pty.slave), screen, keyboard };
        terminal.fit();
        Ok(terminal)
    }

    /// Takes over the size of the caller's terminal.
    pub(crate) fn fit(&self) {
        // A terminal without a size is odd, and no reason to stop.
        let _ = tty::size(&self.screen).and_then(|size| tty::set_size(&self.master, size));
    }
}

impl Keyboard {
    /// Takes the terminal as a source, to be raw or as it is; `None` where this process is in the background there and must
    /// not touch it.
    pub(crate) fn take(terminal: BorrowedFd<'_>, raw: bool) -> io::Result<Option<Self>> {
        if tcgetpgrp(terminal) != Ok(getpgrp()) {
            return Ok(None);
        }
        Ok(Some(Self { terminal: terminal.try_clone_to_owned()?, raw, former: None }))
    }

    /// The program runs: from now on all keys are its own.
    pub(crate) fn hand_over(mut self) -> io::Result<Self> {
        if self.raw {
            let settings = tcgetattr(&self.terminal)?;
            let mut changed = settings.clone();
            cfmakeraw(&mut changed);
            tcsetattr(&self.terminal, SetArg::TCSADRAIN, &changed)?;
            self.former = Some(settings);
        }
        Ok(self)
    }

    /// Every key goes to the program.
    pub(crate) fn is_raw(&self) -> bool {
        self.raw
    }

    /// Whether what is typed now is meant for us.
    pub(crate) fn may_read(&self) -> bool {
        self.is_raw()
            || tcgetattr(&self.terminal)
                .is_ok_and(|settings| settings.local_flags.contains(LocalFlags::ICANON))
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        if let Some(former) = &self.former {
            // What is left of the input goes: a terminal that was asked something by the program answers as if it were
            // typed, and the caller's shell would run it. One that was hung up has no settings any more.
            let _ = tcsetattr(&self.terminal, SetArg::TCSAFLUSH, former);
        }
    }
}

fn sys(error: u7s_sys::Error) -> io::Error {
    io::Error::other(error)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;

    use super::super::shown::Shown;
    use super::*;

    /// A process of the node's user that goes on writing to the terminal of a program that ended kept root for ever.
    #[test]
    fn f39_a_terminal_that_is_written_to_without_end_is_left_in_the_end() {
        let (reader, mut writer) = io::pipe().unwrap();
        fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let flood = std::thread::spawn(move || while writer.write_all(&[b'x'; 4096]).is_ok() {});
        let screen = std::fs::File::options().write(true).open("/dev/null").unwrap();
        let mut shown = Pending::default();
        shown.set(b"first");
        shown.pass_on(reader.as_fd(), screen.as_fd(), &mut |_| {});
        drop(reader);
        flood.join().unwrap();
    }

    fn passed_on(shown: &Shown, text: &[u8]) -> String {
        let (reader, mut writer) = io::pipe().unwrap();
        let (mut shown_there, screen) = io::pipe().unwrap();
        fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        writer.write_all(text).unwrap();
        let mut pending = Pending::edited(shown.terminal());
        pending.pass_on(reader.as_fd(), screen.as_fd(), &mut |_| {});
        drop(screen);
        let mut seen = String::new();
        io::Read::read_to_string(&mut shown_there, &mut seen).unwrap();
        seen
    }

    /// A first piece of which nothing is shown does not end what follows, and the last one needs no line's end.
    #[test]
    fn s39_a_terminal_gets_text_unless_it_is_the_programs_own() {
        let text = format!("{}\n\x1b]0;OWNED\x07\u{9b}31mend\u{44f}", "left out ".repeat(2000));
        let lines =
            Shown::Lines(std::rc::Rc::new(std::cell::RefCell::new(|line: &str| !line.starts_with("left"))));
        assert_eq!(passed_on(&lines, text.as_bytes()), "\\u{1b}]0;OWNED\\u{7}\\u{9b}31mend\u{44f}");
        let all = passed_on(&Shown::Text, text.as_bytes());
        assert!(all.starts_with("left out left") && all.ends_with("\\u{9b}31mend\u{44f}"), "{all}");
        assert_eq!(passed_on(&Shown::Raw, text.as_bytes()), text);
    }

    #[test]
    fn the_last_words_of_a_program_are_shown_whole() {
        let (reader, mut writer) = io::pipe().unwrap();
        let (mut shown_there, screen) = io::pipe().unwrap();
        fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let text = vec![b'y'; 60_000];
        writer.write_all(&text).unwrap();
        let mut shown = Pending::default();
        shown.pass_on(reader.as_fd(), screen.as_fd(), &mut |_| {});
        drop(screen);
        let mut seen = Vec::new();
        io::Read::read_to_end(&mut shown_there, &mut seen).unwrap();
        assert_eq!(seen, text);
    }
}
