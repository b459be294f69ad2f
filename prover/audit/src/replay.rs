//! Replaying the evidence: the same history as the aggregator's, from the objects alone.

use fieldproof_aggregator::{evidence::Segment, history::History};
use fieldproof_proto::{evidence::CONTROL_PARTITION, manifest::object_name};
use fieldproof_runtime::store::Store;

use crate::AuditError;

/// The generation of the topics; there is one so far.
const GENERATION: u32 = 1;

/// A history, and how much evidence it is made of.
#[derive(Debug)]
pub struct Replayed {
    /// Everything that the evidence says.
    pub history: History,
    /// Segments read.
    pub segments: u64,
    /// Records in them.
    pub records: u64,
}

/// Replays the evidence from the first record on: as far as the computation of `until` needs, or all
/// there is.
pub async fn replay(store: &Store, genesis: &[u8], until: Option<u64>) -> Result<Replayed, AuditError> {
    let history = History::new(genesis)?;
    let mut replayed = Replayed { history, segments: 0, records: 0 };
    let partitions = std::iter::once(CONTROL_PARTITION).chain(0..replayed.history.partition_count());
    for partition in partitions {
        replayed = replayed.partition(store, partition, until).await?;
    }
    Ok(replayed)
}

impl Replayed {
    async fn partition(
        mut self,
        store: &Store,
        partition: u32,
        until: Option<u64>,
    ) -> Result<Self, AuditError> {
        let mut offset = 0;
        while !until.is_some_and(|epoch| self.history.is_closed(partition, epoch)) {
            let name = object_name::segment(GENERATION, partition, offset);
            if store.get(&name).await?.is_none() {
                return match until {
                    None => Ok(self),
                    Some(_) => Err(AuditError::missing(&name)),
                };
            }
            let segment = Segment::read(store, GENERATION, partition, offset).await?;
            offset = segment.name.next_offset;
            self = self.add(segment).await?;
        }
        Ok(self)
    }

    /// Verdicts take signature checks, which are kept off the runtime.
    async fn add(mut self, segment: Segment) -> Result<Self, AuditError> {
        self.segments += 1;
        self.records += segment.records.len() as u64;
        let work = tokio::task::spawn_blocking(move || self.history.add(segment).map(|()| self));
        Ok(work.await.map_err(|error| AuditError::Failed(format!("the replay was cut off: {error}")))??)
    }
}
