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

/// Places for connections, or for requests in the queue, by the address that they come from.
#[derive(Clone)]
pub struct Clients {
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
    /// Those of one address, at most.
    most: usize,
    all: Arc<Semaphore>,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// All are taken.
    All,
    /// The address has its share of them.
    Share,
}

/// A place, until it is dropped.
pub struct Place {
    address: IpAddr,
    clients: Clients,
    _permit: OwnedSemaphorePermit,
}

impl Clients {
    /// So many places, half of them for one address.
    pub fn new(all: usize) -> Self {
        Self { counts: Arc::default(), most: all.div_ceil(2), all: Arc::new(Semaphore::new(all)) }
    }

    /// Places of one address, at most.
    pub fn share(&self) -> usize {
        self.most
    }

    /// Places that nobody has.
    pub fn free(&self) -> usize {
        self.all.available_permits()
    }

    /// A place, unless all are taken or the address has its share of them.
    pub fn place(&self, address: IpAddr) -> Result<Place, Full> {
        let permit = self.all.clone().try_acquire_owned().map_err(|_| Full::All)?;
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count == self.most {
            return Err(Full::Share);
        }
        *count += 1;
        drop(counts);
        Ok(Place { address, clients: self.clone(), _permit: permit })
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
    use super::{Clients, Full};

    #[test]
    fn an_address_has_its_share_of_the_places() {
        let (clients, one, other) = (Clients::new(3), [127, 0, 0, 1].into(), [127, 0, 0, 2].into());
        let [first, second] = [one; 2].map(|address| clients.place(address));
        assert!(first.is_ok() && second.is_ok() && clients.free() == 1);
        assert_eq!(clients.place(one).err(), Some(Full::Share));
        let third = clients.place(other);
        assert!(third.is_ok());
        assert_eq!(clients.place(other).err(), Some(Full::All));
        drop(first);
        assert!(clients.place(one).is_ok());
        drop((second, third));
        assert!(clients.counts.lock().unwrap().is_empty());
    }
}
