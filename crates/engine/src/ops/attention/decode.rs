//! Attention of new tokens over a cache of keys and values, for generation.

use super::Attention;
use crate::simd::{exp, max, sum, sum2, with_simd};

/// Output [n, h*k] of the last n tokens, queries `q` [n, h*k], over all keys and values [t, g*k].
#[must_use]
pub fn decode(a: &Attention, q: &[f32], k: &[f32], v: &[f32]) -> Vec<f32> {
    let (d, width, kv_width) = (a.head_dim, a.heads * a.head_dim, a.kv_heads * a.head_dim);
    let (n, t) = (q.len() / width, k.len() / kv_width);
    let mut o = vec![0f32; q.len()];
    let mut s = Vec::with_capacity(t);
    for i in 0..n {
        let seen = t - n + i + 1;
        let first = a.window.map_or(0, |w| seen.saturating_sub(w));
        for head in 0..a.heads {
            let column = head / (a.heads / a.kv_heads) * d;
            let at = i * width + head * d;
            let query = &q[at..at + d];
            let out = &mut o[at..at + d];
            with_simd(
                #[inline(always)]
                || {
                    s.clear();
                    for j in first..seen {
                        let key = &k[j * kv_width + column..][..d];
                        let score = a.scale * sum2(query, key, |x, y| x * y);
                        s.push(a.softcap.map_or(score, |cap| cap * crate::simd::tanh(score / cap)));
                    }
                    let peak = max(&s);
                    s.iter_mut().for_each(|x| *x = exp(*x - peak));
                    let inverse = 1.0 / sum(&s);
                    for (p, j) in s.iter().zip(first..) {
                        let value = &v[j * kv_width + column..][..d];
                        for (out, value) in out.iter_mut().zip(value) {
                            *out += p * inverse * value;
                        }
                    }
                },
            );
        }
    }
    o
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::ops::matmul::Precision;
    use crate::ops::testing::random;
    use crate::tensor::view;

    #[test]
    fn last_token_equals_the_full_pass() {
        for (window, softcap) in [(None, None), (Some(7), Some(2.0))] {
            let a = Attention { heads: 4, kv_heads: 2, head_dim: 8, scale: 0.3, window, softcap };
            let (q, k, v) = (random(1, (30, 32)), random(2, (30, 16)), random(3, (30, 16)));
            let full = a.forward(Precision::F32, &q, &k, &v, &[0, 30]).unwrap().o_thk;
            let full = view(&full).unwrap();
            let (q, k, v) = (view(&q).unwrap(), view(&k).unwrap(), view(&v).unwrap());
            let last = decode(&a, &q[28 * 32..], &k, &v);
            for (got, want) in last.iter().zip(&full[28 * 32..]) {
                assert!((got - want).abs() < 1e-5, "{got} {want}");
            }
        }
    }
}
