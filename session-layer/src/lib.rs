//! HTTP sessions for tower and axum.
