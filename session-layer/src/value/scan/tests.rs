//! The scanner against `serde_json`: what it accepts can be read and reads equal, and what it refuses cannot.

use std::fmt;

use proptest::prelude::*;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::*;

fn compacted(text: &[u8]) -> Result<Vec<u8>, InvalidValue> {
    match compact(text, usize::MAX) {
        Ok(compact) => Ok(compact.unwrap_or_else(|| text.to_vec())),
        Err(Refusal::Invalid(reason)) => Err(reason),
        Err(Refusal::TooLong) => panic!("nothing is too long"),
    }
}

/// Whether an object in a text has a key twice, or a key that `serde_json` keeps for itself.
struct Unfit(bool);

impl<'de> Deserialize<'de> for Unfit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UnfitVisitor)
    }
}

struct UnfitVisitor;

macro_rules! fit {
    ($($visit:ident: $type:ty),*) => {$(
        fn $visit<E>(self, _: $type) -> Result<Unfit, E> {
            Ok(Unfit(false))
        }
    )*};
}

impl<'de> Visitor<'de> for UnfitVisitor {
    type Value = Unfit;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fit!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str);

    fn visit_unit<E>(self) -> Result<Unfit, E> {
        Ok(Unfit(false))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Unfit, A::Error> {
        let mut unfit = false;
        while let Some(Unfit(one)) = list.next_element()? {
            unfit |= one;
        }
        Ok(Unfit(unfit))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unfit, A::Error> {
        let (mut keys, mut unfit) = (Vec::new(), false);
        while let Some((key, Unfit(one))) = map.next_entry::<String, Unfit>()? {
            unfit |= one || keys.contains(&key) || key.starts_with("$serde_json::private::");
            keys.push(key);
        }
        Ok(Unfit(unfit))
    }
}

fn check(text: &[u8]) -> Result<(), TestCaseError> {
    let read = serde_json::from_slice::<Value>(text);
    match compacted(text) {
        Ok(compact) => {
            let value = read.map_err(|error| TestCaseError::fail(format!("accepted, but {error}")))?;
            prop_assert_eq!(serde_json::from_slice::<Value>(&compact).ok(), Some(value));
            prop_assert!(!serde_json::from_slice::<Unfit>(text).unwrap().0);
            prop_assert_eq!(compacted(&compact), Ok(compact));
        }
        Err(DuplicateKey | ReservedKey) => {
            // What comes after that is not read.
            let unfit = serde_json::from_slice::<Unfit>(text);
            prop_assert!(unfit.map_or(true, |Unfit(unfit)| unfit));
        }
        Err(reason) => prop_assert!(read.is_err(), "{reason:?}, but it reads as {:?}", read),
    }
    Ok(())
}

/// JSON texts, some of which break a rule.
fn texts() -> impl Strategy<Value = String> {
    let number = "-?(0|[1-9][0-9]{0,3}|[1-9][0-9]{0,330})(\\.[0-9]{1,30})?([eE][+-]?[0-9]{1,4})?";
    let escape = "\\\\u(d[89abcdef][0-9a-f]{2}|[0-9a-fA-F]{4})";
    let string = format!("\"([ -!#-\\[\\]-~]|{escape}|\\\\[\"\\\\/bfnrt]|\\PC){{0,6}}\"");
    let string = proptest::string::string_regex(&string).expect("a regular expression").boxed();
    let key = prop_oneof![
        6 => "\"[ab]{0,2}\"",
        2 => string.clone(),
        1 => "\"\\\\u006[12]\"",
        1 => Just("\"$serde_json::private::RawValue\"".to_owned()),
    ];
    let space = "[ \t\r\n]{0,2}";
    let leaf = prop_oneof![number, string, "true|false|null"];
    let value = leaf.prop_recursive(6, 40, 6, move |inner| {
        let list = proptest::collection::vec((space, inner.clone(), space), 0..6).prop_map(|items| {
            let items: Vec<_> = items.into_iter().map(|(a, item, b)| format!("{a}{item}{b}")).collect();
            format!("[{}]", items.join(","))
        });
        let object = proptest::collection::vec((space, key.clone(), space, inner), 0..6).prop_map(|entries| {
            let entries: Vec<_> =
                entries.into_iter().map(|(a, key, b, item)| format!("{a}{key}{b}:{b}{item}{a}")).collect();
            format!("{{{}}}", entries.join(","))
        });
        prop_oneof![list, object]
    });
    (space, value, space).prop_map(|(before, value, after)| format!("{before}{value}{after}"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_accepted_can_be_read_and_nothing_else(text in texts()) {
        check(text.as_bytes())?;
    }

    #[test]
    fn a_text_with_one_byte_changed_is_judged_like_any_other(text in texts(), at: prop::sample::Index, byte: u8) {
        let mut text = text.into_bytes();
        let at = at.index(text.len());
        text[at] = byte;
        check(&text)?;
        text.truncate(at);
        check(&text)?;
    }

    #[test]
    fn any_short_text_is_judged_like_any_other(text in "[\\[\\]{},:\"\\\\utrefalsn0189.eE+\\- ]{0,12}") {
        check(text.as_bytes())?;
    }
}

#[test]
fn numbers_at_the_end_of_the_range_are_judged_by_their_value() {
    for text in [
        "1.7976931348623157e308",
        "1.7976931348623158e308",
        "1.797693134862315807e308",
        "1.7976931348623159e308",
        "17976931348623157e292",
        "0.00000000001e319",
        "0e999999999999999999999",
        "1e-999999999999999999999",
        "1e999999999999999999999",
        "-0",
        "-0.0e-0",
    ] {
        check(text.as_bytes()).unwrap();
    }
    check(format!("0.{}1e{}", "0".repeat(400), 500).as_bytes()).unwrap();
    check(format!("1{}e-{}", "0".repeat(400), 400).as_bytes()).unwrap();
    check("9".repeat(308).as_bytes()).unwrap();
    check("9".repeat(309).as_bytes()).unwrap();
    check(format!("1{}", "0".repeat(308)).as_bytes()).unwrap();
}

#[test]
fn whitespace_goes_and_all_else_stays() {
    let check = |text: &str, expected: &str| assert_eq!(compacted(text.as_bytes()).unwrap(), expected.as_bytes());
    check("1", "1");
    check(" \t\r\n1 \t\r\n", "1");
    check("[ ]", "[]");
    check("{ }", "{}");
    check("[ 1 , [ ] , \" [ 1 ] \" ]", "[1,[],\" [ 1 ] \"]");
    check("{ \"b\" : 1e2 , \"a\" : { \"\\u00e9 \" : 1.0 } }", "{\"b\":1e2,\"a\":{\"\\u00e9 \":1.0}}");
}

#[test]
fn the_limit_is_on_what_is_left() {
    for (text, longest, fits) in [("[1 ,2]", 5, true), ("[1 ,2]", 4, false), ("  1", 1, true), ("\"xx\"", 3, false)] {
        assert_eq!(compact(text.as_bytes(), longest).is_ok(), fits, "{text}");
    }
}
