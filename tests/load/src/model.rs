//! What a visitor knows of its session, and what an answer must therefore say. Pure: no request is sent here.
//!
//! A visitor sends one request at a time, so what it was told is all that may have happened to its session, and every answer
//! can be checked exactly. A request without a good answer leaves a doubt: it may have taken effect or not, and the next read
//! tells which.

/// What a visitor does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// `GET /api/session`.
    Read,
    /// `GET /`, which counts a visit and starts a session where there is none.
    Visit,
    /// `PUT` of the note.
    Set(i64),
    /// `DELETE` of the note.
    Remove,
    /// `POST …/increment` of the counter.
    Increment,
    /// `POST /login`.
    LogIn,
    /// `POST /logout`.
    LogOut,
}

/// What is found out by comparing answers with what is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finding {
    /// Nothing excuses it: another's session, a value nobody wrote, a session that came from nowhere.
    Wrong(String),
    /// A login or logout that was acknowledged did not last.
    LostDurable(String),
    /// Other acknowledged writes did not last: how many, and which.
    Lost(u64, String),
    /// The note was not there to remove: it was lost, or a proxy sent the `DELETE` again when a server died over it.
    Missing,
    /// Visits were counted more often than asked for. A proxy may send a `GET` again when a server dies over it.
    Repeated(u64),
}

/// What an answer did to the session cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cookie {
    Untouched,
    Set,
    Removed,
}

/// A session as an answer shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) id: Option<String>,
    pub(crate) created_on: Option<String>,
    pub(crate) account: Option<String>,
    pub(crate) note: Option<i64>,
    pub(crate) count: i64,
    pub(crate) visits: i64,
    /// Names of attributes that no visitor ever sets, or whose values it cannot have set.
    pub(crate) foreign: Vec<String>,
}

/// What a good answer said.
#[derive(Debug, Clone)]
pub(crate) enum Good {
    /// Done; there is nothing more to it.
    Done,
    /// There was no note to remove.
    NoNote,
    /// The counter's new value.
    Count(i64),
    /// The session.
    Session(View),
    /// The page, which shows neither note nor counter.
    Page(View),
}

/// The session that a visitor was told it has.
#[derive(Debug, Clone, Default)]
struct Known {
    /// Learned by the first look.
    id: Option<String>,
    created_on: Option<String>,
    logged_in: bool,
    /// Every state of the note that was acknowledged in this session, the newest last. It began without one.
    notes: Vec<Option<i64>>,
    count: i64,
    visits: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    /// This may have taken effect.
    About(Action),
    /// A cookie came with an answer that was not good: whatever session it opens is ours from now on.
    Anything,
}

/// What a visitor knows.
#[derive(Debug)]
pub(crate) struct Model {
    account: String,
    session: Option<Known>,
    doubt: Option<Doubt>,
}

impl Known {
    fn new() -> Self {
        Self { notes: vec![None], ..Self::default() }
    }

    /// How many acknowledged writes are lost with it, the one that began it included.
    fn writes(&self) -> u64 {
        (self.notes.len() as u64 - 1) + self.count.unsigned_abs() + self.visits.unsigned_abs()
    }

    fn gone(&self) -> Finding {
        if self.logged_in {
            Finding::LostDurable("the session of an acknowledged login is gone".to_owned())
        } else {
            Finding::Lost(self.writes(), "the session is gone".to_owned())
        }
    }

    fn note(&self) -> Option<i64> {
        *self.notes.last().expect("it began without a note")
    }

    fn see_note(&mut self, seen: Option<i64>, doubt: Option<Doubt>) -> Option<Finding> {
        let expected = self.note();
        let maybe = match doubt {
            Some(Doubt::About(Action::Set(value))) => Some(Some(value)),
            Some(Doubt::About(Action::Remove)) => Some(None),
            _ => None,
        };
        if seen == expected {
            return None;
        }
        if maybe == Some(seen) {
            self.notes.push(seen);
            return None;
        }
        // An older state is what a replica had that did not get the newer ones.
        if let Some(at) = self.notes.iter().rposition(|note| *note == seen) {
            let lost = self.notes.len() - 1 - at;
            self.notes.truncate(at + 1);
            return Some(Finding::Lost(lost as u64, format!("the note is {seen:?}, and was {expected:?}")));
        }
        self.notes.push(seen);
        Some(Finding::Wrong(format!("the note is {seen:?}, which was never written there; it was {expected:?}")))
    }

    fn see_count(&mut self, seen: i64, expected: i64, doubt: Option<Doubt>) -> Option<Finding> {
        self.count = seen;
        let most = expected + i64::from(doubt == Some(Doubt::About(Action::Increment)));
        if seen < expected {
            Some(Finding::Lost((expected - seen).unsigned_abs(), format!("the counter is {seen}, and was {expected}")))
        } else if seen > most {
            Some(Finding::Wrong(format!("the counter is {seen}, and {most} increments were asked for")))
        } else {
            None
        }
    }

    fn see_visits(&mut self, seen: i64, expected: i64, doubt: Option<Doubt>) -> Option<Finding> {
        self.visits = seen;
        let most = expected + i64::from(doubt == Some(Doubt::About(Action::Visit)));
        if seen < expected {
            Some(Finding::Lost((expected - seen).unsigned_abs(), format!("visits are {seen}, and were {expected}")))
        } else if seen > most {
            Some(Finding::Repeated((seen - most).unsigned_abs()))
        } else {
            None
        }
    }

    /// ID, creation time and account.
    fn see_identity(&mut self, view: &View) -> Vec<Finding> {
        let mut findings = Vec::new();
        if self.id.is_some() && self.id != view.id {
            findings.push(Finding::Wrong(format!("the session ID is {:?}, and was {:?}", view.id, self.id)));
        }
        // The page shows the time in other words.
        if self.created_on.is_some() && view.created_on.is_some() && self.created_on != view.created_on {
            let (seen, known) = (&view.created_on, &self.created_on);
            findings.push(Finding::Wrong(format!("the session was created on {seen:?}, and was on {known:?}")));
        }
        match (self.logged_in, view.account.is_some()) {
            (true, false) => findings.push(Finding::LostDurable("logged out after an acknowledged login".to_owned())),
            (false, true) => findings.push(Finding::Wrong("logged in, and never asked for it".to_owned())),
            _ => {}
        }
        self.id = view.id.clone();
        self.created_on = view.created_on.clone().or(self.created_on.take());
        self.logged_in = view.account.is_some();
        findings
    }
}

impl Model {
    /// Of a visitor without a session, whose account is this.
    pub(crate) fn new(account: &str) -> Self {
        Self { account: account.to_owned(), session: None, doubt: None }
    }

    pub(crate) fn has_session(&self) -> bool {
        self.session.is_some()
    }

    pub(crate) fn is_logged_in(&self) -> bool {
        self.session.as_ref().is_some_and(|known| known.logged_in)
    }

    pub(crate) fn has_note(&self) -> bool {
        self.session.as_ref().is_some_and(|known| known.note().is_some())
    }

    /// Whether only a read can tell what became of the last request.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.doubt.is_some()
    }

    /// The answer to `action` was not the one it should be. `is_refusal`: it says that nothing was done.
    pub(crate) fn failed(&mut self, action: Action, is_refusal: bool, cookie: Cookie) {
        if cookie != Cookie::Untouched {
            self.doubt = Some(Doubt::Anything);
        } else if self.session.is_some() && action != Action::Read && !is_refusal {
            // Without a session, whatever began has a cookie that never came: it is nobody's.
            self.doubt = Some(Doubt::About(action));
        }
    }

    /// A good answer to `action`.
    pub(crate) fn answered(&mut self, action: Action, good: &Good, cookie: Cookie) -> Vec<Finding> {
        assert!(self.doubt.is_none() || action == Action::Read, "doubts are settled by reading");
        match (action, good) {
            (Action::Read, Good::Session(view)) => {
                let mut findings = self.read(view);
                findings.extend(unexpected(cookie, Cookie::Untouched, action));
                findings
            }
            (Action::LogIn, Good::Done) => {
                let known = self.session.get_or_insert_with(Known::new);
                // A login gives a new ID.
                (known.id, known.created_on, known.logged_in) = (None, None, true);
                unexpected(cookie, Cookie::Set, action)
            }
            (Action::LogOut, Good::Done) => {
                self.session = None;
                match cookie {
                    Cookie::Removed => Vec::new(),
                    // There was nothing left to log out of.
                    Cookie::Untouched => vec![Finding::LostDurable("the login was gone at its logout".to_owned())],
                    Cookie::Set => unexpected(cookie, Cookie::Removed, action),
                }
            }
            (Action::Remove, Good::Done | Good::NoNote) => {
                let mut findings = unexpected(cookie, Cookie::Untouched, action);
                if let Some(known) = &mut self.session {
                    known.notes.push(None);
                    if matches!(good, Good::NoNote) {
                        findings.push(Finding::Missing);
                    }
                }
                findings
            }
            _ => self.written(action, good, cookie),
        }
    }

    /// What starts a session where there is none.
    fn written(&mut self, action: Action, good: &Good, cookie: Cookie) -> Vec<Finding> {
        let mut findings = Vec::new();
        match (&self.session, cookie) {
            (None, Cookie::Set) => self.session = Some(Known::new()),
            (Some(_), Cookie::Untouched) => {}
            (Some(lost), Cookie::Set) => {
                findings.push(lost.gone());
                self.session = Some(Known::new());
            }
            (_, cookie) => {
                findings.push(Finding::Wrong(format!("{action:?}: the session cookie was {cookie:?}")));
                self.session.get_or_insert_with(Known::new);
            }
        }
        let known = self.session.as_mut().expect("there is one by now");
        match (action, good) {
            (Action::Set(value), Good::Done) => known.notes.push(Some(value)),
            (Action::Increment, Good::Count(seen)) => findings.extend(known.see_count(*seen, known.count + 1, None)),
            (Action::Visit, Good::Page(view)) => {
                findings.extend(foreign(&self.account, view));
                findings.extend(known.see_identity(view));
                findings.extend(known.see_visits(view.visits, known.visits + 1, None));
            }
            _ => findings.push(Finding::Wrong(format!("{action:?} was answered with {good:?}"))),
        }
        findings
    }

    /// The session was looked at.
    fn read(&mut self, view: &View) -> Vec<Finding> {
        let doubt = self.doubt.take();
        let mut findings = foreign(&self.account, view);
        match (&mut self.session, &view.id) {
            (None, None) => {}
            (Some(known), None) => {
                let explained = matches!(
                    doubt,
                    // It took effect, and the cookie that came with it is lost.
                    Some(Doubt::Anything | Doubt::About(Action::LogIn | Action::LogOut))
                );
                if !explained {
                    findings.push(known.gone());
                }
                self.session = None;
            }
            (session, Some(_)) if doubt == Some(Doubt::Anything) => *session = Some(adopted(view)),
            (None, Some(_)) => {
                findings.push(Finding::Wrong(format!("a session that it does not have: {view:?}")));
                self.session = Some(adopted(view));
            }
            (Some(known), Some(_)) => {
                findings.extend(known.see_identity(view));
                findings.extend(known.see_note(view.note, doubt));
                findings.extend(known.see_count(view.count, known.count, doubt));
                findings.extend(known.see_visits(view.visits, known.visits, doubt));
            }
        }
        findings
    }
}

fn adopted(view: &View) -> Known {
    Known {
        id: view.id.clone(),
        created_on: view.created_on.clone(),
        logged_in: view.account.is_some(),
        notes: vec![None, view.note],
        count: view.count,
        visits: view.visits,
    }
}

/// What belongs to somebody else.
fn foreign(account: &str, view: &View) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(seen) = view.account.as_deref().filter(|seen| *seen != account) {
        findings.push(Finding::Wrong(format!("sees the account of {seen}, and is {account}")));
    }
    for name in &view.foreign {
        findings.push(Finding::Wrong(format!("sees an attribute of somebody else: {name}")));
    }
    findings
}

fn unexpected(cookie: Cookie, expected: Cookie, action: Action) -> Vec<Finding> {
    if cookie == expected {
        Vec::new()
    } else {
        vec![Finding::Wrong(format!("{action:?}: the session cookie was {cookie:?} instead of {expected:?}"))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "first";

    /// A visitor with a session: note 7, counter 2, one visit.
    fn visitor() -> Model {
        let mut model = Model::new("alice");
        assert_eq!(model.answered(Action::Set(7), &Good::Done, Cookie::Set), []);
        assert_eq!(model.answered(Action::Increment, &Good::Count(1), Cookie::Untouched), []);
        assert_eq!(model.answered(Action::Increment, &Good::Count(2), Cookie::Untouched), []);
        let page = View { id: Some(ID.into()), visits: 1, ..View::default() };
        assert_eq!(model.answered(Action::Visit, &Good::Page(page), Cookie::Untouched), []);
        assert_eq!(look(&mut model, session()), []);
        model
    }

    fn logged_in() -> Model {
        let mut model = visitor();
        assert_eq!(model.answered(Action::LogIn, &Good::Done, Cookie::Set), []);
        assert_eq!(look(&mut model, login()), []);
        model
    }

    fn session() -> View {
        View {
            id: Some(ID.into()),
            created_on: Some("today".into()),
            note: Some(7),
            count: 2,
            visits: 1,
            ..View::default()
        }
    }

    fn login() -> View {
        View { id: Some("second".into()), account: Some("alice".into()), ..session() }
    }

    fn look(model: &mut Model, view: View) -> Vec<Finding> {
        model.answered(Action::Read, &Good::Session(view), Cookie::Untouched)
    }

    /// A visitor that sees this after all went well knows that something is wrong.
    #[track_caller]
    fn check_wrong(mut model: Model, view: View) {
        let findings = look(&mut model, view.clone());
        assert!(matches!(findings[..], [Finding::Wrong(_), ..]), "{view:?}: {findings:?}");
        assert_eq!(look(&mut model, view), [], "it is said once");
    }

    #[track_caller]
    fn check_lost(mut model: Model, view: View, writes: u64) {
        let findings = look(&mut model, view);
        assert!(matches!(findings[..], [Finding::Lost(lost, _)] if lost == writes), "{findings:?}");
    }

    #[track_caller]
    fn check_lost_durable(mut model: Model, view: View) {
        let findings = look(&mut model, view);
        assert!(matches!(findings[..], [Finding::LostDurable(_), ..]), "{findings:?}");
    }

    #[test]
    fn what_others_have_is_wrong() {
        check_wrong(visitor(), View { note: Some(8), ..session() });
        check_wrong(visitor(), View { count: 3, ..session() });
        check_wrong(visitor(), View { id: Some("other".into()), ..session() });
        check_wrong(visitor(), View { created_on: Some("yesterday".into()), ..session() });
        check_wrong(visitor(), View { account: Some("alice".into()), ..session() });
        check_wrong(Model::new("alice"), session());
        let mut model = logged_in();
        assert!(!look(&mut model, View { account: Some("bob".into()), ..login() }).is_empty());
        assert!(!look(&mut model, View { foreign: vec!["x".into()], ..login() }).is_empty());
    }

    #[test]
    fn acknowledged_writes_that_are_gone_are_counted() {
        check_lost(visitor(), View { note: None, ..session() }, 1);
        check_lost(visitor(), View { count: 0, ..session() }, 2);
        check_lost(visitor(), View { visits: 0, ..session() }, 1);
        check_lost(visitor(), View::default(), 4);
        let mut model = visitor();
        for note in 8..=10 {
            assert_eq!(model.answered(Action::Set(note), &Good::Done, Cookie::Untouched), []);
        }
        check_lost(model, View { note: Some(8), ..session() }, 2);
        let mut model = visitor();
        assert!(matches!(
            model.answered(Action::Increment, &Good::Count(2), Cookie::Untouched)[..],
            [Finding::Lost(1, _)]
        ));
        assert_eq!(model.answered(Action::Remove, &Good::NoNote, Cookie::Untouched), [Finding::Missing]);
        // A session that had to begin anew.
        assert!(matches!(model.answered(Action::Set(9), &Good::Done, Cookie::Set)[..], [Finding::Lost(5, _)]));
    }

    #[test]
    fn a_login_or_logout_that_does_not_last_is_a_durable_one_lost() {
        check_lost_durable(logged_in(), View::default());
        check_lost_durable(logged_in(), View { account: None, ..login() });
        let mut model = logged_in();
        let findings = model.answered(Action::LogOut, &Good::Done, Cookie::Untouched);
        assert!(matches!(findings[..], [Finding::LostDurable(_)]), "{findings:?}");
        let mut model = logged_in();
        assert_eq!(model.answered(Action::LogOut, &Good::Done, Cookie::Removed), []);
        check_wrong(model, login());
    }

    #[test]
    fn a_counter_that_counts_twice_is_wrong_and_a_visit_may_be_repeated() {
        let mut model = visitor();
        assert!(matches!(
            model.answered(Action::Increment, &Good::Count(4), Cookie::Untouched)[..],
            [Finding::Wrong(_)]
        ));
        let page = View { visits: 3, ..session() };
        assert_eq!(model.answered(Action::Visit, &Good::Page(page), Cookie::Untouched), [Finding::Repeated(1)]);
    }

    /// Both outcomes of a request without an answer are right, and nothing else is.
    #[track_caller]
    fn check_doubt(from: fn() -> Model, action: Action, outcomes: &[View], wrong: &View) {
        for view in outcomes {
            let mut model = from();
            model.failed(action, false, Cookie::Untouched);
            assert!(model.is_in_doubt());
            assert_eq!(look(&mut model, view.clone()), [], "{action:?} {view:?}");
            assert!(!model.is_in_doubt());
            assert_eq!(look(&mut model, view.clone()), [], "what was seen is known");
        }
        let mut model = from();
        model.failed(action, false, Cookie::Untouched);
        assert_ne!(look(&mut model, wrong.clone()), [], "{action:?} {wrong:?}");
    }

    #[test]
    fn what_had_no_answer_may_have_taken_effect_or_not() {
        let none = View::default;
        check_doubt(visitor, Action::Set(8), &[session(), View { note: Some(8), ..session() }], &none());
        check_doubt(visitor, Action::Remove, &[session(), View { note: None, ..session() }], &none());
        let counted = |count| View { count, ..session() };
        check_doubt(visitor, Action::Increment, &[counted(2), counted(3)], &counted(4));
        check_doubt(visitor, Action::Visit, &[session(), View { visits: 2, ..session() }], &none());
        // Who never got the cookie of a login has none.
        check_doubt(visitor, Action::LogIn, &[session(), none()], &login());
        check_doubt(logged_in, Action::LogOut, &[login(), none()], &View { account: None, ..login() });
    }

    #[test]
    fn a_refusal_leaves_no_doubt_and_a_read_none_either() {
        let mut model = visitor();
        model.failed(Action::Set(8), true, Cookie::Untouched);
        model.failed(Action::Read, false, Cookie::Untouched);
        assert!(!model.is_in_doubt());
        let mut model = Model::new("alice");
        model.failed(Action::Set(1), false, Cookie::Untouched);
        assert!(!model.is_in_doubt());
    }

    #[test]
    fn a_cookie_that_comes_with_a_bad_answer_is_taken_for_what_it_opens() {
        for view in [login(), View::default()] {
            let mut model = visitor();
            model.failed(Action::LogIn, false, Cookie::Set);
            assert_eq!(look(&mut model, view.clone()), []);
            assert_eq!(model.is_logged_in(), view.account.is_some());
        }
    }
}
