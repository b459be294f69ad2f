//! HTTP in front of the node: reads bodies, hands them to the node's thread, and sends its answers.

use std::future::IntoFuture;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::node::Node;
use super::rpc;

/// The most bytes of a request: eight of the largest transactions in hexadecimal, and a little.
const REQUEST_BYTES_MAX: usize = 2 * 1024 * 1024;

/// The most requests at a time, from reading the body to the answer. More get status 503.
const REQUESTS_MAX: usize = 128;

/// How long a client may take to send a body.
const BODY_DEADLINE: Duration = Duration::from_secs(10);

/// The most requests that wait for the node. The others wait for a place in this queue.
pub(super) const INBOX_MESSAGES_MAX: usize = 32;

/// What the node's thread is asked to do.
#[derive(Debug)]
pub(super) enum Inbox {
    /// Answer the body of a request.
    Request { body: Bytes, answer: oneshot::Sender<Option<Vec<u8>>> },
    /// End, after what came before.
    Stop,
}

#[derive(Debug, Clone)]
struct Front {
    inbox: mpsc::Sender<Inbox>,
    places: Arc<Semaphore>,
}

/// Serves until `shutdown` is cancelled and the open requests are answered.
pub(super) async fn serve(
    listener: TcpListener,
    inbox: mpsc::Sender<Inbox>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    // Without this an answer in two segments waits for the client's delayed acknowledgement.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
    });
    let places = Arc::new(Semaphore::new(REQUESTS_MAX));
    let router = Router::new().route("/", post(exchange)).with_state(Front { inbox, places });
    axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).into_future().await
}

/// The node's thread: one message after the other, until `Stop` or until nobody can send more.
pub(super) fn run(mut node: Node, mut inbox: mpsc::Receiver<Inbox>) {
    while let Some(message) = inbox.blocking_recv() {
        match message {
            Inbox::Stop => return,
            // Nobody waits for the answer any more, so nothing was promised.
            Inbox::Request { answer, .. } if answer.is_closed() => {}
            Inbox::Request { body, answer } => {
                if answer.send(rpc::answer(&mut node, &body, unix_seconds())).is_err() {
                    tracing::debug!("a client left before its answer");
                }
            }
        }
    }
}

/// The wall clock. A clock before 1970 counts as 1970; the chain's time never goes back anyway.
pub(super) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

async fn exchange(State(front): State<Front>, body: Body) -> Result<Response, StatusCode> {
    let _place = front.places.try_acquire().map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    let body = timeout(BODY_DEADLINE, to_bytes(body, REQUEST_BYTES_MAX))
        .await
        .map_err(|_| StatusCode::REQUEST_TIMEOUT)?
        .map_err(|_| StatusCode::PAYLOAD_TOO_LARGE)?;
    let (answer, answered) = oneshot::channel();
    let sent = front.inbox.send(Inbox::Request { body, answer }).await;
    sent.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    Ok(match answered.await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)? {
        Some(answer) => ([(header::CONTENT_TYPE, "application/json")], answer).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    })
}
