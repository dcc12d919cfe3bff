//! Asks whether all still answer: crio over CRI, the kubelet at its health port, the network driver by an echo, and the
//! forwarded ports by a connection.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use u7s_plan::control::Runtime;
use u7s_plan::node::{ComponentName, Forward, Protocol};

use crate::pid_one::PidOne;
use crate::serve::Happened;
use crate::watch::watch;
use crate::{cri, start};

/// The kubelet's `healthzPort`.
///
/// Source: KubeletConfiguration v1beta1.
const HEALTHZ: u16 = 10248;

/// What came of a question.
#[derive(Debug)]
pub(crate) struct Probed {
    /// Who was asked.
    pub(crate) name: ComponentName,
    /// Which process of it, pid inside.
    pub(crate) pid: i32,
    /// The runtime's own words, if it is one; or why there is no answer.
    pub(crate) answer: Result<Option<Runtime>, String>,
}

/// Asks in the background; the answer comes as news.
pub(crate) fn ask(
    (name, pid): (ComponentName, i32),
    pid_one: PidOne,
    cri_socket: PathBuf,
    happened: mpsc::Sender<Happened>,
) {
    tokio::spawn(async move {
        let connected = match name {
            ComponentName::Crio => pid_one.connect(&cri_socket).await,
            ComponentName::Kubelet => pid_one.connect_port(HEALTHZ).await,
        };
        let answer = match (connected, name) {
            (Err(error), _) => Err(crate::error::chain(&error)),
            (Ok(descriptor), ComponentName::Crio) => ask_runtime(descriptor).await.map(Some),
            (Ok(descriptor), ComponentName::Kubelet) => ask_kubelet(descriptor).await.map(|()| None),
        };
        let _ = happened.send(Happened::Probed(Probed { name, pid, answer })).await;
    });
}

/// How long the driver may take to answer an echo: it is on this machine.
const ECHO: Duration = Duration::from_secs(3);

/// Packets that the driver took from tap0, counted when they are read: a driver that is merely busy goes on counting.
///
/// Source: drivers/net/tun.c, `tun_put_user`.
const CARRIED: &str = "/sys/class/net/tap0/statistics/tx_packets";

/// Asks the driver's process `pid` in the background.
pub(crate) fn ask_driver(pid: i32, pid_one: PidOne, gateway: Ipv4Addr, happened: mpsc::Sender<Happened>) {
    tokio::spawn(async move {
        let before = carried(&pid_one).await;
        let answer = match pid_one.connect_icmp(gateway).await {
            Ok(socket) => timeout(crate::patience::of(ECHO), echo(socket)).await,
            // That is not the driver's fault.
            Err(_) => Ok(Ok(Echo::NotAsked)),
        };
        let answer = match answer {
            Ok(Ok(echo)) => Ok(echo),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer to an echo within {} s", crate::patience::of(ECHO).as_secs())),
        };
        let answer = match answer {
            Err(_) if before.is_some() && carried(&pid_one).await != before => Ok(Echo::NotAsked),
            answer => answer,
        };
        let _ = happened.send(Happened::DriverProbed(pid, answer)).await;
    });
}

/// What came of a question to the driver that did not show it to be hung.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Echo {
    /// It answered.
    Answered,
    /// It could not be asked, or was too busy.
    NotAsked,
}

/// # Errors
/// The question could not be sent for lack of room, which a driver that does not read causes.
async fn echo(socket: OwnedFd) -> io::Result<Echo> {
    let socket = watch(socket)?;
    let token = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let token = u64::from(token.subsec_nanos()) << 32 | token.as_secs() & u64::from(u32::MAX);
    let quiet = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    match send(socket.as_raw_fd(), &u7s_net::echo::question(token), quiet) {
        // A packet filter of the node forbids it.
        Err(Errno::EPERM) => return Ok(Echo::NotAsked),
        answer => answer?,
    };
    let mut packet = [0; 128];
    loop {
        let mut ready = socket.readable().await?;
        match recv(socket.as_raw_fd(), &mut packet, quiet) {
            Ok(length) if u7s_net::echo::is_answer(&packet[..length], token) => return Ok(Echo::Answered),
            Ok(_) => {}
            Err(Errno::EAGAIN) => ready.clear_ready(),
            Err(error) => return Err(error.into()),
        }
    }
}

async fn carried(pid_one: &PidOne) -> Option<String> {
    start::read_inside(pid_one, Path::new(CARRIED)).await.ok().flatten()
}

/// How long the forwarded ports together may take until a connection to each gets through.
const FORWARDED: Duration = Duration::from_secs(10);

/// How long one connection may be silent.
const SILENCE: Duration = Duration::from_secs(1);

/// Connects to each forwarded port until something inside has answered: a reset while nothing listens there, an end once something does.
///
/// The host's kernel accepts before the forwarder does: being connected proves nothing.
pub(crate) fn ask_forwards(forwards: Vec<Forward>, happened: mpsc::Sender<Happened>) {
    tokio::spawn(async move {
        let all = async {
            for forward in forwards.iter().filter(|forward| can_be_asked(forward)) {
                while timeout(SILENCE, reach(forward)).await.is_err() {}
            }
        };
        let answered = timeout(crate::patience::of(FORWARDED), all).await.is_ok();
        let _ = happened.send(Happened::Forwarded(answered)).await;
    });
}

/// Datagrams may be lost, and nobody has to answer one: only TCP ports can be asked.
pub(crate) fn can_be_asked(forward: &Forward) -> bool {
    forward.protocol == Protocol::Tcp
}

/// Ends with the connection, or with the first word that is said over it.
///
/// A server that listens already waits for the client's first word; the end of our side makes it end its own.
async fn reach(forward: &Forward) {
    match TcpStream::connect((forward.address, forward.port)).await {
        Ok(mut stream) => {
            let _ = stream.shutdown().await;
            let _ = stream.read(&mut [0; 1]).await;
        }
        // Accepted, handed over and reset before this task had its turn: the socket's error is that of the reset.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
        // Refused by the host itself: there is nothing to be learnt before the silence is over.
        Err(_) => std::future::pending::<()>().await,
    }
}

async fn ask_runtime(descriptor: OwnedFd) -> Result<Runtime, String> {
    let stream = UnixStream::from_std(StdUnixStream::from(descriptor)).map_err(|error| error.to_string())?;
    cri::version(stream).await.map_err(|fault| crate::error::chain(&fault))
}

/// Any answer is one: an unhealthy kubelet is not helped by a restart, a hung one is.
///
/// A closed port is an answer as well: the kubelet opens it late, and its administrator may have moved it.
async fn ask_kubelet(descriptor: OwnedFd) -> Result<(), String> {
    let exchange = async {
        let mut stream = TcpStream::from_std(descriptor.into())?;
        stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").await?;
        stream.read(&mut [0; 16]).await
    };
    match timeout(crate::patience::of(cri::DEADLINE), exchange).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!(
            "no answer from port {HEALTHZ} within {} s",
            crate::patience::of(cri::DEADLINE).as_secs()
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::pin::pin;

    use nix::sys::socket::{setsockopt, sockopt::Linger};

    use super::*;

    #[tokio::test]
    async fn a_connection_that_was_reset_before_its_client_had_its_turn_got_through() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let forward = Forward { protocol: Protocol::Tcp, address: Ipv4Addr::LOCALHOST, port };
        let mut client = pin!(reach(&forward));
        tokio::select! {
            biased;
            () = &mut client => panic!("nobody has answered"),
            () = std::future::ready(()) => {}
        }
        let (server, _) = listener.accept().unwrap();
        setsockopt(&server, Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
        drop(server);
        timeout(Duration::from_secs(5), client).await.unwrap();
    }
}
