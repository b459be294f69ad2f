//! The first thing that went wrong for good, for whoever watches the ingester.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::error::IngestError;

/// Takes the first failure; hands it to the first who asks.
#[derive(Clone, Default)]
pub(crate) struct Failure(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<Option<IngestError>>,
    happened: Notify,
}

impl Failure {
    /// Reports a failure. The first stays.
    pub(crate) fn report(&self, error: IngestError) {
        tracing::error!(%error, "ingest cannot go on");
        self.state().get_or_insert(error);
        self.0.happened.notify_waiters();
    }

    /// The failure, if there is one; it is handed out once.
    pub(crate) fn take(&self) -> Option<IngestError> {
        self.state().take()
    }

    /// Waits for a failure.
    pub(crate) async fn wait(&self) -> IngestError {
        loop {
            let happened = self.0.happened.notified();
            if let Some(error) = self.take() {
                return error;
            }
            happened.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, Option<IngestError>> {
        // The lock guards one assignment, which leaves nothing half done.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reports a panic of the thread or task that holds it.
pub(crate) struct Alarm {
    /// Who would have panicked.
    pub(crate) name: &'static str,
    /// Where to say so.
    pub(crate) failure: Failure,
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.failure.report(IngestError::Panicked(self.name));
        }
    }
}
