//! The state of one device: which places are taken, which are open, what its counters stand at.
//!
//! A place is (boot, seq). Accepted batches lie on one line in the order of their places, and their
//! times rise along it; where batches are missing there is a gap, which a late batch may fill. All
//! of it is bounded: the digests of the last places, the oldest gaps, the counters of the catalogue.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use alloy_primitives::Address;
use fieldproof_proto::{
    batch::{Place, WellFormedBatch},
    ids::{DeviceId, Digest},
    registration::Registration,
};

use super::{RegisteredDevice, Verdict};
use crate::readings::Baselines;

/// How many gaps may be open; the oldest is closed when there is one more.
pub const GAPS_MAX: usize = 64;
/// How many of the last accepted places are known with their digests.
pub const RECENT_MAX: usize = 64;

/// One device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeviceState {
    pub(super) registration: Option<RegistrationState>,
    /// The slot of the first equivocation.
    pub(super) flagged_slot: Option<u64>,
    /// The accepted batch with the highest place.
    pub(super) head: Option<Edge>,
    /// The last accepted places in the order of acceptance.
    pub(super) recent: VecDeque<(Place, Digest)>,
    /// Open gaps in rising order.
    pub(super) gaps: Vec<Gap>,
    /// The slot of the last accepted batch, and the readings accepted in it.
    pub(super) quota: (u64, u32),
    /// The latest accepted value of each counter.
    pub(super) counters: BTreeMap<u32, i64>,
}

/// The registration in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RegistrationState {
    pub(super) counter: u32,
    pub(super) provider: Address,
    pub(super) program: Arc<str>,
    pub(super) attributes: Arc<str>,
    /// The slot it came in. A device registers at most once in a slot, so that an epoch knows how
    /// many providers one device can work for.
    pub(super) slot: u64,
}

/// The upper end of a run of accepted batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Edge {
    pub(super) place: Place,
    pub(super) digest: Digest,
    pub(super) last_time_ms: u64,
}

/// Places between two accepted batches at which batches may still come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gap {
    /// The batch below; none if nothing is known below the device's first accepted batch.
    pub(super) low: Option<Edge>,
    /// The place of the batch above.
    pub(super) high: Place,
    /// What the batch above calls its previous one.
    pub(super) high_previous: Digest,
    /// The first time of the batch above.
    pub(super) high_first_time_ms: u64,
}

/// Whether a batch may take its place.
pub enum PlaceVerdict {
    /// It may.
    Free(Placing),
    /// It may not.
    Taken {
        /// What it is instead.
        verdict: Verdict,
        /// Why.
        reason: String,
    },
}

/// Where a batch would go.
pub enum Placing {
    /// Above everything, behind a gap or not.
    Head(Option<GapBelow>),
    /// Into the gap of this number.
    Fill(usize),
}

/// A gap that a new head leaves below itself.
pub struct GapBelow;

impl DeviceState {
    /// The counter of the registration in force; 0 if there is none.
    pub fn registration_counter(&self) -> u32 {
        self.registration.as_ref().map_or(0, |registration| registration.counter)
    }

    /// The device as policies see it, if it is registered.
    pub fn registered(&self, device: DeviceId) -> Option<RegisteredDevice> {
        self.registration.as_ref().map(|registration| RegisteredDevice {
            device,
            provider: registration.provider,
            program: registration.program.clone(),
            attributes: registration.attributes.clone(),
            flagged: self.flagged_slot.is_some(),
        })
    }

    /// Puts a registration in force.
    pub fn register(&mut self, registration: &Registration, slot: u64) {
        self.registration = Some(RegistrationState {
            counter: registration.counter,
            provider: registration.provider,
            program: registration.program.as_str().into(),
            attributes: registration.attributes.as_str().into(),
            slot,
        });
    }

    /// Whether the registration in force came in this slot.
    pub fn registered_in(&self, slot: u64) -> bool {
        self.registration.as_ref().is_some_and(|registration| registration.slot == slot)
    }

    /// Remembers that the device signed two batches for one place.
    pub fn flag(&mut self, slot: u64) {
        self.flagged_slot.get_or_insert(slot);
    }

    /// The readings accepted in a slot so far.
    pub fn readings_in(&self, slot: u64) -> u32 {
        if self.quota.0 == slot { self.quota.1 } else { 0 }
    }

    /// Whether a batch may take its place.
    pub fn place(&self, batch: &WellFormedBatch) -> PlaceVerdict {
        let place = batch.header.place;
        if let Some((_, there)) = self.recent.iter().find(|(recent, _)| *recent == place) {
            return if *there == batch.digest {
                taken(Verdict::Duplicate, format!("batch {} is in the log already", text(place)))
            } else {
                taken(Verdict::Equivocation, format!("batch {} is taken by `{there}`", text(place)))
            };
        }
        match &self.head {
            None => PlaceVerdict::Free(Placing::Head(starts_apart(batch).then_some(GapBelow))),
            Some(head) if place > head.place => place_above(head, batch),
            Some(_) => self.place_below(batch),
        }
    }

    /// Takes the place found by `place`, and gives the counters as they stood before.
    pub fn accept(
        &mut self,
        batch: &WellFormedBatch,
        placing: &Placing,
        slot: u64,
        is_counter: impl Fn(u32) -> bool,
    ) -> Baselines {
        let header = &batch.header;
        let edge = Edge { place: header.place, digest: batch.digest, last_time_ms: header.last_time_ms };
        self.quota = (slot, self.readings_in(slot) + header.reading_count);
        self.recent.push_back((header.place, batch.digest));
        if self.recent.len() > RECENT_MAX {
            self.recent.pop_front();
        }
        let baselines = match placing {
            Placing::Head(gap) => {
                if gap.is_some() {
                    self.gaps.push(gap_below(self.head, batch));
                }
                self.head = Some(edge);
                self.raise_counters(batch, is_counter)
            }
            Placing::Fill(index) => {
                let gap = self.gaps.remove(*index);
                if !follows(&edge, gap.high, gap.high_previous) {
                    self.gaps.insert(*index, Gap { low: Some(edge), ..gap });
                }
                let adjacent = match &gap.low {
                    Some(low) => follows(low, header.place, header.previous),
                    None => !starts_apart(batch),
                };
                if !adjacent {
                    self.gaps.insert(*index, gap_below(gap.low, batch));
                }
                Baselines::Fill
            }
        };
        while self.gaps.len() > GAPS_MAX {
            self.gaps.remove(0);
        }
        baselines
    }

    fn place_below(&self, batch: &WellFormedBatch) -> PlaceVerdict {
        let header = &batch.header;
        let place = header.place;
        let inside = |gap: &Gap| gap.low.is_none_or(|low| low.place < place) && place < gap.high;
        let Some((index, gap)) = self.gaps.iter().enumerate().find(|(_, gap)| inside(gap)) else {
            return taken(Verdict::Stale, format!("batch {} is behind the oldest open gap", text(place)));
        };
        let after_low = gap.low.is_none_or(|low| low.last_time_ms < header.first_time_ms);
        if !after_low || header.last_time_ms >= gap.high_first_time_ms {
            return taken(
                Verdict::Overlap,
                format!("the times of batch {} do not fit into its gap", text(place)),
            );
        }
        let denies_low =
            gap.low.is_some_and(|low| is_next(low.place, place) && header.previous != low.digest);
        let denied_by_high = is_next(place, gap.high) && gap.high_previous != batch.digest;
        if denies_low || denied_by_high {
            return taken(
                Verdict::Equivocation,
                format!("batch {} is not the one its neighbours name", text(place)),
            );
        }
        PlaceVerdict::Free(Placing::Fill(index))
    }

    /// Moves the counters to the batch's last values, and gives what they were.
    fn raise_counters(&mut self, batch: &WellFormedBatch, is_counter: impl Fn(u32) -> bool) -> Baselines {
        let mut before = Vec::new();
        for column in batch.payload.columns.iter().filter(|column| is_counter(column.metric)) {
            if let Some(value) = self.counters.get(&column.metric) {
                before.push((column.metric, *value));
            }
            let last = column.values.iter().flatten().next_back();
            self.counters.insert(column.metric, *last.expect("a column has at least one value"));
        }
        Baselines::Head(before)
    }
}

fn place_above(head: &Edge, batch: &WellFormedBatch) -> PlaceVerdict {
    let header = &batch.header;
    if header.first_time_ms <= head.last_time_ms {
        return taken(
            Verdict::Overlap,
            format!(
                "batch {} starts at `{}`, not after `{}`, up to which there are readings",
                text(header.place),
                header.first_time_ms,
                head.last_time_ms
            ),
        );
    }
    if is_next(head.place, header.place) && header.previous != head.digest {
        return taken(
            Verdict::Equivocation,
            format!(
                "batch {} follows `{}`, but `{}` was there first",
                text(header.place),
                header.previous,
                head.digest
            ),
        );
    }
    let gap = !follows(head, header.place, header.previous);
    PlaceVerdict::Free(Placing::Head(gap.then_some(GapBelow)))
}

fn gap_below(low: Option<Edge>, batch: &WellFormedBatch) -> Gap {
    Gap {
        low,
        high: batch.header.place,
        high_previous: batch.header.previous,
        high_first_time_ms: batch.header.first_time_ms,
    }
}

/// Whether a batch says that it is not its device's first.
fn starts_apart(batch: &WellFormedBatch) -> bool {
    batch.header.place.seq != 0 || batch.header.previous != Digest::ZERO
}

/// Whether nothing can be between a batch and the one at `place`.
fn follows(edge: &Edge, place: Place, previous: Digest) -> bool {
    let next_boot = place.boot > edge.place.boot && place.seq == 0;
    previous == edge.digest && (is_next(edge.place, place) || next_boot)
}

fn is_next(one: Place, other: Place) -> bool {
    one.boot == other.boot && one.seq.checked_add(1) == Some(other.seq)
}

fn taken(verdict: Verdict, reason: String) -> PlaceVerdict {
    PlaceVerdict::Taken { verdict, reason }
}

fn text(place: Place) -> String {
    format!("`{}` of boot `{}`", place.seq, place.boot)
}
