//! Evidence segments: runs of one partition's records, copied out of the log as they are.
//!
//! A segment is a plain Parquet file that any tool opens. What it proves is its digest, which covers
//! every field of every record and is chained to the segment before; Parquet bytes prove nothing,
//! they differ between writers. A reader verifies before it believes.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use datafusion::arrow::{
    array::{
        Array, ArrayRef, BinaryArray, BinaryBuilder, Int64Array, ListArray, ListBuilder, RecordBatch,
        StringArray, StringBuilder, StructArray, StructBuilder,
    },
    datatypes::{DataType, Field, Fields, Schema, SchemaRef},
    error::ArrowError,
};
use fieldproof_proto::{
    canonical_json::{self, CanonicalError},
    evidence::{Record, SegmentName, record_leaves, segment_digest},
    ids::Digest,
    manifest::object_name,
};
use fieldproof_runtime::store::{Created, Store, StoreError};
use parquet::{
    arrow::{
        ArrowWriter,
        arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder},
    },
    basic::{Compression, ZstdLevel},
    errors::ParquetError,
    file::{
        metadata::KeyValue,
        properties::{DEFAULT_CREATED_BY, WriterProperties},
    },
};
use serde::{Deserialize, Serialize};

/// Records in a row group: small enough that readers can work on parts of a segment at once.
const ROW_GROUP_RECORDS: usize = 4096;
/// The key of the file's metadata that names the segment.
pub const SEGMENT_METADATA: &str = "fieldproof.segment";

/// A verified run of records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Where it lies.
    pub name: SegmentName,
    /// Its digest.
    pub digest: Digest,
    /// Its records, with offsets from `name.first_offset` on, without gaps.
    pub records: Arc<[Record]>,
}

/// The metadata in the file: what the segment claims to be.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SegmentClaim {
    name: SegmentName,
    digest: Digest,
    /// What wrote the file, as the file's own `created_by` says too.
    writer: String,
}

/// Why a segment cannot be made or believed.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The object is not there.
    #[error("the segment `{0}` is missing")]
    Missing(String),
    /// The object is not what it should be.
    #[error("the segment `{name}` is not valid: {reason}")]
    Invalid {
        /// The object.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// Records that do not follow each other.
    #[error("record `{found}` of partition `{partition}` follows offset `{expected}`: the log has a hole")]
    Hole {
        /// The partition.
        partition: u32,
        /// The offset that should be next.
        expected: u64,
        /// The offset that is.
        found: u64,
    },
    /// Parquet could not be written.
    #[error("cannot write Parquet: {0}")]
    Write(#[from] ParquetError),
    /// An Arrow array could not be made.
    #[error("cannot make a column: {0}")]
    Arrow(#[from] ArrowError),
    /// Metadata that has no canonical form.
    #[error(transparent)]
    Json(#[from] CanonicalError),
}

impl Segment {
    /// The segment of `records`, which must not be empty, behind `previous`.
    pub fn new(
        generation: u32,
        partition: u32,
        previous: Digest,
        records: Vec<Record>,
    ) -> Result<Self, EvidenceError> {
        let first_offset = records.first().map_or(0, |record| record.offset);
        for (record, expected) in records.iter().zip(first_offset..) {
            if record.offset != expected {
                return Err(EvidenceError::Hole { partition, expected, found: record.offset });
            }
        }
        let next_offset = first_offset + records.len() as u64;
        let name = SegmentName { generation, partition, first_offset, next_offset, previous };
        let digest = segment_digest(&name, &record_leaves(&records));
        Ok(Self { name, digest, records: records.into() })
    }

    /// The name of the object.
    pub fn object_name(&self) -> String {
        object_name::segment(self.name.generation, self.name.partition, self.name.first_offset)
    }

    /// Commits the segment. Durable when it returns `Ok`: the segment returned, which is this one or
    /// the one that another writer put there first; which, the caller sees by its digest.
    pub async fn commit(&self, store: &Store) -> Result<Self, EvidenceError> {
        let segment = self.clone();
        let bytes = blocking(move || segment.to_parquet()).await?;
        match store.create(&self.object_name(), bytes).await? {
            Created::New => Ok(self.clone()),
            Created::Taken(there) => Self::from_parquet(self.object_name(), there).await,
        }
    }

    /// Reads a segment and verifies it against itself: offsets, digest, name. That it is the right
    /// one, its place in the chain says.
    pub async fn read(
        store: &Store,
        generation: u32,
        partition: u32,
        first_offset: u64,
    ) -> Result<Self, EvidenceError> {
        let object = object_name::segment(generation, partition, first_offset);
        let bytes = store.get(&object).await?.ok_or_else(|| EvidenceError::Missing(object.clone()))?;
        let segment = Self::from_parquet(object.clone(), bytes).await?;
        if segment.object_name() != object {
            return Err(EvidenceError::Invalid {
                name: object,
                reason: format!("it is `{}`", segment.object_name()),
            });
        }
        Ok(segment)
    }

    async fn from_parquet(object: String, bytes: bytes::Bytes) -> Result<Self, EvidenceError> {
        let invalid = move |reason: String| EvidenceError::Invalid { name: object.clone(), reason };
        blocking(move || {
            // The Parquet library panics on some damaged pages: one more way of not being valid.
            let read = catch_unwind(AssertUnwindSafe(|| read_parquet(bytes.clone())));
            let read = read.unwrap_or_else(|_| Err("the Parquet library panicked on its bytes".to_owned()));
            let (claim, records) = read.map_err(&invalid)?;
            let segment =
                Self::new(claim.name.generation, claim.name.partition, claim.name.previous, records)
                    .map_err(|error| invalid(error.to_string()))?;
            if segment.name != claim.name || segment.digest != claim.digest {
                return Err(invalid(format!(
                    "its records give the digest `{}`, it claims `{}`",
                    segment.digest, claim.digest
                )));
            }
            // What Parquet keeps beside the records is under no digest. The writer is deterministic, so
            // where it is this one, a file with any other byte is damaged.
            if claim.writer == DEFAULT_CREATED_BY && segment.to_parquet()? != bytes {
                return Err(invalid("its bytes are not the ones that its records give".to_owned()));
            }
            Ok(segment)
        })
        .await
    }

    /// The bytes of the file.
    fn to_parquet(&self) -> Result<Vec<u8>, EvidenceError> {
        let claim =
            SegmentClaim { name: self.name, digest: self.digest, writer: DEFAULT_CREATED_BY.to_owned() };
        let claim = String::from_utf8(canonical_json::to_bytes(&claim)?).expect("canonical JSON is UTF-8");
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
            .set_dictionary_enabled(false)
            .set_max_row_group_row_count(Some(ROW_GROUP_RECORDS))
            .set_key_value_metadata(Some(vec![KeyValue::new(SEGMENT_METADATA.to_owned(), claim)]))
            .build();
        let mut writer = ArrowWriter::try_new(Vec::new(), schema(), Some(properties))?;
        writer.write(&to_batch(&self.records)?)?;
        Ok(writer.into_inner()?)
    }
}

/// The offsets at which the segments of a partition start, in rising order.
pub async fn segment_offsets(
    store: &Store,
    generation: u32,
    partition: u32,
) -> Result<Vec<u64>, EvidenceError> {
    let names = store.list(&object_name::evidence_folder(generation, partition)).await?;
    names
        .into_iter()
        .map(|name| {
            let file = name.rsplit('/').next().unwrap_or_default();
            let offset = file
                .strip_suffix(".parquet")
                .filter(|digits| digits.len() == 20 && !digits.starts_with('+'))
                .and_then(|digits| digits.parse().ok());
            offset.ok_or_else(|| EvidenceError::Invalid {
                name,
                reason: "it is not named by an offset".to_owned(),
            })
        })
        .collect()
}

fn header_fields() -> Fields {
    vec![Field::new("name", DataType::Utf8, false), Field::new("value", DataType::Binary, true)].into()
}

/// The columns of a segment.
pub fn schema() -> SchemaRef {
    let header = Field::new_list_field(DataType::Struct(header_fields()), false);
    Arc::new(Schema::new(vec![
        Field::new("offset", DataType::Int64, false),
        Field::new("append_ms", DataType::Int64, false),
        Field::new("key", DataType::Binary, true),
        Field::new("headers", DataType::List(Arc::new(header)), false),
        Field::new("value", DataType::Binary, true),
    ]))
}

fn to_batch(records: &[Record]) -> Result<RecordBatch, ArrowError> {
    let offset = |record: &Record| i64::try_from(record.offset).expect("Kafka's offsets are below 2^63");
    let mut headers = ListBuilder::new(StructBuilder::new(
        header_fields(),
        vec![Box::new(StringBuilder::new()), Box::new(BinaryBuilder::new())],
    ))
    .with_field(Field::new_list_field(DataType::Struct(header_fields()), false));
    for record in records {
        for (name, value) in &record.headers {
            let header = headers.values();
            let column = "the builder has these two columns";
            header.field_builder::<StringBuilder>(0).expect(column).append_value(name);
            header.field_builder::<BinaryBuilder>(1).expect(column).append_option(value.as_deref());
            header.append(true);
        }
        headers.append(true);
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(records.iter().map(offset).collect::<Int64Array>()),
        Arc::new(records.iter().map(|record| record.append_ms).collect::<Int64Array>()),
        Arc::new(records.iter().map(|record| record.key.as_deref()).collect::<BinaryArray>()),
        Arc::new(headers.finish()),
        Arc::new(records.iter().map(|record| record.value.as_deref()).collect::<BinaryArray>()),
    ];
    RecordBatch::try_new(schema(), columns)
}

fn read_parquet(bytes: bytes::Bytes) -> Result<(SegmentClaim, Vec<Record>), String> {
    // Only columns of our own schema, whatever the file says about its types.
    let options = ArrowReaderOptions::new().with_schema(schema());
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(bytes, options)
        .map_err(|error| error.to_string())?;
    let metadata = builder.metadata().file_metadata();
    let claim = metadata
        .key_value_metadata()
        .and_then(|pairs| pairs.iter().find(|pair| pair.key == SEGMENT_METADATA))
        .and_then(|pair| pair.value.as_deref())
        .ok_or_else(|| format!("its metadata has no `{SEGMENT_METADATA}`"))?;
    let claim: SegmentClaim =
        canonical_json::from_bytes(claim.as_bytes()).map_err(|error| format!("its metadata is {error}"))?;
    if metadata.created_by() != Some(claim.writer.as_str()) {
        return Err(format!("it says that `{}` wrote it, and Parquet says otherwise", claim.writer));
    }
    let mut records = Vec::new();
    for batch in builder.build().map_err(|error| error.to_string())? {
        from_batch(&batch.map_err(|error| error.to_string())?, &mut records)?;
    }
    if records.is_empty() {
        return Err("it has no records".to_owned());
    }
    Ok((claim, records))
}

fn from_batch(batch: &RecordBatch, records: &mut Vec<Record>) -> Result<(), String> {
    let offsets = column::<Int64Array>(batch, "offset")?;
    let append_ms = column::<Int64Array>(batch, "append_ms")?;
    let keys = column::<BinaryArray>(batch, "key")?;
    let headers = column::<ListArray>(batch, "headers")?;
    let values = column::<BinaryArray>(batch, "value")?;
    let optional = |array: &BinaryArray, row| array.is_valid(row).then(|| array.value(row).to_vec());
    for row in 0..batch.num_rows() {
        let header_list = headers.value(row);
        let header_list =
            header_list.as_any().downcast_ref::<StructArray>().ok_or("headers are not structs")?;
        let names = header_list
            .column(0)
            .as_any()
            .downcast_ref::<StringArray>()
            .ok_or("header names are not text")?;
        let contents = header_list
            .column(1)
            .as_any()
            .downcast_ref::<BinaryArray>()
            .ok_or("header values are not bytes")?;
        records.push(Record {
            offset: u64::try_from(offsets.value(row)).map_err(|_| "an offset is below zero")?,
            append_ms: append_ms.value(row),
            key: optional(keys, row),
            headers: (0..names.len())
                .map(|header| (names.value(header).to_owned(), optional(contents, header)))
                .collect(),
            value: optional(values, row),
        });
    }
    Ok(())
}

fn column<'a, T: Array + 'static>(batch: &'a RecordBatch, name: &str) -> Result<&'a T, String> {
    batch
        .column_by_name(name)
        .and_then(|column| column.as_any().downcast_ref::<T>())
        .ok_or_else(|| format!("its column `{name}` is missing or of another type"))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EvidenceError> + Send + 'static,
) -> Result<T, EvidenceError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
        Err(_) => Err(StoreError::Ending.into()),
    }
}

#[cfg(test)]
mod tests;
