//! Requests of one thread that go on together: what is ready at the same time crosses to Raft's threads, and wakes them, once.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;

use thread_local::ThreadLocal;

/// What waits to go on, by threads.
pub struct Gather<T: Send>(ThreadLocal<Waiting<T>>);

type Waiting<T> = Arc<Mutex<Vec<T>>>;

/// For whoever takes along what waits on a thread.
pub struct Batch<T>(Option<Waiting<T>>);

impl<T: Send> Default for Gather<T> {
    fn default() -> Self {
        Self(ThreadLocal::new())
    }
}

impl<T: Send> Gather<T> {
    /// Adds a request. Who comes first must spawn a task that takes all.
    #[must_use]
    pub fn add(&self, request: T) -> Option<Batch<T>> {
        let waiting = self.0.get_or_default();
        let mut requests = lock(waiting);
        requests.push(request);
        (requests.len() == 1).then(|| Batch(Some(Arc::clone(waiting))))
    }
}

impl<T> Batch<T> {
    /// All requests that were added by the time when every task that was ready has run.
    pub async fn take(mut self) -> Vec<T> {
        let mut has_waited = false;
        // Not tokio's own yield, which looks for new input first.
        poll_fn(|context| {
            if std::mem::replace(&mut has_waited, true) {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
        self.0.take().map(|waiting| std::mem::take(&mut *lock(&waiting))).unwrap_or_default()
    }
}

impl<T> Drop for Batch<T> {
    /// Whoever should have taken them has ended with its runtime.
    fn drop(&mut self) {
        if let Some(waiting) = &self.0 {
            lock(waiting).clear();
        }
    }
}

fn lock<T>(waiting: &Waiting<T>) -> MutexGuard<'_, Vec<T>> {
    waiting.lock().expect("no holder of this lock panics")
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn what_is_ready_goes_on_together() {
        let gather = Arc::new(Gather::default());
        let (sizes, mut batches) = tokio::sync::mpsc::unbounded_channel();
        let request = async |number: usize| {
            let (answer, answered) = oneshot::channel();
            if let Some(batch) = gather.add((number, answer)) {
                let sizes = sizes.clone();
                tokio::spawn(async move {
                    let all: Vec<(usize, oneshot::Sender<usize>)> = batch.take().await;
                    sizes.send(all.len()).expect("received");
                    all.into_iter().for_each(|(number, answer)| answer.send(number).expect("received"));
                });
            }
            answered.await.expect("answered")
        };
        let answers = futures::future::join_all((0..10).map(&request)).await;
        assert_eq!(answers, (0..10).collect::<Vec<_>>());
        assert_eq!(request(10).await, 10);
        assert_eq!((batches.recv().await, batches.recv().await), (Some(10), Some(1)));
    }

    #[test]
    fn a_batch_that_nobody_takes_does_not_block_the_next_one() {
        let gather = Gather::default();
        drop(gather.add(1));
        assert!(gather.add(2).is_some());
    }
}
