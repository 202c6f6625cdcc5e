//! Encodings of a page's levels and values.

use std::io::Read;

use serde_json::Value;

use super::super::arrow::text;
use super::Failed;
use super::schema::Physical;

const CUT: &str = "a page is cut short";

/// `count` numbers of `bits` bits, in runs of equal ones and runs of packed ones.
pub(super) fn hybrid(mut bytes: &[u8], bits: u32, count: usize) -> Failed<Vec<u32>> {
    if bits > 32 {
        return Err(format!("numbers of {bits} bits"));
    }
    let mut out = Vec::with_capacity(count);
    let width = bits.div_ceil(8) as usize;
    while out.len() < count {
        let header = varint(&mut bytes)?;
        let left = count - out.len();
        let runs = usize::try_from(header >> 1).map_err(|e| e.to_string())?;
        if header & 1 == 0 {
            let mut value = [0; 4];
            value[..width].copy_from_slice(take(&mut bytes, width)?);
            out.resize(out.len() + runs.min(left), u32::from_le_bytes(value));
            if runs == 0 {
                return Err(CUT.into());
            }
        } else {
            let size = runs.checked_mul(bits as usize).ok_or(CUT)?.min(bytes.len());
            let packed = take(&mut bytes, size)?;
            let values = runs.saturating_mul(8).min(left);
            if packed.len() * 8 < values * bits as usize || runs == 0 {
                return Err(CUT.into());
            }
            out.extend((0..values).map(|i| packed_number(packed, i * bits as usize, bits) as u32));
        }
    }
    Ok(out)
}

/// `bits` bits from bit `at` on, the low ones first.
fn packed_number(bytes: &[u8], at: usize, bits: u32) -> u64 {
    let mut value = 0_u128;
    let (first, shift) = (at / 8, at % 8);
    for (i, byte) in bytes.iter().skip(first).take((shift + bits as usize).div_ceil(8)).enumerate()
    {
        value |= u128::from(*byte) << (8 * i);
    }
    let mask = if bits >= 64 { u64::MAX } else { (1 << bits) - 1 };
    (value >> shift) as u64 & mask
}

pub(super) fn varint(bytes: &mut &[u8]) -> Failed<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("a number is too long".into())
}

pub(super) fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Failed<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count).ok_or(CUT)?;
    *bytes = rest;
    Ok(taken)
}

/// `count` values one after the other.
pub(super) fn plain(
    mut bytes: &[u8],
    physical: Physical,
    unsigned: bool,
    count: usize,
) -> Failed<Vec<Value>> {
    let width = match physical {
        Physical::Bool => {
            if bytes.len() * 8 < count {
                return Err(CUT.into());
            }
            let bit = |i: usize| Value::Bool(bytes[i / 8] >> (i % 8) & 1 == 1);
            return Ok((0..count).map(bit).collect());
        }
        Physical::Bytes => {
            let mut values = Vec::with_capacity(count.min(bytes.len()));
            for _ in 0..count {
                let length = take(&mut bytes, 4)?;
                let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]);
                values.push(text(take(&mut bytes, length as usize)?));
            }
            return Ok(values);
        }
        Physical::Int32 | Physical::Float => 4,
        Physical::Int64 | Physical::Double => 8,
        Physical::Fixed(width) => width,
    };
    if bytes.len() / width < count {
        return Err(CUT.into());
    }
    let values = bytes.chunks_exact(width).take(count);
    Ok(values.map(|bytes| number(bytes, physical, unsigned)).collect())
}

fn number(bytes: &[u8], physical: Physical, unsigned: bool) -> Value {
    let mut wide = [0; 8];
    let length = bytes.len().min(8);
    wide[..length].copy_from_slice(&bytes[..length]);
    let wide = u64::from_le_bytes(wide);
    match physical {
        Physical::Int32 | Physical::Int64 => integer(wide as i64, physical, unsigned),
        Physical::Float => Value::from(f64::from(f32::from_bits(wide as u32))),
        Physical::Double => Value::from(f64::from_bits(wide)),
        // No JSON form, and no text column takes it.
        _ => Value::Bool(true),
    }
}

fn integer(value: i64, physical: Physical, unsigned: bool) -> Value {
    match (physical, unsigned) {
        (Physical::Int32, true) => Value::from(value as u32),
        (Physical::Int32, false) => Value::from(value as i32),
        (_, true) => Value::from(value as u64),
        (_, false) => Value::from(value),
    }
}

/// DELTA_BINARY_PACKED: integers as differences in blocks. Leaves the bytes that follow.
fn deltas(bytes: &mut &[u8], count: usize) -> Failed<Vec<i64>> {
    let block = usize::try_from(varint(bytes)?).map_err(|e| e.to_string())?;
    let minis = usize::try_from(varint(bytes)?).map_err(|e| e.to_string())?;
    let total = usize::try_from(varint(bytes)?).map_err(|e| e.to_string())?;
    let mut value = zigzag(bytes)?;
    if minis == 0 || block == 0 || block % minis != 0 || (block / minis) % 8 != 0 || total > count {
        return Err("a page of differences is damaged".into());
    }
    let mini = block / minis;
    let mut out = Vec::with_capacity(total);
    if total > 0 {
        out.push(value);
    }
    while out.len() < total {
        let least = zigzag(bytes)?;
        let widths = take(bytes, minis)?;
        for width in widths {
            if out.len() >= total {
                break;
            }
            let bits = u32::from(*width);
            if bits > 64 {
                return Err("a page of differences is damaged".into());
            }
            let packed = take(bytes, mini.checked_mul(bits as usize).ok_or(CUT)? / 8)?;
            for i in 0..mini.min(total - out.len()) {
                let delta = packed_number(packed, i * bits as usize, bits) as i64;
                value = value.wrapping_add(least).wrapping_add(delta);
                out.push(value);
            }
        }
    }
    Ok(out)
}

fn zigzag(bytes: &mut &[u8]) -> Failed<i64> {
    let value = varint(bytes)?;
    Ok((value >> 1) as i64 ^ -((value & 1) as i64))
}

/// Values in an encoding other than a dictionary's; `code` is the format's number of it.
pub(super) fn values(
    code: i64,
    mut bytes: &[u8],
    physical: Physical,
    unsigned: bool,
    count: usize,
) -> Failed<Vec<Value>> {
    let lengths = |bytes: &mut &[u8]| -> Failed<Vec<usize>> {
        let lengths = deltas(bytes, count)?;
        lengths.into_iter().map(|n| usize::try_from(n).map_err(|e| e.to_string())).collect()
    };
    let values: Vec<Value> = match (code, physical) {
        (0, _) => return plain(bytes, physical, unsigned, count),
        (3, Physical::Bool) => {
            take(&mut bytes, 4)?;
            hybrid(bytes, 1, count)?.into_iter().map(|bit| Value::Bool(bit == 1)).collect()
        }
        (5, Physical::Int32 | Physical::Int64) => {
            let numbers = deltas(&mut bytes, count)?;
            numbers.into_iter().map(|v| integer(v, physical, unsigned)).collect()
        }
        (6, Physical::Bytes) => {
            let lengths = lengths(&mut bytes)?;
            let texts = lengths.into_iter().map(|length| Ok(text(take(&mut bytes, length)?)));
            texts.collect::<Failed<_>>()?
        }
        (7, Physical::Bytes) => {
            let (prefixes, suffixes) = (lengths(&mut bytes)?, lengths(&mut bytes)?);
            let mut last: Vec<u8> = Vec::new();
            let mut texts = Vec::with_capacity(suffixes.len());
            for (prefix, suffix) in prefixes.into_iter().zip(suffixes) {
                last.truncate(prefix);
                last.extend_from_slice(take(&mut bytes, suffix)?);
                texts.push(text(&last));
            }
            texts
        }
        (9, Physical::Float | Physical::Double | Physical::Int32 | Physical::Int64) => {
            let width = if matches!(physical, Physical::Float | Physical::Int32) { 4 } else { 8 };
            let stride = bytes.len() / width;
            if stride < count {
                return Err(CUT.into());
            }
            let gathered: Vec<u8> = (0..count)
                .flat_map(|i| (0..width).map(move |k| (i, k)))
                .map(|(i, k)| bytes[k * stride + i])
                .collect();
            return plain(&gathered, physical, unsigned, count);
        }
        (other, _) => return Err(format!("encoding number {other} is not supported")),
    };
    if values.len() < count { Err(CUT.into()) } else { Ok(values) }
}

/// A page's bytes; `size` is what they are to be unpacked.
pub(super) fn unpack(codec: i64, packed: &[u8], size: usize) -> Failed<Vec<u8>> {
    let mut out = Vec::new();
    let limit = size as u64 + 1;
    match codec {
        0 => out.extend_from_slice(packed),
        1 => {
            if snap::raw::decompress_len(packed).map_err(|e| e.to_string())? > size {
                return Err("a packed page is longer than it says".into());
            }
            out = snap::raw::Decoder::new().decompress_vec(packed).map_err(|e| e.to_string())?;
        }
        2 => {
            let mut reader = flate2::read::MultiGzDecoder::new(packed).take(limit);
            reader.read_to_end(&mut out).map_err(|e| e.to_string())?;
        }
        6 => {
            let reader = ruzstd::decoding::StreamingDecoder::new(packed);
            let mut reader = reader.map_err(|e| e.to_string())?.take(limit);
            reader.read_to_end(&mut out).map_err(|e| e.to_string())?;
        }
        7 => out = lz4_flex::block::decompress(packed, size).map_err(|e| e.to_string())?,
        other => {
            let name =
                ["", "", "", "LZO", "Brotli", "LZ4 (Hadoop)"].get(other.unsigned_abs() as usize);
            return Err(format!(
                "its pages are packed with {}; save it with snappy, zstd, gzip or none",
                name.unwrap_or(&"an unknown method")
            ));
        }
    }
    if out.len() == size {
        Ok(out)
    } else {
        Err("a packed page has another length than it says".into())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_formats_own_examples() {
        // Bits of the specification's example: 0..7 in three bits each, as one packed run.
        let packed = [0b11, 0b1000_1000, 0b1100_0110, 0b1111_1010];
        assert_eq!(hybrid(&packed, 3, 8).unwrap(), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(hybrid(&[10, 4], 3, 5).unwrap(), [4; 5]);
        // Blocks of 128 in 4 parts, 5 values from 7: 7 5 3 1 2; least difference -2, parts of 2 bits.
        let mut bytes: Vec<u8> = vec![128, 1, 4, 5, 14, 3, 2, 0, 0, 0, 0b1100_0000];
        bytes.extend([0; 7]);
        let check = |bytes: &[u8], expected: Option<&[i64]>| {
            let found = deltas(&mut &*bytes, 5).ok();
            assert_eq!(found.as_deref(), expected);
        };
        check(&bytes, Some(&[7, 5, 3, 1, 2]));
        for end in 0..bytes.len() {
            check(&bytes[..end], None);
        }
        assert!(hybrid(&[0, 4], 3, 5).is_err());
        assert!(hybrid(&[11, 4], 3, 50).is_err());
        assert!(values(8, &[], Physical::Bytes, false, 0).is_err());
        assert!(unpack(4, &[], 0).unwrap_err().contains("Brotli"));
    }
}
