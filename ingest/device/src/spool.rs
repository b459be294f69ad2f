//! The spool: the device's memory on disk, one directory.
//!
//! - `state`: the boot counter, and digest and last time of the last batch. Replaced whole.
//! - `batches`: signed batches, appended.
//! - `answers`: receipts and rejections, appended; `answers.old`: the ones before.
//! - `lock`: locked while the spool is open.
//!
//! A boot is durable before anything is signed in it, a batch before it is sent, an answer before
//! it counts. If an answer is lost to a crash, the batch is sent again and is a duplicate, which
//! nobody pays and nobody minds.

use std::{
    collections::VecDeque,
    fs::{self, File, TryLockError},
    path::PathBuf,
};

use fieldproof_proto::{
    batch::{BATCH_BYTES_MAX, BatchHeader, Place, batch_digest},
    digest::digest,
    ids::{DeviceId, Digest, NetworkId},
    v1::SignedBatch,
};
use prost::Message as _;

use crate::{
    answers::{ANSWER_BYTES_MAX, Answer, AnswerBytes},
    error::{AnswerError, SpoolError},
    files::{FRAME_HEADER_BYTES, FrameAt, FrameFile, io_error, rename, replace, sync_directory},
};

/// Checks the state file.
const STATE_CONTEXT: &str = "fieldproof 2026-11 device spool state v1";
/// Version, boot, last digest, last time.
const STATE_BYTES: usize = 1 + 8 + 32 + 8;
const STATE_VERSION: u8 = 1;
/// Answered batches are cleared away when they have this many bytes, or half of a smaller spool.
const COMPACT_BYTES: u64 = 1024 * 1024;

/// Whose spool it is, and how large it may grow.
#[derive(Debug, Clone)]
pub(crate) struct SpoolRules {
    pub(crate) directory: PathBuf,
    pub(crate) network: NetworkId,
    pub(crate) device: DeviceId,
    pub(crate) spool_bytes_max: u64,
    pub(crate) answers_bytes_max: u64,
}

/// What the next batch follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tail {
    pub(crate) digest: Digest,
    pub(crate) last_time_ms: Option<u64>,
}

/// A batch in the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) place: Place,
    pub(crate) digest: Digest,
    pub(crate) frame: FrameAt,
    answered: bool,
}

/// A batch on its way out.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    pub(crate) place: Place,
    pub(crate) batch: SignedBatch,
    pub(crate) bytes: u32,
}

/// An open spool.
pub(crate) struct Spool {
    rules: SpoolRules,
    batches: FrameFile,
    answers: FrameFile,
    _lock: File,
    boot: u64,
    next_seq: u64,
    tail: Tail,
    /// In the order of their places; the first one waits for an answer.
    entries: VecDeque<Entry>,
    /// Batches without an answer, and the bytes of their frames.
    unanswered: u64,
    unanswered_bytes: u64,
    broken: bool,
}

impl Spool {
    /// Opens or makes the spool and starts a new boot. Durable when it returns: the boot, which is
    /// above every earlier one and at least `now_seconds`.
    pub(crate) fn open(rules: SpoolRules, now_seconds: u64) -> Result<Self, SpoolError> {
        let directory = rules.directory.clone();
        fs::create_dir_all(&directory).map_err(io_error("make", &directory))?;
        let lock = lock(&rules)?;
        let (stored_boot, mut tail) = read_state(&rules)?.unwrap_or((0, Tail::START));
        let mut entries = VecDeque::new();
        let batches_path = directory.join("batches");
        let batches = FrameFile::open(&batches_path, BATCH_BYTES_MAX as u64, |frame, body| {
            let (entry, last_time_ms) =
                entry(&rules, frame, body).ok_or_else(|| SpoolError::Foreign(batches_path.clone()))?;
            if tail.last_time_ms < Some(last_time_ms) {
                tail = Tail { digest: entry.digest, last_time_ms: Some(last_time_ms) };
            }
            entries.push_back(entry);
            Ok(())
        })?;
        let answers = FrameFile::open(&directory.join("answers"), ANSWER_BYTES_MAX, |_, body| {
            mark_answered(&mut entries, body);
            Ok(())
        })?;
        let boot_in_batches = entries.back().map_or(0, |entry: &Entry| entry.place.boot);
        let boot = now_seconds.max(stored_boot.max(boot_in_batches).saturating_add(1));
        write_state(&rules, boot, &tail)?;
        let mut spool = Self {
            rules,
            batches,
            answers,
            _lock: lock,
            boot,
            next_seq: 0,
            tail,
            unanswered: entries.iter().filter(|entry| !entry.answered).count() as u64,
            unanswered_bytes: entries.iter().filter(|entry| !entry.answered).map(Entry::frame_bytes).sum(),
            entries,
            broken: false,
        };
        spool.pop_answered();
        spool.compact_if_due()?;
        sync_directory(&directory)?;
        Ok(spool)
    }

    /// The boot that this opening started.
    pub(crate) fn boot(&self) -> u64 {
        self.boot
    }

    /// The place of the next batch.
    pub(crate) fn next_place(&self) -> Place {
        Place { boot: self.boot, seq: self.next_seq }
    }

    /// What the next batch follows.
    pub(crate) fn tail(&self) -> Tail {
        self.tail
    }

    /// How many batches have no answer.
    pub(crate) fn unanswered(&self) -> u64 {
        self.unanswered
    }

    /// How many more bytes of batches the spool would hold with one more of this size, if that is
    /// too many even without those that are answered.
    pub(crate) fn full_with(&mut self, bytes: usize) -> Result<Option<u64>, SpoolError> {
        let frame_bytes = FRAME_HEADER_BYTES + bytes as u64;
        if self.batches.bytes() + frame_bytes <= self.rules.spool_bytes_max {
            return Ok(None);
        }
        self.compact()?;
        let after = self.batches.bytes() + frame_bytes;
        Ok((after > self.rules.spool_bytes_max).then_some(self.batches.bytes()))
    }

    /// Adds the batch that stands at `next_place`. Durable when it returns: the batch.
    pub(crate) fn append(
        &mut self,
        batch: &SignedBatch,
        digest: Digest,
        last_time_ms: u64,
    ) -> Result<Place, SpoolError> {
        self.usable()?;
        let place = self.next_place();
        let frame = self.batches.append(&batch.encode_to_vec()).inspect_err(|_| self.broken = true)?;
        let entry = Entry { place, digest, frame, answered: false };
        self.unanswered += 1;
        self.unanswered_bytes += entry.frame_bytes();
        self.entries.push_back(entry);
        self.next_seq += 1;
        self.tail = Tail { digest, last_time_ms: Some(last_time_ms) };
        Ok(place)
    }

    /// Up to `count` batches after `after` that have no answer.
    pub(crate) fn unanswered_after(
        &self,
        after: Option<Place>,
        count: usize,
    ) -> Result<Vec<Outgoing>, SpoolError> {
        self.usable()?;
        let start = after.map_or(0, |after| self.entries.partition_point(|entry| entry.place <= after));
        let mut taken = Vec::new();
        for entry in self.entries.iter().skip(start).filter(|entry| !entry.answered).take(count) {
            let bytes = self.batches.read(entry.frame)?;
            let batch = SignedBatch::decode(&bytes[..]).map_err(|_| SpoolError::Damaged {
                path: self.rules.directory.join("batches"),
                at: entry.frame.at,
            })?;
            taken.push(Outgoing { place: entry.place, batch, bytes: entry.frame.bytes });
        }
        Ok(taken)
    }

    /// Which batches an answer is about: it must be true of batches that wait for one and are at or
    /// before `sent_to`. Gives positions for `record`.
    pub(crate) fn covers(
        &self,
        answer: &Answer,
        sent_to: Option<Place>,
    ) -> Result<std::ops::Range<usize>, AnswerError> {
        let sent = sent_to.map_or(0, |to| self.entries.partition_point(|entry| entry.place <= to));
        match answer {
            Answer::Rejection(rejection) => {
                let waits = |entry: &Entry| !entry.answered && entry.digest == rejection.digest;
                let at = self.entries.iter().take(sent).position(waits);
                at.map(|at| at..at + 1).ok_or(AnswerError::Digest(rejection.digest))
            }
            Answer::Receipt(receipt) => {
                let (boot, from_seq, to_seq) = (receipt.boot, receipt.from_seq, receipt.to_seq);
                let refused = AnswerError::Range { boot, from_seq, to_seq };
                let from = Place { boot, seq: from_seq };
                let first = self.entries.partition_point(|entry| entry.place < from);
                let count = usize::try_from(to_seq - from_seq).ok().and_then(|count| count.checked_add(1));
                let end = count.and_then(|count| first.checked_add(count)).filter(|end| *end <= sent);
                let end = end.ok_or_else(|| refused.clone())?;
                let covered = self.entries.range(first..end);
                let in_order = covered
                    .zip(from_seq..)
                    .all(|(entry, seq)| !entry.answered && entry.place == Place { boot, seq });
                if !in_order {
                    return Err(refused);
                }
                if self.entries[end - 1].digest != receipt.digest {
                    return Err(AnswerError::Digest(receipt.digest));
                }
                Ok(first..end)
            }
        }
    }

    /// Stores an answer to the batches at these positions. Durable when it returns: the answer, so
    /// that they are never sent again.
    pub(crate) fn record(
        &mut self,
        bytes: &AnswerBytes,
        covered: std::ops::Range<usize>,
    ) -> Result<(), SpoolError> {
        self.usable()?;
        self.answers.append(&bytes.encode()).inspect_err(|_| self.broken = true)?;
        for entry in self.entries.range_mut(covered) {
            entry.answered = true;
            self.unanswered -= 1;
            self.unanswered_bytes -= entry.frame_bytes();
        }
        self.pop_answered();
        self.compact_if_due()
    }

    /// All answers that are still kept, oldest first.
    pub(crate) fn stored_answers(&self) -> Result<Vec<AnswerBytes>, SpoolError> {
        let mut answers = Vec::new();
        for name in ["answers.old", "answers"] {
            let path = self.rules.directory.join(name);
            if path.exists() {
                FrameFile::open(&path, ANSWER_BYTES_MAX, |_, body| {
                    answers.extend(AnswerBytes::decode(body));
                    Ok(())
                })?;
            }
        }
        Ok(answers)
    }

    fn usable(&self) -> Result<(), SpoolError> {
        if self.broken { Err(SpoolError::Broken) } else { Ok(()) }
    }

    fn pop_answered(&mut self) {
        while self.entries.front().is_some_and(|entry| entry.answered) {
            self.entries.pop_front();
        }
    }

    fn compact_if_due(&mut self) -> Result<(), SpoolError> {
        let answered = self.batches.bytes().saturating_sub(self.unanswered_bytes);
        let due = COMPACT_BYTES.min(self.rules.spool_bytes_max / 2).max(self.unanswered_bytes);
        if answered >= due && answered > 0 { self.compact() } else { Ok(()) }
    }

    /// Clears answered batches away. Durable when it returns: a spool without them. The tail is
    /// made durable before they go, and their answers are needed no more once they are gone.
    fn compact(&mut self) -> Result<(), SpoolError> {
        self.usable()?;
        self.broken = true;
        write_state(&self.rules, self.boot, &self.tail)?;
        self.entries.retain(|entry| !entry.answered);
        let frames: Vec<_> = self.entries.iter().map(|entry| entry.frame).collect();
        let places = self.batches.rewrite(&frames)?;
        for (entry, frame) in self.entries.iter_mut().zip(places) {
            entry.frame = frame;
        }
        if self.answers.bytes() >= self.rules.answers_bytes_max / 2 {
            let current = self.rules.directory.join("answers");
            rename(&current, &self.rules.directory.join("answers.old"))?;
            self.answers = FrameFile::open(&current, ANSWER_BYTES_MAX, |_, _| Ok(()))?;
            sync_directory(&self.rules.directory)?;
        }
        self.broken = false;
        Ok(())
    }
}

impl Entry {
    fn frame_bytes(&self) -> u64 {
        FRAME_HEADER_BYTES + u64::from(self.frame.bytes)
    }
}

impl Tail {
    /// What a device's very first batch follows.
    pub(crate) const START: Self = Self { digest: Digest::ZERO, last_time_ms: None };
}

fn lock(rules: &SpoolRules) -> Result<File, SpoolError> {
    let path = rules.directory.join("lock");
    let file = File::create(&path).map_err(io_error("create", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(SpoolError::InUse(rules.directory.clone())),
        Err(TryLockError::Error(source)) => Err(io_error("lock", &path)(source)),
    }
}

fn read_state(rules: &SpoolRules) -> Result<Option<(u64, Tail)>, SpoolError> {
    let path = rules.directory.join("state");
    let bytes = match fs::read(&path) {
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(io_error("read", &path))?,
    };
    let damaged = || SpoolError::Damaged { path: path.clone(), at: 0 };
    let (state, check) = bytes.split_at_checked(STATE_BYTES).ok_or_else(damaged)?;
    if check != digest(STATE_CONTEXT, &[state]).0 || state[0] != STATE_VERSION {
        return Err(damaged());
    }
    let number = |at: usize| state[at..at + 8].iter().rev().fold(0_u64, |n, byte| n << 8 | u64::from(*byte));
    let last = Digest::from_slice(&state[9..41]).ok_or_else(damaged)?;
    // Times of batches are above zero in practice, and zero before the first.
    let last_time_ms = (last != Digest::ZERO).then(|| number(41));
    Ok(Some((number(1), Tail { digest: last, last_time_ms })))
}

fn write_state(rules: &SpoolRules, boot: u64, tail: &Tail) -> Result<(), SpoolError> {
    let mut state = vec![STATE_VERSION];
    state.extend_from_slice(&boot.to_le_bytes());
    state.extend_from_slice(&tail.digest.0);
    state.extend_from_slice(&tail.last_time_ms.unwrap_or(0).to_le_bytes());
    let check = digest(STATE_CONTEXT, &[&state]);
    state.extend_from_slice(&check.0);
    replace(&rules.directory.join("state"), &state)
}

/// The entry of a stored batch with its last time, if it is this device's.
fn entry(rules: &SpoolRules, frame: FrameAt, body: &[u8]) -> Option<(Entry, u64)> {
    let batch = SignedBatch::decode(body).ok()?;
    let header = BatchHeader::parse(&batch.header).ok()?;
    if header.device_id() != rules.device || header.network_tag != rules.network.tag() {
        return None;
    }
    let digest = batch_digest(&rules.network, &batch.header, &batch.payload);
    let entry = Entry { place: header.place, digest, frame, answered: false };
    Some((entry, header.last_time_ms))
}

/// Marks what a stored answer covers. It was checked before it was stored.
fn mark_answered(entries: &mut VecDeque<Entry>, body: &[u8]) {
    match AnswerBytes::decode(body).map(|answer| answer.verify()) {
        Some(Ok(Answer::Receipt(receipt))) => {
            let place = |seq| Place { boot: receipt.boot, seq };
            let first = entries.partition_point(|entry| entry.place < place(receipt.from_seq));
            let end = entries.partition_point(|entry| entry.place <= place(receipt.to_seq));
            entries.range_mut(first..end).for_each(|entry| entry.answered = true);
        }
        Some(Ok(Answer::Rejection(rejection))) => {
            let rejected = entries.iter_mut().filter(|entry| entry.digest == rejection.digest);
            rejected.for_each(|entry| entry.answered = true);
        }
        // What does not verify answers nothing: the batch is sent again.
        Some(Err(_)) | None => {}
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
