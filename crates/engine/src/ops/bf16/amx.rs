//! Products with Intel's tile registers (AMX-BF16), in assembly: the compiler has no stable names for them.
//! It uses none of them itself, so that what one piece of assembly leaves in them the next one finds.
//!
//! Eight registers of 16 rows x 64 bytes: four hold the sums of a 32 x 32 block, two a step of the left
//! panels, two one of the right. Linux lets a process use them once it has asked.
//! Source: Intel, "Architecture Instruction Set Extensions Programming Reference", chapter on AMX.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::sync::LazyLock;

use super::Into;
use super::kernel::{Panels, Place, Sums};
use super::pack::{Limbs, SIDE, Tile};

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

/// As [`super::kernel::Unit::whole`].
///
/// # Safety
/// The registers are configured; the panels are as long; and as there.
#[expect(unsafe_code, reason = "tile registers have no stable intrinsics")]
pub unsafe fn block(limbs: Limbs, a: Panels<'_>, b: Panels<'_>, place: Place) {
    let steps = a.0.len() / limbs.count();
    // SAFETY: the caller's promise.
    unsafe {
        begin_sums(place);
        match limbs {
            Limbs::One => one(steps, a, b, place),
            Limbs::Three => three(steps, a, b, place),
        }
        end_sums(place);
    }
}

/// Clears tiles 0 to 3, or fills them with the block that is added to.
#[expect(unsafe_code, reason = "tile registers have no stable intrinsics")]
unsafe fn begin_sums(Place { start: c, stride, into, .. }: Place) {
    // SAFETY: only the block's 32 rows of 128 bytes are read, which the caller vouches for.
    unsafe {
        match into {
            Into::Overwrite => asm!(
                "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                options(nostack, nomem),
            ),
            Into::Add => asm!(
                "tileloadd tmm0, [{c0} + {bytes}]",
                "tileloadd tmm1, [{c0} + {bytes} + 64]",
                "tileloadd tmm2, [{c1} + {bytes}]",
                "tileloadd tmm3, [{c1} + {bytes} + 64]",
                c0 = in(reg) c,
                c1 = in(reg) c.add(SIDE * stride),
                bytes = in(reg) stride * size_of::<f32>(),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                options(nostack, readonly),
            ),
        }
    }
}

/// Writes tiles 0 to 3 to the block.
#[expect(unsafe_code, reason = "tile registers have no stable intrinsics")]
unsafe fn end_sums(Place { start: c, stride, .. }: Place) {
    // SAFETY: only the block's 32 rows of 128 bytes are written, which the caller vouches for.
    unsafe {
        asm!(
            "tilestored [{c0} + {bytes}], tmm0",
            "tilestored [{c0} + {bytes} + 64], tmm1",
            "tilestored [{c1} + {bytes}], tmm2",
            "tilestored [{c1} + {bytes} + 64], tmm3",
            c0 = in(reg) c,
            c1 = in(reg) c.add(SIDE * stride),
            bytes = in(reg) stride * size_of::<f32>(),
            options(nostack),
        );
    }
}

/// Assembly that runs through the steps of two left panels (`a`, `a1`) and two right ones (`b`, `b1`), which
/// go on by `$bytes` a step. Each asks the cache for two rows of the next block, to be written: it would wait for
/// memory otherwise, as long as for the products.
macro_rules! each_step {
    ($steps:ident, $a:ident, $b:ident, $place:ident, $bytes:literal, $($body:tt)*) => {
        asm!(
            "test {steps}, {steps}",
            "jz 5f",
            "2:",
            $($body)*
            "prefetchw [{next}]",
            "prefetchw [{next} + 64]",
            "prefetchw [{next} + {stride}]",
            "prefetchw [{next} + {stride} + 64]",
            "lea {next}, [{next} + 2 * {stride}]",
            concat!("add {a}, ", $bytes),
            concat!("add {b}, ", $bytes),
            concat!("add {a1}, ", $bytes),
            concat!("add {b1}, ", $bytes),
            "dec {steps}",
            "jnz 2b",
            "5:",
            steps = inout(reg) $steps => _,
            a = inout(reg) $a.0.as_ptr() => _,
            a1 = inout(reg) $a.1.as_ptr() => _,
            b = inout(reg) $b.0.as_ptr() => _,
            b1 = inout(reg) $b.1.as_ptr() => _,
            row = in(reg) 64usize,
            next = inout(reg) $place.next => _,
            stride = in(reg) $place.next_stride,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, readonly),
        )
    };
}

/// Loads part `$part` of a step of the left panels.
macro_rules! left {
    ($part:literal) => {
        concat!(
            "tileloadd tmm4, [{a} + {row} + ",
            $part,
            " * 1024]\n tileloadd tmm5, [{a1} + {row} + ",
            $part,
            " * 1024]"
        )
    };
}

/// Loads part `$part` of a step of the right panels.
macro_rules! right {
    ($part:literal) => {
        concat!(
            "tileloadd tmm6, [{b} + {row} + ",
            $part,
            " * 1024]\n tileloadd tmm7, [{b1} + {row} + ",
            $part,
            " * 1024]"
        )
    };
}

/// Adds the four products of what is loaded, and meanwhile asks the second cache for halves of tiles of the next
/// step, where they are named: `$panel`, half `$half`.
macro_rules! products {
    ($($panel:literal $half:literal),*) => {
        concat!(
            "tdpbf16ps tmm0, tmm4, tmm6\n",
            "tdpbf16ps tmm2, tmm5, tmm6\n",
            "tdpbf16ps tmm1, tmm4, tmm7\n",
            "tdpbf16ps tmm3, tmm5, tmm7\n",
            $(
                ".irp line, 0, 64, 128, 192, 256, 320, 384, 448\n",
                "prefetcht0 [{", $panel, "} + 3072 + ", $half, " * 512 + \\line]\n",
                ".endr\n",
            )*
        )
    };
}

/// Adds the products of rounded operands to tiles 0 to 3.
#[expect(unsafe_code, reason = "tile registers have no stable intrinsics")]
unsafe fn one(steps: usize, a: Panels<'_>, b: Panels<'_>, place: Place) {
    // SAFETY: the loop reads `steps` tiles from each of the four panels; asking for anything has no effect.
    unsafe { each_step!(steps, a, b, place, 1024, left!(0), right!(0), products!(),) }
}

/// Adds the products of operands in three parts to tiles 0 to 3: of each step, the low left part with
/// the high right one, then middle with high and middle, high with middle, low and high.
#[expect(unsafe_code, reason = "tile registers have no stable intrinsics")]
unsafe fn three(steps: usize, a: Panels<'_>, b: Panels<'_>, place: Place) {
    // SAFETY: the loop reads `steps` times three tiles from each of the four panels; asking for what lies beyond
    // them has no effect.
    unsafe {
        each_step!(
            steps,
            a,
            b,
            place,
            3072,
            left!(2),
            right!(0),
            products!("a" 4, "a" 5, "a1" 4, "a1" 5),
            left!(1),
            products!("b" 0, "b" 1, "b1" 0, "b1" 1),
            right!(1),
            products!("a" 2, "a" 3, "a1" 2, "a1" 3),
            left!(0),
            products!("b" 2, "b" 3, "b1" 2, "b1" 3),
            right!(2),
            products!("a" 0, "a" 1, "a1" 0, "a1" 1),
            right!(0),
            products!("b" 4, "b" 5, "b1" 4, "b1" 5),
        );
    }
}

/// As [`super::kernel::Unit::edge`]: a panel that is not there is another one again.
///
/// # Safety
/// The registers are configured, and panels are of `each` tiles.
#[expect(unsafe_code, reason = "tile registers have no stable intrinsics")]
pub unsafe fn edge(limbs: Limbs, each: usize, a: &[Tile], b: &[Tile]) -> Sums {
    let mut sums = [0f32; 2 * SIDE * 2 * SIDE];
    let start = sums.as_mut_ptr();
    let place = Place {
        start,
        stride: 2 * SIDE,
        into: Into::Overwrite,
        next: start.cast(),
        next_stride: 0,
    };
    // SAFETY: the caller's promise; the sums are a block.
    unsafe {
        block(limbs, Panels::of(a, each), Panels::of(b, each), place);
    }
    sums
}
