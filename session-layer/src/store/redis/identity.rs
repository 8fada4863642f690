//! Which server answers, and which of several masters behind one name is used. No IO, no clock: everything is given.
//!
//! A server names its process (run ID) and what it has written (replication ID). A replica that is promoted starts a replication ID
//! of its own and keeps that of its master as the second one, so that two masters show which of them continues the other.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

/// Two unrelated masters behind one name: one of them is used when the other has not been seen for this long. Attempts to connect
/// follow each other ten times as fast, so that a Service which still leads to both shows it.
const CALM: Duration = Duration::from_secs(3);
/// Old masters that are remembered.
const MAX_OVERTAKEN: usize = 64;
/// Masters that are remembered as seen lately.
const MAX_SEEN: usize = 16;

/// What a server says of itself (`INFO server replication`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    /// Names the process; it has another one after a restart.
    pub(super) run_id: String,
    pub(super) is_master: bool,
    /// The replication ID: names what the server has written, together with the servers that follow it.
    pub(super) history: String,
    /// The second replication ID: what was written before the server was promoted, or restarted with its data.
    pub(super) previous: Option<String>,
}

/// A server that was met under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Met {
    pub(super) address: SocketAddr,
    pub(super) identity: Identity,
}

impl Identity {
    /// Reads the reply; `None` when it does not name a server.
    pub(super) fn read(info: &str) -> Option<Self> {
        let field = |name: &str| {
            let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?.trim();
            (!value.is_empty()).then(|| value.to_owned())
        };
        let previous = field("master_replid2").filter(|id| id.bytes().any(|byte| byte != b'0'));
        Some(Self {
            run_id: field("run_id")?,
            is_master: field("role")? == "master",
            history: field("master_replid")?,
            previous,
        })
    }

    /// Returns whether this server was promoted out of what the other one had written.
    fn continues(&self, other: &Self) -> bool {
        self.run_id != other.run_id && self.previous.as_ref() == Some(&other.history)
    }

    /// Returns whether this is the given server, and it has followed no other one since. A server that follows another one takes over
    /// its replication ID, and keeps it as the second one when it is promoted.
    fn is_still(&self, earlier: &Self) -> bool {
        self.run_id == earlier.run_id && (self.history == earlier.history || self.previous.is_none())
    }
}

/// Why a master is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unusable {
    /// Another master took over from it, and it has not followed that one since.
    Overtaken,
    /// The other master answers behind the same name, and neither continues the other.
    Rival(SocketAddr),
}

/// Which masters were used and seen behind one name.
///
/// A master that another one has taken over from is never used again until it has followed another server: a node that has shown the
/// newer state never goes back to the older one.
#[derive(Debug, Default)]
pub(super) struct Succession {
    last: Option<Met>,
    /// The last one was still a master when it was left for another one.
    last_lives: bool,
    overtaken: Vec<Identity>,
    seen: Vec<(Met, Instant)>,
}

impl Succession {
    /// Decides whether a node that uses `ours` keeps it, given which servers its name leads to. Returns the reason to leave.
    ///
    /// | behind the name | `ours` |
    /// |---|---|
    /// | the same server, replicas, nothing | kept |
    /// | anything, and `ours` is not a master any more | left |
    /// | another master, which `ours` took over from | kept |
    /// | another master, which took over from `ours` | left |
    /// | another master, unrelated | left; [`admit`](Self::admit) decides which of the two is used |
    pub(super) fn leaves(&self, ours: &Identity, met: &[Met]) -> Option<String> {
        if !ours.is_master {
            return Some("the server is not a master any more".to_owned());
        }
        let other = met.iter().find(|met| {
            let other = &met.identity;
            other.is_master && other.run_id != ours.run_id && !ours.continues(other) && !self.is_overtaken(other)
        })?;
        Some(format!("the name leads to another master, {}", other.address))
    }

    /// A master was left although it lives, since other masters answer behind its name.
    pub(super) fn left_for(&mut self, met: &[Met], now: Instant) {
        self.last_lives = true;
        let masters = met.iter().filter(|met| met.identity.is_master).chain(&self.last).cloned().collect::<Vec<_>>();
        masters.into_iter().for_each(|master| self.note(master, now));
    }

    /// Decides whether a master that was found behind the name is used.
    pub(super) fn admit(&mut self, candidate: &Met, now: Instant) -> Result<(), Unusable> {
        self.note(candidate.clone(), now);
        let mut rival = None;
        for (other, at) in std::mem::take(&mut self.seen) {
            if candidate.identity.continues(&other.identity) {
                self.overtake(other.identity);
                continue;
            }
            if other.identity.continues(&candidate.identity) {
                self.overtake(candidate.identity.clone());
            } else if other.identity.run_id != candidate.identity.run_id {
                rival = Some(other.address);
            }
            self.seen.push((other, at));
        }
        if self.is_overtaken(&candidate.identity) {
            return Err(Unusable::Overtaken);
        }
        rival.map_or(Ok(()), |rival| Err(Unusable::Rival(rival)))
    }

    /// A master is used from now on.
    pub(super) fn used(&mut self, master: Met) {
        if let Some(last) = self.last.replace(master.clone())
            && last.identity.run_id != master.identity.run_id
            && (std::mem::take(&mut self.last_lives) || master.identity.continues(&last.identity))
        {
            self.overtake(last.identity);
        }
        self.last_lives = false;
        // What replaces it after it was lost may be itself, restarted.
        self.seen.retain(|(seen, _)| seen.identity.run_id != master.identity.run_id);
    }

    /// A server in use says of itself what it is by now; its replication ID may have changed.
    pub(super) fn update(&mut self, identity: &Identity) {
        let known = self.last.iter_mut().chain(self.seen.iter_mut().map(|(seen, _)| seen));
        known
            .filter(|known| known.identity.run_id == identity.run_id)
            .for_each(|known| known.identity.clone_from(identity));
    }

    fn is_overtaken(&self, identity: &Identity) -> bool {
        self.overtaken.iter().any(|overtaken| identity.is_still(overtaken))
    }

    fn overtake(&mut self, identity: Identity) {
        self.overtaken.retain(|overtaken| overtaken.run_id != identity.run_id);
        if self.overtaken.len() == MAX_OVERTAKEN {
            self.overtaken.remove(0);
        }
        self.overtaken.push(identity);
    }

    fn note(&mut self, master: Met, now: Instant) {
        self.seen.retain(|(seen, at)| seen.identity.run_id != master.identity.run_id && now - *at < CALM);
        if self.seen.len() == MAX_SEEN {
            self.seen.remove(0);
        }
        self.seen.push((master, now));
    }
}

impl std::fmt::Display for Unusable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Overtaken => f.write_str(
                "another master took over from this one; it is used again when it has followed the other one, or has restarted",
            ),
            Self::Rival(other) => write!(
                f,
                "another master, {other}, answers behind the same name; none is used until one of them alone has answered for {} s",
                CALM.as_secs()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;

    const NONE: &str = "0000000000000000000000000000000000000000";

    fn identity(run_id: &str, role: &str, history: &str, previous: &str) -> Identity {
        let info = format!(
            "# Server\r\nredis_version:7.0.15\r\nrun_id:{run_id}\r\n# Replication\r\nrole:{role}\r\n\
             master_replid:{history}\r\nmaster_replid2:{previous}\r\n"
        );
        Identity::read(&info).expect("it names a server")
    }

    /// A master; its address is made of its name.
    fn master(run_id: &str, history: &str, previous: &str) -> Met {
        let port = run_id.bytes().map(u16::from).sum();
        Met { address: ([127, 0, 0, 1], port).into(), identity: identity(run_id, "master", history, previous) }
    }

    fn replica(run_id: &str, history: &str) -> Met {
        Met { address: ([127, 0, 0, 1], 1).into(), identity: identity(run_id, "slave", history, NONE) }
    }

    #[test]
    fn a_reply_without_a_run_id_names_no_server() {
        assert_eq!(identity("a", "master", "h", NONE).previous, None);
        assert_eq!(identity("a", "master", "h", "g").previous.as_deref(), Some("g"));
        for info in [
            "",
            "run_id:\r\nrole:master\r\nmaster_replid:h",
            "run_id:a\r\nrole:master",
            "role:master\r\nmaster_replid:h",
        ] {
            assert_eq!(Identity::read(info), None, "{info:?}");
        }
    }

    #[test]
    fn a_master_is_left_only_for_another_master() {
        let (ours, other) = (master("a", "h", NONE), master("b", "i", NONE));
        let promoted = master("b", "i", "h");
        for (case, ours, met, leaves) in [
            ("nothing answers", &ours, vec![], false),
            ("the same server", &ours, vec![ours.clone()], false),
            ("a replica", &ours, vec![replica("c", "h"), replica("d", "x")], false),
            ("the promoted replica", &ours, vec![promoted.clone()], true),
            ("the promoted replica and ours", &ours, vec![ours.clone(), promoted.clone()], true),
            ("the master that ours took over from", &promoted, vec![ours.clone()], false),
            ("an unrelated master", &ours, vec![other.clone()], true),
            ("an unrelated master and ours", &ours, vec![ours.clone(), other.clone()], true),
            ("ours is demoted", &replica("a", "i"), vec![], true),
        ] {
            assert_eq!(Succession::default().leaves(&ours.identity, &met).is_some(), leaves, "{case}");
        }
    }

    /// The name leads by turns to the old master and to the promoted one.
    #[test]
    fn the_old_master_is_never_used_after_the_promoted_one() {
        let (mut succession, now) = (Succession::default(), Instant::now());
        let (old, promoted) = (master("a", "h", NONE), master("b", "i", "h"));
        assert_eq!(succession.admit(&old, now), Ok(()));
        succession.used(old.clone());
        succession.left_for(from_ref(&promoted), now);
        assert_eq!(succession.admit(&old, now), Err(Unusable::Overtaken));
        assert_eq!(succession.admit(&promoted, now), Ok(()));
        succession.used(promoted.clone());
        assert_eq!(succession.leaves(&promoted.identity, from_ref(&old)), None);
        // However long the promoted one is gone.
        assert_eq!(succession.admit(&old, now + 100 * CALM), Err(Unusable::Overtaken));
        // It followed the promoted one, and was promoted in its turn.
        let back = master("a", "j", "i");
        assert!(succession.leaves(&promoted.identity, from_ref(&back)).is_some());
        assert_eq!(succession.admit(&back, now + 100 * CALM), Ok(()));
    }

    #[test]
    fn of_two_unrelated_masters_none_is_used_while_both_answer() {
        let (mut succession, start) = (Succession::default(), Instant::now());
        let (first, second) = (master("a", "h", NONE), master("b", "i", NONE));
        succession.used(first.clone());
        succession.left_for(from_ref(&second), start);
        let at = |ms| start + Duration::from_millis(ms);
        for ms in (0..10_000).step_by(200) {
            assert_eq!(succession.admit(&second, at(ms)), Err(Unusable::Rival(first.address)));
            assert_eq!(succession.admit(&first, at(ms + 100)), Err(Unusable::Rival(second.address)));
        }
        // The first one is gone, say because the name has moved.
        let mut admitted = (10_000..).step_by(100).filter(|ms| succession.admit(&second, at(*ms)).is_ok());
        assert_eq!(admitted.next(), Some(12_900));
        succession.used(second.clone());
        assert_eq!(succession.leaves(&second.identity, from_ref(&first)), None);
        assert_eq!(succession.admit(&first, at(60_000)), Err(Unusable::Overtaken));
    }

    #[test]
    fn a_restarted_server_is_used_at_once() {
        let now = Instant::now();
        for restarted in [master("b", "i", NONE), master("b", "i", "h")] {
            let mut succession = Succession::default();
            let first = master("a", "h", NONE);
            assert_eq!(succession.admit(&first, now), Ok(()));
            succession.used(first);
            assert_eq!(succession.admit(&restarted, now), Ok(()));
        }
    }

    #[test]
    fn a_master_that_was_lost_for_a_moment_is_used_again() {
        let (mut succession, now) = (Succession::default(), Instant::now());
        let ours = master("a", "h", NONE);
        assert_eq!(succession.admit(&ours, now), Ok(()));
        succession.used(ours.clone());
        assert_eq!(succession.admit(&ours, now), Ok(()));
        // Without replicas for an hour, a master starts another replication ID: the server that took over continues that one.
        succession.update(&identity("a", "master", "j", NONE));
        assert_eq!(succession.admit(&master("b", "k", "j"), now), Ok(()));
        assert_eq!(succession.admit(&ours, now), Err(Unusable::Overtaken));
    }
}
