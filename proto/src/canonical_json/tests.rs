#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::Map;

use super::*;

#[test]
fn texts_that_are_not_canonical_are_refused() {
    let check = |text: &str, accepted: bool| {
        assert_eq!(from_bytes::<Value>(text.as_bytes()).is_ok(), accepted, "`{text}`");
    };
    check(r#"{"a":1,"b":[true,null,"x"]}"#, true);
    check("9007199254740991", true);
    check("-9007199254740991", true);
    for text in [
        r#"{"b":1,"a":1}"#,
        r#"{"a":1,"a":1}"#,
        r#"{"a": 1}"#,
        "{} ",
        "1.0",
        "1e2",
        "-0",
        "01",
        "9007199254740992",
        "-9007199254740992",
        "18446744073709551616",
        r#""\/""#,
        r#""\u0041""#,
        r#""\u001F""#,
        r#""\ud800""#,
        r#"{"é":1}"#,
        "",
        "nul",
    ] {
        check(text, false);
    }
}

/// serde_json gives such keys a meaning of their own in some builds and none in others.
#[test]
fn keys_that_depend_on_the_build_are_refused() {
    for key in ["$serde_json::private::RawValue", "$serde_json::private::Number", "$"] {
        let text = format!(r#"{{"a":{{"{key}":"1"}}}}"#);
        assert!(from_bytes::<Map<String, Value>>(text.as_bytes()).is_err(), "{key}");
        let top = format!(r#"{{"{key}":"1"}}"#);
        assert!(from_bytes::<Map<String, Value>>(top.as_bytes()).is_err(), "{key}");
    }
}

#[test]
fn depth_is_bounded() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(from_bytes::<Value>(nested(127).as_bytes()).is_ok());
    assert!(from_bytes::<Value>(nested(128).as_bytes()).is_err());
    assert!(from_bytes::<Value>(nested(100_000).as_bytes()).is_err());
}

#[test]
fn values_with_no_canonical_form() {
    assert_eq!(to_bytes(&1.5).unwrap_err(), CanonicalError::Number("1.5".to_owned()));
    assert_eq!(
        to_bytes(&(INTEGER_MAX + 1)).unwrap_err(),
        CanonicalError::Number("9007199254740992".to_owned())
    );
    assert_eq!(to_bytes(&u64::MAX).unwrap_err(), CanonicalError::Number(u64::MAX.to_string()));
    assert_eq!(to_bytes(&i64::MIN).unwrap_err(), CanonicalError::Number(i64::MIN.to_string()));
    assert!(matches!(to_bytes(&u128::MAX).unwrap_err(), CanonicalError::Type(_)));
}

fn values() -> impl Strategy<Value = Value> {
    let limit = INTEGER_MAX.cast_signed();
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-limit..=limit).prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[ -#%-~][ -~]{0,3}|", inner, 0..4)
                .prop_map(|members| Value::from(Map::from_iter(members))),
        ]
    })
}

proptest! {
    #[test]
    fn r1_every_value_has_exactly_one_text(
        value in values(), at in any::<prop::sample::Index>(), other in any::<u8>(),
    ) {
        let bytes = to_bytes(&value).unwrap();
        prop_assert_eq!(&from_bytes::<Value>(&bytes).unwrap(), &value);
        let mut mutated = bytes.clone();
        mutated[at.index(bytes.len())] = other;
        if mutated != bytes && let Ok(other) = from_bytes::<Value>(&mutated) {
            prop_assert_ne!(other, value);
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        if let Ok(value) = from_bytes::<Value>(&bytes) {
            prop_assert_eq!(to_bytes(&value).unwrap(), bytes);
        }
    }
}
