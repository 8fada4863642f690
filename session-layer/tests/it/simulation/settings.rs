//! What kind of run a seed makes. Runs differ much, so that each kind of trouble is met alone and together with others.

use std::time::Duration;

use session_layer::AboveLimit;

use super::random::Random;

/// What requests mostly do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Theme {
    Anything,
    /// They meet at few attributes.
    FewAttributes,
    /// They count what is sometimes text, so that much is refused that would have been applied a moment before or later.
    Notes,
}

#[derive(Debug, Clone)]
pub struct Settings {
    pub browsers: usize,
    /// Whether browsers log in to the same accounts, and so end each other's sessions.
    pub shared_accounts: bool,
    pub limit: Option<(usize, AboveLimit)>,
    pub waves: usize,
    pub most_parallel: u64,
    pub theme: Theme,
    pub idle_timeout: Duration,
    pub touch_interval: Duration,
    pub absolute_timeout: Option<Duration>,
    pub budget: Duration,
    pub late_window: Duration,
    pub max_waiting: usize,
    /// In so many of a thousand store calls, from here on.
    pub call_lost: u64,
    pub answer_lost: u64,
    pub hangs: u64,
    pub refused: u64,
    pub unconfirmed: u64,
    /// In so many of a thousand requests, from here on.
    pub answer_thrown_away: u64,
    pub client_goes: u64,
    pub handler_fails: u64,
    /// In so many of a thousand runs.
    pub node_dies: u64,
    /// Whether every other browser uses another layer over the same store, whose accounts have the same names.
    pub two_realms: bool,
    /// How many lists of principals the store loses.
    pub lists_lost: u64,
    /// The longest that an answer takes to the browser.
    pub answer_takes_millis: u64,
    /// The longest that a call takes to the store.
    pub call_takes_millis: u64,
}

impl Settings {
    pub fn new(random: &mut Random, of_lists: &mut Random) -> Self {
        let trouble = random.weighted(&[(3, 0), (4, 1), (2, 4)]);
        let shared_accounts = random.chance(350);
        let limit = random.chance(350).then(|| {
            (random.between(1, 2) as usize, random.weighted(&[(2, AboveLimit::EvictOldest), (1, AboveLimit::Refuse)]))
        });
        Self {
            browsers: random.weighted(&[(3, 1), (3, 2), (1, 3)]),
            shared_accounts,
            limit,
            waves: random.between(2, 5) as usize,
            most_parallel: random.between(2, 5),
            theme: random.weighted(&[(4, Theme::Anything), (5, Theme::FewAttributes), (3, Theme::Notes)]),
            idle_timeout: Duration::from_secs(60),
            touch_interval: Duration::from_secs(1),
            absolute_timeout: random.chance(300).then_some(Duration::from_secs(150)),
            budget: Duration::from_millis(random.pick(&[300, 1000, 5000])),
            late_window: Duration::from_secs(random.pick(&[5, 10, 10, 50])),
            max_waiting: if random.chance(150) { 1 } else { 2000 },
            call_lost: 30 * trouble,
            answer_lost: 40 * trouble,
            hangs: 10 * trouble,
            refused: 4 * trouble,
            unconfirmed: 30 * trouble,
            answer_thrown_away: if random.chance(300) { 250 } else { 0 },
            client_goes: random.pick(&[0, 0, 100, 250]),
            handler_fails: random.pick(&[0, 100, 200]),
            node_dies: if trouble > 0 { 300 } else { 0 },
            answer_takes_millis: random.pick(&[0, 5, 30]),
            call_takes_millis: random.pick(&[1, 4, 4, 12]),
            two_realms: of_lists.chance(400),
            lists_lost: if of_lists.chance(250) { of_lists.between(1, 6) } else { 0 },
        }
    }

    /// Whether the store always answers.
    pub fn is_calm(&self) -> bool {
        self.call_lost == 0
    }
}
