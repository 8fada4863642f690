//! What was found out about sessions by checking every answer, and how it is told.

use std::fmt;

/// How many findings of each sort are kept word for word; all are counted.
const KEPT: usize = 50;

/// What was found out about sessions, beside what became of the requests.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    /// What nothing excuses: wrong users, values nobody wrote, increments that count twice.
    pub wrong: Count,
    /// Logins and logouts that were acknowledged and did not last, a logged-out cookie that works again included.
    pub lost_durable: Count,
    /// Cookies that opened a session again after its logout, or its change of ID, was acknowledged. They count as durable ones
    /// lost as well.
    pub resurrected: u64,
    /// Other writes that were acknowledged and did not last.
    pub lost: Count,
    /// Notes that were not there to remove: lost, or removed by the same request, which a proxy sent again.
    pub missing: u64,
    /// Visits that were counted once more than asked for, by a `GET` that a proxy sent again.
    pub repeated: u64,
    /// Logins that were acknowledged.
    pub logins: u64,
    /// Logouts that were acknowledged.
    pub logouts: u64,
    /// Other writes that were acknowledged.
    pub writes: u64,
    /// Requests whose effect was not known at first.
    pub doubts: u64,
    /// Visitors whose session was looked at in the end.
    pub verified: u64,
    /// Cookies of ended sessions that were tried again.
    pub tried: u64,
}

/// How many, and the first of them in words.
#[derive(Debug, Clone, Default)]
pub struct Count {
    /// How many.
    pub count: u64,
    /// The first ones.
    pub first: Vec<String>,
}

impl Count {
    pub(crate) fn add(&mut self, count: u64, what: impl FnOnce() -> String) {
        self.count += count;
        if self.first.len() < KEPT {
            self.first.push(what());
        }
    }
}

impl Findings {
    /// Whether nothing was wrong and no login or logout was lost. Other lost writes are for whoever asks to judge.
    pub fn are_good(&self) -> bool {
        self.wrong.count == 0 && self.lost_durable.count == 0
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { wrong, lost_durable, lost, resurrected, repeated, missing, .. } = self;
        let Self { logins, logouts, writes, doubts, verified, tried, .. } = self;
        writeln!(f, "  acknowledged: {logins} logins, {logouts} logouts, {writes} other writes; {doubts} in doubt")?;
        writeln!(f, "  looked at afterwards: {verified} sessions, {tried} cookies of ended ones")?;
        writeln!(
            f,
            "  lost: {} logins or logouts ({resurrected} resurrected), {} other writes",
            lost_durable.count, lost.count
        )?;
        writeln!(
            f,
            "  wrong: {}; visits counted once more: {repeated}, nothing left to remove: {missing}",
            wrong.count
        )?;
        for what in wrong.first.iter().chain(&lost_durable.first).chain(&lost.first).take(20) {
            writeln!(f, "    {what}")?;
        }
        Ok(())
    }
}
