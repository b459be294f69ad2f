//! The durable store: objects that are created once and never change.
//!
//! Creating an object is how everything is committed, so `create` is put-if-absent and says, when
//! the name is taken, what is there; it is never an error to lose. Files are linked into place after
//! they are synced, and their folder is synced after: a name never stands for missing bytes, also
//! after a power cut. Nothing here deletes.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;

/// The largest object that is read into memory.
pub const OBJECT_BYTES_MAX: u64 = 1 << 30;

/// Objects under one folder of the local file system.
#[derive(Debug, Clone)]
pub struct Store {
    root: Arc<Path>,
    staged: Arc<AtomicU64>,
}

/// What `create` found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created {
    /// The object is there, with the bytes given.
    New,
    /// The name was taken; these bytes are there. Whether they are as good as the ones given is
    /// for the caller to say.
    Taken(Bytes),
}

/// Why the store did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system failed.
    #[error("cannot {action} `{path}`: {cause}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// A name with parts that would leave the store.
    #[error("`{0}` is not the name of an object: plain parts of a-z, 0-9, `.`, `-`, `_` between slashes")]
    Name(String),
    /// An object too large to read.
    #[error("`{name}` has {bytes} bytes, more than {OBJECT_BYTES_MAX}")]
    TooLarge {
        /// The object.
        name: String,
        /// Its size.
        bytes: u64,
    },
    /// The file system accepted a second object of the same name.
    #[error("`{0}` does not refuse a second file of the same name: no store can be kept there")]
    NotExclusive(PathBuf),
    /// The task was cancelled while the process ends.
    #[error("the process is ending")]
    Ending,
}

impl Store {
    /// Opens the store under `root`, makes the folder if needed, and proves that the file system
    /// refuses a second create. Durable when it returns: the folder.
    pub async fn open(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let root: PathBuf = root.into();
        let store = Self { root: root.clone().into(), staged: Arc::new(AtomicU64::new(0)) };
        blocking(move || {
            fs::create_dir_all(&root).map_err(error("make the folder", &root))?;
            prove_exclusive(&root)
        })
        .await?;
        Ok(store)
    }

    /// Opens a store that must be there already, for reading.
    pub fn open_existing(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let root: PathBuf = root.into();
        fs::read_dir(&root).map_err(error("open the store", &root))?;
        Ok(Self { root: root.into(), staged: Arc::new(AtomicU64::new(0)) })
    }

    /// Creates an object if its name is free. Durable when it returns `New`: bytes and name.
    pub async fn create(&self, name: &str, bytes: impl Into<Bytes>) -> Result<Created, StoreError> {
        let path = self.path(name)?;
        let staged = self.staged_path(&path);
        let (bytes, root) = (bytes.into(), self.root.clone());
        blocking(move || create_durably(&root, &path, &staged, &bytes)).await
    }

    /// Creates a content-addressed object, or finds it there. Durable when it returns: the object.
    /// Two writers of one name wrote the same bytes, unless the name lies: that is an error.
    pub async fn create_same(&self, name: &str, bytes: impl Into<Bytes>) -> Result<(), StoreError> {
        let bytes = bytes.into();
        match self.create(name, bytes.clone()).await? {
            Created::New => Ok(()),
            Created::Taken(there) if there == bytes => Ok(()),
            Created::Taken(_) => Err(StoreError::Io {
                action: "create, with other bytes than are there,",
                path: self.path(name)?,
                cause: io::ErrorKind::AlreadyExists.into(),
            }),
        }
    }

    /// Puts an object in the place of what had its name. Only for pointers that hold no truth of
    /// their own. Durable when it returns: the new bytes; before, the old or the new ones, whole.
    pub async fn replace(&self, name: &str, bytes: impl Into<Bytes>) -> Result<(), StoreError> {
        let path = self.path(name)?;
        let staged = self.staged_path(&path);
        let (bytes, root) = (bytes.into(), self.root.clone());
        blocking(move || {
            make_folders(&root, &path)?;
            write_synced(&staged, &bytes)?;
            fs::rename(&staged, &path).map_err(error("rename into place", &path))?;
            sync_folder_of(&path)
        })
        .await
    }

    /// The bytes of an object, if it is there.
    pub async fn get(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        let path = self.path(name)?;
        let name = name.to_owned();
        blocking(move || {
            match fs::metadata(&path) {
                Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(source) => return Err(error("read", &path)(source)),
                Ok(metadata) if metadata.len() > OBJECT_BYTES_MAX => {
                    return Err(StoreError::TooLarge { name, bytes: metadata.len() });
                }
                Ok(_) => {}
            }
            fs::read(&path).map(|bytes| Some(Bytes::from(bytes))).map_err(error("read", &path))
        })
        .await
    }

    /// The names of the objects directly in a folder, in rising order. An absent folder is empty.
    pub async fn list(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let path = self.path(folder)?;
        let folder = folder.to_owned();
        blocking(move || {
            let entries = match fs::read_dir(&path) {
                Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                other => other.map_err(error("list", &path))?,
            };
            let mut names = Vec::new();
            for entry in entries {
                let entry = entry.map_err(error("list", &path))?;
                match entry.file_name().to_str() {
                    Some(name) if !name.starts_with(STAGED_PREFIX) => names.push(format!("{folder}/{name}")),
                    _ => {}
                }
            }
            names.sort_unstable();
            Ok(names)
        })
        .await
    }

    fn path(&self, name: &str) -> Result<PathBuf, StoreError> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
        let good = |part: &str| !part.is_empty() && !part.starts_with('.') && part.bytes().all(plain);
        if name.split('/').all(good) {
            Ok(self.root.join(name))
        } else {
            Err(StoreError::Name(name.to_owned()))
        }
    }

    /// A name of this process alone in the folder of `path`.
    fn staged_path(&self, path: &Path) -> PathBuf {
        let number = self.staged.fetch_add(1, Ordering::Relaxed);
        path.with_file_name(format!("{STAGED_PREFIX}{}-{number}", std::process::id()))
    }
}

/// Files whose names start like this are not objects yet; a crash may leave them behind.
const STAGED_PREFIX: &str = ".staged-";

fn create_durably(root: &Path, path: &Path, staged: &Path, bytes: &[u8]) -> Result<Created, StoreError> {
    make_folders(root, path)?;
    write_synced(staged, bytes)?;
    let linked = fs::hard_link(staged, path);
    fs::remove_file(staged).map_err(error("remove", staged))?;
    match linked {
        Ok(()) => sync_folder_of(path).map(|()| Created::New),
        Err(source) if source.kind() == io::ErrorKind::AlreadyExists => {
            let there = fs::read(path).map_err(error("read back", path))?;
            // The winner may not have synced the folder yet; what we report as there must stay.
            sync_folder_of(path)?;
            Ok(Created::Taken(there.into()))
        }
        Err(source) => Err(error("link into place", path)(source)),
    }
}

fn write_synced(staged: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    // A file left by a dead process of the same number is overwritten: it never was an object.
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(staged)
        .map_err(error("create", staged))?;
    file.write_all(bytes).map_err(error("write", staged))?;
    file.sync_all().map_err(error("sync", staged))
}

/// Makes the folders between the root and the file, and syncs each one's parent.
fn make_folders(root: &Path, path: &Path) -> Result<(), StoreError> {
    let folder = path.parent().unwrap_or(root);
    if folder.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(folder).map_err(error("make the folder", folder))?;
    for made in folder.ancestors().take_while(|made| made.starts_with(root)) {
        sync_folder_of(made)?;
    }
    Ok(())
}

fn sync_folder_of(path: &Path) -> Result<(), StoreError> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(error("sync the folder", folder))
}

fn prove_exclusive(root: &Path) -> Result<(), StoreError> {
    let probe = root.join(format!("{STAGED_PREFIX}probe-{}", std::process::id()));
    let second = root.join(format!("{STAGED_PREFIX}probe-{}-2", std::process::id()));
    write_synced(&probe, b"one")?;
    let refused = match fs::hard_link(&probe, &second).and_then(|()| fs::hard_link(&probe, &second)) {
        Err(source) if source.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(source) => Err(error("link a file in", root)(source)),
        Ok(()) => Err(StoreError::NotExclusive(root.to_owned())),
    };
    for path in [&probe, &second] {
        if path.exists() {
            fs::remove_file(path).map_err(error("remove", path))?;
        }
    }
    refused
}

fn error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |cause| StoreError::Io { action, path, cause }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
        Err(_) => Err(StoreError::Ending),
    }
}

#[cfg(test)]
mod tests;
