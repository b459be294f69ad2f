//! Evidence: records of the log as they are hashed, and the digests of segments.

use serde::{Deserialize, Serialize};

use crate::{
    digest::{context, digest, tree_leaf, tree_root},
    ids::Digest,
    wire::put_bytes,
};

/// The number that stands for the topic `control` where partitions are numbered.
pub const CONTROL_PARTITION: u32 = u32::MAX;
/// The name of the record header that says what a record is.
pub const KIND_HEADER: &str = "kind";
/// A record that holds a `SignedBatch`.
pub const KIND_BATCH: &[u8] = b"batch";
/// A record that holds a `SignedRegistration`.
pub const KIND_REGISTRATION: &[u8] = b"registration";
/// A record that holds nothing and lets the log's time pass.
pub const KIND_TICK: &[u8] = b"tick";
/// A record of the topic `control`.
pub const KIND_CONTROL: &[u8] = b"control";

/// One record of the log, every field of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its place in the partition.
    pub offset: u64,
    /// When the broker appended it, in milliseconds since 1970.
    pub append_ms: i64,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The headers, in their order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// The value.
    pub value: Option<Vec<u8>>,
}

/// The name of a segment: where it lies and what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentName {
    /// The generation of the topic.
    pub generation: u32,
    /// The partition.
    pub partition: u32,
    /// The offset of its first record.
    pub first_offset: u64,
    /// The offset after its last record: where the next segment starts.
    pub next_offset: u64,
    /// The digest of the segment before it; zero for the first.
    pub previous: Digest,
}

impl Record {
    /// The bytes that are hashed: every field, each with its presence and length.
    pub fn canonical_bytes(&self) -> Vec<u8> {
        let value_length = self.value.as_ref().map_or(0, Vec::len);
        let mut out = Vec::with_capacity(128 + value_length);
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.append_ms.to_le_bytes());
        put_optional(&mut out, self.key.as_deref());
        let header_count =
            u32::try_from(self.headers.len()).expect("Kafka bounds a record far below 2^32 headers");
        out.extend_from_slice(&header_count.to_le_bytes());
        for (name, value) in &self.headers {
            put_bytes(&mut out, name.as_bytes());
            put_optional(&mut out, value.as_deref());
        }
        put_optional(&mut out, self.value.as_deref());
        out
    }

    /// What the record says it is.
    pub fn kind(&self) -> Option<&[u8]> {
        self.headers.iter().find(|(name, _)| name == KIND_HEADER).and_then(|(_, value)| value.as_deref())
    }
}

/// The leaves of a segment's records.
pub fn record_leaves(records: &[Record]) -> Vec<Digest> {
    records.iter().map(|record| tree_leaf(&record.canonical_bytes())).collect()
}

/// The digest of a segment: its name, and the tree over its records.
pub fn segment_digest(name: &SegmentName, leaves: &[Digest]) -> Digest {
    digest(
        context::SEGMENT,
        &[
            &name.generation.to_le_bytes(),
            &name.partition.to_le_bytes(),
            &name.first_offset.to_le_bytes(),
            &name.next_offset.to_le_bytes(),
            &name.previous.0,
            &(leaves.len() as u64).to_le_bytes(),
            &tree_root(leaves).0,
        ],
    )
}

/// The root over the segments that an epoch reads, by partition and then offset.
pub fn evidence_root(segments: &[Digest]) -> Digest {
    let leaves: Vec<_> = segments.iter().map(|segment| tree_leaf(&segment.0)).collect();
    digest(context::EVIDENCE_ROOT, &[&(leaves.len() as u64).to_le_bytes(), &tree_root(&leaves).0])
}

fn put_optional(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => out.push(0),
        Some(bytes) => {
            out.push(1);
            put_bytes(out, bytes);
        }
    }
}

#[cfg(test)]
mod tests;
