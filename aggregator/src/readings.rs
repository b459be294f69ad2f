//! Readings out of accepted records, as a table for DataFusion.
//!
//! Nothing is stored twice: the canonical payloads are decoded as they are queried, slice by slice,
//! which costs next to nothing beside grouping. A record carries what its counters stood at before
//! it, so records are independent of one another and may be cut into any number of partitions: the
//! rows are the same, whatever their order. This module never decides whether a record counts.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
    ops::Range,
    sync::{Arc, LazyLock},
};

use alloy_primitives::Address;
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::{
    arrow::{
        array::{ArrayRef, BinaryBuilder, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions},
        datatypes::{DataType, Field, Schema, SchemaRef},
    },
    catalog::{Session, TableProvider},
    common::{ScalarValue, exec_err, tree_node::TreeNodeRecursion},
    error::{DataFusionError, Result},
    execution::{SendableRecordBatchStream, TaskContext},
    logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown, TableType},
    physical_expr::{EquivalenceProperties, PhysicalExpr},
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties, ReplaceChildrenOptions,
        execution_plan::{Boundedness, ChildrenPropertiesMode, EmissionType},
        stream::RecordBatchStreamAdapter,
    },
};
use fieldproof_proto::{
    ids::DeviceId,
    payload::{Column, Payload},
};

/// An accepted record of one device, ready to be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdmittedRecord {
    /// Where it stands in its partition: names it in errors.
    pub offset: u64,
    /// Whose readings it holds.
    pub device: DeviceId,
    /// Who owned the device when the record was logged.
    pub provider: Address,
    /// The canonical payload.
    pub payload: Bytes,
    /// The time of its first reading, from the header.
    pub first_time_ms: u64,
    /// What the device's counters stood at before it.
    pub baselines: Baselines,
}

/// What the counters stood at before a record, in log order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Baselines {
    /// The record extends the device's history: the latest accepted value of each metric, in rising
    /// order of metric. A metric without an entry has no earlier value.
    Head(Vec<(u32, i64)>),
    /// A late fill: its counters add nothing.
    Fill,
}

/// The readings of a set of records within a range of event times.
pub struct Readings {
    chunks: Vec<Arc<[AdmittedRecord]>>,
    times_ms: Range<u64>,
    counters: Arc<BTreeSet<u32>>,
}

/// After so many records a batch goes out, be it empty: a query that finds nothing still lets other
/// tasks run.
const RECORDS_PER_BATCH_MAX: usize = 1024;

const DEVICE: usize = 0;
const PROVIDER: usize = 1;
const METRIC: usize = 2;
const TIME: usize = 3;
const VALUE: usize = 4;
const GROWTH: usize = 5;
const RESET: usize = 6;

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("device", DataType::Binary, false),
        Field::new("provider", DataType::Binary, false),
        Field::new("metric", DataType::Int64, false),
        Field::new("time", DataType::Int64, false),
        Field::new("value", DataType::Int64, false),
        Field::new("growth", DataType::Int64, true),
        Field::new("reset", DataType::Boolean, false),
    ]))
});

impl Readings {
    /// The readings of `chunks` whose time is in `times_ms`; `counters` are the metrics that grow.
    pub fn new(
        chunks: Vec<Arc<[AdmittedRecord]>>,
        times_ms: Range<u64>,
        counters: Arc<BTreeSet<u32>>,
    ) -> Self {
        Self { chunks, times_ms, counters }
    }

    /// The columns: device, provider, metric, time (milliseconds), value, growth (null for gauges),
    /// reset.
    pub fn columns() -> SchemaRef {
        Arc::clone(&SCHEMA)
    }

    /// Cuts the records into at most `count` parts of about as many payload bytes each.
    fn parts(&self, count: usize) -> Vec<Vec<Span>> {
        let bytes_all: usize = self.chunks.iter().flat_map(|chunk| chunk.iter()).map(cost).sum();
        let bytes_max = bytes_all.div_ceil(count.max(1)).max(1);
        let mut parts = vec![Vec::new()];
        let mut bytes = 0;
        for chunk in &self.chunks {
            let mut start = 0;
            for (index, record) in chunk.iter().enumerate() {
                if bytes >= bytes_max {
                    push_span(&mut parts, chunk, start..index);
                    parts.push(Vec::new());
                    (start, bytes) = (index, 0);
                }
                bytes += cost(record);
            }
            push_span(&mut parts, chunk, start..chunk.len());
        }
        parts
    }
}

impl fmt::Debug for Readings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let records: usize = self.chunks.iter().map(|chunk| chunk.len()).sum();
        write!(formatter, "Readings {{ records: {records}, times_ms: {:?} }}", self.times_ms)
    }
}

#[async_trait]
impl TableProvider for Readings {
    fn schema(&self) -> SchemaRef {
        Self::columns()
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let support = |filter: &&Expr| match metric_equals(filter) {
            Some(_) => TableProviderFilterPushDown::Exact,
            None => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(support).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let projection = projection.cloned().unwrap_or_else(|| (0..SCHEMA.fields().len()).collect());
        let schema = Arc::new(SCHEMA.project(&projection)?);
        let parts = self.parts(state.config().target_partitions());
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(parts.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        ));
        let rule = DecodeRule {
            schema,
            projection,
            times_ms: self.times_ms.clone(),
            counters: Arc::clone(&self.counters),
            metrics: filters.iter().filter_map(metric_equals).collect(),
        };
        Ok(Arc::new(DecodeExec { parts, rule, properties }))
    }
}

/// The number in `metric = number`.
fn metric_equals(filter: &Expr) -> Option<i64> {
    let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = filter else {
        return None;
    };
    match (left.as_ref(), right.as_ref()) {
        (Expr::Column(column), Expr::Literal(ScalarValue::Int64(Some(metric)), _))
        | (Expr::Literal(ScalarValue::Int64(Some(metric)), _), Expr::Column(column))
            if column.name == SCHEMA.field(METRIC).name().as_str() =>
        {
            Some(*metric)
        }
        _ => None,
    }
}

/// Consecutive records of a chunk.
#[derive(Debug, Clone)]
struct Span {
    chunk: Arc<[AdmittedRecord]>,
    records: Range<usize>,
}

fn push_span(parts: &mut [Vec<Span>], chunk: &Arc<[AdmittedRecord]>, records: Range<usize>) {
    if let Some(part) = parts.last_mut().filter(|_| !records.is_empty()) {
        part.push(Span { chunk: Arc::clone(chunk), records });
    }
}

fn cost(record: &AdmittedRecord) -> usize {
    record.payload.len().max(1)
}

/// What is read of each record.
#[derive(Debug, Clone)]
struct DecodeRule {
    schema: SchemaRef,
    projection: Vec<usize>,
    times_ms: Range<u64>,
    counters: Arc<BTreeSet<u32>>,
    /// All of these must be the metric; none: every metric.
    metrics: Vec<i64>,
}

/// Decodes records into batches.
#[derive(Debug)]
struct DecodeExec {
    parts: Vec<Vec<Span>>,
    rule: DecodeRule,
    properties: Arc<PlanProperties>,
}

impl DisplayAs for DecodeExec {
    fn fmt_as(&self, _: DisplayFormatType, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns: Vec<_> = self.rule.schema.fields().iter().map(|field| field.name().as_str()).collect();
        write!(formatter, "DecodeExec: columns=[{}], metrics={:?}", columns.join(", "), self.rule.metrics)
    }
}

impl ExecutionPlan for DecodeExec {
    fn name(&self) -> &str {
        "DecodeExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let Some(part) = self.parts.get(partition) else {
            return exec_err!("there is no partition `{partition}` of {}", self.parts.len());
        };
        let decoder = Decoder {
            records: part.clone().into_iter(),
            current: None,
            rule: self.rule.clone(),
            rows_max: context.session_config().batch_size().max(1),
            rows: Rows::default(),
            ready: VecDeque::new(),
        };
        let stream = futures::stream::iter(decoder);
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.rule.schema), stream)))
    }
}

/// Batches of about `rows_max` rows: holds the rows of one batch and of one record at most.
struct Decoder {
    records: std::vec::IntoIter<Span>,
    current: Option<Span>,
    rule: DecodeRule,
    rows_max: usize,
    rows: Rows,
    ready: VecDeque<RecordBatch>,
}

impl Iterator for Decoder {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(batch) = self.ready.pop_front() {
            return Some(Ok(batch));
        }
        let mut decoded = 0;
        while self.rows.metric.len() < self.rows_max && decoded < RECORDS_PER_BATCH_MAX {
            let Some((span, index)) = self.advance() else {
                break;
            };
            if let Err(error) = self.rows.decode(&self.rule, &span.chunk[index]) {
                return Some(Err(error));
            }
            decoded += 1;
        }
        if decoded == 0 {
            return None;
        }
        let batch = match std::mem::take(&mut self.rows).into_batch(&self.rule) {
            Ok(batch) => batch,
            Err(error) => return Some(Err(error)),
        };
        let starts = (0..batch.num_rows().max(1)).step_by(self.rows_max);
        let slice = |start: usize| batch.slice(start, self.rows_max.min(batch.num_rows() - start));
        self.ready.extend(starts.map(slice));
        self.ready.pop_front().map(Ok)
    }
}

impl Decoder {
    /// The next record, as the span that holds it and its place there.
    fn advance(&mut self) -> Option<(Span, usize)> {
        loop {
            if let Some(span) = &mut self.current
                && let Some(index) = span.records.next()
            {
                return Some((span.clone(), index));
            }
            self.current = Some(self.records.next()?);
        }
    }
}

/// Rows in columns. Devices and providers repeat over a record, so they are kept once per record.
#[derive(Default)]
struct Rows {
    owners: Vec<(DeviceId, Address)>,
    owner: Vec<u32>,
    metric: Vec<i64>,
    time: Vec<i64>,
    value: Vec<i64>,
    growth: Vec<Option<i64>>,
    reset: Vec<bool>,
}

impl Rows {
    fn decode(&mut self, rule: &DecodeRule, record: &AdmittedRecord) -> Result<()> {
        if record.first_time_ms >= rule.times_ms.end {
            return Ok(());
        }
        let payload = Payload::decode(&record.payload, record.first_time_ms).map_err(|error| {
            let context = format!("the accepted record at offset `{}` cannot be decoded", record.offset);
            DataFusionError::External(Box::new(error)).context(context)
        })?;
        let rows_before = self.metric.len();
        self.owners.push((record.device, record.provider));
        for column in &payload.columns {
            let metric = i64::from(column.metric);
            if rule.metrics.iter().all(|wanted| *wanted == metric) {
                self.decode_column(rule, record, &payload.times_ms, column);
            }
        }
        if self.metric.len() == rows_before {
            self.owners.pop();
        }
        Ok(())
    }

    fn decode_column(
        &mut self,
        rule: &DecodeRule,
        record: &AdmittedRecord,
        times_ms: &[u64],
        column: &Column,
    ) {
        let owner = u32::try_from(self.owners.len() - 1).expect("a batch holds fewer records than rows");
        let mut counter =
            rule.counters.contains(&column.metric).then(|| Counter::new(&record.baselines, column.metric));
        for (time_ms, value) in times_ms.iter().zip(&column.values) {
            let Some(value) = *value else {
                continue;
            };
            let (growth, reset) = match &mut counter {
                None => (None, false),
                Some(counter) => counter.step(value),
            };
            if rule.times_ms.contains(time_ms) {
                self.owner.push(owner);
                self.metric.push(i64::from(column.metric));
                self.time.push(i64::try_from(*time_ms).expect("times end with the year 9999"));
                self.value.push(value);
                self.growth.push(growth);
                self.reset.push(reset);
            }
        }
    }

    fn into_batch(self, rule: &DecodeRule) -> Result<RecordBatch> {
        let Self { owners, owner, metric, time, value, growth, reset } = self;
        let row_count = metric.len();
        let bytes_of = |bytes: &dyn Fn(&(DeviceId, Address)) -> Vec<u8>| -> ArrayRef {
            let each: Vec<_> = owners.iter().map(bytes).collect();
            let width = each.first().map_or(0, Vec::len);
            let mut builder = BinaryBuilder::with_capacity(row_count, row_count * width);
            owner.iter().for_each(|owner| builder.append_value(&each[*owner as usize]));
            Arc::new(builder.finish())
        };
        let column = |column: &usize| -> ArrayRef {
            match *column {
                DEVICE => bytes_of(&|(device, _)| device.0.to_vec()),
                PROVIDER => bytes_of(&|(_, provider)| provider.to_vec()),
                METRIC => Arc::new(Int64Array::from_iter_values(metric.iter().copied())),
                TIME => Arc::new(Int64Array::from_iter_values(time.iter().copied())),
                VALUE => Arc::new(Int64Array::from_iter_values(value.iter().copied())),
                GROWTH => Arc::new(Int64Array::from_iter(growth.iter().copied())),
                RESET => Arc::new(BooleanArray::from_iter(reset.iter().copied().map(Some))),
                _ => unreachable!("a projection names columns of the schema"),
            }
        };
        let columns = rule.projection.iter().map(column).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(row_count));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&rule.schema), columns, &options)?)
    }
}

/// A counter along one record.
enum Counter {
    /// Grows over this value; none: nothing was accepted before.
    Head(Option<i64>),
    Fill,
}

impl Counter {
    fn new(baselines: &Baselines, metric: u32) -> Self {
        match baselines {
            Baselines::Fill => Self::Fill,
            Baselines::Head(values) => {
                let place = values.binary_search_by_key(&metric, |(metric, _)| *metric);
                Self::Head(place.ok().map(|index| values[index].1))
            }
        }
    }

    /// Growth and whether the counter was reset. Admission keeps counters at or above zero, so the
    /// difference fits; if it did not, the largest growth would stand, and no sum would wrap.
    fn step(&mut self, value: i64) -> (Option<i64>, bool) {
        let Self::Head(previous) = self else {
            return (Some(0), false);
        };
        match previous.replace(value) {
            None => (Some(0), false),
            Some(previous) if value < previous => (Some(0), true),
            Some(previous) => (Some(value.saturating_sub(previous)), false),
        }
    }
}

#[cfg(test)]
mod tests;
