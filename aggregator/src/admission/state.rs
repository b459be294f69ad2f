//! The canonical bytes of a device's state: what the digest in the manifest is over.

use fieldproof_proto::{batch::Place, wire::put_bytes};

use super::device::{DeviceState, Edge};

/// Appends the state of one device. Every list is in its own order, which the log fixes.
pub(super) fn put(out: &mut Vec<u8>, state: &DeviceState) {
    match &state.registration {
        None => out.push(0),
        Some(registration) => {
            out.push(1);
            out.extend_from_slice(&registration.counter.to_le_bytes());
            out.extend_from_slice(registration.provider.as_slice());
            put_bytes(out, registration.program.as_bytes());
            put_bytes(out, registration.attributes.as_bytes());
            out.extend_from_slice(&registration.slot.to_le_bytes());
        }
    }
    match state.flagged_slot {
        None => out.push(0),
        Some(slot) => {
            out.push(1);
            out.extend_from_slice(&slot.to_le_bytes());
        }
    }
    put_edge(out, state.head.as_ref());
    put_count(out, state.recent.len());
    for (place, digest) in &state.recent {
        put_place(out, *place);
        out.extend_from_slice(&digest.0);
    }
    put_count(out, state.gaps.len());
    for gap in &state.gaps {
        put_edge(out, gap.low.as_ref());
        put_place(out, gap.high);
        out.extend_from_slice(&gap.high_previous.0);
        out.extend_from_slice(&gap.high_first_time_ms.to_le_bytes());
    }
    out.extend_from_slice(&state.quota.0.to_le_bytes());
    out.extend_from_slice(&state.quota.1.to_le_bytes());
    put_count(out, state.counters.len());
    for (metric, value) in &state.counters {
        out.extend_from_slice(&metric.to_le_bytes());
        out.extend_from_slice(&value.to_le_bytes());
    }
}

fn put_edge(out: &mut Vec<u8>, edge: Option<&Edge>) {
    match edge {
        None => out.push(0),
        Some(edge) => {
            out.push(1);
            put_place(out, edge.place);
            out.extend_from_slice(&edge.digest.0);
            out.extend_from_slice(&edge.last_time_ms.to_le_bytes());
        }
    }
}

fn put_place(out: &mut Vec<u8>, place: Place) {
    out.extend_from_slice(&place.boot.to_le_bytes());
    out.extend_from_slice(&place.seq.to_le_bytes());
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&(count as u64).to_le_bytes());
}
