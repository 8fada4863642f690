//! What the page's forms send. They do what the API does and lead back to the page.

use axum::extract::Form;
use axum::http::Extensions;
use axum::response::Redirect;
use serde::Deserialize;
use session_layer::{LazySession, Session};

use crate::problem::Failure;

#[derive(Deserialize)]
pub(crate) struct Set {
    name: String,
    value: String,
    /// The page had said that the session ended: who sets something there wants another one.
    new: Option<String>,
}

/// Sets an attribute. What is JSON is kept as JSON, so that `42` is a number; everything else is text.
pub(crate) async fn set(
    session: LazySession,
    extensions: Extensions,
    Form(Set { name, value, new }): Form<Set>,
) -> Result<Redirect, Failure> {
    // Not over the session of a login since, in another tab.
    if new.is_some() && Session::from_extensions(&extensions).await?.has_ended() {
        session.reset()?;
    }
    match session.insert_json(&name, value.clone()) {
        Err(error) if error.is_invalid_value() => session.insert(&name, value)?,
        other => other?,
    }
    Ok(Redirect::to("/"))
}

#[derive(Deserialize)]
pub(crate) struct Remove {
    name: String,
}

/// Removes an attribute; one that is gone already is what was wanted.
pub(crate) async fn remove(session: LazySession, Form(Remove { name }): Form<Remove>) -> Result<Redirect, Failure> {
    session.remove(&name)?;
    Ok(Redirect::to("/"))
}
