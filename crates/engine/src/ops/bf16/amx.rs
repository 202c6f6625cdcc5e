//! Products with Intel's tile registers (AMX-BF16), in assembly: the compiler has no stable names for them.
//!
//! Eight registers of 16 rows x 64 bytes: four hold the sums of a 32 x 32 block, two a step of the left
//! panels, two one of the right. Linux lets a process use them once it has asked.
//! Source: Intel, "Architecture Instruction Set Extensions Programming Reference", chapter on AMX.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::sync::LazyLock;

use super::Into;
use super::kernel::Sums;
use super::pack::{SIDE, Tile};

/// Whether the CPU is Intel's.
pub fn intel() -> bool {
    let id = __cpuid(0);
    (id.ebx, id.edx, id.ecx) == (0x756e_6547, 0x4965_6e69, 0x6c65_746e)
}

/// Whether the CPU has the tile registers and the system lets this process use them. Asks it once.
pub fn permitted() -> bool {
    static PERMITTED: LazyLock<bool> = LazyLock::new(|| {
        let features = if __cpuid(0).eax >= 7 { __cpuid_count(7, 0).edx } else { 0 };
        // bits 22 and 24: AMX-BF16 and AMX-TILE; packing needs AVX-512.
        let has = features >> 22 & 1 == 1 && features >> 24 & 1 == 1 && super::avx512::detected();
        has && ask()
    });
    *PERMITTED
}

/// Asks Linux for the tile registers' state: `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`.
#[cfg(target_os = "linux")]
fn ask() -> bool {
    let result: i64;
    #[expect(unsafe_code, reason = "a system call that no crate in the tree wraps")]
    // SAFETY: arch_prctl (158) with this code reads and writes no memory of ours.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") 158i64 => result,
            in("rdi") 0x1023u64,
            in("rsi") 18u64,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result == 0
}

/// Other systems have other ways, which nobody has tried here.
#[cfg(not(target_os = "linux"))]
fn ask() -> bool {
    false
}

/// Palette 1: all eight registers of 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Shape([u8; 64]);

static SHAPE: Shape = {
    let mut bytes = [0; 64];
    bytes[0] = 1;
    let mut tile = 0;
    while tile < 8 {
        bytes[16 + 2 * tile] = 64;
        bytes[48 + tile] = 16;
        tile += 1;
    }
    Shape(bytes)
};

/// Readies this thread's tile registers.
pub fn configure() {
    #[expect(unsafe_code, reason = "tile registers have no stable intrinsics")]
    // SAFETY: only called where the registers are permitted; the compiler uses none of them.
    unsafe {
        asm!("ldtilecfg [{0}]", in(reg) &raw const SHAPE, options(nostack, readonly));
    }
}

/// Gives them back, so that the system need not save them any more.
pub fn release() {
    #[expect(unsafe_code, reason = "as above")]
    // SAFETY: as above.
    unsafe {
        asm!("tilerelease", options(nostack, nomem));
    }
}

/// As [`super::kernel::Unit::block`].
///
/// # Safety
/// The registers are configured; two panels of `steps` tiles each; and as there.
#[expect(unsafe_code, reason = "tile registers have no stable intrinsics")]
pub unsafe fn block(steps: usize, a: &[Tile], b: &[Tile], c: *mut f32, stride: usize, into: Into) {
    let bytes = stride * size_of::<f32>();
    let panel = steps * size_of::<Tile>();
    // SAFETY: the loop reads `steps` tiles from each of the four panels, and 32 rows of 128 bytes of the
    // destination are read (when adding) and written, all of which the caller vouches for.
    unsafe {
        asm!(
            "test {add:e}, {add:e}",
            "jnz 3f",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "jmp 4f",
            "3:",
            "tileloadd tmm0, [{c0} + {bytes}]",
            "tileloadd tmm1, [{c0} + {bytes} + 64]",
            "tileloadd tmm2, [{c1} + {bytes}]",
            "tileloadd tmm3, [{c1} + {bytes} + 64]",
            "4:",
            "test {steps}, {steps}",
            "jz 5f",
            "2:",
            "tileloadd tmm4, [{a} + {row}]",
            "tileloadd tmm6, [{b} + {row}]",
            "tileloadd tmm5, [{a1} + {row}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b1} + {row}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a}, 1024",
            "add {b}, 1024",
            "add {a1}, 1024",
            "add {b1}, 1024",
            "dec {steps}",
            "jnz 2b",
            "5:",
            "tilestored [{c0} + {bytes}], tmm0",
            "tilestored [{c0} + {bytes} + 64], tmm1",
            "tilestored [{c1} + {bytes}], tmm2",
            "tilestored [{c1} + {bytes} + 64], tmm3",
            add = in(reg) u32::from(into == Into::Add),
            steps = inout(reg) steps => _,
            a = inout(reg) a.as_ptr() => _,
            a1 = inout(reg) a.as_ptr().byte_add(panel) => _,
            b = inout(reg) b.as_ptr() => _,
            b1 = inout(reg) b.as_ptr().byte_add(panel) => _,
            c0 = in(reg) c,
            c1 = in(reg) c.add(SIDE * stride),
            bytes = in(reg) bytes,
            row = in(reg) 64usize,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// As [`super::kernel::Unit::tile`].
///
/// # Safety
/// The registers are configured, and both panels are as long.
#[expect(unsafe_code, reason = "tile registers have no stable intrinsics")]
pub unsafe fn tile(a: &[Tile], b: &[Tile]) -> Sums {
    let mut sums = [0f32; SIDE * SIDE];
    // SAFETY: the loop reads as many tiles from each panel as there are; `sums` is a tile.
    unsafe {
        asm!(
            "tilezero tmm0",
            "test {steps}, {steps}",
            "jz 5f",
            "2:",
            "tileloadd tmm4, [{a} + {row}]",
            "tileloadd tmm6, [{b} + {row}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "add {a}, 1024",
            "add {b}, 1024",
            "dec {steps}",
            "jnz 2b",
            "5:",
            "tilestored [{c} + {row}], tmm0",
            steps = inout(reg) a.len() => _,
            a = inout(reg) a.as_ptr() => _,
            b = inout(reg) b.as_ptr() => _,
            c = in(reg) sums.as_mut_ptr(),
            row = in(reg) 64usize,
            out("tmm0") _, out("tmm4") _, out("tmm6") _,
            options(nostack),
        );
    }
    sums
}
