//! Starts processes that shall die with this one.
//!
//! The kernel sends the parent-death signal when the *thread* that started a process ends, and test runners end
//! threads all the time: so one thread, which lives as long as the process, starts them all.

use std::io;
use std::process::{Child, Command};
use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

type Order = (Command, Sender<io::Result<Child>>);

/// Starts a command from the thread that never ends.
pub(crate) fn spawn(command: Command) -> io::Result<Child> {
    static ORDERS: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    let orders = ORDERS.get_or_init(|| Mutex::new(start_thread()));
    let (reply, answer) = mpsc::channel();
    let gone = || io::Error::other("the starting thread has ended");
    orders.lock().unwrap_or_else(PoisonError::into_inner).send((command, reply)).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}

/// A command to add words to: what they name dies with this process, or has a session of its own and does not.
pub(crate) fn ending_with_us(yes: bool) -> Command {
    if !yes {
        return Command::new("setsid");
    }
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]);
    command
}

fn start_thread() -> Sender<Order> {
    let (sender, orders) = mpsc::channel::<Order>();
    thread::spawn(move || {
        for (mut command, reply) in orders {
            let _ = reply.send(command.spawn());
        }
    });
    sender
}
