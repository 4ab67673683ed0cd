//! The functions of the CUDA library that kernels call: `vprintf` and `__assertfail`.

use super::access::lanes_of;
use super::cta::Shared;
use super::printf::{Source, format};
use super::warp::Warp;
use super::{Tally, lock};
use crate::decode::{LOCAL_WINDOW, Library, LibraryCall, SHARED_WINDOW, WINDOW};
use crate::detect::Fault;

/// The longest text that is read, without a zero byte in it.
const LONGEST_TEXT: usize = 1 << 16;

/// The memory that a lane sees.
struct Lane<'w, 's, 'l> {
    warp: &'w Warp,
    cta: &'s Shared<'l>,
    lane: usize,
}

impl Source for Lane<'_, '_, '_> {
    fn bytes(&self, address: u64, bytes: usize) -> Option<u64> {
        let inside = |start: u64| address.checked_sub(start).filter(|&at| at < WINDOW).map(|at| at as usize);
        let scratch = match (inside(SHARED_WINDOW), inside(LOCAL_WINDOW)) {
            (Some(at), _) => Some((&self.cta.memory, at)),
            (_, Some(at)) => Some((self.warp.local.get(self.lane)?, at)),
            _ => None,
        };
        if let Some((scratch, at)) = scratch {
            return (at.checked_add(bytes)? <= scratch.bytes.len()).then(|| scratch.load(at, bytes));
        }
        let allocation = &self.cta.launch.memory.allocations[self.cta.launch.memory.find(address)?];
        let offset = address - allocation.base;
        // Byte by byte: nothing says that it is aligned.
        (offset + bytes as u64 <= allocation.size)
            .then(|| (0..bytes as u64).rev().fold(0, |value, n| value << 8 | allocation.load(offset + n, 1)))
    }

    fn text(&self, address: u64) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        for at in 0..LONGEST_TEXT as u64 {
            match self.bytes(address.checked_add(at)?, 1)? {
                0 => return Some(text),
                byte => text.push(byte as u8),
            }
        }
        None
    }
}

impl Warp {
    /// Calls a function of the library; false if the block ends there.
    pub(super) fn library(
        &mut self,
        cta: &Shared<'_>,
        tally: &mut Tally,
        pc: u32,
        call: &LibraryCall,
        mask: u32,
    ) -> bool {
        let argument = |warp: &Self, lane: usize, n: usize, bytes: usize| {
            warp.local.get(lane).map_or(0, |local| local.load(call.arguments[n], bytes))
        };
        for lane in lanes_of(mask) {
            let source = Lane { warp: self, cta, lane };
            let text = |n: usize| {
                let address = argument(self, lane, n, 8);
                source.text(address).ok_or(address)
            };
            match call.function {
                Library::Vprintf => {
                    let (printed, count) = match text(0) {
                        Ok(template) => format(&template, argument(self, lane, 1, 8), &source),
                        Err(address) => {
                            let thread = self.thread(cta, lane);
                            let what = cta.launch.memory.describe(address);
                            tally.findings.add(Fault::OutOfBounds, pc, None, || {
                                format!("the format of printf at {address:#x} by {thread}: {what}")
                            });
                            (Vec::new(), -1)
                        }
                    };
                    lock(&cta.launch.printed).push(printed);
                    if let (Some(result), Some(local)) = (call.result, self.local.get_mut(lane)) {
                        local.store(result, 4, u64::from(count as u32));
                    }
                }
                Library::Assertfail => {
                    let shown = |n| match text(n) {
                        Ok(text) => String::from_utf8_lossy(&text).into_owned(),
                        Err(address) => format!("(no text at {address:#x})"),
                    };
                    let (block, thread) = (cta.coordinates, self.thread_coordinates(cta, lane));
                    tally.findings.add(Fault::Assert, pc, None, || {
                        let (expression, file, function) = (shown(0), shown(1), shown(3));
                        let line = argument(self, lane, 2, 4);
                        format!(
                            "{file}:{line}: {function}: block: {block:?}, thread: {thread:?} Assertion `{expression}` \
                             failed."
                        )
                    });
                }
            }
        }
        call.function != Library::Assertfail
    }

    fn thread_coordinates(&self, cta: &Shared<'_>, lane: usize) -> [u32; 3] {
        let [x, y, _] = cta.launch.block;
        let thread = 32 * self.number + lane as u32;
        [thread % x, thread / x % y, thread / x / y]
    }
}
