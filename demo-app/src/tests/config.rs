//! Settings: every error names the variable, and a variable set to nothing is not set.

use std::time::Duration;

use session_layer::SessionId;
use session_layer::store::{Loaded, MemoryStore, SessionStore};

use super::client::{self, Browser};
use crate::config::{Cluster, Config, LogFormat, PUBLISHED_SECRET, SETTINGS, StoreUrl, log_format};
use crate::node::{self, Node};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn read(variables: &[(&str, &str)]) -> Result<Config, String> {
    let get = |name: &str| {
        assert!(SETTINGS.iter().any(|setting| setting.name == name), "{name} is read, but not documented");
        variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| value.to_string())
    };
    Config::read(&get).map_err(|error| error.to_string())
}

/// These variables on top of those of a good node are refused, in a sentence that starts with the variable and holds `hint`.
#[track_caller]
fn refused(variables: &[(&str, &str)], variable: &str, hint: &str) {
    let node = [("REDIS_URL", "memory:"), ("SESSION_SECRET", SECRET)];
    let all: Vec<_> = variables.iter().chain(&node).copied().collect();
    let error = read(&all).expect_err("this should be refused");
    assert!(error.starts_with(&format!("{variable}: ")) && error.contains(hint), "{error}");
    assert!(!error.contains(SECRET) && !error.contains("hunter2"), "{error} tells a secret");
}

#[test]
fn without_any_setting_this_is_the_embedded_cluster_on_port_8080_of_this_machine() {
    let config = read(&[]).unwrap();
    assert_eq!(config.cluster, Cluster::Embedded);
    assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.sessions.idle_timeout, Duration::from_secs(1800));
    assert_eq!(config.sessions.absolute_timeout, Some(Duration::from_secs(43_200)));
    assert!(config.sessions.development);
}

#[test]
fn two_embedded_clusters_have_different_secrets() {
    assert_ne!(read(&[]).unwrap().sessions.secret, read(&[]).unwrap().sessions.secret);
}

#[test]
fn with_a_redis_url_this_is_one_node() {
    let url = "redis-sentinel://:hunter2@sentinel-1:26380,sentinel-2:26381/mymaster";
    let config = read(&[
        ("REDIS_URL", url),
        ("SERVER_NAME", "2222"),
        ("LISTEN", "[::]:9000"),
        ("SESSION_SECRET", SECRET),
        ("SESSION_ACCEPTED_SECRETS", "the-first-old-secret-is-long-enough, the second old secret is long enough"),
        ("SESSION_IDLE_TIMEOUT_SECS", "60"),
        ("SESSION_ABSOLUTE_TIMEOUT_SECS", "3600"),
    ])
    .unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
    assert_eq!(
        config.cluster,
        Cluster::Node { name: "2222".to_owned(), store: StoreUrl::Redis(url.to_owned()), peers: Vec::new() }
    );
    assert_eq!(config.listen.port(), 9000);
    assert_eq!(config.sessions.secret.as_ref(), SECRET.as_bytes());
    assert_eq!(config.sessions.accepted.len(), 2);
    assert_eq!(config.sessions.idle_timeout, Duration::from_secs(60));
    assert_eq!(config.sessions.absolute_timeout, Some(Duration::from_secs(3600)));
    assert!(!config.sessions.development);
}

#[test]
fn a_variable_set_to_nothing_is_not_set() {
    let nothing: Vec<_> = SETTINGS.iter().map(|setting| (setting.name, "")).collect();
    assert_eq!(read(&nothing).unwrap().cluster, Cluster::Embedded);
}

#[test]
fn an_error_names_the_variable_and_says_how_to_mend_it() {
    refused(&[("LISTEN", "8080")], "LISTEN", "127.0.0.1:8080");
    refused(&[("LISTEN", "localhost:port")], "LISTEN", "127.0.0.1:8080");
    refused(&[("SERVER_NAME", "two words")], "SERVER_NAME", "letters, digits");
    refused(&[("REDIS_URL", "http://redis")], "REDIS_URL", "redis://");
    refused(&[("REDIS_URL", "localhost:6379")], "REDIS_URL", "redis://");
    refused(&[("SESSION_SECRET", "short")], "SESSION_SECRET", "has 5 bytes");
    refused(&[("SESSION_SECRET", "")], "SESSION_SECRET", "openssl rand");
    refused(&[("SESSION_SECRET_FILE", "/secret")], "SESSION_SECRET", "SESSION_SECRET_FILE is set as well");
    refused(&[("SESSION_SECRET", ""), ("SESSION_SECRET_FILE", "/no/such")], "SESSION_SECRET_FILE", "/no/such");
    refused(&[("SESSION_ACCEPTED_SECRETS", "short")], "SESSION_ACCEPTED_SECRETS", "at least 32");
    refused(&[("SESSION_IDLE_TIMEOUT_SECS", "0")], "SESSION_IDLE_TIMEOUT_SECS", "1 or more");
    refused(&[("SESSION_IDLE_TIMEOUT_SECS", "30m")], "SESSION_IDLE_TIMEOUT_SECS", "seconds");
    refused(&[("SESSION_ABSOLUTE_TIMEOUT_SECS", "-1")], "SESSION_ABSOLUTE_TIMEOUT_SECS", "seconds");
    refused(&[("SESSION_DEVELOPMENT", "maybe")], "SESSION_DEVELOPMENT", "neither on nor off");
}

#[test]
fn peers_are_hosts_with_ports() {
    let node = |peers: &str| {
        read(&[
            ("REDIS_URL", "memory:"),
            ("SESSION_SECRET", "a secret for the tests, 32 bytes or more"),
            ("PEERS", peers),
        ])
    };
    let Ok(Config { cluster: Cluster::Node { peers, .. }, .. }) = node("app1:8080, [::1]:81,") else {
        panic!("refused")
    };
    assert_eq!(peers, ["app1:8080", "[::1]:81"]);
    for wrong in ["app1", "app1:", "http://app1:8080", "a b:1", "user@app1:80"] {
        let error = node(wrong).unwrap_err();
        assert!(error.starts_with("PEERS: ") && error.contains("app1:8080,app2:8080"), "{error}");
    }
}

#[test]
fn an_absolute_timeout_of_0_is_none() {
    assert_eq!(read(&[("SESSION_ABSOLUTE_TIMEOUT_SECS", "0")]).unwrap().sessions.absolute_timeout, None);
}

#[tokio::test]
async fn without_an_absolute_timeout_no_session_has_an_end_of_that_kind() {
    let config = read(&[("SESSION_ABSOLUTE_TIMEOUT_SECS", "0"), ("SESSION_IDLE_TIMEOUT_SECS", "90000")]).unwrap();
    let store = MemoryStore::new();
    let (_, router) = client::node("1111", store.clone(), &config.sessions);
    let mut browser = Browser { nodes: vec![router], turn: 0, cookie: None };
    browser.get("/").await;
    let id = browser.session().await["session_id"].as_str().map(SessionId::decode);
    let Loaded::Alive(record) = store.load(&id.unwrap().unwrap()).await.unwrap() else { panic!("it is alive") };
    assert_eq!((record.idle_timeout, record.expires_on), (Duration::from_secs(90_000), None));
}

#[test]
fn the_embedded_cluster_refuses_a_name_that_it_would_ignore() {
    let error = read(&[("SERVER_NAME", "3333")]).unwrap_err();
    assert!(error.starts_with("SERVER_NAME: ") && error.contains("REDIS_URL"), "{error}");
}

#[test]
fn timeouts_that_contradict_each_other_are_refused() {
    let config = read(&[("SESSION_IDLE_TIMEOUT_SECS", "60"), ("SESSION_ABSOLUTE_TIMEOUT_SECS", "30")]).unwrap();
    let (store, node) = (session_layer::store::MemoryStore::new(), Node::new("1111".to_owned(), || true));
    let error = node::session_layer(store, &config.sessions, &node).err().unwrap();
    assert!(error.to_string().starts_with("SESSION_ABSOLUTE_TIMEOUT_SECS: "), "{error}");
}

#[test]
fn a_secret_of_bytes_that_are_no_text_is_refused() {
    // As `process_environment` reads them: of 32 random bytes some 16 are left.
    let bytes: Vec<u8> = (112..144).collect();
    let lossy = String::from_utf8_lossy(&bytes).into_owned();
    refused(&[("SESSION_SECRET", &lossy)], "SESSION_SECRET", "openssl rand -base64 48");
    refused(&[("SESSION_ACCEPTED_SECRETS", &lossy)], "SESSION_ACCEPTED_SECRETS", "openssl rand -base64 48");
}

#[test]
fn the_published_secret_is_refused_outside_development() {
    refused(&[("SESSION_SECRET", PUBLISHED_SECRET)], "SESSION_SECRET", "SESSION_DEVELOPMENT");
    refused(&[("SESSION_ACCEPTED_SECRETS", PUBLISHED_SECRET)], "SESSION_ACCEPTED_SECRETS", "SESSION_DEVELOPMENT");
    let node = [("REDIS_URL", "memory:"), ("SESSION_SECRET", PUBLISHED_SECRET), ("SESSION_DEVELOPMENT", "on")];
    assert_eq!(read(&node).unwrap().sessions.secret.as_ref(), PUBLISHED_SECRET.as_bytes());
}

#[test]
fn the_published_secret_is_the_one_in_the_env_file() {
    let env = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../.env")).unwrap();
    assert!(env.lines().any(|line| line == format!("SESSION_SECRET={PUBLISHED_SECRET}")), "{env}");
}

#[test]
fn a_secret_file_may_end_with_a_line_break() {
    let file = std::env::temp_dir().join(format!("demo-app-secret-{}", std::process::id()));
    std::fs::write(&file, format!("{SECRET}\r\n")).unwrap();
    let config = read(&[("REDIS_URL", "memory:"), ("SESSION_SECRET_FILE", file.to_str().unwrap())]);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(config.unwrap().sessions.secret.as_ref(), SECRET.as_bytes());
}

/// Whoever changes it moves it from one to the other.
#[test]
fn a_secret_is_the_same_one_wherever_it_stands() {
    let padded = format!(" {SECRET}\t");
    let file = std::env::temp_dir().join(format!("demo-app-padded-secret-{}", std::process::id()));
    std::fs::write(&file, format!("{padded}\n")).unwrap();
    let of_file = read(&[("REDIS_URL", "memory:"), ("SESSION_SECRET_FILE", file.to_str().unwrap())]);
    std::fs::remove_file(&file).unwrap();
    let node = [("REDIS_URL", "memory:"), ("SESSION_SECRET", &padded), ("SESSION_ACCEPTED_SECRETS", &padded)];
    let sessions = read(&node).unwrap().sessions;
    assert_eq!(sessions.accepted, std::slice::from_ref(&sessions.secret));
    assert_eq!(of_file.unwrap().sessions.secret, sessions.secret);
}

#[test]
fn logs_are_text_or_json() {
    assert_eq!(log_format(&|_| None), Ok(LogFormat::Text));
    assert_eq!(log_format(&|_| Some("json".to_owned())), Ok(LogFormat::Json));
    assert!(log_format(&|_| Some("xml".to_owned())).unwrap_err().to_string().starts_with("LOG_FORMAT: "));
}
