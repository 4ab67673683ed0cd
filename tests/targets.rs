//! Targets, the driver's compiler and faults of launches, on the emulator as a device of one capability and another. The
//! emulator is the process's, so that one test runs at a time.

use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use polar_raw::backend::{BackendExt, Operations};
use polar_raw::cuda::abi::{FillParams, RowsParams};
use polar_raw::cuda::kernel::{Entry, Kernel, Target};
use polar_raw::cuda::properties::Capability;
use polar_raw::cuda::ptx::Module;
use polar_raw::cuda::{Cuda, gather, kernels, ptx};
use polar_raw::error::Error;
use polar_raw::tensor::Dtype;

fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

const AMPERE: Capability = Capability::new(8, 0);
const HOPPER: Capability = Capability::new(9, 0);

/// The module of `fill.cu`, for another target and with other text.
fn fill(target: Target, change: impl Fn(&str) -> String) -> Module {
    let module = *ptx::module_of(&kernels::FILL_F32).unwrap();
    let kernels: Vec<Entry> = module.kernels.iter().map(|kernel| Entry { target, ..*kernel }).collect();
    Module { target, kernels: kernels.leak(), ptx: change(module.ptx).leak(), ..module }
}

fn for_hopper() -> Module {
    let target = Target { name: "sm_90a", capability: HOPPER, exact: true };
    fill(target, |ptx| ptx.replace(".target sm_80", ".target sm_90a"))
}

#[test]
fn ptx_for_hopper_runs_on_hopper_alone() {
    let _alone = alone();
    let module = for_hopper();
    let cuda = Cuda::emulated_as(AMPERE).unwrap();
    assert_eq!(cuda.properties().capability, AMPERE);
    assert_eq!(cuda.properties().shared_per_block, 163 << 10);
    let refused = cuda.device().load(&module).unwrap_err().to_string();
    assert!(refused.contains("sm_90a/fill.ptx are for compute capability 9.0 alone"), "{refused}");
    // A driver of such a device refuses it as well.
    let wrongly_named = Module { target: kernels::FILL_F32.target, ..module };
    let refused = cuda.device().load(&wrongly_named).unwrap_err().to_string();
    assert!(refused.contains(".target sm_90a does not run on compute capability 8.0"), "{refused}");

    let cuda = Cuda::emulated_as(HOPPER).unwrap();
    assert_eq!(cuda.properties().capability, HOPPER);
    assert_eq!(cuda.properties().shared_per_block, 227 << 10);
    cuda.device().load(&module).unwrap();
    let kernel = Kernel::<FillParams>::new(&module.kernels[0]);
    assert!(kernel.name.starts_with("fill"));
    let out = cuda.tensor(Dtype::F32, &[8]).unwrap();
    let params = FillParams { out: out.address() as u64, count: 8, value: 2.0 };
    let kernel = if kernel.name == "fill_f32" { kernel } else { Kernel::new(&module.kernels[1]) };
    // SAFETY: `out` has eight elements of the kernel's type.
    unsafe { cuda.device().launch(&kernel.on([1, 1]), &params) }.unwrap();
    assert_eq!(cuda.read_f32(&out).unwrap(), [2.0; 8]);
    // What every card runs is there beside it.
    cuda.fill(&out, 3.0).unwrap();
    assert_eq!(cuda.read_f32(&out).unwrap(), [3.0; 8]);
}

#[test]
fn all_kernels_of_the_capability_are_compiled_at_once() {
    let _alone = alone();
    for capability in [AMPERE, HOPPER, Capability::new(12, 0)] {
        let cuda = Cuda::emulated_as(capability).unwrap();
        cuda.device().load_all().unwrap();
        let runs = ptx::loadable(ptx::MODULES, capability).map(|module| module.kernels.len());
        assert_eq!(cuda.device().kernels(), runs.sum::<usize>());
    }
}

#[test]
fn what_the_compiler_says_of_ptx_that_it_refuses_is_shown() {
    let _alone = alone();
    let cuda = Cuda::emulated_as(AMPERE).unwrap();
    let broken = fill(kernels::FILL_F32.target, |ptx| ptx.replacen("mov.u32", "movv.u32", 1));
    let refused = cuda.device().load(&broken).unwrap_err().to_string();
    assert!(refused.contains("compile ptx/sm_80/fill.ptx") && refused.contains("compiler says"), "{refused}");
    assert!(refused.contains("movv"), "{refused}");
    let kept = cuda.device().kernels();
    assert_eq!(kept, 0, "kernels of a module that was refused");
}

/// Two blocks add to one row: a race, which the emulator finds, and which is no error of a launch by itself.
fn race(cuda: &Cuda) -> (Result<(), Error>, Result<Vec<f32>, Error>) {
    let (out, from) = (cuda.tensor(Dtype::Bf16, &[2, 8]).unwrap(), cuda.tensor(Dtype::Bf16, &[2, 8]).unwrap());
    let ids = cuda.tensor(Dtype::U32, &[2]).unwrap();
    cuda.write_u32(&ids, &[1, 1]).unwrap();
    let [to, from, at] = [&out, &from, &ids].map(|tensor| tensor.address() as u64);
    let params = RowsParams { out: to, from, ids: at, rows: 2, columns: 8 };
    // SAFETY: all addresses are inside of their tensors; that two rows are one is what is tried.
    let launched = unsafe { cuda.device().launch(&gather::plan_backward(2, true), &params) };
    (launched, cuda.read_f32(&out))
}

#[test]
fn a_fault_names_its_kernel_where_launches_are_waited_for() {
    let _alone = alone();
    let cuda = Cuda::emulated_as(AMPERE).unwrap();
    cuda.device().wait_after_each_launch(false);
    let (launched, read) = race(&cuda);
    launched.unwrap();
    assert!(read.unwrap_err().to_string().contains("found a fault"));
    let waits = cuda.waits();
    cuda.device().wait_after_each_launch(true);
    let (launched, read) = race(&cuda);
    let fault = launched.unwrap_err().to_string();
    assert!(fault.starts_with("gather_backward_vec8: ") && fault.contains("race"), "{fault}");
    read.unwrap();
    assert_eq!(cuda.waits(), waits + 2);
}

/// The same by the environment, in a process of its own.
#[test]
fn polar_raw_sync_waits_for_launches() {
    let test = "a_fault_is_its_launchs_under_polar_raw_sync";
    let run = |value: &str| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--ignored"]).env("POLAR_RAW_SYNC", value);
        command.env("POLAR_RAW_EMULATOR_CAPABILITY", "9.0").output().unwrap().status.success()
    };
    assert!(run("1"));
    assert!(!run("0"));
}

#[test]
#[ignore = "run by polar_raw_sync_waits_for_launches, with an environment of its own"]
fn a_fault_is_its_launchs_under_polar_raw_sync() {
    let cuda = Cuda::emulated().unwrap();
    assert_eq!(cuda.properties().capability, HOPPER);
    assert!(race(&cuda).0.unwrap_err().to_string().starts_with("gather_backward_vec8: "));
}
