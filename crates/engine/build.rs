//! Compiles `kernels/*.cu` to PTX for builds with the feature `cuda`; does nothing for others.
//!
//! PTX is text that the driver makes machine code of on the GPU at hand: `OUT_DIR/FILE.compute_80.ptx` for GPUs of
//! compute capability 8, `compute_90` for 9 and above. nvcc is `$NVCC`, `$CUDA_HOME/bin/nvcc`,
//! `$CUDA_PATH/bin/nvcc`, or what the search path has.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// As `PTX` of src/ops/cuda.rs.
const FILES: [&str; 7] =
    ["activation", "attention", "embedding", "head", "optimizer", "rms_norm", "rope"];
const ARCHITECTURES: [&str; 2] = ["compute_80", "compute_90"];

fn main() -> Result<(), String> {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return Ok(());
    }
    println!("cargo:rerun-if-changed=kernels");
    for name in ["NVCC", "CUDA_HOME", "CUDA_PATH"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo gives no OUT_DIR")?);
    let nvcc = nvcc();
    for file in FILES {
        for arch in ARCHITECTURES {
            compile(&nvcc, file, arch, &out.join(format!("{file}.{arch}.ptx")))?;
        }
    }
    Ok(())
}

fn nvcc() -> PathBuf {
    if let Some(nvcc) = env::var_os("NVCC") {
        return nvcc.into();
    }
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os);
    let mut inside = homes.map(|home| Path::new(&home).join("bin/nvcc"));
    inside.find(|nvcc| nvcc.exists()).unwrap_or_else(|| "nvcc".into())
}

fn compile(nvcc: &Path, file: &str, arch: &str, to: &Path) -> Result<(), String> {
    let mut command = Command::new(nvcc);
    command.args(["-ptx", "-O3", "-std=c++17", "-arch", arch, "-o"]).arg(to);
    command.arg(format!("kernels/{file}.cu"));
    let output = command.output().map_err(|error| {
        format!(
            "the feature `cuda` needs NVIDIA's compiler, and {} cannot be started ({error}): \
             install the CUDA 13 toolkit and set CUDA_HOME, or run scripts/check_cuda.sh, which \
             unpacks one from PyPI (docs/gpu.md)",
            nvcc.display()
        )
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{} cannot compile kernels/{file}.cu for {arch}:\n{said}", nvcc.display()))
}
