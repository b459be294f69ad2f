//! Makes three answers of tansu Kafka's.
//!
//! 1. **Append time.** tansu stores the producer's time whatever `message.timestamp.type` says. We stamp records with the
//!    broker's clock before they reach it, so epochs can be cut by append time; it never steps back while the
//!    process lives.
//! 2. **Offset out of range.** tansu answers a fetch beyond the end with nothing, for ever. Kafka answers with an error,
//!    and a lost log must be noticed.
//! 3. **Waiting.** tansu sleeps after it *found* records (half of `fetch.wait.max.ms`), and polls SQLite when it did
//!    not. We ask without waiting, and ask again once something was appended.
//!
//! Also, records are stored uncompressed: tansu compresses again on every fetch, and cannot compress snappy.

use std::{
    mem,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rama::{Context, Service};
use tansu_broker::Error;
use tansu_sans_io::{
    Body, ErrorCode, FetchRequest, FetchResponse, Frame, ProduceRequest, ProduceResponse,
    fetch_response::PartitionData,
    record::{deflated, inflated},
};
use tansu_service::FrameRouteService;
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, timeout_at},
};

/// The bits of a batch's attributes that name its compression.
const COMPRESSION_BITS: i16 = 0b0111;
/// The bit of a batch's attributes that says that the broker set the time.
const LOG_APPEND_TIME: i16 = 0b1000;
/// A client may ask us to wait longer; it then asks again.
const FETCH_WAIT_MAX: Duration = Duration::from_secs(5);

/// The service in front of tansu's routes.
#[derive(Clone, Debug)]
pub(super) struct KafkaSemantics {
    routes: FrameRouteService<(), Error>,
    log: Arc<Log>,
}

#[derive(Debug)]
struct Log {
    /// The last append time given out. Held while a batch is appended, so that offsets and times agree in order.
    append_time_ms: Mutex<i64>,
    /// Changes whenever something was appended.
    appended: watch::Sender<()>,
}

impl KafkaSemantics {
    pub(super) fn new(routes: FrameRouteService<(), Error>) -> Self {
        let log = Log { append_time_ms: Mutex::new(0), appended: watch::Sender::new(()) };
        Self { routes, log: Arc::new(log) }
    }

    /// When this returns, records with an offset in the answer are in the log.
    async fn produce(&self, ctx: Context<()>, mut request: Frame) -> Result<Frame, Error> {
        let mut append_time_ms = self.log.append_time_ms.lock().await;
        *append_time_ms = now_ms().max(*append_time_ms);
        if let Body::ProduceRequest(produce) = &mut request.body {
            stamp(produce, *append_time_ms)?;
        }
        let mut response = self.routes.serve(ctx, request).await?;
        if let Body::ProduceResponse(produced) = &mut response.body {
            report_append_time(produced, *append_time_ms);
        }
        drop(append_time_ms);
        self.log.appended.send_replace(());
        Ok(response)
    }

    /// Cancel-safe: it only reads.
    async fn fetch(
        &self,
        ctx: Context<()>,
        mut request: Frame,
        mut fetch: FetchRequest,
    ) -> Result<Frame, Error> {
        let wait = Duration::from_millis(u64::try_from(fetch.max_wait_ms).unwrap_or(0)).min(FETCH_WAIT_MAX);
        let deadline = Instant::now() + wait;
        let mut appended = self.log.appended.subscribe();
        fetch.max_wait_ms = 0;
        request.body = Body::FetchRequest(fetch.clone());
        loop {
            appended.mark_unchanged();
            let mut response = self.routes.serve(ctx.clone(), request.clone()).await?;
            let Body::FetchResponse(fetched) = &mut response.body else { return Ok(response) };
            correct(&fetch, fetched)?;
            if worth_answering(fetched) || timeout_at(deadline, appended.changed()).await.is_err() {
                return Ok(response);
            }
        }
    }
}

impl Service<(), Frame> for KafkaSemantics {
    type Response = Frame;
    type Error = Error;

    async fn serve(&self, ctx: Context<()>, request: Frame) -> Result<Frame, Error> {
        match &request.body {
            Body::ProduceRequest(_) => self.produce(ctx, request).await,
            Body::FetchRequest(fetch) => {
                let fetch = fetch.clone();
                self.fetch(ctx, request, fetch).await
            }
            _ => self.routes.serve(ctx, request).await,
        }
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Gives every record the time `append_time_ms`.
pub(super) fn stamp(produce: &mut ProduceRequest, append_time_ms: i64) -> Result<(), Error> {
    let topics = produce.topic_data.iter_mut().flatten();
    let partitions = topics.flat_map(|topic| topic.partition_data.iter_mut().flatten());
    for batch in
        partitions.flat_map(|partition| partition.records.iter_mut().flat_map(|frame| &mut frame.batches))
    {
        let mut records = inflated::Batch::try_from(mem::take(batch))?;
        records.attributes = (records.attributes & !COMPRESSION_BITS) | LOG_APPEND_TIME;
        *batch = rebuilt(records, append_time_ms)?;
    }
    Ok(())
}

/// Lengths and checksums follow the times, so a batch is built anew.
fn rebuilt(mut batch: inflated::Batch, time_ms: i64) -> Result<deflated::Batch, Error> {
    batch.base_timestamp = time_ms;
    batch.max_timestamp = time_ms;
    for record in &mut batch.records {
        record.timestamp_delta = 0;
    }
    Ok(batch.into_builder().build()?.try_into()?)
}

fn report_append_time(produced: &mut ProduceResponse, append_time_ms: i64) {
    let topics = produced.responses.iter_mut().flatten();
    for partition in topics.flat_map(|topic| topic.partition_responses.iter_mut().flatten()) {
        if partition.error_code == i16::from(ErrorCode::None) {
            partition.log_append_time_ms = Some(append_time_ms);
        }
    }
}

/// tansu answers topics and partitions in the order of the request.
fn correct(fetch: &FetchRequest, fetched: &mut FetchResponse) -> Result<(), Error> {
    let topics = fetch.topics.iter().flatten().zip(fetched.responses.iter_mut().flatten());
    for (wanted, found) in topics {
        let partitions = wanted.partitions.iter().flatten().zip(found.partitions.iter_mut().flatten());
        for (wanted, found) in partitions.filter(|(_, found)| found.error_code == i16::from(ErrorCode::None))
        {
            let low = found.log_start_offset.unwrap_or(0);
            if (low..=found.high_watermark).contains(&wanted.fetch_offset) {
                one_time_per_batch(found)?;
            } else {
                found.error_code = ErrorCode::OffsetOutOfRange.into();
                found.records = None;
            }
        }
    }
    Ok(())
}

/// tansu puts records that were appended at different times into one batch. Where the broker sets the time, a
/// client gives every record the batch's: the batch must be split where the time changes.
pub(super) fn one_time_per_batch(partition: &mut PartitionData) -> Result<(), Error> {
    let Some(frame) = &mut partition.records else { return Ok(()) };
    let mut split = Vec::new();
    for batch in mem::take(&mut frame.batches) {
        let mut whole = inflated::Batch::try_from(batch)?;
        let records = mem::take(&mut whole.records);
        for group in records.chunk_by(|a, b| a.timestamp_delta == b.timestamp_delta) {
            let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
            let mut part = whole.clone();
            part.base_offset += i64::from(first.offset_delta);
            part.last_offset_delta = last.offset_delta - first.offset_delta;
            part.records = group.to_vec();
            for record in &mut part.records {
                record.offset_delta -= first.offset_delta;
            }
            split.push(rebuilt(part, whole.base_timestamp + first.timestamp_delta)?);
        }
    }
    frame.batches = split;
    Ok(())
}

fn worth_answering(fetched: &FetchResponse) -> bool {
    let topics = fetched.responses.iter().flatten();
    topics
        .flat_map(|topic| topic.partitions.iter().flatten())
        .any(|partition| partition.records.is_some() || partition.error_code != i16::from(ErrorCode::None))
}
