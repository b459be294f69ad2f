//! One stream: one task that owns all of it.
//!
//! A batch passes three stations in the order in which it came: it waits for its share of the
//! process's bytes, it is checked on the pool, it is with the producer. The task waits for whatever
//! happens next at any of them; it never waits for one station alone, so a client that does not
//! take its answers, or a log that is slow, stops the reading and nothing else.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use fieldproof_proto::{
    batch::Place,
    ids::{DeviceId, Digest},
    receipt::{Receipt, Rejection},
    v1::{self, Down, SignedBatch, Up, down, up},
};
use futures::{StreamExt as _, future::BoxFuture, stream::FuturesOrdered};
use prost::Message as _;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::{
    check::{BadBatch, CheckRules, GoodBatch, KeyCache, batch_bytes, check},
    credits::{BATCHES_UNDER_WAY_MAX, Credits},
    error::Refusal,
    failure::Alarm,
    log::{LogRecord, RecordKind, Report, Ticket},
    metrics::Refused,
    receipts::{Acknowledged, Coalescer, Span},
    server::Core,
    submit::unregistered_notice,
};

/// Answers that tonic has taken and the client has not.
const ANSWERS_IN_CHANNEL_MAX: usize = 16;
/// Answers that wait for the channel before the stream is read no further.
const ANSWERS_WAITING_MAX: usize = 64;
/// Delivery reports taken at once.
const REPORTS_AT_ONCE_MAX: usize = 256;
/// How long a receipt waits for the next batch to join it, while there is one under way.
const RECEIPT_DELAY: Duration = Duration::from_millis(5);

/// An answer and the credit that comes back when it is handed over.
struct Answer {
    down: down::Message,
    credit_bytes: u32,
}

/// A batch that has its share of the bytes.
struct Held {
    batch: SignedBatch,
    registered: bool,
    share: OwnedSemaphorePermit,
}

/// A batch that was checked.
struct Checked {
    outcome: Result<GoodBatch, Box<BadBatch>>,
    registered: bool,
    share: OwnedSemaphorePermit,
}

/// A batch that is with the producer.
struct Logging {
    place: Place,
    previous: Digest,
    digest: Digest,
    bytes: u32,
    registered: bool,
    report: Option<Report>,
}

/// How a stream ends once everything under way is answered.
enum Ending {
    Well,
    Refused(Refusal),
}

/// What a stream's task woke up for.
enum Event<'a> {
    Room(mpsc::Permit<'a, Result<Down, Status>>),
    Message(Result<Option<Up>, Status>),
    Share(Held),
    Checked(Checked),
    Reports,
    ReceiptDue,
    Drain,
    DrainDue,
    Idle,
    Gone,
}

struct StreamTask {
    core: Arc<Core>,
    device: DeviceId,
    partition: u32,
    rules: CheckRules,
    keys: Arc<KeyCache>,
    credits: Credits,
    incoming: Streaming<Up>,
    waiting: Option<BoxFuture<'static, Held>>,
    checks: FuturesOrdered<BoxFuture<'static, Checked>>,
    logging: VecDeque<Logging>,
    /// The index of the first of `logging`.
    first_index: u64,
    tickets: mpsc::UnboundedSender<Report>,
    reports: mpsc::UnboundedReceiver<Report>,
    reports_taken: Vec<Report>,
    coalescer: Coalescer,
    /// When the open span is signed at the latest; none if no span is open.
    receipt_due: Option<Instant>,
    outbox: VecDeque<Answer>,
    ending: Option<Ending>,
    drain_due: Option<Instant>,
    idle_at: Instant,
    _permit: OwnedSemaphorePermit,
}

/// Starts the task of a stream whose hello was good.
pub(crate) fn spawn(
    core: Arc<Core>,
    device: DeviceId,
    incoming: Streaming<Up>,
    permit: OwnedSemaphorePermit,
) -> ReceiverStream<Result<Down, Status>> {
    let (answers, stream) = mpsc::channel(ANSWERS_IN_CHANNEL_MAX);
    let (tickets, reports) = mpsc::unbounded_channel();
    let welcome =
        v1::Welcome { limits: Some(core.limits_message()), ingester_key: core.ingester.0.to_vec().into() };
    let task = StreamTask {
        device,
        partition: device.partition(core.genesis.partitions),
        rules: CheckRules {
            network: core.network,
            batch_bytes_max: core.limits.batch_bytes_max,
            device: Some(device),
        },
        keys: Arc::default(),
        credits: Credits::new(core.limits.credit_bytes),
        incoming,
        waiting: None,
        checks: FuturesOrdered::new(),
        logging: VecDeque::new(),
        first_index: 0,
        tickets,
        reports,
        reports_taken: Vec::new(),
        coalescer: Coalescer::default(),
        receipt_due: None,
        outbox: VecDeque::from([Answer { down: down::Message::Welcome(welcome), credit_bytes: 0 }]),
        ending: None,
        drain_due: None,
        idle_at: Instant::now() + core.limits.idle_timeout,
        _permit: permit,
        core: core.clone(),
    };
    let alarm = Alarm { name: "an ingest stream", failure: core.failure.clone() };
    core.tasks.spawn(async move {
        let _alarm = alarm;
        task.run(&answers).await;
    });
    ReceiverStream::new(stream)
}

impl StreamTask {
    async fn run(mut self, answers: &mpsc::Sender<Result<Down, Status>>) {
        let core = self.core.clone();
        loop {
            if self.is_finished() {
                if let Some(Ending::Refused(refusal)) = self.ending.take() {
                    // A client that is gone does not care why.
                    answers.send(Err(core.refused(refusal))).await.unwrap_or_default();
                }
                return;
            }
            let event = tokio::select! {
                event = self.next_event(answers) => event,
                () = core.abandon.cancelled() => Event::Gone,
            };
            match event {
                Event::Room(permit) => self.answer(permit),
                Event::Message(message) => self.receive(message),
                Event::Share(held) => self.check(held),
                Event::Checked(checked) => self.produce(checked).await,
                Event::Reports => self.acknowledge(),
                Event::ReceiptDue => self.sign_open_span(),
                Event::Drain => self.start_drain(),
                Event::DrainDue => self.end(Ending::Well),
                Event::Idle => {
                    // Whoever takes no answers for so long does not take this one either.
                    let status = core.refused(Refusal::Idle(core.limits.idle_timeout));
                    return answers.try_send(Err(status)).unwrap_or_default();
                }
                Event::Gone => return,
            }
        }
    }

    /// Waits for the next thing to do. Every branch is cancel-safe: a message stays in the stream's
    /// buffer, a share or a check in its future, a report in the channel.
    async fn next_event<'a>(&mut self, answers: &'a mpsc::Sender<Result<Down, Status>>) -> Event<'a> {
        let reading = self.is_reading();
        let far = self.idle_at + Duration::from_secs(1);
        tokio::select! {
            permit = answers.reserve(), if !self.outbox.is_empty() => {
                permit.map_or(Event::Gone, Event::Room)
            }
            () = answers.closed() => Event::Gone,
            _ = self.reports.recv_many(&mut self.reports_taken, REPORTS_AT_ONCE_MAX) => Event::Reports,
            Some(checked) = self.checks.next(), if !self.checks.is_empty() => Event::Checked(checked),
            held = async { self.waiting.as_mut().expect("the branch is on only then").await },
                if self.waiting.is_some() => Event::Share(held),
            message = self.incoming.message(), if reading => Event::Message(message),
            () = tokio::time::sleep_until(self.receipt_due.unwrap_or(far)), if self.receipt_due.is_some() => {
                Event::ReceiptDue
            }
            () = self.core.drain.cancelled(), if self.drain_due.is_none() => Event::Drain,
            () = tokio::time::sleep_until(self.drain_due.unwrap_or(far)),
                if self.drain_due.is_some() && self.ending.is_none() => Event::DrainDue,
            () = tokio::time::sleep_until(self.idle_at) => Event::Idle,
        }
    }

    fn is_reading(&self) -> bool {
        self.ending.is_none()
            && self.waiting.is_none()
            && self.outbox.len() < ANSWERS_WAITING_MAX
            && self.checks.len() + self.logging.len() < BATCHES_UNDER_WAY_MAX
    }

    fn is_finished(&self) -> bool {
        self.ending.is_some()
            && self.waiting.is_none()
            && self.checks.is_empty()
            && self.logging.is_empty()
            && self.receipt_due.is_none()
            && self.outbox.is_empty()
    }

    /// Reads no more. The first reason stays.
    fn end(&mut self, ending: Ending) {
        self.ending.get_or_insert(ending);
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.end(Ending::Refused(refusal));
    }

    fn progress(&mut self) {
        self.idle_at = Instant::now() + self.core.limits.idle_timeout;
    }

    fn start_drain(&mut self) {
        // Half of the time for what the client has sent already, half for the log and the answers.
        let half = self.core.limits.drain_deadline / 2;
        self.drain_due = Some(Instant::now() + half);
        let deadline_ms = u32::try_from(half.as_millis()).unwrap_or(u32::MAX);
        self.put(down::Message::Drain(v1::Drain { deadline_ms }), 0);
    }

    fn put(&mut self, down: down::Message, credit_bytes: u32) {
        self.outbox.push_back(Answer { down, credit_bytes });
    }

    fn answer(&mut self, permit: mpsc::Permit<'_, Result<Down, Status>>) {
        if let Some(answer) = self.outbox.pop_front() {
            self.credits.give_back(answer.credit_bytes);
            permit.send(Ok(Down { message: Some(answer.down) }));
            self.progress();
        }
    }

    fn receive(&mut self, message: Result<Option<Up>, Status>) {
        self.progress();
        let batch = match message {
            Ok(Some(Up { message: Some(up::Message::Batch(batch)) })) => batch,
            Ok(Some(_)) => return self.refuse(Refusal::Message("a message is not a batch".to_owned())),
            Ok(None) => return self.end(Ending::Well),
            Err(status) => return self.refuse(Refusal::from_read(&status)),
        };
        let bytes = batch_bytes(&batch);
        if let Err(bytes) = self.credits.spend(bytes) {
            return self.refuse(Refusal::Credit { bytes, credit_bytes: self.core.limits.credit_bytes });
        }
        // Asked before the check: an unregistered device that is over the rate costs no signature.
        let registered = match self.core.admit(&self.device) {
            Ok(registered) => registered,
            Err(refusal) => return self.refuse(refusal),
        };
        let core = self.core.clone();
        self.waiting = Some(Box::pin(async move {
            let share = core.share(bytes).await;
            Held { batch, registered, share }
        }));
    }

    fn check(&mut self, held: Held) {
        self.waiting = None;
        let (core, rules, keys) = (self.core.clone(), self.rules, self.keys.clone());
        let Held { batch, registered, share } = held;
        self.checks.push_back(Box::pin(async move {
            let outcome = core.pool.run(move || check(&rules, &keys, batch)).await;
            Checked { outcome, registered, share }
        }));
    }

    async fn produce(&mut self, checked: Checked) {
        let good = match checked.outcome {
            Ok(good) => good,
            Err(bad) => {
                let rejection = self.core.rejection(&bad);
                return self.put(down::Message::Rejection(rejection), bad.bytes);
            }
        };
        let value = encode(&good.batch);
        let record = LogRecord {
            topic: &self.core.topics.telemetry,
            partition: self.partition,
            device: &self.device,
            kind: RecordKind::Batch,
            value: &value,
        };
        let index = self.first_index + self.logging.len() as u64;
        let ticket = Ticket { index, reports: self.tickets.clone(), _share: Some(checked.share) };
        match self.core.log.append(&record, ticket).await {
            Ok(()) => self.logging.push_back(Logging {
                place: good.place,
                previous: good.previous,
                digest: good.digest,
                bytes: good.bytes,
                registered: checked.registered,
                report: None,
            }),
            Err(error) => {
                tracing::warn!(%error, "the producer did not take a record");
                self.give_up();
            }
        }
    }

    /// The log failed for one batch: later ones must not overtake it, so they are not tried.
    fn give_up(&mut self) {
        self.refuse(Refusal::Unavailable);
        self.waiting = None;
        self.checks = FuturesOrdered::new();
    }

    fn acknowledge(&mut self) {
        self.progress();
        for report in self.reports_taken.drain(..) {
            let at = report.index.checked_sub(self.first_index).and_then(|at| usize::try_from(at).ok());
            if let Some(logging) = at.and_then(|at| self.logging.get_mut(at)) {
                logging.report = Some(report);
            }
        }
        while let Some(report) = self.logging.front().and_then(|first| first.report.clone()) {
            let Some(logged) = self.logging.pop_front() else { break };
            self.first_index += 1;
            match report.offset {
                Some(offset) => self.logged(&logged, offset),
                None => self.give_up(),
            }
        }
        if self.logging.is_empty() && self.checks.is_empty() {
            self.sign_open_span();
        }
    }

    fn logged(&mut self, logged: &Logging, offset: u64) {
        self.core.metrics.batch_logged(logged.bytes);
        if !logged.registered {
            self.core.metrics.refused(Refused::Unregistered);
            self.put(down::Message::Notice(unregistered_notice(&self.device, logged.place)), 0);
        }
        let ended = self.coalescer.push(&Acknowledged {
            place: logged.place,
            previous: logged.previous,
            digest: logged.digest,
            offset,
            bytes: logged.bytes,
        });
        if let Some(span) = ended {
            self.sign(&span);
        }
        self.receipt_due.get_or_insert_with(|| Instant::now() + RECEIPT_DELAY);
    }

    fn sign_open_span(&mut self) {
        self.receipt_due = None;
        if let Some(span) = self.coalescer.take() {
            self.sign(&span);
        }
    }

    fn sign(&mut self, span: &Span) {
        let receipt = self.core.receipt(span, self.device, self.partition);
        self.put(down::Message::Receipt(receipt), span.credit_bytes);
    }
}

impl Core {
    /// Signs the receipt of a span.
    pub(crate) fn receipt(&self, span: &Span, device: DeviceId, partition: u32) -> v1::Receipt {
        let signed = Receipt {
            network: self.network,
            generation: self.topics.generation,
            partition,
            offset: span.offset,
            device,
            boot: span.boot,
            from_seq: span.from_seq,
            to_seq: span.to_seq,
            digest: span.digest,
            ingester: self.ingester,
        }
        .sign(&self.signing_key);
        self.metrics.receipt();
        v1::Receipt {
            body: signed.body.into(),
            signature: signed.signature.to_vec().into(),
            credit_bytes: span.credit_bytes,
        }
    }

    /// Signs and counts the rejection of a batch.
    pub(crate) fn rejection(&self, bad: &BadBatch) -> v1::Rejection {
        self.metrics.refused(Refused::Rejection(bad.code));
        let signed = Rejection {
            network: self.network,
            device: bad.device,
            place: bad.place,
            digest: bad.digest,
            code: bad.code,
            ingester: self.ingester,
        }
        .sign(&self.signing_key);
        v1::Rejection {
            body: signed.body.into(),
            signature: signed.signature.to_vec().into(),
            credit_bytes: bad.bytes,
            message: bad.message.clone(),
        }
    }
}

/// The value of a batch's record: header, payload and signature as they came.
pub(crate) fn encode(batch: &SignedBatch) -> Vec<u8> {
    batch.encode_to_vec()
}
