//! Commits that a replica must have before they count: logins, logouts, revocations.
//!
//! `WAIT` waits for the writes of its own connection, and blocks it. So these commits have a connection to themselves, on which
//! script and `WAIT` follow each other, and which everything else need not queue behind. Commits that come while a `WAIT` is under
//! way are sent together when it is over, and share the next one.
//!
//! The connection lives within an epoch, and is opened again when it is lost.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout_at};

use super::backoff::Backoff;
use super::connection::{CallError, Connection, within};
use super::resp::Frame;
use super::server::Server;
use super::status::Feature;

/// How often the server is asked whether it is there while nobody needs it: it may close what is idle, and others on the way forget it.
/// The next login would find that out, and take all that is on its way over the other connection along.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long one `WAIT` waits. Shorter than the watchdog's patience; as often as needed.
const SLICE: Duration = Duration::from_millis(200);
/// How much longer than that its answer may take before the connection counts as dead.
const GRACE: Duration = Duration::from_millis(700);
/// How long a commit waits for a connection before the attempt fails with the reason why there is none.
const CONNECT_PATIENCE: Duration = Duration::from_millis(500);
/// A connection that lasted this long is replaced at once.
const LASTING: Duration = Duration::from_secs(1);
/// When to stop waiting before the deadline: what was applied must still be told.
const MARGIN: Duration = Duration::from_millis(300);

/// What a durable commit brings back: the script's answer, and whether enough replicas have it.
pub(super) type Answer = Result<(Frame, bool), CallError>;

/// The connection for durable commits, and its queue.
pub(super) struct Durable {
    queue: Arc<Queue>,
    task: AbortHandle,
}

/// Leads to the connection while there is one; else the reason.
type Queue = watch::Sender<Result<mpsc::UnboundedSender<Job>, String>>;

impl Drop for Durable {
    fn drop(&mut self) {
        self.close();
    }
}

struct Job {
    /// As for `EVALSHA`, from the digest on.
    arguments: Vec<Bytes>,
    deadline: Instant,
    answer: oneshot::Sender<Answer>,
}

/// A commit that was applied, and whether a replica has it is not known yet.
struct Applied {
    frame: Frame,
    deadline: Instant,
    answer: oneshot::Sender<Answer>,
}

impl Durable {
    pub(super) fn start(server: Arc<Server>, replicas: u32) -> Self {
        let queue = Arc::new(Queue::new(Err("there is none yet".to_owned())));
        let task = tokio::spawn(keep_connected(server, replicas, Arc::clone(&queue)));
        Self { queue, task: task.abort_handle() }
    }

    /// Drops the connection and what is queued.
    pub(super) fn close(&self) {
        self.task.abort();
    }

    /// One attempt. Dropping it does not take back what was sent.
    pub(super) async fn run(&self, arguments: Vec<Bytes>, deadline: Instant) -> Answer {
        let queue = self.queue(deadline).await?;
        let gone = || CallError::Lost("the connection for durable commits is gone".to_owned());
        let (answer, receiver) = oneshot::channel();
        queue.send(Job { arguments, deadline, answer }).map_err(|_| gone())?;
        receiver.await.map_err(|_| gone())?
    }

    async fn queue(&self, deadline: Instant) -> Result<mpsc::UnboundedSender<Job>, CallError> {
        let mut state = self.queue.subscribe();
        // The sender lives as long as this.
        let _ = timeout_at(deadline.min(Instant::now() + CONNECT_PATIENCE), state.wait_for(Result::is_ok)).await;
        let queue = state.borrow().clone();
        queue.map_err(|reason| CallError::Lost(format!("there is no connection for durable commits: {reason}")))
    }
}

/// Never ends; drop it to stop.
async fn keep_connected(server: Arc<Server>, replicas: u32, queue: Arc<Queue>) {
    let mut backoff = Backoff::default();
    loop {
        let opened = server.connect().await;
        let since = Instant::now();
        let error = match opened {
            Ok((connection, mut lost)) => {
                server.access.checks.status.set_on(Feature::DurableCommits);
                let (sender, jobs) = mpsc::unbounded_channel();
                drop(queue.send_replace(Ok(sender)));
                let Err(error) = tokio::select! {
                    error = lost.wait() => Err(error),
                    ended = work(&connection, jobs, replicas) => ended,
                };
                error
            }
            Err(error) => {
                server.feature_off(Feature::DurableCommits, &error);
                error
            }
        };
        drop(queue.send_replace(Err(error.to_string())));
        if since.elapsed() >= LASTING {
            backoff.reset();
        }
        sleep(backoff.next()).await;
    }
}

/// Ends when the connection is dead.
async fn work(
    connection: &Connection,
    mut jobs: mpsc::UnboundedReceiver<Job>,
    replicas: u32,
) -> Result<Infallible, CallError> {
    let mut applied: Vec<Applied> = Vec::new();
    let mut batch = Vec::new();
    loop {
        if applied.is_empty() {
            match tokio::time::timeout(HEARTBEAT, jobs.recv_many(&mut batch, MAX_BATCH)).await {
                Ok(0) => return Err(CallError::Lost("nobody needs it any more".to_owned())),
                Ok(_) => {}
                Err(_elapsed) => {
                    within(GRACE, connection.call("ROLE", vec![])).await?;
                    continue;
                }
            }
        } else {
            while batch.len() < MAX_BATCH
                && let Ok(job) = jobs.try_recv()
            {
                batch.push(job);
            }
        }
        // Whoever asked has gone: what was not sent yet, is not sent.
        batch.retain(|job| !job.answer.is_closed());
        let round = within(SLICE + GRACE, round(connection, &batch, replicas));
        let (frames, acknowledged) = round.await?;
        for (job, frame) in batch.drain(..).zip(frames) {
            let Job { deadline, answer, .. } = job;
            match frame {
                Ok(frame) => applied.push(Applied { frame, deadline, answer }),
                // Nobody may be listening any more.
                Err(error) => drop(answer.send(Err(error))),
            }
        }
        let enough = acknowledged >= replicas;
        let now = Instant::now();
        let (done, waiting) =
            applied.into_iter().partition::<Vec<_>, _>(|applied| enough || now + MARGIN >= applied.deadline);
        applied = waiting;
        for Applied { frame, answer, .. } in done {
            drop(answer.send(Ok((frame, enough))));
        }
        applied.retain(|applied| !applied.answer.is_closed());
    }
}

/// How many commits share a `WAIT` at most.
const MAX_BATCH: usize = 256;

/// Sends the scripts and a `WAIT` behind them in one go.
async fn round(
    connection: &Connection,
    jobs: &[Job],
    replicas: u32,
) -> Result<(Vec<Result<Frame, CallError>>, u32), CallError> {
    let number = |number: u128| Bytes::from(number.to_string());
    let wait = vec![number(replicas.into()), number(SLICE.as_millis())];
    let scripts = async {
        let calls = jobs.iter().map(|job| Box::pin(connection.run_script(job.arguments.clone())));
        all(calls.collect()).await
    };
    let (frames, wait) = tokio::join!(scripts, connection.call("WAIT", wait));
    let Frame::Number { data: acknowledged, .. } = wait? else {
        return Err(CallError::Server("WAIT has an unknown form".to_owned()));
    };
    Ok((frames, u32::try_from(acknowledged).unwrap_or(0)))
}

/// Waits for all of them; the first poll hands them over in their order.
async fn all<F: Future + Unpin>(mut calls: Vec<F>) -> Vec<F::Output> {
    let mut answers: Vec<_> = calls.iter().map(|_| None).collect();
    std::future::poll_fn(move |cx| {
        let mut pending = false;
        for (call, answer) in calls.iter_mut().zip(&mut answers) {
            if answer.is_none() {
                match Pin::new(call).poll(cx) {
                    Poll::Ready(ready) => *answer = Some(ready),
                    Poll::Pending => pending = true,
                }
            }
        }
        if pending { Poll::Pending } else { Poll::Ready(answers.drain(..).flatten().collect()) }
    })
    .await
}
