//! Who may be served when there are many: places for connections, and for work before the engine's.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Threads that make sequences of bodies, for each core: they share the cores fairly, so that a small body is not behind
/// large ones.
const THREADS: usize = 4;
/// Bodies of more bytes are large.
const LARGE: usize = 64 << 10;

/// Threads that make sequences of bodies.
pub fn threads() -> usize {
    THREADS * cores()
}

/// Cores that there are.
pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Places for bodies that are made sequences of: large ones take a thread for each core, and leave the others.
pub struct Preparation(Arc<Semaphore>);

impl Preparation {
    /// For [`threads`] threads.
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(cores())))
    }

    /// Waits for a place, if a body of `bytes` needs one.
    pub async fn place(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        if bytes <= LARGE { None } else { self.0.clone().acquire_owned().await.ok() }
    }
}

/// Tells the work that is done for a request when the request is given up.
pub struct GivenUp(pub Arc<AtomicBool>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Connections by the address that they come from.
#[derive(Clone)]
pub struct Clients {
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
    /// Those of one address, at most.
    most: usize,
    all: Arc<Semaphore>,
}

/// The place of a connection.
pub struct Place {
    address: IpAddr,
    clients: Clients,
    _permit: OwnedSemaphorePermit,
}

impl Clients {
    /// Places for `all` connections, `most` of them of one address.
    pub fn new(all: usize, most: usize) -> Self {
        Self { counts: Arc::default(), most, all: Arc::new(Semaphore::new(all)) }
    }

    /// A place, unless all are taken or the address has its share of them.
    pub fn place(&self, address: IpAddr) -> Option<Place> {
        let permit = self.all.clone().try_acquire_owned().ok()?;
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count == self.most {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Place { address, clients: self.clone(), _permit: permit })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.clients.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Clients;

    #[test]
    fn an_address_has_its_share_of_the_places() {
        let (clients, one, other) = (Clients::new(3, 2), [127, 0, 0, 1].into(), [127, 0, 0, 2].into());
        let [first, second] = [one; 2].map(|address| clients.place(address));
        assert!(first.is_some() && second.is_some() && clients.place(one).is_none());
        let third = clients.place(other);
        assert!(third.is_some() && clients.place(other).is_none(), "all are taken");
        drop(first);
        assert!(clients.place(one).is_some());
        drop((second, third));
        assert!(clients.counts.lock().unwrap().is_empty());
    }
}
