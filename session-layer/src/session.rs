//! What a handler holds: the session of its request.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::attribute::{Named, Reads, Takes};
use crate::delta::{Delta, check_name, check_principal};
use crate::error::SessionError;
use crate::id::{SessionHandle, SessionId};
use crate::slot::{Applied, Slot};
use crate::state::State;
use crate::value::{checked_json, parse, to_json};

/// The kind of session that a program with one session layer has.
pub enum DefaultSession {}

/// The session of a request, loaded.
///
/// A cheap clone of one state per request: middleware, several extractors and spawned tasks share one load and one set of
/// changes. Reading and changing are synchronous; changes are recorded, and committed together in one atomic step when the
/// handler has answered, before its answer is sent. Nothing is committed for answers 5xx and 408.
///
/// A visitor without a session has an empty one, which becomes real when something is stored in it.
///
/// A session stays alive while a request that has loaded it runs, however long that takes; after the response's head is out, see
/// [`touch`](Self::touch).
///
/// # What should not start a session
///
/// A handler that stores something starts a session for every request without a cookie, whoever sends it. One that does so for `GET`
/// should leave out what is not a visit: `HEAD`, pages that a browser loads ahead of a visit (`Sec-Purpose: prefetch`), and health
/// checks; routes that do not ask for the session cost nothing.
///
/// First requests that a browser sends in parallel start a session each, and the browser keeps the cookie that comes last; what the
/// others stored is lost to it until they expire. So start the session in the page, before its scripts send requests, and let those
/// scripts' handlers answer an error if [`exists`](Self::exists) is `false`.
///
/// With the `axum` feature it is an extractor, and `Result<Session, SessionError>` is one that lets the handler go on
/// without the store.
///
/// ```
/// use session_layer::{Attribute, Session, SessionError};
///
/// const VISITS: Attribute<u64> = Attribute::new("visits");
///
/// async fn handler(session: Session) -> Result<String, SessionError> {
///     session.increment(VISITS, 1)?;
///     let exact = session.flush().await?.counter(VISITS);
///     Ok(format!("visit number {exact:?}"))
/// }
/// ```
pub struct Session<K = DefaultSession> {
    slot: Arc<Slot>,
    kind: PhantomData<fn() -> K>,
}

/// The session of a request, not loaded: changes attributes without reading any, in a single round trip.
///
/// Shares its changes with a [`Session`] of the same request.
///
/// ```
/// use session_layer::{LazySession, SessionError};
///
/// async fn choose(session: LazySession) -> Result<(), SessionError> {
///     session.insert("colour", "green")
/// }
/// ```
pub struct LazySession<K = DefaultSession> {
    slot: Arc<Slot>,
    kind: PhantomData<fn() -> K>,
}

/// What a flush brought back.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Flushed {
    pub(crate) counters: BTreeMap<String, i64>,
}

impl Flushed {
    /// The exact value of an attribute after this flush, if it was incremented. Each value is given to one request only.
    pub fn counter(&self, name: impl Named) -> Option<i64> {
        self.counters.get(name.attribute_name()).copied()
    }
}

impl From<Applied> for Flushed {
    fn from(Applied { counters }: Applied) -> Self {
        Self { counters }
    }
}

impl<K> Session<K> {
    pub(crate) fn new(slot: Arc<Slot>) -> Self {
        Self { slot, kind: PhantomData }
    }

    /// The session's ID. That of a new session, or of one that is being renewed, is fixed when first asked, and is what gets
    /// stored (unless a late login finds that an earlier click was faster, and follows it).
    pub fn id(&self) -> SessionId {
        self.slot.with_state(State::id)
    }

    /// What names this session in the list of its principal; see [`Sessions`](crate::Sessions). A session that is being renewed stands
    /// there under what it was until the response; only then its name changes.
    pub fn handle(&self) -> SessionHandle {
        self.slot.with_state(State::listed_id).handle()
    }

    /// Whether the session is in the store: loaded alive, or created by a flush.
    #[doc(alias = "is_new")]
    pub fn exists(&self) -> bool {
        self.slot.with_state(|state| state.exists())
    }

    /// Whether the browser came with the ID of a session that was destroyed, revoked or renewed in the last five minutes, so that a
    /// page can say "You were logged out, here or on another device". Stays so during this request, whatever the handler does.
    ///
    /// Such a session counts as none. What the handler stores depends on how long ago it ended when the request arrived:
    ///
    /// - up to [`late_window`](crate::SessionLayerBuilder::late_window) ago, the request may have been on its way already. Changes are
    ///   refused with 409 ([`SessionError::is_gone`]), and the browser keeps the cookie that it has by now.
    /// - longer ago, the request is a new visitor's: changes start a new session, and a request that changes nothing has the browser
    ///   forget its cookie (unless the session was renewed, since a repeated login may still continue in its successor).
    ///
    /// [`log_in`](Self::log_in) and [`reset`](Self::reset) start a new session in both cases.
    pub fn has_ended(&self) -> bool {
        self.slot.with_state(|state| state.has_ended)
    }

    /// Whether the browser may have a session cookie that it did not send, because another site started the request. A handler that
    /// then stores something is answered 403; see [`cross_site_start`](crate::SessionLayerBuilder::cross_site_start). For pages that
    /// can do without:
    ///
    /// ```
    /// # use session_layer::{Session, SessionError};
    /// async fn page(session: Session) -> Result<(), SessionError> {
    ///     if !session.is_withheld() {
    ///         session.increment("visits", 1)?;
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub fn is_withheld(&self) -> bool {
        self.slot.must_not_start()
    }

    /// When the session was created, to the millisecond; that of a new one is fixed when first asked.
    pub fn created_on(&self) -> SystemTime {
        self.slot.with_state(State::created_on)
    }

    /// When the session ends whatever happens, if there is such a time.
    pub fn expires_on(&self) -> Option<SystemTime> {
        self.slot.with_state(|state| state.record.as_ref().and_then(|record| record.expires_on))
    }

    /// Who is logged in.
    pub fn principal(&self) -> Option<String> {
        self.slot.with_state(|state| state.principal())
    }

    /// Reads an attribute. A stored `null`, as which a `None` is stored, reads as `Some(None)` where `T` is an `Option`, and as `None`,
    /// no value, where `T` cannot be `null`.
    ///
    /// ```
    /// # use session_layer::{Session, SessionError};
    /// # fn example(session: &Session) -> Result<(), SessionError> {
    /// session.insert("nickname", None::<String>)?;
    /// assert_eq!(session.get::<Option<String>>("nickname")?, Some(None));
    /// assert_eq!(session.get::<String>("nickname")?, None);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When what is stored does not read as `T` ([`SessionError::is_unreadable`]), because another version of the app wrote it, say.
    /// It keeps its bytes, and the other attributes are not affected.
    pub fn get<T: DeserializeOwned>(&self, name: impl Reads<T>) -> Result<Option<T>, SessionError> {
        let name = name.attribute_name();
        // Read first, parsed then: `T` may use the session, whose lock must be free.
        let json = self.slot.with_state(|state| state.overlay(name));
        parse(name, json)
    }

    /// Returns the JSON text of an attribute as it is stored.
    pub fn raw(&self, name: impl Named) -> Option<Bytes> {
        let name = name.attribute_name();
        self.slot.with_state(|state| state.overlay(name))
    }

    /// The names of all attributes, in order.
    #[doc(alias = "getAttributeNames")]
    pub fn names(&self) -> Vec<String> {
        self.slot.with_state(|state| state.attributes()).keys().cloned().collect()
    }

    /// Sets an attribute. The value is stored as JSON, and reads back equal if its `Serialize` and `Deserialize` implementations fit
    /// each other, as derived ones do: floats to the last bit, integers of up to 128 bits, keys of maps that are numbers or booleans.
    ///
    /// # Errors
    ///
    /// At once, when JSON would change the value or could not hold it, such as NaN or `Some(None)`
    /// ([`SessionError::invalid_value`] says why), when the name breaks a rule or the value a limit, or when the response's head is
    /// out.
    #[doc(alias = "setAttribute")]
    pub fn insert<V: Serialize>(&self, name: impl Takes<V>, value: V) -> Result<(), SessionError> {
        insert(&self.slot, name.attribute_name(), &value)
    }

    /// Sets an attribute to a JSON text. Whitespace outside strings is removed; everything else keeps its bytes: the digits of
    /// numbers, escapes, the order of keys. Limits apply to what is left.
    ///
    /// ```
    /// # use session_layer::{InvalidValue, Session, SessionError};
    /// # fn example(session: &Session) -> Result<(), SessionError> {
    /// session.insert_json("prefs", "{ \"zoom\": 1.50 }\n")?;
    /// assert_eq!(session.raw("prefs").unwrap(), "{\"zoom\":1.50}");
    /// let error = session.insert_json("prefs", "1e999").unwrap_err();
    /// assert_eq!(error.invalid_value(), Some(InvalidValue::NumberOutOfRange));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`insert`](Self::insert); also when the text is not JSON or could not be read again. [`InvalidValue`](crate::InvalidValue)
    /// lists the reasons.
    pub fn insert_json(&self, name: impl Named, json: impl Into<Bytes>) -> Result<(), SessionError> {
        insert_json(&self.slot, name.attribute_name(), &json.into())
    }

    /// Removes an attribute. It stays removed, whatever requests that loaded the session before still do with others. Tells
    /// whether this request saw it.
    ///
    /// # Errors
    ///
    /// When the name breaks a rule, or the response's head is out.
    #[doc(alias = "removeAttribute")]
    pub fn remove(&self, name: impl Named) -> Result<bool, SessionError> {
        remove(&self.slot, name.attribute_name())
    }

    /// Removes all attributes. The session goes on, and who is logged in stays logged in.
    ///
    /// # Errors
    ///
    /// When the response's head is out.
    pub fn clear(&self) -> Result<(), SessionError> {
        self.slot.change(Delta::clear)
    }

    /// Adds to an attribute that is an integer of at most 18 digits, starting from 0 if there is none; exact whatever other
    /// requests add on other nodes. [`flush`](Self::flush) brings back the exact value.
    ///
    /// # Errors
    ///
    /// At once, when the name breaks a rule, this request set the attribute to something else than such an integer, or the
    /// response's head is out. If what is stored is no such integer (`null` is none either), the commit fails
    /// ([`SessionError::is_not_a_counter`]), and nothing of it is applied.
    pub fn increment(&self, name: impl Named, by: i64) -> Result<(), SessionError> {
        increment(&self.slot, name.attribute_name(), by)
    }

    /// Commits the attribute changes so far; changes of the ID and the session's end wait for the response. What was flushed stays,
    /// whatever the handler answers.
    ///
    /// # Errors
    ///
    /// As a commit when the response is there: 503, 409, 413. The changes are then dropped, and an answer of this request that is
    /// not itself 4xx or 5xx is replaced by that error, unless the handler calls
    /// [`forgive_failed_flush`](Self::forgive_failed_flush).
    pub async fn flush(&self) -> Result<Flushed, SessionError> {
        self.slot.flush().await.map(Flushed::from)
    }

    /// Says that the handler has dealt with a [`flush`](Self::flush) or [`update`](Self::update) of this request that failed, so that
    /// its answer goes out whatever its status.
    ///
    /// ```
    /// # use session_layer::{Session, SessionError};
    /// async fn count(session: Session) -> Result<String, SessionError> {
    ///     session.increment("visits", 1)?;
    ///     match session.flush().await {
    ///         Err(error) if error.is_not_a_counter() => {
    ///             session.forgive_failed_flush();
    ///             session.insert("visits", 1)?;
    ///         }
    ///         other => drop(other?),
    ///     }
    ///     Ok(format!("{:?}", session.get::<u64>("visits")?))
    /// }
    /// ```
    pub fn forgive_failed_flush(&self) {
        self.slot.forgive_failed_flush();
    }

    /// Changes an attribute by what it was: a flush under the condition that nobody else changed it in between, repeated with its
    /// new value if somebody did. So `change` may run more than once. `None` stands for an attribute that is not there, and for `null`
    /// where `T` cannot be that; an attribute that `change` leaves as `None` is removed.
    ///
    /// `change` may use the session; an attribute that it changes itself is read anew, and `change` runs again.
    ///
    /// Also works after the response's head is out, for a session that exists.
    ///
    /// ```
    /// # use session_layer::{Attribute, Session, SessionError};
    /// const CART: Attribute<Vec<String>> = Attribute::new("cart");
    ///
    /// async fn add(session: Session) -> Result<String, SessionError> {
    ///     let items = session
    ///         .update(CART, |cart: &mut Option<Vec<String>>| {
    ///             let cart = cart.get_or_insert_default();
    ///             cart.push("book".to_owned());
    ///             cart.len()
    ///         })
    ///         .await?;
    ///     Ok(format!("{items} items"))
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`flush`](Self::flush) and [`get`](Self::get); [`SessionError::is_contended`] when others were faster each time.
    #[doc(alias = "compare_and_set")]
    pub async fn update<T, R>(
        &self,
        name: impl Reads<T>,
        mut change: impl FnMut(&mut Option<T>) -> R,
    ) -> Result<R, SessionError>
    where
        T: DeserializeOwned + Serialize,
    {
        let name = name.attribute_name();
        check_name(name)?;
        let longest = self.slot.config().limits.value_bytes;
        self.slot
            .update(name, |stored| {
                let mut value = parse(name, stored)?;
                let out = change(&mut value);
                let json = value.map(|value| to_json(name, &value, longest)).transpose()?;
                Ok((json, out))
            })
            .await
    }

    /// Logs somebody in: the session gets a new ID, so that whoever knew the old one has nothing (session fixation), keeps its
    /// attributes, and its absolute timeout starts again. Attributes of a session that belonged to another principal do not go
    /// over; what this request itself changed before does.
    ///
    /// # Errors
    ///
    /// When the principal is empty, longer than 256 bytes, or has control characters, or the response's head is out.
    pub fn log_in(&self, principal: impl Into<String>) -> Result<(), SessionError> {
        let principal = principal.into();
        check_principal(&principal)?;
        self.slot.change_state(|state| {
            let other = state.principal().is_some_and(|current| current != principal);
            state.delta.log_in(principal, other);
        })
    }

    /// Logs out: the same as [`destroy`](Self::destroy). What is stored after it, a farewell message, say, starts another
    /// session.
    ///
    /// # Errors
    ///
    /// When the response's head is out.
    pub fn log_out(&self) -> Result<(), SessionError> {
        self.destroy()
    }

    /// Ends the session, here and on every node, and has the browser forget it. Nothing that is still in flight brings it back.
    ///
    /// # Errors
    ///
    /// When the response's head is out.
    #[doc(alias = "invalidate")]
    pub fn destroy(&self) -> Result<(), SessionError> {
        self.slot.change(Delta::destroy)
    }

    /// Starts a new session, deliberately: the browser gets a new ID with its cookie even if the one it came with ended a moment ago
    /// ([`has_ended`](Self::has_ended)), and even if nothing is stored. A session that is alive ends, as by [`destroy`](Self::destroy),
    /// and what this request changed before is dropped.
    ///
    /// For handlers whose browser must have a session of its own when it comes back: one that stores the `state` of an OAuth login, or
    /// binds a CSRF token to the session's ID. Not for what a page does on each visit: an answer that was overtaken by that of a login
    /// would put the browser back into the empty session.
    ///
    /// ```
    /// use session_layer::{Session, SessionError};
    ///
    /// async fn begin_oauth(session: Session) -> Result<String, SessionError> {
    ///     if !session.exists() {
    ///         session.reset()?;
    ///     }
    ///     session.insert("oauth_state", "a random value")?;
    ///     Ok("https://id.example/authorize?state=…".to_owned())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// When the response's head is out.
    #[doc(alias = "reset_session")]
    #[doc(alias = "flush")]
    pub fn reset(&self) -> Result<(), SessionError> {
        self.slot.change(Delta::reset)
    }

    /// Gives the session a new ID and keeps everything else; for changes of privilege that are no login.
    ///
    /// # Errors
    ///
    /// When the response's head is out.
    #[doc(alias = "regenerate")]
    #[doc(alias = "changeSessionId")]
    pub fn cycle_id(&self) -> Result<(), SessionError> {
        self.slot.change(Delta::cycle)
    }

    /// Reads the session from the store again; changes that were not flushed stay on top. `false` when it has ended: for streams
    /// and WebSockets, which outlive the answer that opened them. Does not prolong the session; see [`touch`](Self::touch).
    ///
    /// # Errors
    ///
    /// When the store does not answer within the budget.
    pub async fn reload(&self) -> Result<bool, SessionError> {
        self.slot.reload().await
    }

    /// Does what [`reload`](Self::reload) does, and prolongs the session as a request would, if enough of its idle timeout is used up.
    ///
    /// For streams and WebSockets where what a client sends counts as use of its session. A handle that a stream holds prolongs nothing by
    /// itself: else an open tab would keep its session alive for as long as the absolute timeout allows. Costs one round trip.
    ///
    /// # Errors
    ///
    /// When the store does not answer within the budget.
    pub async fn touch(&self) -> Result<bool, SessionError> {
        let alive = self.slot.reload().await?;
        if alive {
            self.slot.touch_reloaded();
        }
        Ok(alive)
    }
}

impl<K> LazySession<K> {
    pub(crate) fn new(slot: Arc<Slot>) -> Self {
        Self { slot, kind: PhantomData }
    }

    /// Whether the browser presented an ID that we signed; not whether its session is still alive.
    pub fn is_presented(&self) -> bool {
        self.slot.with_state(|state| state.read = true);
        self.slot.presented().is_some()
    }

    /// Whether the browser may have a session cookie that it did not send; see [`Session::is_withheld`].
    pub fn is_withheld(&self) -> bool {
        self.slot.with_state(|state| state.read = true);
        self.slot.must_not_start()
    }

    /// Sets an attribute; see [`Session::insert`].
    ///
    /// # Errors
    ///
    /// The same.
    pub fn insert<V: Serialize>(&self, name: impl Takes<V>, value: V) -> Result<(), SessionError> {
        insert(&self.slot, name.attribute_name(), &value)
    }

    /// Sets an attribute to a JSON text; see [`Session::insert_json`].
    ///
    /// # Errors
    ///
    /// The same.
    pub fn insert_json(&self, name: impl Named, json: impl Into<Bytes>) -> Result<(), SessionError> {
        insert_json(&self.slot, name.attribute_name(), &json.into())
    }

    /// Removes an attribute; see [`Session::remove`].
    ///
    /// # Errors
    ///
    /// The same.
    pub fn remove(&self, name: impl Named) -> Result<(), SessionError> {
        remove(&self.slot, name.attribute_name()).map(|_| ())
    }

    /// Adds to an attribute; see [`Session::increment`].
    ///
    /// # Errors
    ///
    /// The same.
    pub fn increment(&self, name: impl Named, by: i64) -> Result<(), SessionError> {
        increment(&self.slot, name.attribute_name(), by)
    }

    /// Starts a new session, deliberately; see [`Session::reset`]. Costs one more round trip if the session had ended.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn reset(&self) -> Result<(), SessionError> {
        self.slot.change(Delta::reset)
    }

    /// Says that the handler has dealt with a flush that failed; see [`Session::forgive_failed_flush`].
    pub fn forgive_failed_flush(&self) {
        self.slot.forgive_failed_flush();
    }

    /// Commits the changes so far; see [`Session::flush`].
    ///
    /// # Errors
    ///
    /// The same.
    pub async fn flush(&self) -> Result<Flushed, SessionError> {
        self.slot.flush().await.map(Flushed::from)
    }
}

fn insert<V: Serialize>(slot: &Slot, name: &str, value: &V) -> Result<(), SessionError> {
    check_name(name)?;
    let json = to_json(name, value, slot.config().limits.value_bytes)?;
    slot.change(|delta| delta.set(name, json))
}

fn insert_json(slot: &Slot, name: &str, json: &[u8]) -> Result<(), SessionError> {
    check_name(name)?;
    let json = checked_json(name, json, slot.config().limits.value_bytes)?;
    slot.change(|delta| delta.set(name, json))
}

fn remove(slot: &Slot, name: &str) -> Result<bool, SessionError> {
    check_name(name)?;
    slot.change_state(|state| {
        let was_there = state.overlay(name).is_some();
        state.delta.remove(name);
        was_there
    })
}

fn increment(slot: &Slot, name: &str, by: i64) -> Result<(), SessionError> {
    check_name(name)?;
    slot.change(|delta| delta.add(name, by))?
}

macro_rules! handle {
    ($($name:ident),*) => {$(
        impl<K> Clone for $name<K> {
            fn clone(&self) -> Self {
                Self::new(Arc::clone(&self.slot))
            }
        }

        /// Shows nothing of the session.
        impl<K> fmt::Debug for $name<K> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )*};
}

handle!(Session, LazySession);
