//! What a record can be.

/// What a record is. No verdict ever changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// A batch that counts.
    Accepted,
    /// A batch that is in the log already.
    Duplicate,
    /// Another batch at a place that is taken.
    Equivocation,
    /// A batch whose times do not fit between those of its neighbours.
    Overlap,
    /// A batch behind the oldest open gap.
    Stale,
    /// A batch of a device that is not registered, or under another registration.
    Unregistered,
    /// A record whose key is not its device's, or of another partition.
    Misrouted,
    /// A batch whose signature does not verify.
    BadSignature,
    /// A record that cannot be read.
    Malformed,
    /// A batch with a metric or a value that the catalogue does not have.
    OutOfRange,
    /// A batch beyond the readings that the program takes of one device in one slot.
    OverQuota,
    /// A batch too far ahead of the log's own time.
    Future,
    /// A registration that applies.
    Registered,
    /// A registration that does not.
    RegistrationRefused,
    /// A record that only lets time pass.
    Tick,
}

impl Verdict {
    /// All of them, batches first.
    pub const ALL: [Self; 15] = [
        Self::Accepted,
        Self::Duplicate,
        Self::Equivocation,
        Self::Overlap,
        Self::Stale,
        Self::Unregistered,
        Self::Misrouted,
        Self::BadSignature,
        Self::Malformed,
        Self::OutOfRange,
        Self::OverQuota,
        Self::Future,
        Self::Registered,
        Self::RegistrationRefused,
        Self::Tick,
    ];

    /// The name in manifests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Duplicate => "duplicate",
            Self::Equivocation => "equivocation",
            Self::Overlap => "overlap",
            Self::Stale => "stale",
            Self::Unregistered => "unregistered",
            Self::Misrouted => "misrouted",
            Self::BadSignature => "bad_signature",
            Self::Malformed => "malformed",
            Self::OutOfRange => "out_of_range",
            Self::OverQuota => "over_quota",
            Self::Future => "future",
            Self::Registered => "registered",
            Self::RegistrationRefused => "registration_refused",
            Self::Tick => "tick",
        }
    }

    /// Whether a record of this verdict is listed with its reason.
    pub fn excludes(self) -> bool {
        !matches!(self, Self::Accepted | Self::Registered | Self::Tick)
    }
}
