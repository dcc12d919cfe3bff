//! The control socket: who may speak, how much, how long; what is said is decided elsewhere.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener as Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use u7s_plan::control::{Answer, MAX_ANSWER, MAX_REQUEST, Request};

use crate::Error;

/// Clients of each kind that are served at once; others are sent away.
///
/// Root has seats of its own: processes inside have the node's user, and could take all of the others.
const CLIENTS: usize = 16;

/// How long a client may take to say its request, or to take the answer.
const SPEECH: Duration = Duration::from_secs(5);

/// How long an operation may take until its client is told that it goes on without him.
const OPERATION: Duration = Duration::from_secs(120);

/// A request, and where its answer goes.
pub(crate) type Asked = (Request, oneshot::Sender<Answer>);

/// The bound socket; dropped, its name is removed: a socket without a listener only misleads.
#[derive(Debug)]
pub(crate) struct Socket {
    listener: Bound,
    path: PathBuf,
}

impl Drop for Socket {
    fn drop(&mut self) {
        // A stale one that stays is replaced by the next start.
        let _ = fs::remove_file(&self.path);
    }
}

/// Binds the socket, 0600; a stale one is replaced.
///
/// # Errors
/// [`Error::WriteFile`].
pub(crate) fn bind(path: &Path) -> Result<Socket, Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::write(path)(error)),
        _ => {}
    }
    // The directory is 0700, so nobody else connects before the mode is set.
    let listener = Bound::bind(path).map_err(Error::write(path))?;
    let socket = Socket { listener, path: path.to_owned() };
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(Error::write(path))?;
    socket.listener.set_nonblocking(true).map_err(Error::write(path))?;
    Ok(socket)
}

/// Serves clients of `uid` and of root for ever.
///
/// # Errors
/// [`Error::Io`]: the runtime takes no more descriptors.
pub(crate) fn serve(socket: &Socket, uid: u32, asked: mpsc::Sender<Asked>) -> Result<(), Error> {
    let watched = socket.listener.try_clone().and_then(UnixListener::from_std);
    let listener = watched.map_err(Error::io("watch the control socket"))?;
    tokio::spawn(accept(listener, uid, asked));
    Ok(())
}

async fn accept(listener: UnixListener, uid: u32, asked: mpsc::Sender<Asked>) {
    /// EMFILE and its like come again at once.
    const PAUSE: Duration = Duration::from_millis(100);
    let [roots, users] = [0; 2].map(|_: u8| Arc::new(Semaphore::new(CLIENTS)));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let Ok(peer) = stream.peer_cred().map(|peer| peer.uid()) else { continue };
        let seats = if peer == 0 { &roots } else { &users };
        let Ok(seat) = Arc::clone(seats).try_acquire_owned() else {
            send_away(&stream);
            continue;
        };
        let asked = asked.clone();
        let known = peer == 0 || peer == uid;
        tokio::spawn(async move {
            // A client that went away or was silent is no event of ours.
            let _ = converse(stream, known, asked).await;
            drop(seat);
        });
    }
}

/// Tells a client as much as its socket takes at once.
fn send_away(stream: &UnixStream) {
    let mut text = serde_json::to_vec(&refuse("too many ask at once")).unwrap_or_default();
    text.push(b'\n');
    let _ = stream.try_write(&text);
}

async fn converse(stream: UnixStream, known: bool, asked: mpsc::Sender<Asked>) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    // Read in any case: closing before would reset the connection, and with it the refusal.
    let mut line = Vec::new();
    let mut reader = BufReader::new(reader.take(MAX_REQUEST as u64 + 1));
    timeout(SPEECH, reader.read_until(b'\n', &mut line)).await??;
    let answer =
        if known { answer(&line, asked).await } else { refuse("only root and the node's user may ask") };
    let mut text = serde_json::to_vec(&answer)?;
    if text.len() > MAX_ANSWER {
        // The client would read no more than that, and could not say why.
        text = serde_json::to_vec(&refuse(format!("the answer has {} bytes, too many", text.len())))?;
    }
    text.push(b'\n');
    timeout(SPEECH, writer.write_all(&text)).await?
}

async fn answer(line: &[u8], asked: mpsc::Sender<Asked>) -> Answer {
    if line.len() > MAX_REQUEST {
        return refuse("the request is too long");
    }
    let request = match serde_json::from_slice(line) {
        Ok(request) => request,
        Err(error) => return refuse(format!("the request is not understood: {error}")),
    };
    let (sender, receiver) = oneshot::channel();
    if asked.send((request, sender)).await.is_err() {
        return refuse("the node is being stopped");
    }
    match timeout(OPERATION, receiver).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => refuse("the node is being stopped"),
        Err(_) => refuse(format!("not done within {} s; it goes on", OPERATION.as_secs())),
    }
}

/// [`Answer::Refused`] in the given words.
pub(crate) fn refuse(reason: impl Into<String>) -> Answer {
    Answer::Refused { reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(uid: u32, said: &[u8]) -> String {
        ask_for(Answer::Done, uid, said).await
    }

    async fn ask_for(given: Answer, uid: u32, said: &[u8]) -> String {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("control.sock");
        let (sender, mut receiver) = mpsc::channel::<Asked>(1);
        let socket = bind(&path).unwrap();
        serve(&socket, uid, sender).unwrap();
        tokio::spawn(async move {
            while let Some((_, answer)) = receiver.recv().await {
                answer.send(given.clone()).unwrap();
            }
        });
        let mut stream = UnixStream::connect(&path).await.unwrap();
        // A refused client may be cut off while it still speaks.
        let _ = stream.write_all(said).await;
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text).await;
        text
    }

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn a_request_is_answered_in_one_line() {
        let own = nix::unistd::geteuid().as_raw();
        let text = block_on(ask(own, b"{\"request\":\"start\",\"component\":\"crio\"}\n"));
        assert_eq!(text, "{\"answer\":\"done\"}\n");
    }

    #[test]
    fn an_unknown_request_is_refused() {
        let own = nix::unistd::geteuid().as_raw();
        let text = block_on(ask(own, b"{\"request\":\"explode\"}\n"));
        assert!(
            text.starts_with("{\"answer\":\"refused\",\"reason\":\"the request is not understood: "),
            "{text}"
        );
    }

    #[test]
    fn an_endless_request_is_refused() {
        let own = nix::unistd::geteuid().as_raw();
        let text = block_on(ask(own, &vec![b'x'; MAX_REQUEST + 1]));
        assert_eq!(text, "{\"answer\":\"refused\",\"reason\":\"the request is too long\"}\n");
    }

    #[test]
    fn an_answer_that_no_client_would_read_is_refused_in_a_sentence() {
        let own = nix::unistd::geteuid().as_raw();
        let endless = refuse("x".repeat(MAX_ANSWER));
        let text = block_on(ask_for(endless, own, b"{\"request\":\"status\"}\n"));
        assert!(text.starts_with("{\"answer\":\"refused\",\"reason\":\"the answer has "), "{text:.99}");
    }

    #[test]
    fn the_socket_is_for_its_owner_only_and_replaces_a_stale_one() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("control.sock");
        drop(Bound::bind(&path).unwrap());
        let socket = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(socket);
        assert!(!path.exists(), "a socket without a listener is left");
    }
}
