//! The suite that every store passes, on one server that all checks share.

use cluster_tests::redis::Machine;
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
