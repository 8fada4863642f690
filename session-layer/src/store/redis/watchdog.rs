//! Watches a master that is in use, and says when to leave it.

use std::time::Duration;

use tokio::time::Instant;

use super::connection::Lost;
use super::epoch::Epoch;
use super::sentinel::Sentinels;

/// Four times a second. With the time that an answer may take, a frozen server is left within a second.
const HEARTBEAT: Duration = Duration::from_millis(250);
/// How often the sentinels are asked when nothing is suspicious. In a failover that an operator orders the old master goes on
/// answering for seconds, and what is written to it meanwhile is lost.
const CONFIRMATION: Duration = Duration::from_millis(250);
/// How often at most when something is.
const SHORTEST_CONFIRMATION: Duration = Duration::from_millis(100);

/// Resolves with the reason when the master is to be looked for again.
pub(super) async fn watch(epoch: &Epoch, mut lost: Lost, sentinels: Option<&Sentinels>) -> String {
    tokio::select! {
        reason = lost.wait() => reason.to_string(),
        reason = epoch.left() => reason,
        reason = heartbeat(epoch) => reason,
        reason = confirm(epoch, sentinels) => reason,
    }
}

async fn heartbeat(epoch: &Epoch) -> String {
    loop {
        tokio::time::sleep(HEARTBEAT).await;
        if let Err(error) = epoch.check_role().await {
            return error.to_string();
        }
    }
}

async fn confirm(epoch: &Epoch, sentinels: Option<&Sentinels>) -> String {
    // Without sentinels there is nobody to ask: the server of the URL is the master, whatever its replicas do.
    let Some(sentinels) = sentinels else { return std::future::pending().await };
    loop {
        tokio::time::sleep(SHORTEST_CONFIRMATION).await;
        let _ = tokio::time::timeout(CONFIRMATION - SHORTEST_CONFIRMATION, epoch.suspicious.notified()).await;
        let asked = Instant::now();
        let answers = sentinels.ask().await;
        if answers.deposes(&epoch.server) {
            return "the sentinels name another master".to_owned();
        }
        if answers.majority {
            epoch.confirm(asked);
        }
        // Neither the sentinels nor the replicas can be heard: this master and we may be the cut-off part of the network.
        if !answers.majority && epoch.had_replicas() && matches!(epoch.has_live_replica().await, Ok(false)) {
            return "most sentinels and all replicas have fallen silent".to_owned();
        }
    }
}
