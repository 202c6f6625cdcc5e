//! A GPU for tests: the kernels of `kernels/*.cu`, compiled by this machine's C++ compiler and run thread by thread.
//!
//! Launches go to a process (`kernels/host/main.cc`), with the grids and arguments that a GPU would be given; it ends
//! with an error where a kernel reads or writes past a buffer. Here besides: outputs start as NaN, what a kernel says
//! it only reads must come back as it was, and each launch can be done twice, with the threads of a block in opposite
//! orders, which has to give the same bits.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};

use candle_core::{DType, Device, Tensor};
use engine::error::{Error, Result};
use engine::ops::gpu::matmul::{Gemm, Operand};
use engine::ops::gpu::{Arg, Grid, Kernel, Machine};
use engine::tensor::{update, view};

/// The process, and what it is asked for.
pub struct Emulator {
    child: Mutex<Child>,
    device: Device,
    twice: bool,
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap();
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}

impl Emulator {
    /// Starts the process; `None`, with a line that says what is left out, where there is no C++ compiler. With
    /// `twice` each launch is done in both orders.
    pub fn start(twice: bool) -> Option<Self> {
        let program = compiled()?;
        let mut command = Command::new(program);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        Some(Self { child: Mutex::new(child), device: Device::Cpu, twice })
    }

    /// What the buffers hold after a launch.
    fn run(&self, request: &[u8], lengths: &[usize]) -> Result<Vec<Vec<u8>>> {
        let mut child = self.child.lock().unwrap();
        let gone = |e: std::io::Error| Error::Internal(format!("the emulated GPU stopped: {e}"));
        let to = child.stdin.as_mut().unwrap();
        to.write_all(request).and_then(|()| to.flush()).map_err(gone)?;
        let from = child.stdout.as_mut().unwrap();
        let mut buffers: Vec<Vec<u8>> = lengths.iter().map(|n| vec![0; *n]).collect();
        for buffer in &mut buffers {
            from.read_exact(buffer).map_err(gone)?;
        }
        Ok(buffers)
    }
}

impl Machine for Emulator {
    fn device(&self) -> &Device {
        &self.device
    }

    fn uninit(&self, shape: &[usize], dtype: DType) -> Result<Tensor> {
        Ok(Tensor::full(f32::NAN, shape, &self.device)?.to_dtype(dtype)?)
    }

    fn launch(&self, kernel: Kernel, grid: Grid, args: &[Arg<'_>]) -> Result<()> {
        let buffers: Vec<(&Tensor, bool)> = args
            .iter()
            .filter_map(|arg| match arg {
                Arg::Read(tensor) => Some((*tensor, false)),
                Arg::Write(tensor) => Some((*tensor, true)),
                _ => None,
            })
            .collect();
        let before: Vec<Vec<u8>> = buffers.iter().map(|(t, _)| bytes(t)).collect::<Result<_>>()?;
        let lengths: Vec<usize> = before.iter().map(Vec::len).collect();
        let after = self.run(&request(kernel, grid, 0, args, &before), &lengths)?;
        if self.twice {
            let again = self.run(&request(kernel, grid, 1, args, &before), &lengths)?;
            assert!(after == again, "{kernel:?} depends on the order of its threads");
        }
        for (i, (tensor, written)) in buffers.iter().enumerate() {
            match written {
                true => write_back(tensor, &after[i])?,
                false => assert!(before[i] == after[i], "{kernel:?} wrote buffer {i}"),
            }
        }
        Ok(())
    }

    /// As BLAS describes it, with sums in f64.
    fn gemm(&self, product: &Gemm<'_>) -> Result<()> {
        let [m, n, k] = product.sizes.map(|size| size as usize);
        let (a, b) = (Columns::new(&product.a, m, k)?, Columns::new(&product.b, k, n)?);
        update(product.c, |c| {
            assert_eq!(c.len(), m * n, "{product:?}");
            for (at, c) in c.iter_mut().enumerate() {
                let (i, j) = (at % m, at / m);
                let sum: f64 = (0..k).map(|l| a.at(i, l) * b.at(l, j)).sum();
                let before = if product.beta == 0.0 { 0.0 } else { product.beta * *c };
                *c = product.alpha * sum as f32 + before;
            }
        })
    }
}

/// op(x) of an operand.
struct Columns {
    numbers: Vec<f64>,
    transposed: bool,
    stride: usize,
}

impl Columns {
    fn new(of: &Operand<'_>, rows: usize, columns: usize) -> Result<Self> {
        assert!(of.tensor.is_contiguous(), "a product was given a strided tensor");
        let numbers = of.tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
        let (high, wide) = if of.transposed { (columns, rows) } else { (rows, columns) };
        let stride = of.stride as usize;
        assert!(stride >= high && stride * (wide - 1) + high <= numbers.len(), "{of:?}");
        Ok(Self { numbers, transposed: of.transposed, stride })
    }

    fn at(&self, row: usize, column: usize) -> f64 {
        let (row, column) = if self.transposed { (column, row) } else { (row, column) };
        self.numbers[column * self.stride + row]
    }
}

/// A launch as kernels/host/main.cc reads it.
fn request(
    kernel: Kernel,
    grid: Grid,
    order: u32,
    args: &[Arg<'_>],
    buffers: &[Vec<u8>],
) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend((kernel.name.len() as u32).to_le_bytes());
    out.extend(kernel.name.as_bytes());
    let count = args.len() as u32;
    let (x, y) = grid.blocks;
    for number in [x, y, 1, grid.threads, grid.scratch, order, count] {
        out.extend(number.to_le_bytes());
    }
    let mut buffers = buffers.iter();
    for arg in args {
        match arg {
            Arg::Int(x) => out.extend([&b"i"[..], &x.to_le_bytes()].concat()),
            Arg::Long(x) => out.extend([&b"l"[..], &x.to_le_bytes()].concat()),
            Arg::Float(x) => out.extend([&b"s"[..], &x.to_le_bytes()].concat()),
            Arg::Read(tensor) | Arg::Write(tensor) => {
                out.push(letter(tensor.dtype()));
                let buffer = buffers.next().unwrap();
                out.extend((buffer.len() as u64).to_le_bytes());
                out.extend(buffer);
            }
        }
    }
    out
}

fn letter(dtype: DType) -> u8 {
    match dtype {
        DType::F32 => b'f',
        DType::F64 => b'd',
        DType::U32 => b'u',
        other => panic!("kernels know no {other:?}"),
    }
}

/// The numbers of a dense tensor, as they are in memory.
fn bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    assert!(tensor.is_contiguous(), "a kernel was given a strided tensor");
    let flat = tensor.flatten_all()?;
    Ok(match tensor.dtype() {
        DType::F32 => view(tensor)?.iter().flat_map(|x| x.to_le_bytes()).collect(),
        DType::F64 => flat.to_vec1::<f64>()?.iter().flat_map(|x| x.to_le_bytes()).collect(),
        _ => flat.to_vec1::<u32>()?.iter().flat_map(|x| x.to_le_bytes()).collect(),
    })
}

fn write_back(tensor: &Tensor, bytes: &[u8]) -> Result<()> {
    if tensor.dtype() == DType::F32 {
        return update(tensor, |to| {
            for (to, from) in to.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *to = f32::from_le_bytes(*from);
            }
        });
    }
    let numbers: Vec<f64> =
        bytes.as_chunks::<8>().0.iter().map(|x| f64::from_le_bytes(*x)).collect();
    let from = Tensor::from_vec(numbers, tensor.shape(), &Device::Cpu)?;
    Ok(tensor.slice_set(&from, 0, 0)?)
}

/// The kernels as a program, compiled once for their text.
fn compiled() -> Option<PathBuf> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    PROGRAM.get_or_init(compile).clone()
}

fn compile() -> Option<PathBuf> {
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    if Command::new(&compiler).arg("--version").output().is_err() {
        eprintln!("left out: no C++ compiler ({}) to run the kernels with", compiler.display());
        return None;
    }
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let program = folder.join(format!("kernels-{}", hash(&kernels)));
    if program.exists() {
        return Some(program);
    }
    // Several test processes may do this at once: each makes its own, and the last name given stays.
    let made = folder.join(format!("kernels-{}", std::process::id()));
    let mut command = Command::new(&compiler);
    command.args(["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]);
    // longjmp's checks know one stack, and the program has one for each emulated thread
    command.args(["-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=0"]);
    let output = command.arg("-o").arg(&made).arg(kernels.join("host/main.cc")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::rename(&made, &program).unwrap();
    Some(program)
}

/// Of the text of all files.
fn hash(kernels: &Path) -> String {
    let mut hasher = blake3::Hasher::new();
    for folder in [kernels.to_path_buf(), kernels.join("host")] {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<PathBuf> = entries.filter(|path| path.is_file()).collect();
        files.sort();
        for file in files {
            hasher.update(&std::fs::read(file).unwrap());
        }
    }
    hasher.finalize().to_hex()[..16].to_owned()
}
