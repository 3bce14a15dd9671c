//! The connections that read.

use std::mem;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::backend::StoreReader;
use super::cancellation::Cancellation;
use super::error::{Cause, ReadError};
use super::location::StoreLocation;
use super::open::open_reader_with;
use super::options::StoreOptions;

/// How many reads run at the same time; each holds a connection and at most a page of events.
const READERS: usize = 4;

/// How long closing the store waits for reads that run, and for their connections to be closed.
const CLOSE_TIME: Duration = Duration::from_millis(200);

/// The connections that read, opened when they are first needed.
pub struct Readers {
    location: StoreLocation,
    options: StoreOptions,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Box<dyn StoreReader>>>,
}

impl Readers {
    pub fn new(location: StoreLocation, options: StoreOptions) -> Readers {
        let permits = Arc::new(Semaphore::new(READERS));
        Readers { location, options, permits, idle: Mutex::new(Vec::with_capacity(READERS)) }
    }

    /// The same, with a connection that is open already.
    pub fn with(reader: Box<dyn StoreReader>, location: StoreLocation, options: StoreOptions) -> Readers {
        let readers = Readers::new(location, options);
        readers.idle.lock().push(reader);
        readers
    }

    /// Runs a read on a connection of its own. Dropping the future cancels the read, which keeps its permit until it has
    /// stopped.
    pub async fn read<T: Send + 'static>(
        self: &Arc<Readers>,
        read: impl FnOnce(&mut dyn StoreReader) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.expect("the semaphore is never closed");
        let cancellation = Cancellation::default();
        let _cancel_on_drop = cancellation.guard();
        let readers = Arc::clone(self);
        let reading = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            readers.run(cancellation, read)
        });
        reading.await.unwrap_or_else(|error| Err(ReadError::Unavailable(Cause::new(error))))
    }

    fn run<T>(
        &self,
        cancellation: Cancellation,
        read: impl FnOnce(&mut dyn StoreReader) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        let idle = self.idle.lock().pop();
        let mut reader = match idle {
            Some(reader) => reader,
            None => open_reader_with(&self.location, self.options)?,
        };
        reader.cancel_with(cancellation);
        let result = read(reader.as_mut());
        // A connection that failed is not used again.
        if !matches!(result, Err(ReadError::Unavailable(_))) {
            self.idle.lock().push(reader);
        }
        result
    }

    /// Closes the connections, and lets no read begin for as long as the result is kept. Waits a moment for reads that
    /// still run.
    pub async fn close(self: &Arc<Readers>) -> Option<OwnedSemaphorePermit> {
        let all = Arc::clone(&self.permits).acquire_many_owned(READERS as u32);
        let permits = timeout(CLOSE_TIME, all).await.ok().and_then(Result::ok);
        let idle = mem::take(&mut *self.idle.lock());
        let _ = timeout(CLOSE_TIME, tokio::task::spawn_blocking(move || drop(idle))).await;
        permits
    }
}

/// Closing a connection waits for its server, which the runtime's own threads must not do.
impl Drop for Readers {
    fn drop(&mut self) {
        let idle = mem::take(self.idle.get_mut());
        let _ = thread::spawn(move || drop(idle)).join();
    }
}
