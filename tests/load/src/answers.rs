//! What the demo's answers say about a session.

use serde_json::Value;

use crate::browser::Answer;
use crate::model::{Action, Good, View};

/// The attributes that visitors use.
pub(crate) const NOTE: &str = "note";
pub(crate) const COUNT: &str = "count";
/// What the demo sets by itself.
const OF_THE_DEMO: [&str; 2] = ["visits", "recent_servers"];
/// A visitor's notes are its own numbers, so that somebody else's is recognised.
pub(crate) const NOTES_EACH: i64 = 1_000_000;

/// What an answer says, if it is the one that the action asks for.
pub(crate) fn good(number: i64, action: Action, answer: &Answer) -> Result<Good, String> {
    let unexpected = || {
        let text: String = answer.text().chars().take(200).collect();
        format!("answered {}: {text}", answer.status)
    };
    match (action, answer.status.as_u16()) {
        (Action::Read, 200) => Ok(Good::Session(view(number, answer)?)),
        (Action::Visit, 200) => Ok(Good::Page(page(answer)?)),
        (Action::Set(_), 204) | (Action::Remove, 204) | (Action::LogIn | Action::LogOut, 303) => Ok(Good::Done),
        // Honest, if what was there is lost; the model knows.
        (Action::Remove, 404) => Ok(Good::NoNote),
        (Action::Increment, 200) => {
            let value = json(answer)?["value"].as_i64().ok_or_else(unexpected)?;
            Ok(Good::Count(value))
        }
        _ => Err(unexpected()),
    }
}

fn json(answer: &Answer) -> Result<Value, String> {
    serde_json::from_slice(&answer.body).map_err(|error| format!("no JSON ({error}): {}", answer.text()))
}

/// The session, from the API's answer to the visitor with this number.
pub(crate) fn view(number: i64, answer: &Answer) -> Result<View, String> {
    let json = json(answer)?;
    let text = |name: &str| json[name].as_str().map(str::to_owned);
    let attributes = json["attributes"].as_object().ok_or_else(|| format!("no attributes: {json}"))?;
    let is_own = |name: &str, value: &Value| match name {
        NOTE => value.as_i64().is_some_and(|value| value / NOTES_EACH == number),
        COUNT => value.is_i64(),
        name => OF_THE_DEMO.contains(&name),
    };
    let foreign = attributes.iter().filter(|(name, value)| !is_own(name, value));
    Ok(View {
        id: text("session_id"),
        created_on: text("created_on"),
        account: text("account"),
        note: attributes.get(NOTE).and_then(Value::as_i64),
        count: attributes.get(COUNT).and_then(Value::as_i64).unwrap_or(0),
        visits: json["visits"].as_i64().ok_or_else(|| format!("no visits: {json}"))?,
        foreign: foreign.map(|(name, value)| format!("{name}={value}")).collect(),
    })
}

/// The session, from the page.
fn page(answer: &Answer) -> Result<View, String> {
    let html = answer.text();
    let between = |start: &str, end: &str| {
        let (_, rest) = html.split_once(start)?;
        Some(rest.split_once(end)?.0.to_owned())
    };
    let missing = |what: &str| format!("no {what} on the page: {html}");
    Ok(View {
        id: Some(between(r#"id="session-id"><code>"#, "<").ok_or_else(|| missing("session ID"))?),
        account: between(r#"id="account-name">"#, "<"),
        visits: between(r#"id="visits">"#, "<")
            .and_then(|visits| visits.parse().ok())
            .ok_or_else(|| missing("visits"))?,
        ..View::default()
    })
}
