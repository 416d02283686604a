//! A client by hyper, over HTTP/1.1 or HTTP/2: one connection, kept.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::mpsc;

use super::raw::Io;
use super::within;

/// The body of a request.
pub(crate) type Body = BoxBody<Bytes, Infallible>;

/// A connection to the program.
pub(crate) struct Client {
    sender: Sender,
}

enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Response {
    /// The content as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A field's value, if it is there.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

impl Client {
    /// Speaks HTTP/1.1 on a stream.
    pub(crate) async fn http1(stream: impl Io + 'static) -> Self {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self {
            sender: Sender::Http1(sender),
        }
    }

    /// Speaks HTTP/2 on a stream.
    pub(crate) async fn http2(stream: impl Io + 'static) -> Self {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        Self {
            sender: Sender::Http2(sender),
        }
    }

    /// The same connection once more, for requests at the same time: HTTP/2 only.
    pub(crate) fn another(&self) -> Self {
        match &self.sender {
            Sender::Http1(_) => panic!("an HTTP/1.1 connection has one request at a time"),
            Sender::Http2(sender) => Self {
                sender: Sender::Http2(sender.clone()),
            },
        }
    }

    /// GET, read whole.
    pub(crate) async fn get(&mut self, path: &str) -> Response {
        self.send(request(Method::GET, path, empty())).await
    }

    /// Who answers so many requests, by the names that [`Backend::named`] backends answer with.
    ///
    /// [`Backend::named`]: super::backend::Backend::named
    pub(crate) async fn who(&mut self, count: usize) -> String {
        let mut names = String::new();
        for _ in 0..count {
            let answer = self.get("/").await;
            assert_eq!(answer.status, 200);
            names += &answer.text();
        }
        names
    }

    /// POST, read whole.
    pub(crate) async fn post(&mut self, path: &str, content: impl Into<Bytes>) -> Response {
        self.send(request(Method::POST, path, full(content))).await
    }

    /// Sends a request whose target is a path, for the host `localhost` if it names none.
    pub(crate) async fn send(&mut self, request: Request<Body>) -> Response {
        self.try_send(request).await.expect("an answer")
    }

    /// The same where the connection may end before the answer has.
    pub(crate) async fn try_send(&mut self, request: Request<Body>) -> hyper::Result<Response> {
        within("the answer is whole", async {
            let (parts, body) = self.start(request).await?.into_parts();
            let body = body.collect().await?;
            Ok(Response {
                status: parts.status,
                headers: parts.headers,
                trailers: body.trailers().cloned(),
                body: body.to_bytes(),
            })
        })
        .await
    }

    /// Sends a request and reads only the head of the answer.
    pub(crate) async fn start(
        &mut self,
        mut request: Request<Body>,
    ) -> hyper::Result<http::Response<Incoming>> {
        match &mut self.sender {
            Sender::Http1(sender) => {
                let headers = request.headers_mut();
                if !headers.contains_key(HOST) {
                    headers.insert(HOST, HeaderValue::from_static("localhost"));
                }
                within("the connection is ready", sender.ready()).await?;
                within("the answer begins", sender.send_request(request)).await
            }
            Sender::Http2(sender) => {
                let path = request.uri().path_and_query().unwrap().as_str();
                if request.uri().authority().is_none() {
                    let uri = Uri::try_from(format!("https://localhost{path}")).unwrap();
                    *request.uri_mut() = uri;
                }
                within("the connection is ready", sender.ready()).await?;
                within("the answer begins", sender.send_request(request)).await
            }
        }
    }
}

/// A request for a path.
pub(crate) fn request(method: Method, path: &str, body: Body) -> Request<Body> {
    let request = Request::builder().method(method).uri(path);
    request.body(body).unwrap()
}

/// No body.
pub(crate) fn empty() -> Body {
    Empty::new().boxed()
}

/// A body of known length.
pub(crate) fn full(content: impl Into<Bytes>) -> Body {
    Full::new(content.into()).boxed()
}

/// A body that is sent as the test goes on, its length unknown; it ends when the sender is dropped.
pub(crate) fn streamed() -> (mpsc::Sender<Frame<Bytes>>, Body) {
    let (sender, receiver) = mpsc::channel(1);
    (sender, Streamed(receiver).boxed())
}

struct Streamed(mpsc::Receiver<Frame<Bytes>>);

impl hyper::body::Body for Streamed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}
