//! A linearizability checker for the attributes of a session.
//!
//! Each operation has the time at which it was invoked and the time at which its answer came. A history is linearizable if each
//! operation can be given one moment between the two at which it takes effect at once, so that every answer is the one that a
//! single attribute, changed by one operation after the other, would have given (Herlihy and Wing, 1990). An operation whose
//! answer never came may have taken effect at any time after it was invoked, or never.
//!
//! The search is the one of Wing and Gong with Lowe's memory of configurations that were tried: which operations have taken
//! effect, and what the attribute was then.

use std::collections::HashSet;

/// What a client asked of one attribute, and what it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Set to this number; the answer says only that it was done.
    Set(i64),
    /// Remove; the answer says whether it was there, if the client learned that.
    Remove(Option<bool>),
    /// Add one; the answer is the new value, if the client learned it.
    Increment(Option<i64>),
    /// Read; the answer is the value, or that there is none.
    Read(Option<i64>),
}

/// One operation of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// What was asked and answered.
    pub call: Call,
    /// When it was sent, on any clock that all clients share.
    pub invoked: u64,
    /// When its answer was there; `None` if it never came, or said that nobody knows.
    pub answered: Option<u64>,
}

/// The first operation of a history that fits nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anomaly {
    /// It is the earliest answered operation for which no order was found.
    pub operation: Operation,
    /// How many operations the best order that was found covers.
    pub explained: usize,
}

/// Checks the history of one attribute that began as `initial`.
///
/// # Errors
///
/// An [`Anomaly`] when there is no order of the operations that explains all answers.
pub fn check(initial: Option<i64>, history: &[Operation]) -> Result<(), Anomaly> {
    Search::new(history).run(initial)
}

/// What the attribute is after the call, if the answer fits.
fn step(state: Option<i64>, call: Call, answered: bool) -> Option<Option<i64>> {
    match call {
        Call::Set(value) => Some(Some(value)),
        Call::Remove(was_there) => {
            let fits = !answered || was_there.is_none_or(|there| there == state.is_some());
            fits.then_some(None)
        }
        Call::Increment(value) => {
            let next = state.unwrap_or(0) + 1;
            let fits = !answered || value.is_none_or(|value| value == next);
            fits.then_some(Some(next))
        }
        Call::Read(value) => (!answered || value == state).then_some(state),
    }
}

/// A call or an answer, in the order of time.
#[derive(Clone, Copy)]
struct Event {
    operation: usize,
    is_answer: bool,
}

struct Search<'a> {
    history: &'a [Operation],
    events: Vec<Event>,
    /// A doubly linked list over `events`, so that operations are taken out and put back at constant cost. Index 0 is its head;
    /// event `i` stands at `i + 1`.
    next: Vec<usize>,
    previous: Vec<usize>,
    call_at: Vec<usize>,
    answer_at: Vec<Option<usize>>,
}

impl<'a> Search<'a> {
    fn new(history: &'a [Operation]) -> Self {
        let mut timed: Vec<(u64, bool, usize)> = Vec::with_capacity(history.len() * 2);
        for (operation, Operation { invoked, answered, .. }) in history.iter().enumerate() {
            timed.push((*invoked, false, operation));
            if let Some(answered) = answered {
                assert!(answered >= invoked, "operation {operation} was answered before it was invoked");
                timed.push((*answered, true, operation));
            }
        }
        // Calls before answers at the same time: then the two overlap, which claims less.
        timed.sort_unstable();
        let events: Vec<_> =
            timed.into_iter().map(|(_, is_answer, operation)| Event { operation, is_answer }).collect();
        let len = events.len() + 1;
        let mut call_at = vec![0; history.len()];
        let mut answer_at = vec![None; history.len()];
        for (index, event) in events.iter().enumerate() {
            if event.is_answer {
                answer_at[event.operation] = Some(index + 1);
            } else {
                call_at[event.operation] = index + 1;
            }
        }
        Self {
            history,
            events,
            next: (1..=len).map(|at| if at == len { 0 } else { at }).collect(),
            previous: (0..len).map(|at| if at == 0 { len - 1 } else { at - 1 }).collect(),
            call_at,
            answer_at,
        }
    }

    fn run(mut self, initial: Option<i64>) -> Result<(), Anomaly> {
        let mut state = initial;
        let mut applied = vec![0_u64; self.history.len().div_ceil(64)];
        let mut tried: HashSet<(Vec<u64>, Option<i64>)> = HashSet::new();
        let mut order: Vec<(usize, Option<i64>)> = Vec::new();
        let mut waiting = self.history.iter().filter(|operation| operation.answered.is_some()).count();
        let (mut explained, mut stuck_at) = (0, None);
        let mut at = self.next[0];
        while waiting > 0 {
            let event = (at != 0).then(|| self.events[at - 1]);
            match event {
                Some(Event { operation, is_answer: false }) => {
                    let Operation { call, answered, .. } = self.history[operation];
                    let fits = step(state, call, answered.is_some());
                    if let Some(next) = fits {
                        applied[operation / 64] |= 1 << (operation % 64);
                        if tried.insert((applied.clone(), next)) {
                            order.push((operation, state));
                            state = next;
                            waiting -= usize::from(answered.is_some());
                            self.take_out(operation);
                            at = self.next[0];
                            continue;
                        }
                        applied[operation / 64] &= !(1 << (operation % 64));
                    }
                    at = self.next[at];
                }
                // An answer before its call was given a place, or the end of the list: nothing fits here, so go back.
                _ => {
                    if order.len() >= explained {
                        explained = order.len();
                        stuck_at = event.map(|event| event.operation).or(stuck_at);
                    }
                    let Some((operation, before)) = order.pop() else {
                        let operation = self.history[stuck_at.expect("an answered operation is left")];
                        return Err(Anomaly { operation, explained });
                    };
                    applied[operation / 64] &= !(1 << (operation % 64));
                    state = before;
                    waiting += usize::from(self.history[operation].answered.is_some());
                    self.put_back(operation);
                    at = self.next[self.call_at[operation]];
                }
            }
        }
        Ok(())
    }

    fn take_out(&mut self, operation: usize) {
        self.unlink(self.call_at[operation]);
        if let Some(answer) = self.answer_at[operation] {
            self.unlink(answer);
        }
    }

    fn put_back(&mut self, operation: usize) {
        if let Some(answer) = self.answer_at[operation] {
            self.link(answer);
        }
        self.link(self.call_at[operation]);
    }

    fn unlink(&mut self, at: usize) {
        let (previous, next) = (self.previous[at], self.next[at]);
        self.next[previous] = next;
        self.previous[next] = previous;
    }

    fn link(&mut self, at: usize) {
        let (previous, next) = (self.previous[at], self.next[at]);
        self.next[previous] = at;
        self.previous[next] = at;
    }
}

#[cfg(test)]
mod tests {
    use super::Call::{Increment, Read, Remove, Set};
    use super::*;

    fn op(call: Call, invoked: u64, answered: u64) -> Operation {
        Operation { call, invoked, answered: Some(answered) }
    }

    fn lost(call: Call, invoked: u64) -> Operation {
        Operation { call, invoked, answered: None }
    }

    #[test]
    fn good_histories_are_accepted() {
        let good: &[(&str, &[Operation])] = &[
            ("nothing happened", &[]),
            (
                "one after the other",
                &[op(Set(1), 0, 1), op(Read(Some(1)), 2, 3), op(Remove(Some(true)), 4, 5), op(Read(None), 6, 7)],
            ),
            ("a read during a write sees either", &[op(Set(1), 0, 9), op(Read(None), 1, 2), op(Read(Some(1)), 3, 4)]),
            ("two writes at once, either order", &[op(Set(1), 0, 5), op(Set(2), 0, 5), op(Read(Some(1)), 6, 7)]),
            ("increments at once get different values", &[op(Increment(Some(2)), 0, 5), op(Increment(Some(1)), 0, 5)]),
            ("a lost write may have taken effect", &[lost(Set(1), 0), op(Read(Some(1)), 5, 6)]),
            ("or not", &[lost(Set(1), 0), op(Read(None), 5, 6)]),
            ("or late", &[lost(Set(1), 0), op(Read(None), 5, 6), op(Read(Some(1)), 7, 8)]),
            ("a lost increment explains the gap", &[lost(Increment(None), 0), op(Increment(Some(2)), 5, 6)]),
            ("answers at the same instant overlap", &[op(Set(1), 0, 3), op(Read(None), 3, 4)]),
        ];
        for (what, history) in good {
            assert_eq!(check(None, history), Ok(()), "{what}");
        }
    }

    #[test]
    fn bad_histories_are_caught() {
        let bad: &[(&str, &[Operation])] = &[
            ("stale read after a write", &[op(Set(1), 0, 1), op(Read(None), 2, 3)]),
            ("read of the overwritten value", &[op(Set(1), 0, 1), op(Set(2), 2, 3), op(Read(Some(1)), 4, 5)]),
            ("a value from nowhere", &[op(Set(1), 0, 1), op(Read(Some(7)), 2, 3)]),
            ("a value before it was written", &[op(Read(Some(1)), 0, 1), op(Set(1), 2, 3)]),
            ("a removed attribute comes back", &[op(Set(1), 0, 1), op(Remove(None), 2, 3), op(Read(Some(1)), 4, 5)]),
            ("a removal is forgotten", &[op(Set(1), 0, 1), op(Remove(Some(true)), 2, 3), op(Remove(Some(true)), 4, 5)]),
            ("a removal finds nothing of a write", &[op(Set(1), 0, 1), op(Remove(Some(false)), 2, 3)]),
            ("an increment given twice", &[op(Increment(Some(1)), 0, 1), op(Increment(Some(1)), 2, 3)]),
            ("given twice at once", &[op(Increment(Some(1)), 0, 5), op(Increment(Some(1)), 0, 5)]),
            ("an increment left out", &[op(Increment(Some(1)), 0, 1), op(Increment(Some(3)), 2, 3)]),
            ("an increment applied twice", &[op(Increment(Some(1)), 0, 1), op(Read(Some(2)), 2, 3)]),
            ("an increment lost", &[op(Increment(Some(1)), 0, 1), op(Increment(None), 2, 3), op(Read(Some(1)), 4, 5)]),
            ("an increment over a write that it never saw", &[op(Set(5), 0, 1), op(Increment(Some(1)), 2, 3)]),
            ("time goes backwards", &[op(Set(1), 0, 9), op(Read(Some(1)), 1, 2), op(Read(None), 3, 4)]),
            (
                "two readers disagree on the order",
                &[
                    op(Set(1), 0, 20),
                    op(Set(2), 0, 20),
                    op(Read(Some(1)), 1, 2),
                    op(Read(Some(2)), 3, 4),
                    op(Read(Some(1)), 5, 6),
                ],
            ),
            ("a lost write takes effect before it was sent", &[op(Read(Some(1)), 0, 1), lost(Set(1), 2)]),
            (
                "a lost write takes effect twice",
                &[lost(Set(1), 0), op(Read(Some(1)), 1, 2), op(Set(2), 3, 4), op(Read(Some(1)), 5, 6)],
            ),
            ("a lost increment counts twice", &[lost(Increment(None), 0), op(Increment(Some(3)), 5, 6)]),
            (
                "a late write undoes a newer one",
                &[op(Set(1), 0, 1), op(Set(2), 2, 3), op(Read(Some(2)), 4, 5), op(Read(Some(1)), 6, 7)],
            ),
            (
                "a whole record was written back",
                &[op(Increment(Some(1)), 0, 1), op(Increment(Some(2)), 2, 3), op(Read(Some(1)), 4, 5)],
            ),
            (
                "a counter starts again",
                &[op(Increment(Some(1)), 0, 1), op(Increment(Some(2)), 2, 3), op(Increment(Some(1)), 4, 5)],
            ),
            (
                "a read between two increments sees neither",
                &[op(Increment(Some(1)), 0, 1), op(Read(Some(0)), 2, 3), op(Increment(Some(2)), 4, 5)],
            ),
        ];
        assert!(bad.len() >= 20);
        for (what, history) in bad {
            assert!(check(None, history).is_err(), "{what}");
        }
    }

    #[test]
    fn the_initial_value_counts() {
        assert!(check(Some(4), &[op(Increment(Some(5)), 0, 1)]).is_ok());
        assert!(check(Some(4), &[op(Increment(Some(1)), 0, 1)]).is_err());
    }

    /// Eight clients on one attribute, each operation's moment of effect chosen somewhere inside it.
    fn simulated(seed: u64, operations: usize) -> Vec<Operation> {
        let mut random = seed.wrapping_mul(2).wrapping_add(1);
        let mut next = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let mut clients = [0_u64; 8];
        let mut planned = Vec::new();
        for _ in 0..operations {
            let client = next(8) as usize;
            let invoked = clients[client] + next(5);
            let effect = invoked + 1 + next(20);
            let answered = effect + 1 + next(20);
            clients[client] = answered + 1;
            planned.push((effect, invoked, answered, next(10), next(1000) as i64));
        }
        planned.sort_unstable();
        let mut state = None;
        let history = planned.into_iter().map(|(_, invoked, answered, kind, value)| {
            let call = match kind {
                0..=2 => Set(value),
                3 => Remove(Some(state.is_some())),
                4..=6 => Increment(Some(state.unwrap_or(0) + 1)),
                _ => Read(state),
            };
            state = step(state, call, true).expect("made to fit");
            op(call, invoked, answered)
        });
        history.collect()
    }

    #[test]
    fn long_histories_of_eight_clients_are_decided_quickly() {
        for seed in 0..5 {
            let mut history = simulated(seed, 2_000);
            assert_eq!(check(None, &history), Ok(()), "seed {seed}");
            // One answer changed to a value that nobody ever wrote.
            let read = history.iter().rposition(|operation| matches!(operation.call, Read(_))).unwrap();
            history[read].call = Read(Some(-1));
            assert!(check(None, &history).is_err(), "seed {seed}");
        }
    }
}
