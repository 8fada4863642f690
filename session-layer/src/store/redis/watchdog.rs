//! Watches a master that is in use, and says when to leave it.

use std::time::Duration;

use tokio::time::Instant;

use super::connection::Lost;
use super::epoch::Epoch;
use super::name::Name;
use super::rights::{Checks, Missing};
use super::sentinel::Sentinels;
use super::telemetry;

/// Four times a second. With the time that an answer may take, a frozen server is left within a second.
const HEARTBEAT: Duration = Duration::from_millis(250);
/// How often the sentinels are asked when nothing is suspicious. In a failover that an operator orders the old master goes on
/// answering for seconds, and what is written to it meanwhile is lost.
const CONFIRMATION: Duration = Duration::from_millis(250);
/// How often at most when something is.
const SHORTEST_CONFIRMATION: Duration = Duration::from_millis(100);

/// How often settings and rights are looked at that an operator may change. A permission that is missed is asked about at once.
const SURVEY: Duration = Duration::from_secs(60);
/// How often at most, since every request may miss it.
const SHORTEST_SURVEY: Duration = Duration::from_secs(1);

/// Who says which server is the master.
pub(super) enum Authority {
    Name(Name),
    Sentinels(Sentinels),
}

/// Resolves with the reason when the master is to be looked for again.
pub(super) async fn watch(epoch: &Epoch, mut lost: Lost, authority: &Authority, checks: &Checks) -> String {
    let confirm = async {
        match authority {
            Authority::Name(name) => name.watch(epoch).await,
            Authority::Sentinels(sentinels) => confirm(epoch, sentinels).await,
        }
    };
    tokio::select! {
        reason = lost.wait() => reason.to_string(),
        reason = epoch.server.left() => reason,
        reason = heartbeat(epoch) => reason,
        reason = confirm => reason,
        reason = survey(epoch, checks) => reason,
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

/// Reports how the server evicts, and leaves it when the user's rights have changed: too few, and it is not used; more, and features that
/// were off work on the next connection.
async fn survey(epoch: &Epoch, checks: &Checks) -> String {
    loop {
        if let Ok(eviction) = epoch.eviction().await {
            let told = eviction.clone();
            if let (true, Some(eviction)) = (checks.status.set_eviction(eviction), told) {
                telemetry::evicts(&epoch.server.name, &eviction);
            }
        }
        let in_doubt = tokio::time::timeout(SURVEY, epoch.rights_in_doubt.notified()).await.is_ok();
        // A right that was lost is missed by a command first; one that was granted is not.
        let asks = in_doubt || epoch.missing != Missing::default();
        if asks && let Ok(missing) = epoch.missing_rights(&checks.keys).await {
            if !missing.is_usable() {
                return missing.to_string();
            }
            if missing != epoch.missing {
                return "the rights of the Redis user have changed".to_owned();
            }
        }
        tokio::time::sleep(SHORTEST_SURVEY).await;
    }
}

async fn confirm(epoch: &Epoch, sentinels: &Sentinels) -> String {
    loop {
        tokio::time::sleep(SHORTEST_CONFIRMATION).await;
        let _ = tokio::time::timeout(CONFIRMATION - SHORTEST_CONFIRMATION, epoch.suspicious.notified()).await;
        let asked = Instant::now();
        let answers = sentinels.ask().await;
        if answers.deposes(&epoch.server.name) {
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
