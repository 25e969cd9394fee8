//! The helper's socket: who is let in, how many at a time, and when there is nothing left to wait for.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinError, JoinSet};

use super::Helper;
use super::connection::{self, Caller, TurnedAway};

/// The agent asks for one thing at a time, two at most: what writes to tailscaled does not cross.
const CONNECTIONS_MAX: usize = 8;

/// Without anybody to serve for this long, the helper ends; its socket starts it again.
const IDLE: Duration = Duration::from_secs(10);

/// How long nobody is accepted after that failed: a shortage of descriptors passes.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves the user `uid` until nobody is left for 10 s, or until `stop`; what is under way then is carried to its end.
pub async fn serve(listener: UnixListener, helper: Arc<Helper>, uid: u32, stop: impl Future<Output = ()>) {
    let mut connections = JoinSet::new();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => admit(stream, &helper, uid, &mut connections),
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection");
                    helper.edges.clock.sleep(PAUSE).await;
                }
            },
            Some(ended) = connections.join_next() => complain(ended),
            () = helper.edges.clock.sleep(IDLE), if connections.is_empty() => return,
            () = &mut stop => break,
        }
    }
    while let Some(ended) = connections.join_next().await {
        complain(ended);
    }
}

/// Starts the connection's task, or says why not; hangs up on who cannot be known.
fn admit(stream: UnixStream, helper: &Arc<Helper>, uid: u32, connections: &mut JoinSet<()>) {
    let caller = match Caller::of(&stream) {
        Ok(caller) => caller,
        Err(error) => return tracing::warn!(%error, "failed to read the credentials of a caller"),
    };
    if caller.uid != uid {
        connection::turn_away(&stream, caller, &TurnedAway::Stranger { expected: uid });
    } else if connections.len() >= CONNECTIONS_MAX {
        connection::turn_away(&stream, caller, &TurnedAway::Full { max: CONNECTIONS_MAX });
    } else {
        connections.spawn(connection::attend(stream, caller, helper.clone()));
    }
}

fn complain(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a request panicked; this is a bug, please report it with the log above");
    }
}
