//! A copy of a request for another Service, whose answer nobody waits for.
//!
//! The copy's body is what the first backend reads, as it reads it. A mirror that does not keep up loses its body, never
//! the client's time.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Request;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt, StreamBody};
use network::routes::Backend;
use network::{Body, BoxError, Fabric, body};
use std::net::IpAddr;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::limits::{ANSWER_TIMEOUT, MIRROR_PIECES_MAX};

/// Sends a copy of the request to a backend; what is returned stands for the original.
pub(super) fn copy(
    request: Request<Body>,
    backend: &Backend,
    fabric: &Fabric,
    client: IpAddr,
    (tasks, abort): (&TaskTracker, &CancellationToken),
) -> Request<Body> {
    let (pieces, received) = mpsc::channel::<Result<Frame<Bytes>, BoxError>>(MIRROR_PIECES_MAX);
    let (head, original) = request.into_parts();
    let mut copy =
        Request::new(body::boxed(StreamBody::new(futures::stream::unfold(received, |mut received| async {
            let piece = received.recv().await?;
            Some((piece, received))
        }))));
    *copy.method_mut() = head.method.clone();
    *copy.uri_mut() = head.uri.clone();
    *copy.headers_mut() = head.headers.clone();
    let (fabric, backend, abort) = (fabric.clone(), backend.clone(), abort.clone());
    tasks.spawn(async move {
        let sent = async {
            let Backend { namespace, service, port, .. } = &backend;
            let (Ok(target), _visit) = fabric.reach_service(namespace, service, port, client).await else { return };
            if let Ok(mut answer) = target.send(copy).await {
                while let Some(Ok(_)) = answer.body_mut().frame().await {}
            }
        };
        tokio::select! {
            () = abort.cancelled() => {}
            _ = tokio::time::timeout(ANSWER_TIMEOUT, sent) => {}
        }
    });
    Request::from_parts(head, body::boxed(Tee { original, pieces: Some(pieces) }))
}

/// A body whose pieces are shown to somebody else too.
struct Tee {
    original: Body,
    pieces: Option<mpsc::Sender<Result<Frame<Bytes>, BoxError>>>,
}

impl HttpBody for Tee {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = std::task::ready!(Pin::new(&mut self.original).poll_frame(cx));
        let shown = match &frame {
            Some(Ok(frame)) => frame.data_ref().cloned().map(|data| Ok(Frame::data(data))),
            Some(Err(_)) => Some(Err("the client's request broke off".into())),
            None => {
                self.pieces = None;
                None
            }
        };
        if let (Some(shown), Some(pieces)) = (shown, &self.pieces)
            && pieces.try_send(shown).is_err()
        {
            self.pieces = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.original.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.original.size_hint()
    }
}
