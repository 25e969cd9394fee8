//! `GET /v1/status?watch=true`: one document a line, and only the latest for whoever is slow.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::document::Document;

/// How long a watcher may take over one document before it is dropped: it holds a connection and memory that others may need.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The body of a watch: a line for every document that the pump hands over.
pub struct Lines(mpsc::Receiver<Bytes>);

impl Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(cx).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}

/// Starts a watch that begins with the document of now; `gone` is cancelled when the watcher is too slow.
pub fn start(status: watch::Receiver<Arc<Document>>, gone: CancellationToken) -> Lines {
    // One document waits for the connection; a newer one waits outside and is made a line only when there is room.
    let (lines, body) = mpsc::channel(1);
    tokio::spawn(pump(status, lines, gone));
    Lines(body)
}

async fn pump(mut status: watch::Receiver<Arc<Document>>, lines: mpsc::Sender<Bytes>, gone: CancellationToken) {
    status.mark_changed();
    loop {
        let changed = tokio::select! {
            changed = status.changed() => changed.is_ok(),
            () = lines.closed() => false,
        };
        if !changed {
            return;
        }
        match tokio::time::timeout(PATIENCE, lines.reserve()).await {
            Ok(Ok(room)) => room.send(line(&status.borrow_and_update())),
            Ok(Err(_closed)) => return,
            Err(_elapsed) => return gone.cancel(),
        }
    }
}

fn line(document: &Document) -> Bytes {
    let mut text = super::document::json(document);
    text.push(b'\n');
    text.into()
}
