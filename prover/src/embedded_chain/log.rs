//! The durable transaction log: the only thing the embedded chain stores.
//!
//! State, receipts and blocks are pure functions of the genesis and of the transactions with
//! their block times, so the log holds those and nothing else; whoever opens it replays it. It
//! never holds a transaction the chain refused.
//!
//! ```text
//! chain.log = entry*                         (the first entry is the genesis)
//! entry     = length ‖ !length ‖ keccak256(file offset ‖ payload) ‖ payload
//! payload   = timestamp ‖ block hash ‖ signed transaction (EIP-2718)
//! ```
//!
//! Integers are big-endian; lengths are 32 bits, all others 64. Every entry is fsynced before the
//! next is written, so a crash can leave at most one unfinished entry, and only at the end. That
//! tells a torn tail, which was never acknowledged and is cut off, from damage to what was
//! acknowledged, which is an error. The complement of the length keeps a damaged length in the
//! middle from looking like a torn tail, and the offset keeps an entry from passing elsewhere.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use alloy_primitives::{Address, B256, Keccak256};

/// The most bytes a signed transaction may have, the limit of other nodes' transaction pools.
pub(super) const TRANSACTION_BYTES_MAX: usize = 128 * 1024;

const LOG_FILE: &str = "chain.log";
const LOCK_FILE: &str = "chain.lock";
const GENESIS_MAGIC: &[u8] = b"fieldproof embedded chain, log version 1\n";
const HEAD_BYTES: usize = 4 + 4 + 32;
const MINED_PREFIX_BYTES: usize = 8 + 32;
const FUNDED_MAX: usize = 1024;
const PAYLOAD_BYTES_MAX: usize = MINED_PREFIX_BYTES + TRANSACTION_BYTES_MAX;

/// Why the transaction log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TransactionLogError {
    /// The file system refused; whether to retry depends on the cause.
    #[error("cannot {action} `{path}`")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another chain has the directory open.
    #[error("the chain in `{0}` is in use by another process")]
    InUse(PathBuf),
    /// Acknowledged bytes have changed: the operator restores the file or starts a new chain.
    #[error("`{path}` is corrupted at offset `{offset}`: {reason}")]
    Corrupted {
        /// The log file.
        path: PathBuf,
        /// Where the damaged entry starts.
        offset: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The settings are not those the chain was created with.
    #[error("`{path}` was created with {stored}, the settings say {wanted}")]
    OtherGenesis {
        /// The log file.
        path: PathBuf,
        /// What the log says.
        stored: String,
        /// What the settings say.
        wanted: String,
    },
    /// The genesis names more funded accounts than a log entry holds.
    #[error("`{0}` funded accounts are more than `{FUNDED_MAX}`")]
    TooManyFunded(usize),
    /// An earlier append failed, so what the file ends with is unknown until it is read again.
    #[error("`{0}` could not be written earlier: restart to continue from what is durable")]
    Broken(PathBuf),
}

/// What block 0 is made of, and so what a chain can never change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Genesis {
    pub(super) chain_id: u64,
    pub(super) timestamp: u64,
    /// Sorted, without duplicates: their order in the settings means nothing.
    pub(super) funded: Vec<Address>,
}

/// One mined transaction with all that its replay needs, and what its replay must give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LoggedTransaction {
    pub(super) offset: u64,
    pub(super) timestamp: u64,
    pub(super) block_hash: B256,
    pub(super) raw: Vec<u8>,
}

/// The log, open for appending and locked against other processes.
#[derive(Debug)]
pub(super) struct TransactionLog {
    path: PathBuf,
    file: File,
    length: u64,
    broken: bool,
    /// The lock lasts as long as this file is open; the system releases it when the process dies.
    _lock: File,
}

/// Reads the transactions of a log that was just opened, from the first to the last durable one.
#[derive(Debug)]
pub(super) struct LogReader {
    path: PathBuf,
    reader: BufReader<File>,
    offset: u64,
    length: u64,
}

impl Genesis {
    pub(super) fn new(chain_id: u64, timestamp: u64, mut funded: Vec<Address>) -> Self {
        funded.sort_unstable();
        funded.dedup();
        Self { chain_id, timestamp, funded }
    }

    fn encode(&self) -> Vec<u8> {
        let mut payload = GENESIS_MAGIC.to_vec();
        payload.extend(self.chain_id.to_be_bytes());
        payload.extend(self.timestamp.to_be_bytes());
        self.funded.iter().for_each(|address| payload.extend(address));
        payload
    }

    fn decode(payload: &[u8]) -> Option<Self> {
        let (chain_id, rest) = payload.strip_prefix(GENESIS_MAGIC)?.split_first_chunk()?;
        let (timestamp, rest) = rest.split_first_chunk()?;
        let (funded, []) = rest.as_chunks::<20>() else { return None };
        Some(Self {
            chain_id: u64::from_be_bytes(*chain_id),
            timestamp: u64::from_be_bytes(*timestamp),
            funded: funded.iter().map(Address::from).collect(),
        })
    }

    fn describe(&self) -> String {
        format!("chain id `{}` and funded accounts `{:?}`", self.chain_id, self.funded)
    }
}

impl TransactionLog {
    /// Opens the log of a chain in a directory, or creates both. `wanted` is what the settings
    /// say; its timestamp counts only for a new chain.
    ///
    /// When this returns, the genesis is durable under its name.
    pub(super) fn open(
        directory: &Path,
        wanted: &Genesis,
    ) -> Result<(Self, Genesis, LogReader), TransactionLogError> {
        if wanted.funded.len() > FUNDED_MAX {
            return Err(TransactionLogError::TooManyFunded(wanted.funded.len()));
        }
        create_directories(directory)?;
        let lock = lock(directory)?;
        let path = directory.join(LOG_FILE);
        if !path.try_exists().map_err(io_error("look for", &path))? {
            create(directory, &path, wanted)?;
        }
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(io_error("open", &path))?;
        let length = file.metadata().map_err(io_error("inspect", &path))?.len();
        let mut reader = LogReader {
            reader: BufReader::new(file.try_clone().map_err(io_error("open", &path))?),
            path: path.clone(),
            offset: 0,
            length,
        };
        // The first entry was complete before the file got its name, so it cannot be torn.
        let stored = reader
            .next_payload()?
            .as_deref()
            .and_then(Genesis::decode)
            .ok_or_else(|| reader.corrupted(0, "the genesis cannot be read"))?;
        if (stored.chain_id, &stored.funded) != (wanted.chain_id, &wanted.funded) {
            let (stored, wanted) = (stored.describe(), wanted.describe());
            return Err(TransactionLogError::OtherGenesis { path, stored, wanted });
        }
        let log = Self { path, file, length, broken: false, _lock: lock };
        Ok((log, stored, reader))
    }

    /// Ends reading and makes the log ready for appending: cuts off a torn entry.
    ///
    /// When this returns, the file durably ends with the last transaction the reader gave.
    pub(super) fn finish_reading(&mut self, reader: &LogReader) -> Result<(), TransactionLogError> {
        if reader.offset < self.length {
            tracing::warn!(
                path = %self.path.display(),
                offset = reader.offset,
                bytes = self.length - reader.offset,
                "cut off a torn transaction that was never acknowledged"
            );
            self.file.set_len(reader.offset).map_err(io_error("truncate", &self.path))?;
            self.file.sync_all().map_err(io_error("sync", &self.path))?;
        }
        self.length = reader.offset;
        // The reader shares its cursor with this file.
        let end = SeekFrom::Start(self.length);
        self.file.seek(end).map_err(io_error("seek in", &self.path))?;
        Ok(())
    }

    /// Appends one transaction. When this returns `Ok`, it is durable. After an error it may or
    /// may not be, so the log takes no more until it is opened again.
    pub(super) fn append(
        &mut self,
        timestamp: u64,
        block_hash: B256,
        raw: &[u8],
    ) -> Result<(), TransactionLogError> {
        if self.broken {
            return Err(TransactionLogError::Broken(self.path.clone()));
        }
        let mut payload = Vec::with_capacity(MINED_PREFIX_BYTES + raw.len());
        payload.extend(timestamp.to_be_bytes());
        payload.extend(block_hash);
        payload.extend(raw);
        let entry = encode_entry(self.length, &payload);
        let written = self.file.write_all(&entry).and_then(|()| self.file.sync_data());
        self.broken = written.is_err();
        written.map_err(io_error("append to", &self.path))?;
        self.length += entry.len() as u64;
        Ok(())
    }

    /// Makes every later append fail, as a full disk would.
    #[cfg(test)]
    pub(super) fn break_for_test(&mut self) {
        self.file = File::open(&self.path).expect("the log file exists");
    }
}

impl LogReader {
    /// The next transaction, or `None` at the end and at a torn entry.
    pub(super) fn next(&mut self) -> Result<Option<LoggedTransaction>, TransactionLogError> {
        let offset = self.offset;
        let Some(payload) = self.next_payload()? else { return Ok(None) };
        let parsed = payload.split_first_chunk().and_then(|(timestamp, rest)| {
            let (block_hash, raw) = rest.split_first_chunk::<32>()?;
            Some((u64::from_be_bytes(*timestamp), B256::from(block_hash), raw.to_vec()))
        });
        let (timestamp, block_hash, raw) =
            parsed.ok_or_else(|| self.corrupted(offset, "the entry is too short"))?;
        Ok(Some(LoggedTransaction { offset, timestamp, block_hash, raw }))
    }

    fn next_payload(&mut self) -> Result<Option<Vec<u8>>, TransactionLogError> {
        let left = self.length - self.offset;
        if left < HEAD_BYTES as u64 {
            return Ok(None);
        }
        let mut head = [0; HEAD_BYTES];
        self.reader.read_exact(&mut head).map_err(io_error("read", &self.path))?;
        let [a, b, c, d, e, f, g, h, checksum @ ..] = head;
        let length = u32::from_be_bytes([a, b, c, d]);
        if u32::from_be_bytes([e, f, g, h]) != !length || length as usize > PAYLOAD_BYTES_MAX {
            // After a power failure a file can be longer than what was written to it: zeros.
            return match head == [0; HEAD_BYTES] && self.rest_is_zero()? {
                true => Ok(None),
                false => Err(self.corrupted(self.offset, "the length does not match its check")),
            };
        }
        let end = HEAD_BYTES as u64 + u64::from(length);
        if end > left {
            return Ok(None);
        }
        let mut payload = vec![0; length as usize];
        self.reader.read_exact(&mut payload).map_err(io_error("read", &self.path))?;
        if entry_checksum(self.offset, &payload) != checksum {
            return match end == left {
                true => Ok(None),
                false => Err(self.corrupted(self.offset, "the checksum does not match")),
            };
        }
        self.offset += end;
        Ok(Some(payload))
    }

    fn rest_is_zero(&mut self) -> Result<bool, TransactionLogError> {
        let mut block = [0; 4096];
        loop {
            match self.reader.read(&mut block).map_err(io_error("read", &self.path))? {
                0 => return Ok(true),
                count if block[..count].iter().any(|byte| *byte != 0) => return Ok(false),
                _ => {}
            }
        }
    }

    /// The error for an entry of this log that cannot be right.
    pub(super) fn corrupted(&self, offset: u64, reason: &'static str) -> TransactionLogError {
        TransactionLogError::Corrupted { path: self.path.clone(), offset, reason }
    }
}

fn lock(directory: &Path) -> Result<File, TransactionLogError> {
    let path = directory.join(LOCK_FILE);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(io_error("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(TransactionLogError::InUse(directory.to_path_buf())),
        Err(TryLockError::Error(source)) => Err(io_error("lock", &path)(source)),
    }
}

/// Creates a directory and those above it, each durably: a file is only as durable as its path.
fn create_directories(directory: &Path) -> Result<(), TransactionLogError> {
    let is_missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
    let missing: Vec<&Path> = directory.ancestors().take_while(is_missing).collect();
    fs::create_dir_all(directory).map_err(io_error("create", directory))?;
    missing.into_iter().filter_map(Path::parent).try_for_each(sync_directory)
}

fn sync_directory(directory: &Path) -> Result<(), TransactionLogError> {
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    File::open(directory).and_then(|file| file.sync_all()).map_err(io_error("sync", directory))
}

/// Writes a log that holds only the genesis. It gets its name once its content is durable, so a
/// crash leaves either no log or one with a whole genesis.
fn create(directory: &Path, path: &Path, genesis: &Genesis) -> Result<(), TransactionLogError> {
    let unfinished = path.with_extension("new");
    let mut file = File::create(&unfinished).map_err(io_error("create", &unfinished))?;
    file.write_all(&encode_entry(0, &genesis.encode()))
        .and_then(|()| file.sync_all())
        .map_err(io_error("write", &unfinished))?;
    fs::rename(&unfinished, path).map_err(io_error("create", path))?;
    sync_directory(directory)
}

fn encode_entry(offset: u64, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("PAYLOAD_BYTES_MAX fits in 32 bits");
    let mut entry = Vec::with_capacity(HEAD_BYTES + payload.len());
    entry.extend(length.to_be_bytes());
    entry.extend((!length).to_be_bytes());
    entry.extend(entry_checksum(offset, payload));
    entry.extend(payload);
    entry
}

fn entry_checksum(offset: u64, payload: &[u8]) -> B256 {
    let mut hasher = Keccak256::new();
    hasher.update(offset.to_be_bytes());
    hasher.update(payload);
    hasher.finalize()
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TransactionLogError {
    let path = path.to_path_buf();
    move |source| TransactionLogError::Io { action, path, source }
}
