//! What an account's page of devices says about each: written once, at login, as an attribute like any other.

use std::net::IpAddr;

use axum::http::{HeaderMap, header};
use serde::{Deserialize, Serialize};
use session_layer::store::Limits;
use session_layer::{Attribute, Session, SessionError};

use crate::server::Connection;

/// Where the session's user logged in from. Neither the page's editor nor the API shows it, since nobody set it there, so its name is
/// one that nobody would choose; whoever does deceives only themselves.
pub(crate) const DEVICE: Attribute<Device> = Attribute::new("demo.device");

/// Longer ones say nothing more, and would fill the session.
const LONGEST_AGENT: usize = 256;

/// What a login tells of the device it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Device {
    /// `User-Agent`, as it was sent.
    agent: String,
    address: String,
}

impl Device {
    /// Of the request that logs in.
    pub(crate) fn of(headers: &HeaderMap, connection: Connection) -> Self {
        let agent = headers.get(header::USER_AGENT).map(|agent| String::from_utf8_lossy(agent.as_bytes()));
        let agent = agent.unwrap_or_default().chars().take(LONGEST_AGENT).collect();
        // The proxy in front overwrites it. Who asks a node directly may claim what they like, about themselves.
        let forwarded = headers.get("x-forwarded-for").and_then(|value| value.to_str().ok()?.parse::<IpAddr>().ok());
        let address = forwarded.unwrap_or(connection.peer.ip()).to_canonical().to_string();
        Self { agent, address }
    }

    /// Notes it in the session. A session that is nearly full is left as it is: nobody shall be kept from logging in for the sake
    /// of a line on a page.
    pub(crate) fn note(&self, session: &Session) -> Result<(), SessionError> {
        let limits = Limits::default();
        let names = session.names();
        let used: usize = names.iter().map(|name| name.len() + session.raw(name).map_or(0, |value| value.len())).sum();
        // Six bytes for a character is what JSON makes of the worst of them.
        let room = names.len() < limits.attributes && used + 6 * LONGEST_AGENT + 128 <= limits.record_bytes;
        if room { session.insert(DEVICE, self) } else { Ok(()) }
    }

    /// "Firefox on Linux".
    pub(crate) fn name(&self) -> String {
        match (browser(&self.agent), system(&self.agent)) {
            (Some(browser), Some(system)) => format!("{browser} on {system}"),
            (Some(browser), None) => browser.to_owned(),
            (None, Some(system)) => format!("A browser on {system}"),
            (None, None) => "An unknown device".to_owned(),
        }
    }

    /// For the picture beside it.
    pub(crate) fn is_phone(&self) -> bool {
        ["Mobile", "Android", "iPhone", "iPad"].iter().any(|sign| self.agent.contains(sign))
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }
}

/// In this order, since most browsers also name those whose pages they want to be sent.
const BROWSERS: [(&str, &str); 12] = [
    ("Edg", "Edge"),
    ("OPR/", "Opera"),
    ("Vivaldi/", "Vivaldi"),
    ("SamsungBrowser/", "Samsung Internet"),
    ("Firefox/", "Firefox"),
    ("FxiOS/", "Firefox"),
    ("CriOS/", "Chrome"),
    ("HeadlessChrome/", "Chrome"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
    ("curl/", "curl"),
    ("Wget/", "Wget"),
];

const SYSTEMS: [(&str, &str); 8] = [
    ("Android", "Android"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Windows", "Windows"),
    ("CrOS", "ChromeOS"),
    ("Mac OS X", "macOS"),
    ("Linux", "Linux"),
    ("BSD", "BSD"),
];

fn browser(agent: &str) -> Option<&'static str> {
    first(&BROWSERS, agent)
}

fn system(agent: &str) -> Option<&'static str> {
    first(&SYSTEMS, agent)
}

fn first(signs: &[(&str, &'static str)], agent: &str) -> Option<&'static str> {
    signs.iter().find(|(sign, _)| agent.contains(sign)).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(agent: &str, name: &str, is_phone: bool) {
        let device = Device { agent: agent.to_owned(), address: String::new() };
        assert_eq!((device.name().as_str(), device.is_phone()), (name, is_phone), "{agent}");
    }

    #[test]
    fn browser_and_system_are_read_from_the_user_agent() {
        check("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox on Linux", false);
        check(
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/150.0.0.0 Safari/537.36 Edg/150.0",
            "Edge on Windows",
            false,
        );
        check(
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/19.0 Safari/605.1.15",
            "Safari on macOS",
            false,
        );
        check(
            "Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/150.0 Mobile/15E148 Safari/604.1",
            "Chrome on iPhone",
            true,
        );
        check(
            "Mozilla/5.0 (Linux; Android 16) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/29.0 Chrome/136.0 Mobile Safari/537.36",
            "Samsung Internet on Android",
            true,
        );
        check("curl/8.5.0", "curl", false);
        check("Something (Windows)", "A browser on Windows", false);
        check("", "An unknown device", false);
    }

    #[test]
    fn the_proxys_word_for_the_address_counts_and_nonsense_does_not() {
        let connection =
            Connection { local: "10.0.0.1:80".parse().unwrap(), peer: "[::ffff:10.0.0.9]:5000".parse().unwrap() };
        let with = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-forwarded-for", value.parse().unwrap());
            Device::of(&headers, connection).address
        };
        assert_eq!(with("192.0.2.7"), "192.0.2.7");
        assert_eq!(with("<script>"), "10.0.0.9");
        assert_eq!(Device::of(&HeaderMap::new(), connection).address, "10.0.0.9");
    }

    #[test]
    fn an_endless_user_agent_is_cut() {
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, "é".repeat(5000).parse().unwrap());
        let connection = Connection { local: "10.0.0.1:80".parse().unwrap(), peer: "10.0.0.9:5000".parse().unwrap() };
        assert_eq!(Device::of(&headers, connection).agent.chars().count(), LONGEST_AGENT);
    }
}
