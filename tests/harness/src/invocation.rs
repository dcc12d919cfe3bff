//! One command to run in a node, on a client or in the lan: what, as whom, with which input, how long.

use std::process::Command;
use std::time::Duration;

use crate::command::wanted;
use crate::{Error, Output, Running};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const LIMIT: Duration = Duration::from_secs(60);

/// A command line with its surroundings; nothing runs before [`run`](Self::run), [`ok`](Self::ok) or [`spawn`](Self::spawn).
///
/// The environment holds PATH, HOME, TERM and LANG only, and what [`env`](Self::env) adds.
#[derive(Debug, Clone)]
#[must_use]
pub struct Invocation {
    enter: Vec<String>,
    argv: Vec<String>,
    env: Vec<String>,
    user: Option<String>,
    dir: Option<String>,
    input: Vec<u8>,
    limit: Duration,
}

impl Invocation {
    /// `enter` is the start of a command line that brings the rest to its place; its own exit status, standard streams and
    /// end are those of the rest.
    pub fn new<S: AsRef<str>>(enter: Vec<String>, argv: &[S]) -> Self {
        let env = [&format!("PATH={PATH}"), "HOME=/root", "TERM=xterm", "LANG=C.UTF-8"].map(String::from);
        let argv = argv.iter().map(|arg| arg.as_ref().to_string()).collect();
        Self { enter, argv, env: env.into(), user: None, dir: None, input: Vec::new(), limit: LIMIT }
    }

    /// Sets a variable of the environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push(format!("{name}={value}"));
        self
    }

    /// Puts a directory in front of PATH.
    pub fn first_in_path(self, dir: &str) -> Self {
        self.env("PATH", &format!("{dir}:{PATH}"))
    }

    /// Runs as this user of the node, with the user's groups and without capabilities.
    pub fn user(mut self, name: &str) -> Self {
        self.user = Some(name.into());
        self
    }

    /// Runs in this directory.
    pub fn dir(mut self, dir: &str) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Gives it a standard input; without, it is `/dev/null`.
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self
    }

    /// Sets the deadline, by default 60 s.
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs it to its end, whatever its status.
    ///
    /// # Errors
    /// It cannot be started, or is killed at its deadline.
    pub fn run(self) -> Result<Output, Error> {
        let limit = self.limit;
        self.spawn()?.wait(limit)
    }

    /// Runs it, wants status 0 and gives its standard output without the last newline.
    ///
    /// # Errors
    /// As [`run`](Self::run), and [`Error::Command`] with the whole output for another status.
    pub fn ok(self) -> Result<String, Error> {
        let shown = self.argv.join(" ");
        let output = wanted(&shown, self.run()?)?;
        Ok(output.stdout.strip_suffix('\n').unwrap_or(&output.stdout).to_string())
    }

    /// Starts it; the deadline is then the one given to [`Running::wait`].
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(self) -> Result<Running, Error> {
        let shown = self.argv.join(" ");
        let input = self.input.clone();
        let mut words = self.command_line().into_iter();
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words);
        Running::start(command, shown, &input)
    }

    /// The whole command line for this machine, for those who run it themselves.
    #[must_use]
    pub fn command_line(&self) -> Vec<String> {
        let mut words = self.enter.clone();
        words.extend(["env", "-i"].map(String::from));
        if let Some(dir) = &self.dir {
            words.extend(["-C".into(), dir.clone()]);
        }
        words.extend(self.env.iter().cloned());
        if let Some(user) = &self.user {
            let who = ["setpriv", "--reuid", user, "--regid", user, "--init-groups", "--"];
            words.extend(who.map(String::from));
        }
        words.extend(self.argv.iter().cloned());
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_only_what_was_given() {
        let seen = Invocation::new(Vec::new(), &["env"]).env("A", "b c").ok().unwrap();
        let mut lines: Vec<&str> = seen.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["A=b c", "HOME=/root", "LANG=C.UTF-8", &format!("PATH={PATH}"), "TERM=xterm"]);
    }

    #[test]
    fn a_status_that_is_not_wanted_shows_the_output() {
        let error = Invocation::new(Vec::new(), &["sh", "-c", "echo why >&2; exit 4"]).ok().unwrap_err();
        assert!(error.to_string().contains("stderr: why"), "{error}");
    }

    #[test]
    fn a_directory_and_input() {
        let seen = Invocation::new(Vec::new(), &["sh", "-c", "pwd; cat"]).dir("/usr").input("text").ok();
        assert_eq!(seen.unwrap(), "/usr\ntext");
    }
}
