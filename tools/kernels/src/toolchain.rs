//! The pinned compilers: NVIDIA's wheels from PyPI, unpacked by pip into a folder that git ignores. They are
//! proprietary, so they are installed where they are needed and never part of the repository.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, output, write};

/// Where the compilers lie, from the repository's root.
const FOLDER: &str = "tools/kernels/.toolchain";

/// All with versions of their own and without what they ask for: nvcc 13.0 would take the newest nvvm, whose PTX no
/// ptxas of its own generation reads.
const NVCC: [&str; 7] = [
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-cccl==13.0.85",
    "nvidia-cuda-cuobjdump==13.2.51",
    "nvidia-cuda-nvdisasm==13.2.51",
];

/// Older generations of ptxas that have to accept the PTX: what a driver of their time has built in.
pub const OLDER_PTXAS: [&str; 3] = ["12.0.140", "12.4.131", "12.8.93"];

/// What reads `kernels/abi.h` for the Rust form of it.
const LIBCLANG: &str = "libclang==18.1.1";

/// The installed compilers.
pub struct Toolchain {
    folder: PathBuf,
}

impl Toolchain {
    /// Installs what is not there yet.
    pub fn install(root: &Path) -> Result<Self> {
        let this = Self { folder: root.join(FOLDER) };
        this.unpack("nvcc", &NVCC)?;
        this.unpack("libclang", &[LIBCLANG])?;
        for version in OLDER_PTXAS {
            this.unpack(&format!("ptxas-{version}"), &[&format!("nvidia-cuda-nvcc-cu12=={version}")])?;
        }
        Ok(this)
    }

    fn unpack(&self, name: &str, packages: &[&str]) -> Result<()> {
        let folder = self.folder.join(name);
        // Written last, so that an installation that was cut off is made again.
        let done = folder.join("installed");
        let wanted = packages.join("\n");
        if std::fs::read_to_string(&done).is_ok_and(|there| there == wanted) {
            return Ok(());
        }
        println!("installing {}", packages.join(" "));
        if folder.exists() {
            std::fs::remove_dir_all(&folder).map_err(|e| format!("cannot remove {}: {e}", folder.display()))?;
        }
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target"]);
        output(pip.arg(&folder).args(packages))
            .map_err(|e| format!("the compilers come from PyPI by way of python3's pip: {e}"))?;
        write(&done, wanted.as_bytes())
    }

    fn cuda(&self) -> PathBuf {
        self.folder.join("nvcc/nvidia/cu13")
    }

    /// The pinned nvcc.
    pub fn nvcc(&self) -> PathBuf {
        self.cuda().join("bin/nvcc")
    }

    /// ptxas of the pinned nvcc.
    pub fn ptxas(&self) -> PathBuf {
        self.cuda().join("bin/ptxas")
    }

    /// What shows machine code.
    pub fn nvdisasm(&self) -> PathBuf {
        self.cuda().join("bin/nvdisasm")
    }

    /// One of [`OLDER_PTXAS`].
    pub fn older_ptxas(&self, version: &str) -> PathBuf {
        self.folder.join(format!("ptxas-{version}/nvidia/cuda_nvcc/bin/ptxas"))
    }

    /// The folder with libclang.
    pub fn libclang(&self) -> PathBuf {
        self.folder.join("libclang/clang/native")
    }

    /// What the manifest says of the compilers.
    pub fn versions() -> Vec<(String, String)> {
        NVCC.iter()
            .filter_map(|package| package.split_once("=="))
            .map(|(name, version)| (name.to_owned(), version.to_owned()))
            .collect()
    }
}
