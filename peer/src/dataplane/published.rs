//! One value, written now and then and read all the time: a reader looks at a number, and takes the lock only when it changed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The value.
#[derive(Debug, Default)]
pub(super) struct Published<T> {
    version: AtomicU64,
    value: Mutex<Arc<T>>,
}

/// One reader's view.
#[derive(Debug)]
pub(super) struct View<T> {
    version: u64,
    value: Arc<T>,
}

impl<T> Published<T> {
    /// From now on readers see this one.
    pub(super) fn publish(&self, value: T) {
        let mut place = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        *place = Arc::new(value);
        self.version.fetch_add(1, Ordering::Release);
    }

    /// The value now.
    pub(super) fn view(&self) -> View<T> {
        let place = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        View {
            version: self.version.load(Ordering::Acquire),
            value: Arc::clone(&place),
        }
    }
}

impl<T> View<T> {
    /// Looks whether there is another value; whether there was.
    pub(super) fn refresh(&mut self, source: &Published<T>) -> bool {
        if source.version.load(Ordering::Acquire) == self.version {
            return false;
        }
        *self = source.view();
        true
    }

    /// The value as it was at the last look.
    pub(super) const fn get(&self) -> &Arc<T> {
        &self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_sees_the_newest_value_when_it_looks() {
        let published = Published::<u32>::default();
        let mut view = published.view();
        published.publish(1);
        published.publish(2);
        assert_eq!(**view.get(), 0);
        assert!(view.refresh(&published));
        assert_eq!(**view.get(), 2);
        assert!(!view.refresh(&published));
    }
}
