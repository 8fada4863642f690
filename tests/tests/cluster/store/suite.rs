//! The suite that every store passes, on one server that all checks share.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use cluster_tests::proxy::Proxy;
use cluster_tests::redis::{self, Machine};
use session_layer::store::conformance;
use session_layer::store::{RedisStore, SessionStore};
use tokio::sync::OnceCell;

static SERVER: OnceCell<Machine> = OnceCell::const_new();

async fn store() -> RedisStore {
    let server = SERVER.get_or_init(async || Machine::with_redis(&[]).await).await;
    let store = RedisStore::builder(&server.url()).build().expect("the URL is good");
    store.available().await;
    store
}

session_layer::conformance!(store().await);

/// Evicted or deleted; what is written there instead, `lists` tests.
#[tokio::test]
async fn a_lost_list_is_whole_again_after_a_commit_or_touch() {
    let store = store().await;
    let lose = async |realm: &str, principal: &str| {
        let mut admin = SERVER.get().expect("the store made it").admin().await;
        let list = format!("session:{{principal}}:{}:{realm}:{principal}", realm.len());
        assert_eq!(admin.command(&["DEL", &list]).await, ":1\r\n", "it was there");
    };
    conformance::a_lost_list_is_whole_again_after_a_commit_or_touch(Arc::new(store), lose).await;
}

#[tokio::test]
async fn every_call_is_one_round_trip() {
    let server = SERVER.get_or_init(async || Machine::with_redis(&[]).await).await;
    let proxy = Proxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, server.port(0)))).await;
    let store = RedisStore::builder(&redis::url(proxy.port())).build().expect("the URL is good");
    store.available().await;
    // The watchdog's questions.
    proxy.ignore_what_idling_sends(Duration::from_secs(1)).await;
    proxy.during(async {}).await;
    conformance::every_call_is_one_round_trip(Arc::new(store), || proxy.trips()).await;
}
