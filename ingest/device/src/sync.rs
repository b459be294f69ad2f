//! Emptying the spool: one stream after the other.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{Arc, atomic::Ordering},
};

use fieldproof_proto::{
    batch::Place,
    v1::{Down, Notice, down},
};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    answers::{Answer, AnswerBytes, AnswerFacts},
    backoff::Backoff,
    device::Inner,
    error::{AnswerError, DeviceError, LinkError},
    link::{Link, LinkReceiver, LinkSender},
    spool::Outgoing,
};

/// Batches read from the spool at once.
const BATCHES_AT_ONCE_MAX: usize = 8;

/// Why a stream ended without an error.
enum End {
    Shutdown,
    /// Ingest closed it after a drain, or a fault struck.
    Closed,
}

/// One stream.
struct Session {
    device: Arc<Inner>,
    facts: AnswerFacts,
    /// None once nothing more is sent.
    sender: Option<LinkSender>,
    next: VecDeque<Outgoing>,
    /// Whether the spool may hold more than `next`.
    more: bool,
    sent_to: Option<Place>,
    /// The same over all streams of this process.
    ever_sent_to: Option<Place>,
    credit_bytes: u64,
    under_way_bytes: u64,
    /// We end the stream ourselves, after a drain or a fault.
    closing: bool,
    /// A fault has struck: nothing that comes from now on has come.
    losing: bool,
    answered: bool,
    answer_due: Instant,
}

impl Inner {
    /// Streams until `shutdown`.
    pub(crate) async fn synchronise(self: Arc<Self>, shutdown: CancellationToken) -> Result<(), DeviceError> {
        let mut ever_sent_to = self.running.lock().await;
        let limits = &self.config.limits;
        let mut backoff = Backoff::new(limits.backoff_min, limits.backoff_max, self.id, self.boot);
        let mut unanswered = self.unanswered.subscribe();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                waiting = unanswered.wait_for(|count| *count > 0) => {
                    waiting.expect("the sender is part of the device");
                }
            }
            let error = match self.stream_once(&shutdown, &mut backoff, &mut ever_sent_to).await {
                Ok(End::Shutdown) => return Ok(()),
                Ok(End::Closed) => continue,
                Err(DeviceError::Link(error)) if error.is_retryable() => error,
                Err(error) => return Err(error),
            };
            if let LinkError::Answer(_) = error {
                self.counters.false_answers.fetch_add(1, Ordering::Relaxed);
            }
            let wait = backoff.next(error.retry_after());
            tracing::warn!(%error, wait_ms = wait.as_millis(), device = %self.id, "connecting again");
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = sleep(wait) => {}
            }
        }
    }

    async fn stream_once(
        self: &Arc<Self>,
        shutdown: &CancellationToken,
        backoff: &mut Backoff,
        ever_sent_to: &mut Option<Place>,
    ) -> Result<End, DeviceError> {
        let opened = tokio::select! {
            () = shutdown.cancelled() => return Ok(End::Shutdown),
            opened = self.open_link() => opened?,
        };
        self.counters.connected.fetch_add(1, Ordering::Relaxed);
        let credit_bytes = opened.limits().credit_bytes.into();
        let ingester = self.config.ingester_key.unwrap_or(opened.ingester_key());
        if ingester != opened.ingester_key() {
            let error = AnswerError::Key { found: opened.ingester_key(), expected: ingester };
            return Err(LinkError::Answer(error).into());
        }
        let (sender, mut receiver) = opened.split();
        let mut session = Session {
            device: self.clone(),
            facts: AnswerFacts { network: self.config.network, device: self.id, ingester },
            sender: Some(sender),
            next: VecDeque::new(),
            more: true,
            sent_to: None,
            ever_sent_to: *ever_sent_to,
            credit_bytes,
            under_way_bytes: 0,
            closing: false,
            losing: false,
            answered: false,
            answer_due: Instant::now() + self.config.limits.answer_timeout,
        };
        let end = session.run(&mut receiver, shutdown).await;
        *ever_sent_to = session.ever_sent_to;
        if session.answered {
            backoff.succeeded();
        }
        end
    }

    async fn open_link(&self) -> Result<Link, LinkError> {
        let limit = self.config.limits.connect_timeout;
        let opened = timeout(limit, async {
            let channel = self.connect().await?;
            Link::connect(channel, self.config.network, self.id).await
        });
        opened.await.map_err(|_| LinkError::Timeout(limit.as_millis()))?
    }
}

impl Session {
    async fn run(
        &mut self,
        receiver: &mut LinkReceiver,
        shutdown: &CancellationToken,
    ) -> Result<End, DeviceError> {
        let device = self.device.clone();
        loop {
            if self.next.is_empty() && self.more && self.sender.is_some() {
                self.load().await?;
            }
            let fits = self.next_fits();
            let waits = self.under_way_bytes > 0;
            tokio::select! {
                () = shutdown.cancelled() => return Ok(End::Shutdown),
                down = receiver.next() => match down? {
                    Some(down) => self.receive(down).await?,
                    None if self.closing => return Ok(End::Closed),
                    None => return Err(LinkError::Ended.into()),
                },
                ready = ready(self.sender.as_ref()), if fits => {
                    // A stream that takes no more has a status, which is read next and says why.
                    if ready.and_then(|()| self.send_next()).is_err() {
                        self.sender = None;
                    }
                }
                () = device.pushed.notified(), if self.next.is_empty() && self.sender.is_some() => {
                    self.more = true;
                }
                () = tokio::time::sleep_until(self.answer_due), if waits => {
                    return Err(LinkError::Timeout(device.config.limits.answer_timeout.as_millis()).into());
                }
            }
        }
    }

    /// A batch alone is always within the credits, as ingest sees it too.
    fn next_fits(&self) -> bool {
        self.sender.is_some()
            && self.next.front().is_some_and(|next| {
                let after = self.under_way_bytes + u64::from(next.bytes);
                self.under_way_bytes == 0 || after <= self.credit_bytes
            })
    }

    async fn load(&mut self) -> Result<(), DeviceError> {
        let after = self.sent_to;
        let taken = self.device.with_spool(move |spool| spool.unanswered_after(after, BATCHES_AT_ONCE_MAX));
        let taken = taken.await?;
        self.more = taken.len() == BATCHES_AT_ONCE_MAX;
        self.next.extend(taken);
        Ok(())
    }

    fn send_next(&mut self) -> Result<(), LinkError> {
        let (Some(sender), Some(outgoing)) = (&self.sender, self.next.pop_front()) else { return Ok(()) };
        sender.try_send(outgoing.batch)?;
        if self.under_way_bytes == 0 {
            self.answer_due = Instant::now() + self.device.config.limits.answer_timeout;
        }
        self.under_way_bytes += u64::from(outgoing.bytes);
        self.sent_to = Some(outgoing.place);
        let counters = &self.device.counters;
        counters.sent.fetch_add(1, Ordering::Relaxed);
        if self.ever_sent_to >= self.sent_to {
            counters.resent.fetch_add(1, Ordering::Relaxed);
        } else {
            self.ever_sent_to = self.sent_to;
        }
        Ok(())
    }

    /// Sends no more; ingest answers what is under way and closes.
    fn stop_sending(&mut self) {
        self.closing = true;
        self.sender = None;
        self.next.clear();
    }

    async fn receive(&mut self, down: Down) -> Result<(), DeviceError> {
        self.answer_due = Instant::now() + self.device.config.limits.answer_timeout;
        match down.message {
            Some(down::Message::Receipt(receipt)) => {
                let bytes = AnswerBytes {
                    is_receipt: true,
                    body: receipt.body.into(),
                    signature: receipt.signature.into(),
                };
                self.answer(bytes, receipt.credit_bytes).await
            }
            Some(down::Message::Rejection(rejection)) => {
                let device = self.device.id;
                tracing::warn!(%device, message = rejection.message, "ingest refused a batch for good");
                let bytes = AnswerBytes {
                    is_receipt: false,
                    body: rejection.body.into(),
                    signature: rejection.signature.into(),
                };
                self.answer(bytes, rejection.credit_bytes).await
            }
            Some(down::Message::Notice(Notice { message, .. })) => {
                // It comes with every batch; the counter tells how often, the log that it does.
                if self.device.counters.unregistered.fetch_add(1, Ordering::Relaxed) == 0 {
                    tracing::warn!(device = %self.device.id, message, "ingest gave a notice");
                }
                Ok(())
            }
            Some(down::Message::Drain(_)) => {
                self.stop_sending();
                Ok(())
            }
            // A second welcome or a message of a later version changes nothing.
            Some(down::Message::Welcome(_)) | None => Ok(()),
        }
    }

    async fn answer(&mut self, bytes: AnswerBytes, credit_bytes: u32) -> Result<(), DeviceError> {
        let (facts, sent_to) = (self.facts, self.sent_to);
        let checked = bytes.clone();
        let covers = self.device.with_spool(move |spool| {
            let covers = checked.verify().and_then(|answer| {
                facts.check(&answer)?;
                spool.covers(&answer, sent_to).map(|range| (answer, range))
            });
            Ok(covers)
        });
        let (answer, range) = covers.await?.map_err(LinkError::Answer)?;
        self.under_way_bytes = self.under_way_bytes.saturating_sub(credit_bytes.into());
        if self.is_lost(&answer, &range) {
            return Ok(());
        }
        let count = range.len() as u64;
        self.device.with_spool(move |spool| spool.record(&bytes, range)).await?;
        self.answered = true;
        let counters = &self.device.counters;
        match answer {
            Answer::Receipt(_) => counters.acknowledged.fetch_add(count, Ordering::Relaxed),
            Answer::Rejection(_) => counters.rejected.fetch_add(count, Ordering::Relaxed),
        };
        Ok(())
    }

    /// Whether a fault takes this answer.
    fn is_lost(&mut self, answer: &Answer, range: &Range<usize>) -> bool {
        let Some(faults) = self.device.config.link_faults.clone() else { return false };
        let is_receipt = matches!(answer, Answer::Receipt(_));
        if !self.losing && is_receipt && faults.strikes() {
            self.losing = true;
            self.stop_sending();
        }
        if self.losing && is_receipt {
            faults.lose(range.len() as u64);
        }
        self.losing
    }
}

/// Waits for room on a stream that is still sent to.
async fn ready(sender: Option<&LinkSender>) -> Result<(), LinkError> {
    match sender {
        Some(sender) => sender.ready().await,
        None => Err(LinkError::Ended),
    }
}
