//! Compiles `kernels/` to `ptx/` and checks that what is committed is what the pinned compilers make of it.
//!
//! `build` writes `ptx/`, its manifest, and the Rust form of `kernels/abi.h`. `check` compiles again and requires the
//! same bytes; has several generations of ptxas accept them; and holds every kernel to its budget on every architecture.
//! `loops` shows the loops that products spend their time in. All install the compilers, NVIDIA's from PyPI, into a folder
//! that git ignores.

mod architecture;
mod bindings;
mod budget;
mod check;
mod compile;
mod listing;
mod loops;
mod manifest;
mod measure;
mod toolchain;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::{Args, Parser, Subcommand};

use crate::compile::Compiler;
use crate::toolchain::Toolchain;

/// A message fit to be shown as it is.
type Result<T, E = String> = std::result::Result<T, E>;

/// Compile the CUDA kernels, or check what is committed.
#[derive(Parser)]
#[command(name = "kernels")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Compile kernels/ to ptx/, and kernels/abi.h to src/cuda/abi.rs.
    Build(BuildArgs),
    /// Compile again and compare; ask several ptxas; hold each kernel to its budget.
    Check,
    /// Show the hottest loop of each kernel of the tensor cores, as machine code.
    Loops(LoopsArgs),
}

#[derive(Args)]
struct LoopsArgs {
    /// Only kernels whose names contain this.
    #[arg(default_value = "")]
    pattern: String,
    /// The architecture; may be given several times.
    #[arg(long, value_name = "sm_XX", default_values = ["sm_80", "sm_90"])]
    arch: Vec<String>,
    /// A file of PTX in place of the committed ones, an earlier state of one for instance.
    #[arg(long, value_name = "FILE")]
    ptx: Option<PathBuf>,
}

#[derive(Args)]
struct BuildArgs {
    /// Another compiler than the pinned one.
    #[arg(long, value_name = "PATH", requires = "arch")]
    nvcc: Option<PathBuf>,
    /// The architecture that this compiler compiles for, such as sm_90.
    #[arg(long, value_name = "sm_XX", requires = "nvcc")]
    arch: Option<String>,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Task::Build(args) => build(&args),
        Task::Check => check::run(&root()),
        Task::Loops(args) => loops::run(&root(), &args.pattern, &args.arch, args.ptx.as_deref()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

/// The repository.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    here.canonicalize().unwrap_or(here)
}

fn build(args: &BuildArgs) -> Result<()> {
    let root = root();
    let compiler = match (&args.nvcc, &args.arch) {
        (Some(nvcc), Some(arch)) => Compiler::of_the_user(nvcc, arch)?,
        _ => {
            let toolchain = Toolchain::install(&root)?;
            let bindings = bindings::generate(&root, &toolchain)?;
            write(&root.join(bindings::PATH), bindings.as_bytes())?;
            Compiler::pinned(&root, &toolchain)
        }
    };
    let units = compile::units(&root, &compiler.targets)?;
    for unit in &units {
        println!("{}", unit.source());
        let to = root.join(unit.ptx());
        if let Some(folder) = to.parent() {
            std::fs::create_dir_all(folder).map_err(|e| format!("cannot create {}: {e}", folder.display()))?;
        }
        write(&to, compiler.ptx(&root, unit)?.as_bytes())?;
    }
    for stray in compile::strays(&root, &units)? {
        std::fs::remove_file(root.join(&stray)).map_err(|e| format!("cannot remove {stray}: {e}"))?;
    }
    let manifest = manifest::make(&root, &compiler, &units)?;
    write(&root.join(manifest::PATH), manifest.as_bytes())
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).map_err(|e| format!("cannot write {}: {e}", path.display()))
}

/// Runs a command; what it wrote, standard output and then error.
fn output(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let done = command.output().map_err(|e| format!("cannot run {shown}: {e}"))?;
    let text = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    if done.status.success() { Ok(text) } else { Err(format!("{shown} failed, {}:\n{text}", done.status)) }
}
