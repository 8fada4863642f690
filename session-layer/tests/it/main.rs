//! The library through its public API: requests and cookies in, responses and store calls out. No Docker, no network; time is paused
//! where it matters.

#![allow(unreachable_pub, reason = "nothing in a test binary can be reached from outside")]

mod broken; // a store with one of the usual mistakes
mod fixture;

mod attributes; // their types, and what other versions of the app wrote
mod caches; // what caches between app and visitors do with answers
mod changed_settings; // timeouts that were raised or lowered since a session began
mod cheap; // P5: what a request costs
mod clicks; // logins that are clicked twice
mod config; // settings that are refused
mod cookies; // the cookie, and what caches are told
mod copies; // P6: reads from elsewhere than the master
mod cross_site; // requests that another site started
mod durable; // P9: what a replica must have
mod ended; // P3: what has ended stays ended
mod examples; // the examples do what they say
mod former; // two of our cookies at once
mod fresh; // P9: what a browser was told
mod full; // a store in memory that is full
mod gone; // clients that go, and handlers that give up
mod honest; // P4: what an answer says is so
mod identity; // which session a request means
mod late; // after the head: streams, WebSockets
mod late_window; // what a request gets that arrives after the end of its session
mod layers; // where the layer goes among others
mod leaks; // clients that go leave nothing behind
mod locks; // the app's code never runs under one
mod login; // logging in and out
mod long_requests; // what keeps a session alive while a request runs
mod model; // stores and sessions against plain maps
mod nested; // more than one session layer around one handler
mod null; // what a stored `None` is
mod parallel; // P2: requests of one session at the same time
mod patient; // P8: how long a request waits for the store
mod persistent; // cookies that outlive the browser
mod random; // two browsers against a model
mod realms; // two layers over one store
mod retries; // requests that are sent more than once
mod secrets; // nothing prints one
mod services; // services that are not axum's
mod simulation; // every interleaving, from a seed
mod spoilt; // what is stored is no session
mod statuses; // which answers are committed
mod tidy; // what a search can check
mod timeouts; // how sessions end by themselves
mod values; // what is accepted reads back equal
