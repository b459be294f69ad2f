//! Files that survive a power cut: appended to in checked frames, or replaced whole.
//!
//! A frame is its length (u32, little-endian), 32 bytes of BLAKE3 over its body, and the body. A
//! frame is synced before the next one is written, so after a crash at most the last one is torn,
//! and it is cut off when the file is opened.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use fieldproof_proto::digest::digest;

use crate::error::SpoolError;

/// Names the check of a frame; it protects against torn writes, not against people.
const FRAME_CONTEXT: &str = "fieldproof 2026-11 device spool frame v1";
/// Bytes of a frame before its body.
pub(crate) const FRAME_HEADER_BYTES: u64 = 4 + 32;

/// A file of frames.
pub(crate) struct FrameFile {
    file: File,
    path: PathBuf,
    bytes: u64,
}

/// Where the body of a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameAt {
    pub(crate) at: u64,
    pub(crate) bytes: u32,
}

impl FrameFile {
    /// Opens or makes a file, gives each body to `visit`, and cuts off a torn last frame. More
    /// wrong bytes than one frame of `body_bytes_max` has are an error. Durable when it returns:
    /// exactly the frames that were visited. The name is durable once its directory is synced.
    pub(crate) fn open(
        path: &Path,
        body_bytes_max: u64,
        mut visit: impl FnMut(FrameAt, &[u8]) -> Result<(), SpoolError>,
    ) -> Result<Self, SpoolError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path).map_err(io_error("open", path))?;
        let total = file.metadata().map_err(io_error("read", path))?.len();
        let mut opened = Self { file, path: path.to_owned(), bytes: 0 };
        while let Some((frame, body)) = opened.frame_at(opened.bytes, total, body_bytes_max)? {
            visit(frame, &body)?;
            opened.bytes = frame.at + u64::from(frame.bytes);
        }
        let wrong_bytes = total - opened.bytes;
        if wrong_bytes > FRAME_HEADER_BYTES + body_bytes_max {
            return Err(SpoolError::Damaged { path: opened.path, at: opened.bytes });
        }
        if wrong_bytes > 0 {
            tracing::warn!(path = %path.display(), wrong_bytes, "a torn write is cut off");
            opened.truncate()?;
        }
        Ok(opened)
    }

    /// The bytes of all frames.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends a frame. Durable when it returns: the frame.
    pub(crate) fn append(&mut self, body: &[u8]) -> Result<FrameAt, SpoolError> {
        let frame = self.append_unsynced(body)?;
        self.file.sync_data().map_err(io_error("sync", &self.path))?;
        Ok(frame)
    }

    /// The body of a frame.
    pub(crate) fn read(&self, frame: FrameAt) -> Result<Vec<u8>, SpoolError> {
        let mut body = vec![0; frame.bytes as usize];
        self.file.read_exact_at(&mut body, frame.at).map_err(io_error("read", &self.path))?;
        Ok(body)
    }

    fn append_unsynced(&mut self, body: &[u8]) -> Result<FrameAt, SpoolError> {
        let bytes = u32::try_from(body.len()).expect("every body is bounded far below 4 GiB");
        let mut frame = Vec::with_capacity(body.len() + FRAME_HEADER_BYTES as usize);
        frame.extend_from_slice(&bytes.to_le_bytes());
        frame.extend_from_slice(&digest(FRAME_CONTEXT, &[body]).0);
        frame.extend_from_slice(body);
        self.file.write_all_at(&frame, self.bytes).map_err(io_error("append to", &self.path))?;
        let at = self.bytes + FRAME_HEADER_BYTES;
        self.bytes += frame.len() as u64;
        Ok(FrameAt { at, bytes })
    }

    /// The whole frame that starts at `start`, if there is one.
    fn frame_at(
        &self,
        start: u64,
        total: u64,
        body_bytes_max: u64,
    ) -> Result<Option<(FrameAt, Vec<u8>)>, SpoolError> {
        if total - start < FRAME_HEADER_BYTES {
            return Ok(None);
        }
        let mut header = [0; FRAME_HEADER_BYTES as usize];
        self.file.read_exact_at(&mut header, start).map_err(io_error("read", &self.path))?;
        let (length, check) = header.split_at(4);
        let bytes = length.iter().rev().fold(0_u32, |value, byte| value << 8 | u32::from(*byte));
        let at = start + FRAME_HEADER_BYTES;
        if bytes == 0 || u64::from(bytes) > body_bytes_max || total - at < u64::from(bytes) {
            return Ok(None);
        }
        let frame = FrameAt { at, bytes };
        let body = self.read(frame)?;
        Ok((digest(FRAME_CONTEXT, &[&body]).0 == check).then_some((frame, body)))
    }

    fn truncate(&self) -> Result<(), SpoolError> {
        self.file.set_len(self.bytes).and_then(|()| self.file.sync_all()).map_err(io_error("cut", &self.path))
    }

    /// Puts a file of the given frames of `self` in its place. Durable when it returns: the new
    /// file; before, the old or the new one, whole. Gives the new places of the frames, in order.
    pub(crate) fn rewrite(&mut self, frames: &[FrameAt]) -> Result<Vec<FrameAt>, SpoolError> {
        let staged = staged_path(&self.path);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        let file = options.open(&staged).map_err(io_error("create", &staged))?;
        let mut new = Self { file, path: staged.clone(), bytes: 0 };
        let mut places = Vec::with_capacity(frames.len());
        for frame in frames {
            places.push(new.append_unsynced(&self.read(*frame)?)?);
        }
        new.file.sync_all().map_err(io_error("sync", &staged))?;
        rename(&staged, &self.path)?;
        new.path = std::mem::take(&mut self.path);
        *self = new;
        Ok(places)
    }
}

/// Puts a file of these bytes in the place of what had its name. Durable when it returns: the new
/// bytes; before, the old or the new ones, whole.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), SpoolError> {
    let staged = staged_path(path);
    let file = File::create(&staged).map_err(io_error("create", &staged))?;
    file.write_all_at(bytes, 0).and_then(|()| file.sync_all()).map_err(io_error("write", &staged))?;
    rename(&staged, path)
}

/// Renames a file. Durable when it returns: the new name.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), SpoolError> {
    fs::rename(from, to).map_err(io_error("rename into place", to))?;
    sync_directory(to.parent().unwrap_or(Path::new(".")))
}

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(path: &Path) -> Result<(), SpoolError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(io_error("sync", path))
}

/// Says what was attempted with which file.
pub(crate) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SpoolError {
    let path = path.to_owned();
    move |source| SpoolError::Io { action, path, source }
}

fn staged_path(path: &Path) -> PathBuf {
    path.with_extension("staged")
}
