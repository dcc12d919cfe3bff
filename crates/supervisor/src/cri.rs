//! Asks the container runtime for its version: the one CRI call that tells "it answers" from "its socket is there".
//!
//! gRPC by hand over h2: docs/decisions/0001-cri-by-h2.md.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client;
use http::{HeaderMap, Request};
use prost::Message;
use tokio::net::UnixStream;
use u7s_plan::control::Runtime;

/// The longest answer that is read, bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// How long one call may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(5);

/// Why a call gave no version.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Not in time.
    #[error("no answer within {} s", crate::patience::of(DEADLINE).as_secs())]
    Late,
    /// The transport broke.
    #[error("HTTP/2")]
    Http(#[from] h2::Error),
    /// The server refused.
    #[error("gRPC status {code}: {message}")]
    Status {
        /// Source: <https://grpc.io/docs/guides/status-codes/>.
        code: String,
        /// The server's words.
        message: String,
    },
    /// The answer is longer than [`MAX_ANSWER`].
    #[error("the answer is too long")]
    TooLong,
    /// The answer is no whole gRPC message.
    #[error("the answer is no gRPC message")]
    Frame,
    /// The message is no VersionResponse.
    #[error("the answer is no VersionResponse")]
    Decode(#[from] prost::DecodeError),
}

/// `runtime.v1.VersionRequest`.
///
/// Source: k8s.io/cri-api, pkg/apis/runtime/v1/api.proto.
#[derive(Clone, PartialEq, Message)]
struct VersionRequest {
    #[prost(string, tag = "1")]
    version: String,
}

/// `runtime.v1.VersionResponse`.
#[derive(Clone, PartialEq, Message)]
struct VersionResponse {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(string, tag = "2")]
    runtime_name: String,
    #[prost(string, tag = "3")]
    runtime_version: String,
    #[prost(string, tag = "4")]
    runtime_api_version: String,
}

/// Calls `runtime.v1.RuntimeService/Version` over a connected stream.
///
/// # Errors
/// [`Fault`].
pub(crate) async fn version(stream: UnixStream) -> Result<Runtime, Fault> {
    tokio::time::timeout(crate::patience::of(DEADLINE), call(stream)).await.unwrap_or(Err(Fault::Late))
}

async fn call(stream: UnixStream) -> Result<Runtime, Fault> {
    let (sender, connection) = client::handshake(stream).await?;
    let driver = tokio::spawn(connection);
    let answer = exchange(sender).await;
    driver.abort();
    let answer = VersionResponse::decode(unframe(answer?)?)?;
    Ok(Runtime { name: answer.runtime_name, version: answer.runtime_version })
}

async fn exchange(sender: client::SendRequest<Bytes>) -> Result<Bytes, Fault> {
    let mut sender = sender.ready().await?;
    let (answer, mut body) = sender.send_request(request(), false)?;
    body.send_data(frame(&VersionRequest { version: "v1".to_owned() }), true)?;
    let (head, mut body) = answer.await?.into_parts();
    check(&head.headers)?;
    let mut text = BytesMut::new();
    while let Some(part) = body.data().await {
        let part = part?;
        body.flow_control().release_capacity(part.len())?;
        text.put(part);
        if text.len() > MAX_ANSWER {
            return Err(Fault::TooLong);
        }
    }
    if let Some(trailers) = body.trailers().await? {
        check(&trailers)?;
    }
    Ok(text.freeze())
}

fn request() -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = http::Method::POST;
    *request.version_mut() = http::Version::HTTP_2;
    *request.uri_mut() = http::Uri::from_static("http://localhost/runtime.v1.RuntimeService/Version");
    let headers = request.headers_mut();
    headers.insert("content-type", http::HeaderValue::from_static("application/grpc"));
    headers.insert("te", http::HeaderValue::from_static("trailers"));
    request
}

/// A failed call carries a status other than 0, in the trailers or, without a body, in the headers.
fn check(headers: &HeaderMap) -> Result<(), Fault> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    match text("grpc-status").as_str() {
        "" | "0" => Ok(()),
        code => Err(Fault::Status { code: code.to_owned(), message: text("grpc-message") }),
    }
}

/// Source: gRPC over HTTP/2, "Length-Prefixed-Message": one byte of flags, four of length, the message.
fn frame(message: &impl Message) -> Bytes {
    let text = message.encode_to_vec();
    let mut framed = BytesMut::with_capacity(text.len() + 5);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
    framed.put_slice(&text);
    framed.freeze()
}

fn unframe(answer: Bytes) -> Result<Bytes, Fault> {
    let (head, text) = answer.split_first_chunk::<5>().ok_or(Fault::Frame)?;
    let [flags, length @ ..] = *head;
    if flags != 0 || usize::try_from(u32::from_be_bytes(length)).ok() != Some(text.len()) {
        return Err(Fault::Frame);
    }
    Ok(answer.slice(5..))
}

/// Bytes of a server of gRPC, and the same as the body of its answer.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(data: &[u8]) {
    use std::io::Write;
    if let Ok(text) = unframe(Bytes::copy_from_slice(data)) {
        let _ = VersionResponse::decode(text);
    }
    let _ = VersionResponse::decode(data);
    let Ok((ours, mut theirs)) = std::os::unix::net::UnixStream::pair() else { return };
    // As much as a socket takes: the rest is cut off, as every answer may be.
    let sent = theirs.set_nonblocking(true).and_then(|()| theirs.write(data));
    let closed = theirs.shutdown(std::net::Shutdown::Write);
    if sent.is_err() || closed.is_err() || ours.set_nonblocking(true).is_err() {
        return;
    }
    thread_local! {
        static RUNTIME: Option<tokio::runtime::Runtime> =
            tokio::runtime::Builder::new_current_thread().enable_all().build().ok();
    }
    RUNTIME.with(|runtime| {
        let Some(runtime) = runtime else { return };
        runtime.block_on(async {
            let Ok(ours) = UnixStream::from_std(ours) else { return };
            let said = version(ours).await;
            assert!(!matches!(said, Err(Fault::Late)), "a stream that has ended is waited for");
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A gRPC server of one answer, speaking HTTP/2 by the same crate's other half.
    async fn served(body: Option<Bytes>, status: &'static str) -> Result<Runtime, Fault> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let server = tokio::spawn(async move {
            let mut connection = h2::server::handshake(theirs).await.unwrap();
            let (request, mut answer) = connection.accept().await.unwrap().unwrap();
            assert_eq!(request.uri().path(), "/runtime.v1.RuntimeService/Version");
            assert_eq!(request.headers()["content-type"], "application/grpc");
            let mut sender = answer.send_response(http::Response::new(()), false).unwrap();
            if let Some(body) = body {
                sender.send_data(body, false).unwrap();
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", status.parse().unwrap());
            trailers.insert("grpc-message", "words".parse().unwrap());
            sender.send_trailers(trailers).unwrap();
            while let Some(next) = connection.accept().await {
                drop(next);
            }
        });
        let said = version(ours).await;
        server.abort();
        said
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn the_runtime_tells_its_name_and_version() {
        let answer = VersionResponse {
            version: "0.1.0".into(),
            runtime_name: "cri-o".into(),
            runtime_version: "1.34.0".into(),
            runtime_api_version: "v1".into(),
        };
        let said = runtime().block_on(served(Some(frame(&answer)), "0")).unwrap();
        assert_eq!((said.name.as_str(), said.version.as_str()), ("cri-o", "1.34.0"));
    }

    #[test]
    fn a_refusal_keeps_its_status_and_words() {
        let said = runtime().block_on(served(None, "12")).unwrap_err();
        assert_eq!(said.to_string(), "gRPC status 12: words");
    }

    #[test]
    fn half_a_message_is_refused() {
        let said =
            runtime().block_on(served(Some(Bytes::from_static(&[0, 0, 0, 0, 9, 1])), "0")).unwrap_err();
        assert_eq!(said.to_string(), "the answer is no gRPC message");
    }

    #[test]
    fn a_silent_server_is_late() {
        let said = runtime().block_on(async {
            tokio::time::pause();
            let (ours, _theirs) = UnixStream::pair().unwrap();
            version(ours).await.unwrap_err()
        });
        assert_eq!(said.to_string(), "no answer within 5 s");
    }
}
