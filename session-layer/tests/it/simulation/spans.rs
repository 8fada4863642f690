//! Tells which request a store call is made for: the layer's commit is a task of its own, but it keeps the request's span.

use std::cell::Cell;

use tracing_core::span::Current;

thread_local! {
    static CURRENT: Cell<Option<usize>> = const { Cell::new(None) };
    /// All spans are made at one place.
    static PLACE: Cell<Option<&'static tracing::Metadata<'static>>> = const { Cell::new(None) };
}

/// The request whose code runs just now.
pub fn current_request() -> Option<usize> {
    CURRENT.get()
}

pub struct Spans;

impl Spans {
    pub fn request(number: usize) -> tracing::Span {
        tracing::info_span!(target: "simulation", "request", number)
    }
}

struct Number(u64);

impl tracing::field::Visit for Number {
    fn record_u64(&mut self, _field: &tracing::field::Field, value: u64) {
        self.0 = value;
    }

    fn record_debug(&mut self, _field: &tracing::field::Field, _value: &dyn std::fmt::Debug) {}
}

impl tracing::Subscriber for Spans {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "simulation"
    }

    fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        let mut number = Number(0);
        span.record(&mut number);
        PLACE.set(Some(span.metadata()));
        // Zero is no ID.
        tracing::span::Id::from_u64(number.0 + 1)
    }

    fn record(&self, _span: &tracing::span::Id, _values: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _span: &tracing::span::Id, _follows: &tracing::span::Id) {}

    fn event(&self, _event: &tracing::Event<'_>) {}

    fn enter(&self, span: &tracing::span::Id) {
        CURRENT.set(Some(span.into_u64() as usize - 1));
    }

    fn exit(&self, _span: &tracing::span::Id) {
        CURRENT.set(None);
    }

    fn current_span(&self) -> Current {
        match (CURRENT.get(), PLACE.get()) {
            (Some(number), Some(place)) => Current::new(tracing::span::Id::from_u64(number as u64 + 1), place),
            _ => Current::none(),
        }
    }
}
