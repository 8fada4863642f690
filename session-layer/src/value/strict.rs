//! Serialises to JSON and refuses what `serde_json` would write as something else: NaN and infinities, and a `Some` that is written
//! as `null`. Also bounds the recursion, so that a value of any depth is refused instead of exhausting the stack.
//!
//! A serializer around `serde_json`'s that passes everything on.

use std::cell::Cell;

use serde::ser::{
    Error, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

use super::InvalidValue::{self, NotFinite, NotSerializable, NullInSome, TooDeep};

/// How many values may be inside each other, transparent ones (`Some`, newtypes) included: some four for each level of nesting.
const MAX_DEPTH: usize = 4 * super::MAX_NESTING;

/// The name of the struct as which `serde_json` passes a `RawValue`.
const RAW_VALUE: &str = "$serde_json::private::RawValue";

pub(super) fn to_vec<V: Serialize>(value: &V) -> Result<Vec<u8>, InvalidValue> {
    let reason = Cell::new(None);
    let mut json = Vec::with_capacity(128);
    let context = Context { place: Place::Plain, depth: 0, reason: &reason };
    let outcome = value.serialize(Strict { inner: &mut serde_json::Serializer::new(&mut json), context });
    match (reason.get(), outcome) {
        (Some(reason), _) => Err(reason),
        (None, Err(_)) => Err(NotSerializable),
        (None, Ok(())) => Ok(json),
    }
}

#[derive(Clone, Copy)]
struct Context<'r> {
    place: Place,
    depth: usize,
    /// Why the value is refused: an error of `serde` carries only text.
    reason: &'r Cell<Option<InvalidValue>>,
}

/// Where a value is, as far as that matters to whether it may be `null`.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Plain,
    InSome,
    /// The text of a `RawValue` that is in a `Some`.
    RawInSome,
}

impl<'r> Context<'r> {
    fn refuse<E: Error>(&self, reason: InvalidValue) -> E {
        self.reason.set(Some(reason));
        E::custom(reason)
    }

    fn inside<'v, T: ?Sized>(&self, place: Place, value: &'v T) -> StrictValue<'v, 'r, T> {
        StrictValue { value, context: Context { place, depth: self.depth + 1, reason: self.reason } }
    }

    fn check_null<E: Error>(&self) -> Result<(), E> {
        if self.place == Place::InSome { Err(self.refuse(NullInSome)) } else { Ok(()) }
    }

    fn check_float<E: Error>(&self, is_finite: bool) -> Result<(), E> {
        if is_finite { Ok(()) } else { Err(self.refuse(NotFinite)) }
    }
}

struct StrictValue<'v, 'r, T: ?Sized> {
    value: &'v T,
    context: Context<'r>,
}

impl<T: Serialize + ?Sized> Serialize for StrictValue<'_, '_, T> {
    fn serialize<S: Serializer>(&self, inner: S) -> Result<S::Ok, S::Error> {
        if self.context.depth > MAX_DEPTH {
            return Err(self.context.refuse(TooDeep));
        }
        self.value.serialize(Strict { inner, context: self.context })
    }
}

struct Strict<'r, S> {
    inner: S,
    context: Context<'r>,
}

impl<'r, S> Strict<'r, S> {
    /// Begins an array or object: what is in it is no longer in the `Some` that it is in itself.
    fn begin<C, E>(self, begin: impl FnOnce(S) -> Result<C, E>) -> Result<Strict<'r, C>, E> {
        let context = Context { place: Place::Plain, ..self.context };
        begin(self.inner).map(|inner| Strict { inner, context })
    }
}

macro_rules! pass_on {
    ($($method:ident($($name:ident: $type:ty),*);)*) => {$(
        fn $method(self, $($name: $type),*) -> Result<S::Ok, S::Error> {
            self.inner.$method($($name),*)
        }
    )*};
}

impl<'r, S: Serializer> Serializer for Strict<'r, S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Strict<'r, S::SerializeSeq>;
    type SerializeTuple = Strict<'r, S::SerializeTuple>;
    type SerializeTupleStruct = Strict<'r, S::SerializeTupleStruct>;
    type SerializeTupleVariant = Strict<'r, S::SerializeTupleVariant>;
    type SerializeMap = Strict<'r, S::SerializeMap>;
    type SerializeStruct = Strict<'r, S::SerializeStruct>;
    type SerializeStructVariant = Strict<'r, S::SerializeStructVariant>;

    pass_on! {
        serialize_bool(value: bool);
        serialize_i8(value: i8);
        serialize_i16(value: i16);
        serialize_i32(value: i32);
        serialize_i64(value: i64);
        serialize_i128(value: i128);
        serialize_u8(value: u8);
        serialize_u16(value: u16);
        serialize_u32(value: u32);
        serialize_u64(value: u64);
        serialize_u128(value: u128);
        serialize_char(value: char);
        serialize_bytes(value: &[u8]);
        serialize_unit_variant(name: &'static str, index: u32, variant: &'static str);
    }

    fn serialize_f32(self, value: f32) -> Result<S::Ok, S::Error> {
        self.context.check_float(value.is_finite())?;
        self.inner.serialize_f32(value)
    }

    fn serialize_f64(self, value: f64) -> Result<S::Ok, S::Error> {
        self.context.check_float(value.is_finite())?;
        self.inner.serialize_f64(value)
    }

    fn serialize_str(self, value: &str) -> Result<S::Ok, S::Error> {
        if self.context.place == Place::RawInSome && value.trim_ascii() == "null" {
            return Err(self.context.refuse(NullInSome));
        }
        self.inner.serialize_str(value)
    }

    fn serialize_none(self) -> Result<S::Ok, S::Error> {
        self.context.check_null()?;
        self.inner.serialize_none()
    }

    fn serialize_unit(self) -> Result<S::Ok, S::Error> {
        self.context.check_null()?;
        self.inner.serialize_unit()
    }

    fn serialize_unit_struct(self, name: &'static str) -> Result<S::Ok, S::Error> {
        self.context.check_null()?;
        self.inner.serialize_unit_struct(name)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.inner.serialize_some(&self.context.inside(Place::InSome, value))
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Result<S::Ok, S::Error> {
        // A newtype is written as what is in it.
        self.inner.serialize_newtype_struct(name, &self.context.inside(self.context.place, value))
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        self.inner.serialize_newtype_variant(name, index, variant, &self.context.inside(Place::Plain, value))
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Self::SerializeSeq, S::Error> {
        self.begin(|inner| inner.serialize_seq(len))
    }

    fn serialize_tuple(self, len: usize) -> Result<Self::SerializeTuple, S::Error> {
        self.begin(|inner| inner.serialize_tuple(len))
    }

    fn serialize_tuple_struct(self, name: &'static str, len: usize) -> Result<Self::SerializeTupleStruct, S::Error> {
        self.begin(|inner| inner.serialize_tuple_struct(name, len))
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleVariant, S::Error> {
        self.begin(|inner| inner.serialize_tuple_variant(name, index, variant, len))
    }

    fn serialize_map(self, len: Option<usize>) -> Result<Self::SerializeMap, S::Error> {
        self.begin(|inner| inner.serialize_map(len))
    }

    fn serialize_struct(self, name: &'static str, len: usize) -> Result<Self::SerializeStruct, S::Error> {
        let Self { inner, context } = self;
        let in_some = context.place == Place::InSome && name == RAW_VALUE;
        let place = if in_some { Place::RawInSome } else { Place::Plain };
        Ok(Strict { inner: inner.serialize_struct(name, len)?, context: Context { place, ..context } })
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeStructVariant, S::Error> {
        self.begin(|inner| inner.serialize_struct_variant(name, index, variant, len))
    }

    fn collect_str<T: std::fmt::Display + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.inner.collect_str(value)
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

macro_rules! sequence {
    ($($trait:ident::$method:ident)*) => {$(
        impl<S: $trait> $trait for Strict<'_, S> {
            type Ok = S::Ok;
            type Error = S::Error;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
                self.inner.$method(&self.context.inside(Place::Plain, value))
            }

            fn end(self) -> Result<S::Ok, S::Error> {
                self.inner.end()
            }
        }
    )*};
}

sequence! {
    SerializeSeq::serialize_element
    SerializeTuple::serialize_element
    SerializeTupleStruct::serialize_field
    SerializeTupleVariant::serialize_field
}

macro_rules! fields {
    ($($trait:ident)*) => {$(
        impl<S: $trait> $trait for Strict<'_, S> {
            type Ok = S::Ok;
            type Error = S::Error;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), S::Error> {
                self.inner.serialize_field(key, &self.context.inside(self.context.place, value))
            }

            fn skip_field(&mut self, key: &'static str) -> Result<(), S::Error> {
                self.inner.skip_field(key)
            }

            fn end(self) -> Result<S::Ok, S::Error> {
                self.inner.end()
            }
        }
    )*};
}

fields! { SerializeStruct SerializeStructVariant }

impl<S: SerializeMap> SerializeMap for Strict<'_, S> {
    type Ok = S::Ok;
    type Error = S::Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), S::Error> {
        self.inner.serialize_key(&self.context.inside(Place::Plain, key))
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
        self.inner.serialize_value(&self.context.inside(Place::Plain, value))
    }

    fn end(self) -> Result<S::Ok, S::Error> {
        self.inner.end()
    }
}
