//! What a `Domain` attribute may be: the name of a domain, and nothing else.

use std::net::IpAddr;

/// What is wrong with a domain, in words that follow "the domain …"; `None` if it is one that browsers may keep a cookie for.
///
/// A public suffix (`co.uk`) passes: which names are public suffixes is known to browsers and changes. They keep no cookie for it.
pub(super) fn fault(domain: &str) -> Option<&'static str> {
    let has = |chars: &[char]| domain.contains(chars);
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    // What people mean is guessed from the first sign of it, so that the error can say what to leave out.
    if domain.is_empty() {
        Some("is empty")
    } else if domain.contains("://") {
        Some("starts with a scheme")
    } else if has(&['@']) {
        Some("holds a user name")
    } else if has(&['[', ']']) || domain.parse::<IpAddr>().is_ok() {
        Some("is an IP address, which has no hosts below it")
    } else if has(&['/', '?', '#', '\\']) {
        Some("holds a path")
    } else if has(&[',', ';']) || domain.bytes().any(|b| b.is_ascii_whitespace() || b.is_ascii_control()) {
        Some("holds spaces or separators; it can only be one domain")
    } else if has(&[':']) {
        Some("holds a port; cookies do not distinguish ports")
    } else if has(&['*']) {
        Some("holds a `*`; a cookie for a domain goes to all hosts below it anyway")
    } else if !domain.is_ascii() {
        Some("holds characters outside ASCII; write it as in DNS, `xn--…`")
    } else if domain.starts_with('.') {
        Some("starts with a dot; leave the dot out, a cookie for a domain goes to all hosts below it anyway")
    } else if domain.ends_with('.') {
        Some("ends with a dot")
    } else if domain.len() > 253 || domain.split('.').any(|label| label.len() > 63) {
        Some("is longer than DNS allows (63 bytes between two dots, 253 in total)")
    } else if domain.split('.').any(str::is_empty) {
        Some("has nothing between two of its dots")
    } else if domain
        .split('.')
        .any(|label| !label.bytes().all(is_word) || label.starts_with('-') || label.ends_with('-'))
    {
        Some("holds characters that no host name has")
    } else if ends_in_a_number(domain) {
        Some("is an IP address, which has no hosts below it")
    } else if !domain.contains('.') && !domain.eq_ignore_ascii_case("localhost") {
        Some("is a single word; browsers keep no cookie for a whole top-level domain")
    } else {
        None
    }
}

/// Whether browsers take the name for an IPv4 address (URL standard, "ends in a number"): `127.1` and `0x7f.1` are addresses too.
fn ends_in_a_number(domain: &str) -> bool {
    let last = domain.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    let hexadecimal = last.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    hexadecimal || last.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::fault;

    #[test]
    fn a_domain_is_a_name_and_nothing_else() {
        let long = format!("{}.example", "a".repeat(64));
        let longer = ["a".repeat(60).as_str(); 5].join(".");
        for (domain, says) in [
            ("", "is empty"),
            ("shop.example:8443", "a port"),
            ("https://shop.example", "a scheme"),
            ("https://shop.example:8443/", "a scheme"),
            ("//shop.example", "a path"),
            ("shop.example/", "a path"),
            ("shop.example/cart", "a path"),
            ("shop.example?a=b", "a path"),
            ("shop.example#top", "a path"),
            (r"shop.example\cart", "a path"),
            ("*.shop.example", "`*`"),
            ("*", "`*`"),
            ("shop.example, cart.example", "one domain"),
            ("shop.example cart.example", "one domain"),
            ("shop.example;cart.example", "one domain"),
            (" shop.example", "one domain"),
            ("shop.example\n", "one domain"),
            ("alice@shop.example", "a user name"),
            ("alice:secret@shop.example", "a user name"),
            ("[::1]", "an IP address"),
            ("[2001:db8::1]:443", "an IP address"),
            ("::1", "an IP address"),
            ("127.0.0.1", "an IP address"),
            ("127.1", "an IP address"),
            ("0x7f.0.0.0x1", "an IP address"),
            ("192.0.2.1:8080", "a port"),
            (".shop.example", "starts with a dot"),
            (".", "starts with a dot"),
            ("shop.example.", "ends with a dot"),
            ("shop..example", "nothing between"),
            ("größe.example", "xn--"),
            ("-shop.example", "no host name"),
            ("shop-.example", "no host name"),
            ("shop!.example", "no host name"),
            ("\"shop.example\"", "no host name"),
            ("<shop>.example", "no host name"),
            ("(shop).example", "no host name"),
            ("{shop}.example", "no host name"),
            ("shop%2eexample.org", "no host name"),
            ("com", "a single word"),
            ("intranet", "a single word"),
            (&long, "longer than DNS"),
            (&longer, "longer than DNS"),
        ] {
            assert!(fault(domain).is_some_and(|problem| problem.contains(says)), "{domain:?}: {:?}", fault(domain));
        }
    }

    #[test]
    fn names_of_domains_are_accepted() {
        for domain in
            ["shop.example", "a.b.c.shop.example", "SHOP.Example", "xn--gre-6ka8i.example", "my_host.shop.example"]
        {
            assert_eq!(fault(domain), None, "{domain}");
        }
        for domain in ["localhost", "a.localhost", "1.example", "3com.example", "co.uk", "0.0.0.0.example"] {
            assert_eq!(fault(domain), None, "{domain}");
        }
    }
}
