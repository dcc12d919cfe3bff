//! Follows a running program: hands it signals and what is typed, shows or keeps what it writes, ends it when it is
//! late.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::termios::tcgetattr;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::isatty;
use u7s_sys::enter::{Failure, Started};
use u7s_sys::pidfd;

use super::clock::Clock;
use super::error::Error;
use super::shown::Shown;
use super::signals::{Signals, obey};
use super::terminal::{Keyboard, Pending, Terminal};
use super::{Ended, Input, Output, Status, nothing};

/// How often a terminal that belongs to another program is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Control-D, termios(3) `VEOF`.
const END_OF_FILE: u8 = 4;

/// Gets what a program writes to its standard output, piece by piece.
pub(crate) type Listener<'a> = &'a mut dyn FnMut(&[u8]);

/// The three standard streams of a program, and our ends of them.
pub(crate) struct Streams {
    standard: [OwnedFd; 3],
    captures: Vec<Capture>,
    terminal: Option<Terminal>,
    /// Which of the three are the terminal.
    replaced: [bool; 3],
    passage: Option<Passage>,
    shown: Shown,
}

/// Standard output on its way through us to the caller's.
struct Passage {
    /// Our end of the program's, which never blocks.
    from: OwnedFd,
    to: OwnedFd,
    waiting: Pending,
}

/// A stream that is kept.
struct Capture {
    reader: Option<OwnedFd>,
    kept: Vec<u8>,
    limit: usize,
    truncated: bool,
}

impl Streams {
    /// Chooses what the program gets as 0, 1 and 2. `owner` is the host uid that it runs as.
    pub(crate) fn new(input: &Input, output: Output, owner: u32) -> Result<Self, Error> {
        let mut captures = Vec::new();
        let first = match input {
            Input::Inherit => own(0)?,
            Input::Null => nothing()?,
            Input::File(file) => copy(file.as_fd())?,
        };
        let mut out = |number| match output {
            Output::Inherit => own(number),
            Output::Null => nothing(),
            Output::Capture(limit) => {
                let (capture, writer) = Capture::new(limit)?;
                captures.push(capture);
                Ok(writer)
            }
        };
        let standard = [first, out(1)?, out(2)?];
        let replaced = standard.each_ref().map(|stream| isatty(stream).unwrap_or(false));
        let mut streams =
            Self { standard, captures, terminal: None, replaced, passage: None, shown: Shown::default() };
        streams.replace_terminals(owner).map_err(watch("the terminal"))?;
        Ok(streams)
    }

    /// How what comes by us is shown.
    pub(crate) fn show(&mut self, shown: Shown) {
        self.shown = shown;
    }

    /// Lets standard output come by us, where a terminal does not make it do so anyway.
    pub(crate) fn pass_by_us(&mut self) -> Result<(), Error> {
        if !self.replaced[1] && self.captures.is_empty() {
            let (from, writer) = pipe()?;
            let to = std::mem::replace(&mut self.standard[1], writer);
            let waiting = Pending::edited(self.shown.elsewhere());
            self.passage = Some(Passage { from, to, waiting });
        }
        Ok(())
    }

    /// The terminal that shows standard output shows everything; with none, that of standard error, or of input.
    fn replace_terminals(&mut self, owner: u32) -> io::Result<()> {
        let Some(screen) = [1, 2, 0].into_iter().find(|number| self.replaced[*number]) else { return Ok(()) };
        let settings = tcgetattr(&self.standard[screen])?;
        let keyboard =
            if self.replaced[0] { Keyboard::take(self.standard[0].as_fd(), self.replaced[1])? } else { None };
        let terminal = Terminal::open(settings, keyboard, self.standard[screen].try_clone()?, owner)?;
        if let Some(slave) = &terminal.slave {
            for (stream, replaced) in self.standard.iter_mut().zip(self.replaced) {
                if replaced {
                    *stream = slave.try_clone()?;
                }
            }
        }
        self.terminal = Some(terminal);
        Ok(())
    }
}

/// A program's surroundings from before its start to after its end.
pub(crate) struct Relay {
    name: String,
    streams: Streams,
    signals: Signals,
    /// The program's output is not the caller's.
    kept: bool,
    typed: Pending,
    shown: Pending,
    /// The program has closed its terminal.
    silent: bool,
}

impl Relay {
    /// Holds back the signals that shall go on to the program, from now on.
    pub(crate) fn begin(streams: Streams, output: Output, name: String) -> Result<Self, Error> {
        let signals = Signals::hold().map_err(|errno| watch(&name)(errno.into()))?;
        let shown = Pending::edited(streams.shown.terminal());
        Ok(Self {
            name,
            streams,
            signals,
            kept: !matches!(output, Output::Inherit),
            typed: Pending::default(),
            shown,
            silent: false,
        })
    }

    /// 0, 1 and 2 of the program.
    pub(crate) fn descriptors(&self) -> [BorrowedFd<'_>; 3] {
        self.streams.standard.each_ref().map(AsFd::as_fd)
    }

    /// Which of them becomes its controlling terminal.
    pub(crate) fn controlling(&self) -> Option<RawFd> {
        (0..3).zip(self.streams.replaced).find_map(|(number, replaced)| replaced.then_some(number))
    }

    /// The signals that were blocked before.
    pub(crate) fn former_mask(&self) -> SigSet {
        self.signals.former()
    }

    /// Readable: a signal asks this process to end.
    pub(crate) fn interrupt(&self) -> BorrowedFd<'_> {
        self.signals.ending()
    }

    /// The program was not started; a signal that has come meanwhile is obeyed.
    pub(crate) fn give_up(mut self, failure: Failure) -> Error {
        while self.signals.next().is_some() {}
        let Some(signal) = self.signals.asked() else {
            return Error::Start { program: self.name.clone(), source: failure };
        };
        self.part_from(signal, Some(failure))
    }

    /// Ends this process by a signal that asked for it, where the program was only a part of it; else says so.
    fn part_from(self, signal: Signal, source: Option<Failure>) -> Error {
        let (program, kept) = (self.name.clone(), self.kept);
        // The caller's terminal gets its settings back, and signals their effect.
        drop(self);
        if kept {
            obey(signal);
        }
        Error::Interrupted { program, signal: signal as i32, source }
    }

    /// Stays with the program until it ends.
    pub(crate) fn follow(
        mut self,
        child: &Started,
        deadline: Option<Duration>,
        heard: Option<Listener<'_>>,
    ) -> Result<Ended, Error> {
        let mut nobody = |_: &[u8]| {};
        let heard = heard.unwrap_or(&mut nobody);
        self.give_up_the_programs_ends().map_err(watch(&self.name))?;
        let part = self.kept || deadline.is_some();
        let mut clock = Clock::new(deadline, part);
        loop {
            if clock.strike(child.pid) {
                break;
            }
            let ready = self.wait(child, clock.left()).map_err(watch(&self.name))?;
            self.serve(&ready, (child, &mut clock), heard);
            if ready.ended {
                break;
            }
        }
        self.drain(heard);
        let ended = end(child).map_err(watch(&self.name))?;
        let asked = self.signals.asked().filter(|_| part);
        match (ended, asked) {
            (_, Some(signal)) => Err(self.part_from(signal, None)),
            (None, None) => Err(Error::LeftBehind { program: self.name, pid: child.pid.as_raw() }),
            (Some(_), None) if part && clock.late() => {
                let seconds = deadline.unwrap_or_default().as_secs();
                Err(Error::Deadline { program: self.name, seconds })
            }
            (Some(status), None) => Ok(self.ended(status)),
        }
    }

    fn ended(self, status: Status) -> Ended {
        let truncated = self.streams.captures.iter().any(|capture| capture.truncated);
        let mut kept = self.streams.captures.into_iter().map(|capture| capture.kept);
        let (stdout, stderr) = (kept.next().unwrap_or_default(), kept.next().unwrap_or_default());
        Ended { status, stdout, stderr, truncated }
    }

    /// Our copies of the program's ends would keep its streams open for ever. The keyboard is the program's now.
    fn give_up_the_programs_ends(&mut self) -> io::Result<()> {
        let null = nothing().map_err(io::Error::other)?;
        for stream in &mut self.streams.standard {
            *stream = null.try_clone()?;
        }
        if let Some(terminal) = &mut self.streams.terminal {
            terminal.slave = None;
            // A terminal that was hung up meanwhile types nothing more.
            terminal.keyboard = terminal.keyboard.take().and_then(|keyboard| keyboard.hand_over().ok());
        }
        Ok(())
    }

    fn wait(&self, child: &Started, left: Option<Duration>) -> io::Result<Ready> {
        let (mut polled, mut events) = (Vec::new(), Vec::new());
        let mut watch = |fd, flags, event| {
            polled.push(PollFd::new(fd, flags));
            events.push(event);
        };
        watch(child.pidfd.as_fd(), PollFlags::POLLIN, Event::Ended);
        watch(self.signals.any(), PollFlags::POLLIN, Event::Signal);
        for (index, capture) in self.streams.captures.iter().enumerate() {
            if let Some(reader) = &capture.reader {
                watch(reader.as_fd(), PollFlags::POLLIN, Event::Captured(index));
            }
        }
        if let Some(passage) = &self.streams.passage {
            if passage.waiting.is_empty() {
                watch(passage.from.as_fd(), PollFlags::POLLIN, Event::Passing);
            } else {
                watch(passage.to.as_fd(), PollFlags::POLLOUT, Event::Passed);
            }
        }
        let mut left = left;
        if let Some(terminal) = &self.streams.terminal {
            if !self.shown.is_empty() {
                watch(terminal.screen.as_fd(), PollFlags::POLLOUT, Event::Screen);
            } else if !self.silent {
                watch(terminal.master.as_fd(), PollFlags::POLLIN, Event::Written);
            }
            match &terminal.keyboard {
                _ if !self.typed.is_empty() => {
                    watch(terminal.master.as_fd(), PollFlags::POLLOUT, Event::Master)
                }
                Some(keyboard) if keyboard.may_read() => {
                    watch(keyboard.terminal.as_fd(), PollFlags::POLLIN, Event::Typed);
                }
                Some(_) => left = Some(left.map_or(LOOK_AGAIN, |left| left.min(LOOK_AGAIN))),
                None => {}
            }
        }
        let timeout =
            left.map_or(PollTimeout::NONE, |left| PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
        match poll(&mut polled, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let happened = |polled: &PollFd<'_>| polled.revents().is_some_and(|events| !events.is_empty());
        let events: Vec<Event> = polled
            .iter()
            .zip(events)
            .filter(|(polled, _)| happened(polled))
            .map(|(_, event)| event)
            .collect();
        Ok(Ready { ended: events.contains(&Event::Ended), events })
    }

    fn serve(&mut self, ready: &Ready, (child, clock): (&Started, &mut Clock), heard: &mut dyn FnMut(&[u8])) {
        for event in &ready.events {
            match event {
                Event::Ended => {}
                Event::Signal => self.forward(child, clock),
                Event::Captured(index) => self.serve_capture(*index, heard),
                Event::Passing | Event::Passed => self.serve_passage(*event, heard),
                _ => self.serve_terminal(*event, heard),
            }
        }
    }

    /// The first is standard output.
    fn serve_capture(&mut self, index: usize, heard: &mut dyn FnMut(&[u8])) {
        let Some(capture) = self.streams.captures.get_mut(index) else { return };
        let known = capture.kept.len();
        capture.read();
        if index == 0 {
            heard(capture.kept.get(known..).unwrap_or_default());
        }
    }

    /// Where either side is gone the other one learns it: the program by its next write.
    fn serve_passage(&mut self, event: Event, heard: &mut dyn FnMut(&[u8])) {
        let Some(passage) = &mut self.streams.passage else { return };
        let open = if event == Event::Passing {
            let open = passage.waiting.fill(passage.from.as_fd());
            heard(passage.waiting.left());
            if !open {
                passage.waiting.write_out(passage.to.as_fd());
            }
            open
        } else {
            passage.waiting.empty(passage.to.as_fd())
        };
        if !open {
            self.streams.passage = None;
        }
    }

    fn serve_terminal(&mut self, event: Event, heard: &mut dyn FnMut(&[u8])) {
        let Some(terminal) = &mut self.streams.terminal else { return };
        match (event, &terminal.keyboard) {
            // Its master stays open: closing it would hang up on children that still have the terminal.
            (Event::Written, _) => {
                self.silent = !self.shown.fill(terminal.master.as_fd());
                heard(self.shown.left());
            }
            // If the caller's terminal is gone, what the program writes is still read, so that it does not wait.
            (Event::Screen, _) => drop(self.shown.empty(terminal.screen.as_fd())),
            (Event::Master, _) => drop(self.typed.empty(terminal.master.as_fd())),
            (Event::Typed, Some(keyboard)) if !self.typed.fill(keyboard.terminal.as_fd()) => {
                // End of file, typed at the start of a line: the new terminal makes the same of the same key.
                self.typed.set(&[END_OF_FILE]);
                terminal.keyboard = None;
            }
            _ => {}
        }
    }

    fn forward(&mut self, child: &Started, clock: &mut Clock) {
        while let Some(signal) = self.signals.next() {
            match signal {
                Signal::SIGWINCH => {
                    if let Some(terminal) = &self.streams.terminal {
                        terminal.fit();
                    }
                }
                // As a terminal would: to the whole group. Our child leads it and is not reaped, so it is the right one.
                Signal::SIGINT | Signal::SIGQUIT | Signal::SIGHUP => drop(killpg(child.pid, signal)),
                signal => drop(pidfd::signal(child.pidfd.as_fd(), Some(signal))),
            }
            clock.ask(signal);
        }
    }

    /// What the program wrote before it ended is already there: it is taken, and nothing more is waited for.
    fn drain(&mut self, heard: &mut dyn FnMut(&[u8])) {
        for (index, capture) in self.streams.captures.iter_mut().enumerate() {
            let known = capture.kept.len();
            capture.drain();
            if index == 0 {
                heard(capture.kept.get(known..).unwrap_or_default());
            }
        }
        if let Some(passage) = &mut self.streams.passage {
            passage.waiting.pass_on(passage.from.as_fd(), passage.to.as_fd(), heard);
        }
        if let Some(terminal) = &self.streams.terminal {
            self.shown.pass_on(terminal.master.as_fd(), terminal.screen.as_fd(), heard);
        }
    }
}

/// Events of one wait.
struct Ready {
    ended: bool,
    events: Vec<Event>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// The program ended.
    Ended,
    /// A signal for it came.
    Signal,
    /// It wrote into this captured stream.
    Captured(usize),
    /// It wrote to its standard output, which comes by us.
    Passing,
    /// The caller's standard output takes more.
    Passed,
    /// It wrote to its terminal.
    Written,
    /// The caller's terminal takes more.
    Screen,
    /// The program's terminal takes more.
    Master,
    /// Something was typed.
    Typed,
}

impl Capture {
    fn new(limit: usize) -> Result<(Self, OwnedFd), Error> {
        let (reader, writer) = pipe()?;
        Ok((Self { reader: Some(reader), kept: Vec::new(), limit, truncated: false }, writer))
    }

    /// Reads once.
    fn read(&mut self) {
        let mut chunk = [0; 16 * 1024];
        let Some(reader) = &self.reader else { return };
        match nix::unistd::read(reader, &mut chunk) {
            Ok(0) => self.reader = None,
            Ok(count) => {
                let room = self.limit - self.kept.len();
                self.truncated |= count > room;
                self.kept.extend_from_slice(chunk.get(..count.min(room)).unwrap_or_default());
            }
            Err(Errno::EINTR) => {}
            // EAGAIN: nothing there now.
            Err(_) => {}
        }
    }

    /// Reads what is there. A child of the program may go on writing: no more than a pipe holds is taken.
    fn drain(&mut self) {
        for _ in 0..64 {
            let mut polled = match &self.reader {
                Some(reader) => [PollFd::new(reader.as_fd(), PollFlags::POLLIN)],
                None => return,
            };
            if !matches!(poll(&mut polled, PollTimeout::ZERO), Ok(1)) {
                return;
            }
            self.read();
        }
    }
}

/// Reaps the program; `None`: it has not ended, and is not waited for.
fn end(child: &Started) -> io::Result<Option<Status>> {
    let mut polled = [PollFd::new(child.pidfd.as_fd(), PollFlags::POLLIN)];
    if poll(&mut polled, PollTimeout::ZERO)? == 0 {
        return Ok(None);
    }
    loop {
        match waitpid(child.pid, None) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(Some(Status::Exited(code))),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(Some(Status::Signaled(signal as i32))),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Our end, which never blocks, and the program's.
fn pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    let (reader, writer) = io::pipe().map_err(watch("a pipe"))?;
    let reader = OwnedFd::from(reader);
    fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|errno| watch("a pipe")(errno.into()))?;
    Ok((reader, writer.into()))
}

/// One of the caller's own three streams.
fn own(number: RawFd) -> Result<OwnedFd, Error> {
    match number {
        0 => copy(io::stdin().as_fd()),
        1 => copy(io::stdout().as_fd()),
        _ => copy(io::stderr().as_fd()),
    }
}

fn copy(fd: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    fd.try_clone_to_owned().map_err(watch(&format!("descriptor {}", fd.as_raw_fd())))
}

fn watch(program: &str) -> impl Fn(io::Error) -> Error {
    let program = program.to_owned();
    move |source| Error::Watch { program: program.clone(), source }
}
