//! Attributes: their names, and their types where a program states them once.

use std::marker::PhantomData;

use serde::Serialize;

/// An attribute's name together with its type, stated once.
///
/// Plain text works wherever this does; then the type is named at each use.
///
/// ```
/// use session_layer::{Attribute, Session, SessionError};
///
/// const VISITS: Attribute<u64> = Attribute::new("visits");
/// const NAME: Attribute<String> = Attribute::new("name");
///
/// fn count(session: &Session) -> Result<u64, SessionError> {
///     let visits = session.get(VISITS)?.unwrap_or(0) + 1;
///     session.insert(VISITS, visits)?;
///     session.insert(NAME, "alice")?;
///     session.insert("colour", "green")?;
///     assert_eq!(session.get::<u64>("visits")?, Some(visits));
///     Ok(visits)
/// }
/// ```
///
/// A value of another type does not compile:
///
/// ```compile_fail
/// # use session_layer::{Attribute, Session, SessionError};
/// const VISITS: Attribute<u64> = Attribute::new("visits");
/// fn count(session: &Session) -> Result<(), SessionError> {
///     session.insert(VISITS, "no")
/// }
/// ```
pub struct Attribute<T> {
    name: &'static str,
    // Not `T` itself: a name is `Send` and `Copy` whatever it names.
    value: PhantomData<fn() -> T>,
}

impl<T> Attribute<T> {
    /// Names an attribute whose values are `T`. The rules for names are checked when it is used.
    pub const fn new(name: &'static str) -> Self {
        Self { name, value: PhantomData }
    }

    /// The name.
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

impl<T> Clone for Attribute<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Attribute<T> {}

/// Something that names an attribute: an [`Attribute`], or text.
pub trait Named {
    /// The attribute's name.
    fn attribute_name(&self) -> &str;
}

/// Names an attribute whose values can be read as `T`.
pub trait Reads<T>: Named {}

/// Names an attribute that takes a value of type `V`.
pub trait Takes<V>: Named {}

/// A value that can be stored where `T` is expected: `T` itself, a reference to it, and its borrowed forms.
pub trait Fits<T>: Serialize {}

impl<T: Serialize> Fits<T> for T {}
impl<T: Serialize> Fits<T> for &T {}
impl Fits<String> for &str {}
impl<T: Serialize> Fits<Vec<T>> for &[T] {}

macro_rules! named_by_text {
    ($($text:ty),*) => {$(
        impl Named for $text {
            fn attribute_name(&self) -> &str {
                self
            }
        }
        impl<T> Reads<T> for $text {}
        impl<V: Serialize> Takes<V> for $text {}
    )*};
}

named_by_text!(&str, String, &String);

impl<T> Named for Attribute<T> {
    fn attribute_name(&self) -> &str {
        self.name
    }
}

impl<T> Reads<T> for Attribute<T> {}
impl<T, V: Fits<T>> Takes<V> for Attribute<T> {}
