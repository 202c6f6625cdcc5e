//! Which unit multiplies tiles, and the two products that blocks are made of.

use std::sync::LazyLock;

use super::Into;
use super::pack::{Limbs, SIDE, Tile};

/// Sums of a tile: row by row.
pub type Sums = [f32; SIDE * SIDE];

/// What multiplies bf16 numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Intel's tile registers.
    #[cfg(target_arch = "x86_64")]
    Amx,
    /// `vdpbf16ps` on 512 bits.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// Any CPU, slowly: the reference of the others.
    Portable,
}

static BEST: LazyLock<Kernel> = LazyLock::new(Kernel::detect);

impl Kernel {
    /// The fastest that this machine lets us use.
    #[must_use]
    pub fn best() -> Self {
        *BEST
    }

    #[cfg(target_arch = "x86_64")]
    fn detect() -> Self {
        match () {
            () if super::amx::permitted() => Self::Amx,
            // Intel's vdpbf16ps is slower than f32's multiply-add.
            () if super::avx512::detected() && !super::amx::intel() => Self::Avx512,
            () => Self::Portable,
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn detect() -> Self {
        Self::Portable
    }

    /// The kernels that this machine can run, for tests.
    #[cfg(test)]
    pub fn all() -> Vec<Self> {
        let mut all = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(super::avx512::detected().then_some(Self::Avx512));
            all.extend(super::amx::permitted().then_some(Self::Amx));
        }
        all
    }

    /// Its name in the log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx => "AMX",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "AVX-512 BF16",
            Self::Portable => "none",
        }
    }

    /// Readies this thread's unit; it is given back when the result is dropped.
    #[must_use]
    pub fn begin(self) -> Unit {
        #[cfg(target_arch = "x86_64")]
        if self == Self::Amx {
            super::amx::configure();
        }
        Unit { kernel: self, _thread: std::marker::PhantomData }
    }
}

/// A kernel that is ready on this thread.
pub struct Unit {
    kernel: Kernel,
    _thread: std::marker::PhantomData<*const ()>,
}

impl Drop for Unit {
    fn drop(&mut self) {
        #[cfg(target_arch = "x86_64")]
        if self.kernel == Kernel::Amx {
            super::amx::release();
        }
    }
}

impl Unit {
    /// 32 x 32 sums of two left panels and two right ones, in rows `stride` apart.
    ///
    /// # Safety
    /// The 32 x 32 elements from `c` on are nobody else's. They may be uninitialised if they are
    /// overwritten.
    ///
    /// # Panics
    /// When the panels differ in length.
    #[expect(unsafe_code, reason = "the destination is a part of a matrix that threads share")]
    pub unsafe fn block(
        &self,
        limbs: Limbs,
        a: &[Tile],
        b: &[Tile],
        c: *mut f32,
        stride: usize,
        into: Into,
    ) {
        let each = a.len() / 2;
        let whole = a.len() == b.len() && a.len().is_multiple_of(2 * limbs.count());
        assert!(whole, "bf16: panels differ");
        // SAFETY: the caller's promise; the panels were checked, and the unit was detected.
        unsafe {
            match self.kernel {
                #[cfg(target_arch = "x86_64")]
                Kernel::Amx => super::amx::block(limbs, a, b, c, stride, into),
                #[cfg(target_arch = "x86_64")]
                Kernel::Avx512 => super::avx512::block(limbs, a, b, c, stride, into),
                Kernel::Portable => {
                    for (i, j) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                        let sums = portable(limbs, &a[i * each..][..each], &b[j * each..][..each]);
                        let c = c.add(i * SIDE * stride + j * SIDE);
                        write(&sums, (SIDE, SIDE), c, stride, into);
                    }
                }
            }
        }
    }

    /// The sums of one left panel and one right one.
    ///
    /// # Panics
    /// When the panels differ in length.
    #[must_use]
    pub fn tile(&self, limbs: Limbs, a: &[Tile], b: &[Tile]) -> Sums {
        let whole = a.len() == b.len() && a.len().is_multiple_of(limbs.count());
        assert!(whole, "bf16: panels differ");
        #[expect(unsafe_code, reason = "vector instructions")]
        // SAFETY: the unit was detected, and both panels are as long.
        unsafe {
            match self.kernel {
                #[cfg(target_arch = "x86_64")]
                Kernel::Amx => super::amx::tile(limbs, a, b),
                #[cfg(target_arch = "x86_64")]
                Kernel::Avx512 => super::avx512::sums(limbs, a, b),
                Kernel::Portable => portable(limbs, a, b),
            }
        }
    }
}

/// Writes the first rows and columns of a tile's sums.
///
/// # Safety
/// As [`Unit::block`], for so many elements.
#[expect(unsafe_code, reason = "as there")]
pub(super) unsafe fn write(
    sums: &Sums,
    (rows, cols): (usize, usize),
    c: *mut f32,
    stride: usize,
    into: Into,
) {
    for (r, row) in sums.chunks_exact(SIDE).take(rows).enumerate() {
        for (s, sum) in row.iter().take(cols).enumerate() {
            // SAFETY: the caller's promise.
            unsafe {
                let to = c.add(r * stride + s);
                match into {
                    Into::Overwrite => to.write(*sum),
                    Into::Add => *to += sum,
                }
            }
        }
    }
}

fn portable(limbs: Limbs, a: &[Tile], b: &[Tile]) -> Sums {
    let mut sums = [0f32; SIDE * SIDE];
    let count = limbs.count();
    for (a, b) in a.chunks_exact(count).zip(b.chunks_exact(count)) {
        for (i, j) in limbs.products() {
            add_product(&a[*i], &b[*j], &mut sums);
        }
    }
    sums
}

fn add_product(a: &Tile, b: &Tile, sums: &mut Sums) {
    let number = |bits: u32| f32::from_bits(bits << 16);
    for (a, sums) in a.0.chunks_exact(SIDE).zip(sums.chunks_exact_mut(SIDE)) {
        for (a, b) in a.iter().zip(b.0.chunks_exact(SIDE)) {
            for (b, sum) in b.iter().zip(&mut *sums) {
                *sum += number(a & 0xffff) * number(b & 0xffff);
                *sum += number(a >> 16) * number(b >> 16);
            }
        }
    }
}
