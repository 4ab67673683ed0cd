//! Saving and restoring the state of training streams: the host holds a piece of it at a time, however large it is.

use std::alloc::{GlobalAlloc, Layout, System};
use std::rc::Rc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use polar_raw::backend::{BackendExt, Operations};
use polar_raw::config::ModelSection;
use polar_raw::cpu::Cpu;
use polar_raw::model::config::{Architecture, SpecialIds};
use polar_raw::model::{Model, ModelConfig, OutputHeads};
use polar_raw::train::OptimizerState;
use polar_raw::train::checkpoint::{Checkpoints, RunLock};

/// The system's allocator, which knows how much is taken, and the most that was.
struct Counting;

static LIVE: AtomicI64 = AtomicI64::new(0);
static MOST: AtomicI64 = AtomicI64::new(0);

fn taken(bytes: i64) {
    MOST.fetch_max(LIVE.fetch_add(bytes, Relaxed) + bytes, Relaxed);
}

// SAFETY: everything is handed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        taken(layout.size() as i64);
        // SAFETY: by the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        taken(layout.size() as i64);
        // SAFETY: by the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        taken(-(layout.size() as i64));
        // SAFETY: by the caller's promise.
        unsafe { System.dealloc(address, layout) }
    }

    unsafe fn realloc(&self, address: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        taken(size as i64 - layout.size() as i64);
        // SAFETY: by the caller's promise.
        unsafe { System.realloc(address, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most memory that `work` takes beyond what there is.
fn most<R>(work: impl FnOnce() -> R) -> (R, i64) {
    let before = LIVE.load(Relaxed);
    MOST.store(before, Relaxed);
    let result = work();
    (result, MOST.load(Relaxed) - before)
}

#[test]
fn the_host_holds_a_piece_at_a_time() {
    let section = ModelSection {
        hidden_size: 256,
        intermediate_size: 1024,
        num_hidden_layers: 3,
        num_attention_heads: 8,
        num_key_value_heads: 4,
        ..ModelSection::default()
    };
    let special = SpecialIds { bos: 1, eos: 2, pad: 2, reward: Some(4) };
    let config = ModelConfig::new(&section, 8192, special, Architecture::RewardModel).unwrap();
    let cpu = Rc::new(Cpu::new());
    let model = Model::new(cpu.clone(), config, OutputHeads { reward: true, lm: false }).unwrap();
    let elements = model.params().len();
    let state = OptimizerState::new(&model, 0..elements).unwrap();
    state.initialise(&model, 1).unwrap();
    for (moment, value) in state.moments().into_iter().zip([0.25, 0.5]) {
        cpu.fill(moment, value).unwrap();
    }
    // Pieces of a quarter of a MiB, as values and as bytes, and the buffers of files; hashing has some of its own.
    let bound = 2 << 20;
    assert!(state.bytes(&model) as i64 > 16 * bound, "{} bytes of state prove nothing", state.bytes(&model));

    let run = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::open(&RunLock::acquire(run.path()).unwrap(), 1).unwrap();
    let ((), taken) = most(|| {
        state.check(&model, 3).unwrap();
        state.save(&model, &checkpoints, 3, &"totals").unwrap();
    });
    println!("{elements} parameters: {taken} bytes taken to save");
    assert!(taken < bound, "saving takes {taken} bytes");

    let before = [state.master(), state.moments()[0], state.moments()[1]].map(|buffer| cpu.read_f32(buffer).unwrap());
    for buffer in [state.master(), state.moments()[0], state.moments()[1]] {
        cpu.fill(buffer, 7.0).unwrap();
    }
    let ((), taken) = most(|| {
        let checkpoint = checkpoints.latest().unwrap().checkpoint.unwrap();
        state.restore(&model, &checkpoint).unwrap();
    });
    println!("{elements} parameters: {taken} bytes taken to restore");
    assert!(taken < bound, "restoring takes {taken} bytes");
    let after = [state.master(), state.moments()[0], state.moments()[1]].map(|buffer| cpu.read_f32(buffer).unwrap());
    assert!(before == after);
}
