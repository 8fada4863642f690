//! The examples do what they say.

use axum::Router;
use axum::body::Body;
use http::{Request, header};
use tower::ServiceExt;

use crate::fixture::Answer;

#[path = "../../examples/counter.rs"]
#[allow(dead_code, reason = "`main` binds a port")]
mod counter;
#[path = "../../examples/login.rs"]
#[allow(dead_code, reason = "`main` binds a port")]
mod login;
#[path = "../../examples/tower_only.rs"]
#[allow(dead_code, reason = "`main` binds a port")]
mod tower_only;

/// Asks with a cookie, and keeps the one that comes back.
async fn ask(app: &Router, cookie: &mut String, request: http::request::Builder, body: &str) -> Answer {
    let form = "application/x-www-form-urlencoded";
    let request = request.header(header::COOKIE, cookie.as_str()).header(header::CONTENT_TYPE, form);
    let response = app.clone().oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap();
    let answer = Answer::read(response).await;
    if let [set] = answer.set_cookies().as_slice() {
        *cookie = set.split(';').next().unwrap().to_owned();
    }
    answer
}

#[tokio::test]
async fn the_counter_counts() {
    let (app, mut cookie) = (counter::app().unwrap(), String::new());
    for visit in 1..4 {
        ask(&app, &mut cookie, Request::get("/"), "").await.says(&format!("visit number {visit}"));
    }
    ask(&app, &mut String::new(), Request::get("/"), "").await.says("visit number 1");
}

#[tokio::test]
async fn the_login_logs_in_and_out() {
    let (app, mut cookie) = (login::app().unwrap(), String::new());
    ask(&app, &mut cookie, Request::get("/secret"), "").await.expect(401);
    ask(&app, &mut cookie, Request::post("/login"), "username=alice&password=x").await.expect(401).without_cookie();
    ask(&app, &mut cookie, Request::post("/login"), "username=alice&password=open+sesame")
        .await
        .expect(303)
        .with_cookie();
    let before = cookie.clone();
    assert!(ask(&app, &mut cookie, Request::get("/"), "").await.expect(200).body.contains("Welcome!"));
    let page = ask(&app, &mut cookie, Request::get("/"), "").await.expect(200);
    assert!(page.body.contains("You are alice") && !page.body.contains("Welcome!"));
    ask(&app, &mut cookie, Request::get("/secret"), "").await.expect(200);
    ask(&app, &mut cookie, Request::post("/logout"), "").await.expect(303).with_cookie();
    assert_ne!(cookie, before);
    assert!(ask(&app, &mut cookie, Request::get("/"), "").await.expect(200).body.contains("Good bye!"));
    for mut cookie in [cookie, before] {
        ask(&app, &mut cookie, Request::get("/secret"), "").await.expect(401);
    }
}

#[tokio::test]
async fn the_plain_service_counts() {
    let service = tower_only::service::<()>().unwrap();
    let first = service.clone().oneshot(Request::new(())).await.unwrap();
    let cookie = first.headers()[header::SET_COOKIE].to_str().unwrap().split(';').next().unwrap();
    let again = Request::builder().header(header::COOKIE, cookie).body(()).unwrap();
    let again = service.oneshot(again).await.unwrap();
    let body = http_body_util::BodyExt::collect(again.into_body()).await.unwrap().to_bytes();
    assert_eq!(body, "visit number 2");
}
