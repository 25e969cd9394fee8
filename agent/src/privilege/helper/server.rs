//! The helper's socket: who is let in, how many at a time, and when there is nothing left to wait for.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::task::{JoinError, JoinSet};

use super::Helper;
use super::connection::{self, Caller, TurnedAway};

/// The agent asks for one thing at a time, two at most: what writes to tailscaled does not cross.
const CONNECTIONS_MAX: usize = 8;

/// Without anybody to serve for this long, the helper ends; its socket starts it again.
const IDLE: Duration = Duration::from_secs(10);

/// Serves the user `uid` until nobody is left for 10 s, or until `stop`; what is under way then is carried to its end.
///
/// # Errors
/// When the socket cannot be used; a caller's own trouble ends only its connection.
pub async fn serve(
    listener: UnixListener,
    helper: Arc<Helper>,
    uid: u32,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let mut connections = JoinSet::new();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                let caller = Caller::of(&stream)?;
                if caller.uid != uid {
                    connection::turn_away(&stream, caller, &TurnedAway::Stranger { expected: uid });
                } else if connections.len() >= CONNECTIONS_MAX {
                    connection::turn_away(&stream, caller, &TurnedAway::Full { max: CONNECTIONS_MAX });
                } else {
                    connections.spawn(connection::attend(stream, caller, helper.clone()));
                }
            }
            Some(ended) = connections.join_next() => complain(ended),
            () = helper.edges.clock.sleep(IDLE), if connections.is_empty() => return Ok(()),
            () = &mut stop => break,
        }
    }
    while let Some(ended) = connections.join_next().await {
        complain(ended);
    }
    Ok(())
}

fn complain(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection broke down");
    }
}
