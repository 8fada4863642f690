//! Every value that is accepted reads back equal, and any other is refused at once, with the reason.

use std::collections::BTreeMap;
use std::fmt::Debug;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde::de::DeserializeOwned;
use serde::ser::{SerializeSeq, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use session_layer::InvalidValue::{
    DuplicateKey, LoneSurrogate, NotFinite, NotJson, NotSerializable, NullInSome, NumberOutOfRange, ReservedKey,
    TooDeep,
};
use session_layer::store::Limits;
use session_layer::{InvalidValue, Session, SessionError};

use crate::fixture::{handle, in_session, setup};

#[track_caller]
fn reads_back<V: Serialize + DeserializeOwned + PartialEq + Debug>(session: &Session, value: V) {
    session.insert("value", &value).unwrap();
    assert_eq!(session.get::<V>("value").unwrap(), Some(value));
}

#[track_caller]
fn refuses(session: &Session, outcome: Result<(), SessionError>, reason: InvalidValue) {
    let error = outcome.unwrap_err();
    assert_eq!((error.invalid_value(), error.status().as_u16()), (Some(reason), 422), "{error}");
    assert!(error.to_string().contains("\"refused\""), "names the attribute: {error}");
    assert_eq!(session.raw("refused"), None);
}

/// Runs a property in one session.
async fn for_all<S: Strategy + 'static>(strategy: fn() -> S, check: fn(&Session, S::Value)) {
    in_session(move |session| {
        let mut runner = TestRunner::new(Config { cases: 2000, failure_persistence: None, ..Config::default() });
        runner
            .run(&strategy(), |value| {
                check(session, value);
                Ok(())
            })
            .unwrap();
    })
    .await;
}

fn check_float(session: &Session, bits: u64) {
    let value = f64::from_bits(bits);
    if !value.is_finite() {
        return refuses(session, session.insert("refused", value), NotFinite);
    }
    session.insert("value", value).unwrap();
    assert_eq!(session.get::<f64>("value").unwrap().unwrap().to_bits(), bits);
    let Some(Value::Number(number)) = session.get::<Value>("value").unwrap() else { panic!("a number") };
    assert_eq!(number.as_f64().unwrap().to_bits(), bits);
}

#[tokio::test]
async fn every_f64_reads_back_to_the_last_bit() {
    for_all(any::<u64>, check_float).await;
    in_session(|session| {
        // Each exponent, with the least, the most and a middling fraction.
        for exponent in 0..=0x7ff_u64 {
            for fraction in [0, 1, 0x8_0000_0000_0000, 0xf_ffff_ffff_ffff] {
                check_float(session, exponent << 52 | fraction);
                check_float(session, 1 << 63 | exponent << 52 | fraction);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn every_f32_reads_back_to_the_last_bit() {
    for_all(any::<u32>, |session, bits| {
        let value = f32::from_bits(bits);
        if !value.is_finite() {
            return refuses(session, session.insert("refused", value), NotFinite);
        }
        session.insert("value", value).unwrap();
        assert_eq!(session.get::<f32>("value").unwrap().unwrap().to_bits(), bits);
    })
    .await;
}

#[tokio::test]
async fn integers_of_all_sizes_read_back_equal() {
    for_all(any::<(i64, u64, i128, u128)>, reads_back).await;
    in_session(|session| {
        reads_back(session, (u64::MAX, i64::MIN, i64::MAX));
        reads_back(session, (i128::MIN, i128::MAX, u128::MAX));
        reads_back(session, [i8::MIN, -1, 0, 1, i8::MAX]);
    })
    .await;
}

fn json_values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        proptest::collection::vec(any::<char>(), 0..8).prop_map(|chars| Value::from(String::from_iter(chars))),
    ];
    leaf.prop_recursive(8, 64, 8, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            proptest::collection::btree_map(any::<String>(), inner, 0..8)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

#[tokio::test]
async fn every_json_value_reads_back_equal() {
    for_all(json_values, |session, value| {
        reads_back(session, value.clone());
        // As text, with whitespace and without.
        let compact = serde_json::to_string(&value).unwrap();
        for text in [compact.clone(), serde_json::to_string_pretty(&value).unwrap()] {
            session.insert_json("value", text).unwrap();
            assert_eq!(session.raw("value").unwrap(), compact);
            assert_eq!(session.get("value").unwrap(), Some(value.clone()));
        }
    })
    .await;
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Unit;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Colour {
    Red,
    #[serde(rename = "größer als grün")]
    Blue,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Shape {
    Point,
    Circle(f32),
    Line(i8, i8),
    Box { width: Option<u64>, colour: Colour },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
enum Tagged {
    None,
    Some { value: i64 },
}

/// Serialises as bytes and not as a list.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct ByteString(Vec<u8>);

impl Serialize for ByteString {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Newtype<T>(T);

#[tokio::test]
async fn types_that_json_does_not_have_read_back_equal() {
    in_session(|session| {
        reads_back(session, ());
        reads_back(session, Unit);
        reads_back(session, (1, "two".to_owned(), 'ß', [0.5, -0.0]));
        reads_back(session, vec![Shape::Point, Shape::Circle(0.1), Shape::Line(-1, 1)]);
        reads_back(session, [None, Some(u64::MAX)].map(|width| Shape::Box { width, colour: Colour::Blue }));
        reads_back(session, vec![Tagged::None, Tagged::Some { value: i64::MIN }]);
        reads_back(session, vec![Some(Newtype(Some(1))), None]);
        reads_back(session, ByteString((0..=255).collect()));
        reads_back(session, Some("null".to_owned()));
        reads_back(session, String::from_utf8((0..128).collect()).unwrap());
    })
    .await;
}

#[tokio::test]
async fn maps_with_keys_that_are_not_text_read_back_equal() {
    in_session(|session| {
        reads_back(session, BTreeMap::from([(i128::MIN, 1), (0, 2), (i128::MAX, 3)]));
        reads_back(session, BTreeMap::from([(false, 1), (true, 2)]));
        reads_back(session, BTreeMap::from([('"', 1), ('\\', 2), ('\0', 3)]));
        reads_back(session, BTreeMap::from([(Colour::Red, 1), (Colour::Blue, 2)]));
        reads_back(session, BTreeMap::from([(Newtype(u64::MAX), 1)]));
        refuses(session, session.insert("refused", BTreeMap::from([(vec![1], 1)])), NotSerializable);
        refuses(session, session.insert("refused", BTreeMap::from([((), 1)])), NotSerializable);
    })
    .await;
}

/// A map of which `serde` does not know that two keys are written alike.
struct Pairs(Vec<(&'static str, f64)>);

impl Serialize for Pairs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

#[tokio::test]
async fn a_float_that_json_cannot_express_is_refused() {
    in_session(|session| {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            refuses(session, session.insert("refused", value), NotFinite);
            refuses(session, session.insert("refused", value as f32), NotFinite);
            refuses(session, session.insert("refused", vec![Some(Newtype(value))]), NotFinite);
            refuses(session, session.insert("refused", (Shape::Circle(value as f32), 1)), NotFinite);
            refuses(session, session.insert("refused", Pairs(vec![("a", value)])), NotFinite);
        }
    })
    .await;
}

#[tokio::test]
async fn a_some_that_would_be_read_as_none_is_refused() {
    in_session(|session| {
        refuses(session, session.insert("refused", Some(None::<u8>)), NullInSome);
        refuses(session, session.insert("refused", Some(())), NullInSome);
        refuses(session, session.insert("refused", Some(Unit)), NullInSome);
        refuses(session, session.insert("refused", Some(Value::Null)), NullInSome);
        refuses(session, session.insert("refused", vec![Some(Newtype(None::<u8>))]), NullInSome);
        let raw = |text: &str| Some(RawValue::from_string(text.to_owned()).unwrap());
        refuses(session, session.insert("refused", raw("null")), NullInSome);
        session.insert("value", raw("\"null\"")).unwrap();
        // In a list in the `Some` it is the list that is in it.
        reads_back(session, Some(vec![None::<u8>]));
        reads_back(session, Some(BTreeMap::from([("a".to_owned(), None::<u8>)])));
    })
    .await;
}

#[tokio::test]
async fn a_text_that_cannot_be_read_is_refused() {
    in_session(|session| {
        let deep = |levels| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        session.insert_json("value", deep(127)).unwrap();
        assert!(session.get::<Value>("value").unwrap().is_some());
        let cases = [
            ("", NotJson),
            ("\u{feff}1", NotJson),
            ("1 2", NotJson),
            ("[1,]", NotJson),
            ("{\"a\":1,}", NotJson),
            ("01", NotJson),
            ("NaN", NotJson),
            ("\"\u{1}\"", NotJson),
            ("\"\\ud800\"", LoneSurrogate),
            ("[\"\\udc00\"]", LoneSurrogate),
            ("{\"\\ud83d\\u0041\":1}", LoneSurrogate),
            ("1e999", NumberOutOfRange),
            ("[-1.5E+400]", NumberOutOfRange),
            (&"9".repeat(400), NumberOutOfRange),
            (&deep(128), TooDeep),
            (&"{\"a\":".repeat(1_000_000), TooDeep),
            (r#"{"a":1,"b":2,"a":3}"#, DuplicateKey),
            (r#"[{"a":{"a":1,"\u0061":2}}]"#, DuplicateKey),
            (r#"{"$serde_json::private::RawValue":"[1]"}"#, ReservedKey),
            (r#"{"\u0024serde_json::private::Number":"x"}"#, ReservedKey),
        ];
        for (text, reason) in cases {
            refuses(session, session.insert_json("refused", text.to_owned()), reason);
        }
        refuses(session, session.insert_json("refused", &b"\"\xff\""[..]), NotJson);
        session.insert_json("value", r#"{"a":{"a":1},"b":{"a":1}}"#).unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_type_is_held_to_the_same_rules_as_text() {
    in_session(|session| {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        refuses(session, session.insert("refused", raw("[\"\\ud800\"]")), LoneSurrogate);
        refuses(session, session.insert("refused", vec![raw("1e999")]), NumberOutOfRange);
        refuses(session, session.insert("refused", Pairs(vec![("a", 1.0), ("a", 2.0)])), DuplicateKey);
        let reserved = BTreeMap::from([("$serde_json::private::RawValue", "[1")]);
        refuses(session, session.insert("refused", reserved), ReservedKey);
        session.insert("value", raw(" [ 1 , 2 ] ")).unwrap();
        assert_eq!(session.raw("value").unwrap(), "[1,2]");
    })
    .await;
}

/// As many lists inside each other, made while they are written.
struct Nested(usize);

impl Serialize for Nested {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        if self.0 > 1 {
            list.serialize_element(&Self(self.0 - 1))?;
        }
        list.end()
    }
}

/// As many newtypes inside each other, of which nothing is seen in JSON.
struct Wrapped(usize);

impl Serialize for Wrapped {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            0 => serializer.serialize_u8(1),
            more => serializer.serialize_newtype_struct("Wrapped", &Self(more - 1)),
        }
    }
}

#[tokio::test]
async fn nesting_of_any_depth_is_refused_without_exhausting_the_stack() {
    in_session(|session| {
        session.insert("value", Nested(127)).unwrap();
        assert!(session.get::<Value>("value").unwrap().is_some());
        for depth in [128, 1000, 100_000_000] {
            refuses(session, session.insert("refused", Nested(depth)), TooDeep);
        }
        session.insert("value", Wrapped(100)).unwrap();
        refuses(session, session.insert("refused", Wrapped(100_000_000)), TooDeep);
    })
    .await;
}

#[tokio::test]
async fn a_refused_value_leaves_the_one_before() {
    let (store, browser) = setup();
    handle(&store, &browser, |session: Session| async move {
        session.insert("kept", 1)?;
        assert!(session.insert("kept", f64::NAN).unwrap_err().is_invalid_value());
        assert!(session.insert_json("kept", "{").unwrap_err().is_invalid_value());
        let update = session.update("kept", |kept: &mut Option<f64>| *kept = Some(f64::NAN)).await;
        assert_eq!(update.unwrap_err().invalid_value(), Some(NotFinite));
        Ok(())
    })
    .await
    .expect(200);
    browser.run("get kept").await.says("1");
    browser.lazy("raw kept {\"a\":1,\"a\":2}").await.expect(422);
}

#[tokio::test]
async fn whitespace_around_a_number_does_not_keep_it_from_counting() {
    let (store, browser) = setup();
    handle(&store, &browser, |session: Session| async move {
        session.insert_json("n", "\t1\n")?;
        session.increment("n", 1)
    })
    .await
    .expect(200);
    handle(&store, &browser, |session: Session| async move { session.insert_json("n", "\r\n 1") }).await.expect(200);
    browser.run("increment n; flush n").await.says("2");
}

#[tokio::test]
async fn the_limit_counts_what_is_stored() {
    in_session(|session| {
        let longest = Limits::default().value_bytes;
        let text = |len| format!("\"{}\"", "x".repeat(len - 2));
        for (len, fits) in [(longest, true), (longest + 1, false)] {
            let outcomes = [
                session.insert_json("value", text(len)),
                session.insert_json("value", format!("\n{} ", text(len))),
                session.insert("value", "x".repeat(len - 2)),
            ];
            for outcome in outcomes {
                assert_eq!(outcome.as_ref().err().is_some_and(SessionError::is_limit), !fits, "{outcome:?}");
            }
        }
        let wide = format!("[1,{}2]", " ".repeat(10_000_000));
        session.insert_json("value", wide).unwrap();
        assert_eq!(session.raw("value").unwrap(), "[1,2]");
    })
    .await;
}
