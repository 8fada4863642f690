//! The test page, read as a visitor reads it.

use cluster_tests::browser::{Answer, Browser, Site};

/// What a visitor sees on it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// "This is server …".
    pub(crate) server: String,
    pub(crate) session_id: String,
    pub(crate) created_on: String,
    pub(crate) visits: u32,
    pub(crate) account: Option<String>,
}

impl Page {
    pub(crate) async fn visit(browser: &Browser, site: Site) -> Self {
        Self::read(&browser.get(site, "/").await)
    }

    pub(crate) fn read(answer: &Answer) -> Self {
        assert_eq!(answer.status, 200, "{answer:?}");
        let html = answer.text();
        let between = |start: &str, end: &str| {
            let (_, rest) = html.split_once(start)?;
            Some(rest.split_once(end)?.0.to_owned())
        };
        let must = |start, end| between(start, end).unwrap_or_else(|| panic!("no {start:?} on the page: {html}"));
        let page = Self {
            server: must("This is server ", "<"),
            session_id: must(r#"id="session-id"><code>"#, "<"),
            created_on: must(r#"id="created-on">"#, "<"),
            visits: must(r#"id="visits">"#, "<").parse().expect("visits are a number"),
            account: between(r#"id="account-name">"#, "<"),
        };
        assert_eq!(answer.node(), Some(&*page.server), "the header and the page name the same server");
        page
    }
}
