//! Settings that cannot be used are refused when the layer is built, by name.

use std::time::Duration;

use session_layer::{DefaultSession, SameSite, SessionLayer, SessionLayerBuilder};

use crate::fixture::{SECRET, TestStore, millis, minutes};

#[track_caller]
fn check(setting: &str, says: &str, change: impl FnOnce(SessionLayerBuilder) -> SessionLayerBuilder) {
    let error = change(SessionLayer::builder(TestStore::default()).secret(SECRET)).build().expect_err(setting);
    assert_eq!(error.setting(), setting);
    let text = error.to_string();
    assert!(text.starts_with(&format!("setting `{setting}` ")) && text.contains(says), "{text}");
}

#[test]
fn each_setting_that_cannot_be_used_is_named() {
    check("secret", "has 31 bytes", |layer| layer.secret([0; 31]));
    check("secret", "has 0 bytes", |layer| layer.secret(""));
    check("accepted_secrets", "has 5 bytes", |layer| layer.accepted_secrets(["short"]));
    check("idle_timeout", "millisecond", |layer| layer.idle_timeout(Duration::ZERO).absolute_timeout(None));
    check("idle_timeout", "millisecond", |layer| layer.idle_timeout(Duration::from_micros(999)));
    check("absolute_timeout", "shorter than `idle_timeout`", |layer| layer.absolute_timeout(minutes(29)));
    check("absolute_timeout", "shorter than `idle_timeout`", |layer| layer.idle_timeout(minutes(13 * 60)));
    check("touch_interval", "shorter than `idle_timeout`", |layer| layer.touch_interval(minutes(30)));
    check("touch_interval", "100 years", |layer| layer.touch_interval(Duration::MAX));
    check("budget", "zero", |layer| layer.budget(Duration::ZERO));
    check("budget", "300 s", |layer| layer.budget(minutes(5)));
    check("budget", "300 s", |layer| layer.budget(minutes(5)).late_window(minutes(5)));
    check("late_window", "300 s", |layer| layer.late_window(minutes(5)));
    check("late_window", "shorter than `budget` (5s)", |layer| layer.late_window(Duration::from_secs(5) - millis(1)));
    check("late_window", "shorter than `budget` (5s)", |layer| layer.late_window(Duration::ZERO));
    for name in ["", "a b", "a;b", "a=b", "größe", "a\r\nb", "a\"b"] {
        check("cookie_name", "must be a token", |layer| layer.cookie_name(name));
    }
    check("cookie_name", "too long", |layer| layer.cookie_name("s".repeat(4096)));
    for path in ["", "shop", "/a;b", "/ü", "/\n", "/a b", "/a?b", "/a#b"] {
        check("cookie_path", "must start with `/`", |layer| layer.cookie_name("s").cookie_path(path));
    }
    check("cookie_name", "`__Host-`", |layer| layer.cookie_path("/shop"));
    check("cookie_name", "`__Host-`", |layer| layer.cookie_domain("shop.example"));
    check("cookie_name", "`__Host-`", |layer| layer.development(true).cookie_name("__host-s"));
    check("cookie_name", "`__Host-Http-`", |layer| layer.development(true).cookie_name("__Host-Http-s"));
    check("cookie_name", "`__Secure-`", |layer| layer.development(true).cookie_name("__Secure-s"));
    check("cookie_name", "`__Http-`", |layer| layer.development(true).cookie_name("__Http-s"));
    for name in ["x-v", "__Host-session-v", "-v"] {
        check("cookie_name", "ends with `-v`", |layer| layer.cookie_name(name));
    }
    check("realm", "must not be empty", |layer| layer.realm(""));
    check("same_site", "Secure", |layer| layer.development(true).same_site(SameSite::None));
    check("keep_cache_headers", "`no-store`", |layer| layer.keep_cache_headers([http::header::CACHE_CONTROL]));
    check("partitioned", "Secure", |layer| layer.development(true).partitioned(true));
}

#[test]
fn a_cookie_domain_is_a_name_and_the_error_says_so() {
    for domain in [
        "",
        "shop.example:8443",
        "https://shop.example",
        "shop.example/cart",
        "shop.example/",
        "*.shop.example",
        "*",
        "shop.example, cart.example",
        "shop.example cart.example",
        "shop.example;cart.example",
        "alice@shop.example",
        "[::1]",
        "127.0.0.1",
        ".shop.example",
        "shop.example.",
        "shop..example",
        "größe.example",
        "shop.example\n",
        "com",
        "-shop.example",
    ] {
        check("cookie_domain", "a domain is a name such as `shop.example`", |layer| {
            layer.cookie_name("s").cookie_domain(domain)
        });
    }
}

/// With one cookie between them, a visitor's would be an admin's.
#[test]
fn a_layer_of_another_kind_needs_its_own_cookie_name() {
    struct Admin;
    let build = |change: fn(SessionLayerBuilder) -> SessionLayerBuilder| {
        change(SessionLayer::builder(TestStore::default()).secret(SECRET)).kind::<Admin>().build()
    };
    for shared in [
        build(|layer| layer),
        build(|layer| layer.development(true)),
        build(|layer| layer.cookie_name("__Host-session")),
        build(|layer| layer.cookie_name("session")),
    ] {
        let error = shared.expect_err("the default layer has this name");
        assert_eq!(error.setting(), "cookie_name");
        assert!(error.to_string().contains("a layer of another kind needs one of its own"), "{error}");
    }
    build(|layer| layer.cookie_name("__Host-admin")).unwrap();
    let default = SessionLayer::builder(TestStore::default()).secret(SECRET).kind::<DefaultSession>();
    default.build().unwrap();
}

#[test]
fn a_missing_secret_is_named() {
    let error = SessionLayer::builder(TestStore::default()).build().unwrap_err();
    assert_eq!(error.to_string(), "setting `secret` is missing; give at least 32 random bytes");
}

#[test]
fn what_is_unusual_but_possible_is_accepted() {
    let ok = |change: fn(SessionLayerBuilder) -> SessionLayerBuilder| {
        change(SessionLayer::builder(TestStore::default()).secret(SECRET)).build().map(|_| ()).unwrap();
    };
    ok(|layer| layer);
    ok(|layer| layer.secret(vec![0; 4096]).accepted_secrets([[1; 32], [2; 32]]));
    ok(|layer| layer.same_site(SameSite::None));
    ok(|layer| layer.cookie_name("__Secure-s").cookie_domain("shop.example").cookie_path("/a%20b"));
    ok(|layer| layer.cookie_name("__Host-Http-s"));
    ok(|layer| layer.same_site(SameSite::None).partitioned(true));
    ok(|layer| layer.development(true).cookie_domain("localhost").cookie_path("/shop"));
    ok(|layer| layer.idle_timeout(minutes(30)).absolute_timeout(minutes(30)));
    ok(|layer| layer.idle_timeout(millis(1)).touch_interval(Duration::ZERO));
    ok(|layer| layer.max_waiting(0).budget(millis(1)));
    ok(|layer| layer.budget(millis(1)).late_window(millis(1)));
    ok(|layer| layer.late_window(minutes(5) - millis(1)));
}
