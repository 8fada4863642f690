//! A store in memory that is full.

use session_layer::SessionLayer;
use session_layer::store::{MemoryLimits, MemoryStore};

use crate::fixture::{App, Browser, SECRET};

#[tokio::test]
async fn a_full_store_in_memory_is_503_for_changes_and_reads_and_logs_out() {
    let mut limits = MemoryLimits::default();
    limits.entries = 40;
    let store = MemoryStore::with_limits(limits);
    let layer = SessionLayer::builder(store.clone()).secret(SECRET).build().unwrap();
    let browser = Browser::new(&App::new(layer));
    browser.run("insert n 1; log_in alice").await.expect(200).with_cookie();
    let refused = loop {
        let answer = browser.other().run("insert n 1").await;
        if answer.status != 200 {
            break answer.expect(503).without_cookie();
        }
    };
    let error = refused.error.unwrap();
    assert!(error.is_refused() && error.is_unavailable());
    let reason = std::error::Error::source(&error).and_then(std::error::Error::source).unwrap().to_string();
    assert!(reason.contains("40 entries") && reason.contains("MemoryLimits"), "{reason}");
    browser.run("insert n 2").await.expect(503);
    browser.run("get n; principal").await.says("1 alice");
    browser.run("log_out").await.expect(200).with_removal();
    browser.run("exists").await.says("false");
    assert!(store.usage().entries <= 41);
}
