//! Background tasks that run as long as the service.

use std::collections::HashMap;
use std::convert::Infallible;

use anyhow::anyhow;
use tokio::task::{Id, JoinSet};

/// Aborts its tasks when dropped.
#[derive(Default)]
pub struct Tasks {
    running: JoinSet<Infallible>,
    names: HashMap<Id, &'static str>,
}

impl Tasks {
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = Infallible> + Send + 'static) {
        let id = self.running.spawn(task).id();
        self.names.insert(id, name);
    }

    /// Waits until a task has panicked, which is the only way that it can end.
    pub async fn failed(&mut self) -> anyhow::Error {
        match self.running.join_next().await {
            None => std::future::pending().await,
            Some(Ok(never)) => match never {},
            Some(Err(error)) => {
                let name = self.names.get(&error.id()).copied().unwrap_or_default();
                anyhow!("the background task `{name}` has failed: {error}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_is_named() {
        let mut tasks = Tasks::default();
        tasks.spawn("patient", std::future::pending());
        tasks.spawn("faulty", async { panic!("as the test wants it") });
        let error = tasks.failed().await.to_string();
        assert!(error.starts_with("the background task `faulty` has failed: "), "{error}");
    }
}
