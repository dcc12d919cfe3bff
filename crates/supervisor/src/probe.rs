//! Asks components whether they still answer: crio over CRI, the kubelet at its health port.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use u7s_plan::control::Runtime;
use u7s_plan::node::ComponentName;

use crate::cri;
use crate::pid_one::PidOne;
use crate::serve::Happened;

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
    match timeout(cri::DEADLINE, exchange).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer from port {HEALTHZ} within {} s", cri::DEADLINE.as_secs())),
    }
}
