//! A gRPC server: HTTP/2 in the clear by the `h2` crate, with a script for each request.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

use super::within;

/// A request as such a server has it, and what answers it.
pub(crate) struct Call {
    pub(crate) request: Request<RecvStream>,
    pub(crate) respond: SendResponse<Bytes>,
    /// Which request of the server it is, from 0.
    pub(crate) number: usize,
    /// Tells the connection to end gracefully.
    pub(crate) leave: Arc<Notify>,
    /// Tells the connection to break.
    pub(crate) abort: Arc<Notify>,
}

type Life = Pin<Box<dyn Future<Output = ()> + Send>>;
type Script = Arc<dyn Fn(Call) -> Life + Send + Sync>;

/// A running gRPC server; it ends with the test.
pub(crate) struct GrpcBackend {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl GrpcBackend {
    /// Listens, and gives each request to `script`, on connections as `builder` makes them.
    pub(crate) async fn with<F>(
        builder: h2::server::Builder,
        script: impl Fn(Call) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::<AtomicUsize>::default();
        let requests = Arc::<AtomicUsize>::default();
        let script: Script = Arc::new(move |call| Box::pin(script(call)));
        let counts = (Arc::clone(&connections), Arc::clone(&requests));
        let task = tokio::spawn(async move {
            let mut lives = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                counts.0.fetch_add(1, Ordering::SeqCst);
                let (script, requests) = (Arc::clone(&script), Arc::clone(&counts.1));
                let builder = builder.clone();
                lives.spawn(async move {
                    let Ok(h2) = builder.handshake::<_, Bytes>(stream).await else {
                        return;
                    };
                    serve(h2, requests, script).await;
                });
            }
        });
        Self {
            address,
            connections,
            requests,
            task,
        }
    }

    /// The same with connections as they usually are.
    pub(crate) async fn run<F>(script: impl Fn(Call) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::with(h2::server::Builder::new(), script).await
    }

    /// Sends every message back as it comes, then OK.
    pub(crate) async fn echo() -> Self {
        Self::run(|mut call| async move {
            let mut stream = call.begin();
            let mut body = call.request.into_body();
            while let Some(Ok(data)) = body.data().await {
                let _ = body.flow_control().release_capacity(data.len());
                if send(&mut stream, data).await.is_err() {
                    return;
                }
            }
            let mut status = trailers(0);
            if let Ok(Some(theirs)) = body.trailers().await {
                status.extend(theirs);
            }
            let _ = stream.send_trailers(status);
        })
        .await
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections it has accepted.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// How many requests have come.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Drop for GrpcBackend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    mut h2: h2::server::Connection<tokio::net::TcpStream, Bytes>,
    requests: Arc<AtomicUsize>,
    script: Script,
) {
    let (leave, abort) = (Arc::<Notify>::default(), Arc::<Notify>::default());
    let mut lives = JoinSet::new();
    loop {
        tokio::select! {
            accepted = h2.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    let number = requests.fetch_add(1, Ordering::SeqCst);
                    let call = Call {
                        request,
                        respond,
                        number,
                        leave: Arc::clone(&leave),
                        abort: Arc::clone(&abort),
                    };
                    lives.spawn(script(call));
                }
                Some(Err(_)) | None => return,
            },
            () = leave.notified() => h2.graceful_shutdown(),
            () = abort.notified() => return,
        }
    }
}

impl Call {
    /// Sends the head of an answer whose messages follow.
    pub(crate) fn begin(&mut self) -> SendStream<Bytes> {
        self.respond.send_response(head(), false).unwrap()
    }

    /// Answers with one message and OK.
    pub(crate) fn answer(&mut self, message: &'static str) {
        let mut stream = self.begin();
        stream.send_data(Bytes::from(message), false).unwrap();
        stream.send_trailers(trailers(0)).unwrap();
    }

    /// Waits until the client, that is the proxy, has reset the stream, and says why.
    pub(crate) async fn reset(&mut self) -> h2::Reason {
        let reset = std::future::poll_fn(|cx| self.respond.poll_reset(cx));
        within("the stream is reset", reset).await.unwrap()
    }
}

/// The head of a gRPC answer.
pub(crate) fn head() -> Response<()> {
    Response::builder()
        .header("content-type", "application/grpc")
        .body(())
        .unwrap()
}

/// The trailers that say how a call ended.
pub(crate) fn trailers(status: u8) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(u16::from(status)));
    trailers
}

/// Sends a message as the other side makes room.
pub(crate) async fn send(stream: &mut SendStream<Bytes>, mut data: Bytes) -> Result<(), h2::Error> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
        let room = room.unwrap_or(Err(h2::Reason::CANCEL.into()))?;
        stream.send_data(data.split_to(room.min(data.len())), false)?;
    }
    Ok(())
}
