//! A client of the supervisor's control socket: one JSON request, one JSON answer, within a deadline.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket, sockopt::PeerCredentials,
};
use nix::sys::stat::{SFlag, fstat};

use u7s_plan::control::{Answer, MAX_ANSWER, Port, Request, SOCKET, Status};
use u7s_plan::need::Unmet;

use crate::files;

/// How long an answer may take when the request itself starts and stops nothing.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How much of an answer is read at once, bytes.
const CHUNK: usize = 64 * 1024;

/// Why the supervisor gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens: u7s.service does not run.
    #[error("the node's namespaces do not run: nobody answers at {}", path.display())]
    NotRunning {
        /// The socket.
        path: PathBuf,
    },
    /// The caller is neither root nor the node's user.
    #[error("only root and the node's user may ask {}", path.display())]
    Denied {
        /// The socket.
        path: PathBuf,
    },
    /// Somebody else listens there.
    #[error("{} is served by uid {found}, not by the node's user, uid {expected}", path.display())]
    Stranger {
        /// The socket.
        path: PathBuf,
        /// Whose process listens.
        found: u32,
        /// Whose should.
        expected: u32,
    },
    /// Something else than a socket lies there, or the way to it leads through a link: nothing of it was opened.
    #[error("{} is no socket of the node, or is reached through a symbolic link", path.display())]
    NoSocket {
        /// Its place.
        path: PathBuf,
    },
    /// No answer in time.
    #[error("u7s.service gave no answer within {seconds} s")]
    Deadline {
        /// Seconds.
        seconds: u64,
    },
    /// The connection broke.
    #[error("cannot talk to u7s.service at {}", path.display())]
    Talk {
        /// The socket.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// The answer is longer than any answer may be, is cut, or is no known message.
    #[error("u7s.service answered with something that is no answer")]
    Garbled,
    /// The host lacks something that has an id and a remedy.
    #[error("{}", .0.message)]
    Unmet(Box<Unmet>),
    /// It answered something else than the question asks for.
    #[error("u7s.service refused: {reason}")]
    Refused {
        /// Its sentence.
        reason: String,
    },
}

/// Where to ask, and whom.
#[derive(Debug, Clone)]
pub struct Client {
    path: PathBuf,
    uid: u32,
    patience: Duration,
}

impl Client {
    /// A client of the running node; `uid` is the node's user as this process sees it (0 inside the namespaces).
    #[must_use]
    pub fn new(uid: u32) -> Self {
        Self { path: SOCKET.into(), uid, patience: PATIENCE }
    }

    /// Another socket, for tests and for nodes seen from elsewhere.
    #[must_use]
    pub fn at(self, path: &Path) -> Self {
        Self { path: path.to_owned(), ..self }
    }

    /// Another deadline, for requests that start or stop something.
    #[must_use]
    pub fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The whole state of the node.
    ///
    /// # Errors
    /// As [`Client::ask`], and `Refused`.
    pub fn status(&self) -> Result<Status, Error> {
        match self.ask(&Request::Status)? {
            Answer::Status(status) => Ok(*status),
            Answer::Refused { reason } => Err(Error::Refused { reason }),
            _ => Err(Error::Garbled),
        }
    }

    /// All ports of the host that lead inside, or should.
    ///
    /// # Errors
    /// As [`Client::ask`], and `Refused`.
    pub fn ports(&self) -> Result<Vec<Port>, Error> {
        match self.ask(&Request::PortsList)? {
            Answer::Ports { ports } => Ok(ports),
            Answer::Refused { reason } => Err(Error::Refused { reason }),
            _ => Err(Error::Garbled),
        }
    }

    /// Asks for something to be done.
    ///
    /// # Errors
    /// As [`Client::ask`], `Refused` and `Unmet`.
    pub fn done(&self, request: &Request) -> Result<(), Error> {
        match self.ask(request)? {
            Answer::Done => Ok(()),
            Answer::Unmet(unmet) => Err(Error::Unmet(Box::new(unmet))),
            Answer::Refused { reason } => Err(Error::Refused { reason }),
            _ => Err(Error::Garbled),
        }
    }

    /// One request, one answer.
    ///
    /// # Errors
    /// `NotRunning`, `Denied`, `NoSocket`, `Stranger` before anything was sent; `Deadline`, `Talk`, `Garbled` after.
    pub fn ask(&self, request: &Request) -> Result<Answer, Error> {
        let until = Instant::now() + self.patience;
        let mut stream = self.connect(until)?;
        let mut line = serde_json::to_vec(request).map_err(|_| Error::Garbled)?;
        line.push(b'\n');
        stream.set_write_timeout(Some(self.left(until)?)).map_err(|error| self.broken(error))?;
        stream.write_all(&line).map_err(|error| self.broken(error))?;
        serde_json::from_slice(&self.read_line(&mut stream, until)?).map_err(|_| Error::Garbled)
    }

    /// A full backlog makes a blocking connect wait without end, so this one does not block.
    ///
    /// Root connects to nothing but a socket that the node's user made: who asked systemd to start a service by a
    /// connection would need no more than a link. What was looked at is what is connected to, by its descriptor.
    fn connect(&self, until: Instant) -> Result<UnixStream, Error> {
        let held = self.hold()?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let talk = |errno: Errno| self.broken(errno.into());
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(talk)?;
        let address = UnixAddr::new(&files::proc_path(&held)).map_err(talk)?;
        loop {
            match connect(socket.as_raw_fd(), &address) {
                Ok(()) => break,
                Err(Errno::EAGAIN | Errno::EINTR) => {
                    std::thread::sleep(self.left(until)?.min(Duration::from_millis(10)));
                }
                Err(Errno::ENOENT | Errno::ECONNREFUSED | Errno::ENOTDIR) => {
                    return Err(Error::NotRunning { path: self.path.clone() });
                }
                Err(Errno::EACCES) => return Err(Error::Denied { path: self.path.clone() }),
                Err(errno) => return Err(talk(errno)),
            }
        }
        self.check_peer(&socket)?;
        let stream = UnixStream::from(socket);
        stream.set_nonblocking(false).map_err(|error| self.broken(error))?;
        Ok(stream)
    }

    /// The directory belongs to the node's user, who could put anything there.
    fn hold(&self) -> Result<OwnedFd, Error> {
        let held = files::open(&self.path, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC);
        let held = held.map_err(|errno| match errno {
            Errno::ENOENT | Errno::ENOTDIR => Error::NotRunning { path: self.path.clone() },
            Errno::EACCES => Error::Denied { path: self.path.clone() },
            Errno::ELOOP => Error::NoSocket { path: self.path.clone() },
            other => self.broken(other.into()),
        })?;
        let seen = fstat(&held).map_err(|errno| self.broken(errno.into()))?;
        if !files::is(&seen, SFlag::S_IFSOCK) {
            return Err(Error::NoSocket { path: self.path.clone() });
        }
        if seen.st_uid != self.uid {
            return Err(Error::Stranger { path: self.path.clone(), found: seen.st_uid, expected: self.uid });
        }
        Ok(held)
    }

    /// Who listens may be somebody else than who made the socket.
    fn check_peer(&self, socket: &OwnedFd) -> Result<(), Error> {
        let peer = getsockopt(socket, PeerCredentials).map_err(|errno| self.broken(errno.into()))?;
        if peer.uid() == self.uid {
            return Ok(());
        }
        Err(Error::Stranger { path: self.path.clone(), found: peer.uid(), expected: self.uid })
    }

    fn read_line(&self, stream: &mut UnixStream, until: Instant) -> Result<Vec<u8>, Error> {
        let mut line = Vec::new();
        let mut chunk = vec![0; CHUNK];
        loop {
            stream.set_read_timeout(Some(self.left(until)?)).map_err(|error| self.broken(error))?;
            let count = match stream.read(&mut chunk) {
                Ok(0) => return Err(Error::Garbled),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.broken(error)),
            };
            let read = chunk.get(..count).unwrap_or_default();
            let end = read.iter().position(|byte| *byte == b'\n');
            line.extend_from_slice(read.get(..end.unwrap_or(count)).unwrap_or_default());
            if line.len() > MAX_ANSWER {
                return Err(Error::Garbled);
            }
            if end.is_some() {
                return Ok(line);
            }
        }
    }

    /// What is left of the patience; never zero, which would mean without end.
    fn left(&self, until: Instant) -> Result<Duration, Error> {
        match until.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(self.late()),
            left => Ok(left),
        }
    }

    fn broken(&self, source: io::Error) -> Error {
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => self.late(),
            _ => Error::Talk { path: self.path.clone(), source },
        }
    }

    fn late(&self) -> Error {
        Error::Deadline { seconds: self.patience.as_secs() }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread::JoinHandle;

    use tempfile::TempDir;
    use u7s_plan::control::Origin;
    use u7s_plan::node::{ComponentName, Forward, Protocol};

    use super::*;

    /// A socket whose one connection is answered with `answer`; the thread gives back the request.
    fn serve(answer: Vec<u8>) -> (TempDir, Client, JoinHandle<Vec<u8>>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let count = stream.read(&mut request).unwrap();
            let _ = stream.write_all(&answer);
            request[..count].to_vec()
        });
        let client = Client::new(nix::unistd::geteuid().as_raw()).at(&path);
        (dir, client, server)
    }

    #[test]
    fn a_request_is_one_line_and_its_answer_is_read() {
        let (_dir, client, server) = serve(b"{\"answer\":\"done\"}\n".to_vec());
        client.done(&Request::Start { component: ComponentName::Kubelet }).unwrap();
        assert_eq!(server.join().unwrap(), b"{\"request\":\"start\",\"component\":\"kubelet\"}\n");
    }

    #[test]
    fn a_refusal_keeps_its_reason() {
        let (_dir, client, _server) =
            serve(b"{\"answer\":\"refused\",\"reason\":\"crio is gone\"}\n".to_vec());
        let error = client.status().unwrap_err();
        assert_eq!(error.to_string(), "u7s.service refused: crio is gone");
    }

    #[test]
    fn f65_garbage_and_a_cut_answer_and_an_endless_one_are_no_answer() {
        for answer in [b"hello\n".to_vec(), b"{\"answer\":".to_vec(), vec![b'x'; MAX_ANSWER * 2]] {
            let (_dir, client, _server) = serve(answer);
            assert!(matches!(client.status(), Err(Error::Garbled | Error::Talk { .. })));
        }
    }

    /// As many as the manual promises to Services, none of which the host gives.
    #[test]
    fn a_list_of_4096_ports_is_read() {
        let port = |number: u16| Port {
            forward: Forward {
                protocol: Protocol::Tcp,
                address: [192, 168, 100, 100].into(),
                port: 20_000 + number,
            },
            origin: Origin::Service,
            problem: Some("LowPort: ".repeat(20)),
        };
        let ports: Vec<Port> = (0..4096).map(port).collect();
        let mut answer = serde_json::to_vec(&Answer::Ports { ports: ports.clone() }).unwrap();
        answer.push(b'\n');
        let (_dir, client, _server) = serve(answer);
        assert_eq!(client.ports().unwrap(), ports);
    }

    #[test]
    fn f65_a_silent_peer_costs_the_deadline_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        let client = Client::new(nix::unistd::geteuid().as_raw()).at(&path);
        let begun = Instant::now();
        let error = client.patience(Duration::from_millis(200)).status().unwrap_err();
        assert!(matches!(error, Error::Deadline { .. }), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn nobody_there_means_not_running() {
        let dir = tempfile::tempdir().unwrap();
        let client = Client::new(0).at(&dir.path().join("none.sock"));
        assert!(matches!(client.status(), Err(Error::NotRunning { .. })));
    }

    #[test]
    fn s15_a_socket_of_somebody_else_is_not_even_connected_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let own = nix::unistd::geteuid().as_raw();
        let client = Client::new(own + 1).at(&path);
        assert!(matches!(client.status(), Err(Error::Stranger { found, .. }) if found == own));
        let link = dir.path().join("link.sock");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(Client::new(own).at(&link).status(), Err(Error::NoSocket { .. })));
        let above = dir.path().join("above");
        std::os::unix::fs::symlink(dir.path(), &above).unwrap();
        let reached = Client::new(own).at(&above.join("control.sock")).status();
        assert!(matches!(reached, Err(Error::NoSocket { .. })));
        let file = dir.path().join("file.sock");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(Client::new(own).at(&file).status(), Err(Error::NoSocket { .. })));
        let nobody = listener.accept().map(drop).unwrap_err();
        assert_eq!(nobody.kind(), io::ErrorKind::WouldBlock, "somebody connected");
    }
}
