//! Which unit multiplies tiles, and the two products that blocks are made of.

use std::sync::LazyLock;

use half::bf16;

use super::Into;
use super::pack::{Limbs, SIDE, Tile, round};

/// Sums of a block: 32 rows of 32.
pub type Sums = [f32; 2 * SIDE * 2 * SIDE];

/// Sums of a tile: row by row.
pub type TileSums = [f32; SIDE * SIDE];

/// Two panels that are as long.
#[derive(Clone, Copy)]
pub struct Panels<'a>(pub &'a [Tile], pub &'a [Tile]);

impl<'a> Panels<'a> {
    /// The first and the last of the panels of `each` tiles that lie one after the other: the same one, where
    /// there is one.
    #[must_use]
    pub fn of(tiles: &'a [Tile], each: usize) -> Self {
        Self(&tiles[..each], &tiles[tiles.len() - each..])
    }
}

/// Where a block's sums go.
#[derive(Clone, Copy)]
pub struct Place {
    /// The first.
    pub start: *mut f32,
    /// Elements from a row to the next.
    pub stride: usize,
    /// Whether they are added to what is there.
    pub into: Into,
    /// Where the next block goes, which the cache is asked for meanwhile; any address will do.
    pub next: *const u8,
    /// Bytes from its rows to the next.
    pub next_stride: usize,
}

/// What multiplies bf16 numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Intel's tile registers.
    #[cfg(target_arch = "x86_64")]
    Amx,
    /// `vdpbf16ps` on 512 bits.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// Arm's `bfdot`.
    #[cfg(target_arch = "aarch64")]
    Neon,
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

    #[cfg(target_arch = "aarch64")]
    fn detect() -> Self {
        if super::neon::detected() { Self::Neon } else { Self::Portable }
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
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
        #[cfg(target_arch = "aarch64")]
        all.extend(super::neon::detected().then_some(Self::Neon));
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
            #[cfg(target_arch = "aarch64")]
            Self::Neon => "NEON BF16",
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
    /// The sums of a left panel or two and a right panel or two, of `each` tiles: 32 x 32 for two and two, which
    /// are whole blocks; else the first `rows` and `cols` of them.
    ///
    /// # Safety
    /// So many elements of the place are nobody else's. They may be uninitialised if they are overwritten.
    ///
    /// # Panics
    /// When the panels differ in length.
    #[expect(unsafe_code, reason = "the destination is a part of a matrix that threads share")]
    pub unsafe fn block(
        &self,
        limbs: Limbs,
        each: usize,
        (a, b): (&[Tile], &[Tile]),
        (rows, cols): (usize, usize),
        place: Place,
    ) {
        let panels = |tiles: &[Tile]| tiles.len() == each || tiles.len() == 2 * each;
        let whole = panels(a) && panels(b) && each.is_multiple_of(limbs.count());
        assert!(whole, "bf16: panels differ");
        // SAFETY: the caller's promise; the panels were checked, and the unit was detected.
        unsafe {
            if rows.min(cols) < 2 * SIDE {
                let sums = self.edge(limbs, each, a, b);
                return write(&sums, 2 * SIDE, (rows, cols), place);
            }
            self.whole(limbs, Panels::of(a, each), Panels::of(b, each), place);
        }
    }

    /// The sums of two left panels and two right ones: 32 x 32.
    ///
    /// # Safety
    /// So many elements of the place are nobody else's. They may be uninitialised if they are overwritten.
    ///
    /// # Panics
    /// When the panels differ in length.
    #[expect(unsafe_code, reason = "as above")]
    pub unsafe fn whole(&self, limbs: Limbs, a: Panels<'_>, b: Panels<'_>, place: Place) {
        let steps = a.0.len().is_multiple_of(limbs.count());
        assert!(steps && [a.1, b.0, b.1].iter().all(|panel| panel.len() == a.0.len()));
        // SAFETY: the caller's promise; the panels were checked, and the unit was detected.
        unsafe {
            match self.kernel {
                #[cfg(target_arch = "x86_64")]
                Kernel::Amx => super::amx::block(limbs, a, b, place),
                #[cfg(target_arch = "x86_64")]
                Kernel::Avx512 => super::avx512::block(limbs, a, b, place),
                #[cfg(target_arch = "aarch64")]
                Kernel::Neon => super::neon::block(limbs, a, b, place),
                Kernel::Portable => {
                    for (i, a) in [a.0, a.1].into_iter().enumerate() {
                        for (j, b) in [b.0, b.1].into_iter().enumerate() {
                            let start = place.start.add(SIDE * (i * place.stride + j));
                            let sums = portable(limbs, a, b);
                            write(&sums, SIDE, (SIDE, SIDE), Place { start, ..place });
                        }
                    }
                }
            }
        }
    }

    /// The sums of panels as [`Unit::block`] takes them; those of panels that are not there may be anything.
    ///
    /// # Safety
    /// The panels are of `each` tiles.
    #[expect(unsafe_code, reason = "vector instructions")]
    unsafe fn edge(&self, limbs: Limbs, each: usize, a: &[Tile], b: &[Tile]) -> Sums {
        #[cfg(target_arch = "x86_64")]
        if self.kernel == Kernel::Amx {
            // SAFETY: the caller's promise; the unit was detected.
            return unsafe { super::amx::edge(limbs, each, a, b) };
        }
        let mut sums = [0f32; 2 * SIDE * 2 * SIDE];
        for (i, a) in a.chunks_exact(each.max(1)).enumerate() {
            for (j, b) in b.chunks_exact(each.max(1)).enumerate() {
                let part = self.tile(limbs, a, b);
                let to = sums.chunks_exact_mut(2 * SIDE).skip(i * SIDE);
                for (to, part) in to.zip(part.chunks_exact(SIDE)) {
                    to[j * SIDE..][..SIDE].copy_from_slice(part);
                }
            }
        }
        sums
    }

    /// The sums of one left panel and one right one.
    fn tile(&self, limbs: Limbs, a: &[Tile], b: &[Tile]) -> TileSums {
        match self.kernel {
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "vector instructions")]
            // SAFETY: the unit was detected.
            Kernel::Avx512 => unsafe { super::avx512::sums(limbs, a, b) },
            #[cfg(target_arch = "aarch64")]
            #[expect(unsafe_code, reason = "vector instructions")]
            // SAFETY: the unit was detected.
            Kernel::Neon => unsafe { super::neon::sums(limbs, a, b) },
            _ => portable(limbs, a, b),
        }
    }
}

/// Writes the first rows and columns of sums, `width` a row.
///
/// # Safety
/// As [`Unit::block`].
#[expect(unsafe_code, reason = "as there")]
unsafe fn write(sums: &[f32], width: usize, (rows, cols): (usize, usize), place: Place) {
    for (r, row) in sums.chunks_exact(width).take(rows).enumerate() {
        for (s, sum) in row.iter().take(cols).enumerate() {
            // SAFETY: the caller's promise.
            unsafe {
                let to = place.start.add(r * place.stride + s);
                match place.into {
                    Into::Overwrite => to.write(*sum),
                    Into::Add => *to += sum,
                }
            }
        }
    }
}

/// Rounds the first `rows` x `cols` of a block's sums to `to`, rows `stride` elements apart.
///
/// # Safety
/// So many elements from `to` on are the caller's.
#[expect(unsafe_code, reason = "the destination is a part of a matrix that threads share")]
pub unsafe fn round_sums(sums: &Sums, (rows, cols): (usize, usize), to: *mut bf16, stride: usize) {
    #[cfg(target_arch = "x86_64")]
    if super::avx512::detected() {
        // SAFETY: the caller's promise; the CPU has the instructions.
        return unsafe { super::avx512::round_sums(sums, (rows, cols), to, stride) };
    }
    for (r, row) in sums.chunks_exact(2 * SIDE).take(rows).enumerate() {
        for (c, sum) in row.iter().take(cols).enumerate() {
            // SAFETY: the caller's promise.
            unsafe { to.add(r * stride + c).write(bf16::from_bits(round(*sum))) };
        }
    }
}

fn portable(limbs: Limbs, a: &[Tile], b: &[Tile]) -> TileSums {
    let mut sums = [0f32; SIDE * SIDE];
    let count = limbs.count();
    for (a, b) in a.chunks_exact(count).zip(b.chunks_exact(count)) {
        for (i, j) in limbs.products() {
            add_product(&a[*i], &b[*j], &mut sums);
        }
    }
    sums
}

fn add_product(a: &Tile, b: &Tile, sums: &mut TileSums) {
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
