//! Numbers with units and times, for people. static/app.js has the same rules: a page must not change when it wakes up.

/// Stands where there is no value.
pub const NONE: &str = "–";

/// A loss or a norm: about four significant digits, never a bare `0.0000`.
#[must_use]
pub fn number(value: Option<f64>) -> String {
    let Some(value) = value else {
        return NONE.to_owned();
    };
    if !value.is_finite() {
        return "NaN".to_owned();
    }
    let size = value.abs();
    if size == 0.0 {
        return "0".to_owned();
    }
    if !(1e-3..1e6).contains(&size) {
        return format!("{value:.2e}").replace('-', "−");
    }
    let digits = if size >= 100.0 {
        1
    } else if size >= 10.0 {
        2
    } else if size >= 1.0 {
        3
    } else {
        4
    };
    format!("{value:.digits$}")
}

/// `12400` as `12.4k`.
#[must_use]
pub fn count(value: Option<f64>) -> String {
    let Some(value) = value.filter(|value| value.is_finite()) else {
        return NONE.to_owned();
    };
    let (scale, unit) = match value {
        v if v >= 1e9 => (1e9, "B"),
        v if v >= 1e6 => (1e6, "M"),
        v if v >= 1e4 => (1e3, "k"),
        _ => (1.0, ""),
    };
    let scaled = value / scale;
    let digits = usize::from(if unit.is_empty() { value < 10.0 } else { scaled < 100.0 });
    format!("{scaled:.digits$}{unit}")
}

/// `431 MiB`, `7.6 GiB`.
#[must_use]
pub fn bytes(value: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut shown = value as f64;
    let mut unit = 0;
    while shown >= 1000.0 && unit + 1 < UNITS.len() {
        shown /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && shown < 10.0);
    format!("{shown:.digits$} {}", UNITS[unit])
}

/// `1234567` as `1,234,567`.
#[must_use]
pub fn whole(value: i64) -> String {
    let digits = value.unsigned_abs().to_string();
    let mut text = String::from(if value < 0 { "−" } else { "" });
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Seconds as `8 s`, `6 min 12 s`, `1 h 04 min`, `2 d 3 h`.
#[must_use]
pub fn duration(seconds: Option<f64>) -> String {
    let Some(seconds) = seconds.filter(|s| s.is_finite() && (0.0..1e12).contains(s)) else {
        return NONE.to_owned();
    };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
    let s = seconds.round() as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {:02} s", s / 60, s % 60),
        3600..86400 => format!("{} h {:02} min", s / 3600, s % 3600 / 60),
        _ => format!("{} d {} h", s / 86400, s % 86400 / 3600),
    }
}

/// Milliseconds since 1970 as `2026-11-24T07:43:12Z`.
#[must_use]
pub fn iso(ms: i64) -> String {
    let (day, second) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000) / 1000);
    let (year, month, date) = civil(day);
    format!(
        "{year:04}-{month:02}-{date:02}T{:02}:{:02}:{:02}Z",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

/// The same for people, `2026-11-24 07:43 UTC`; scripts replace it by local words.
#[must_use]
pub fn utc(ms: i64) -> String {
    let text = iso(ms);
    format!("{} {} UTC", text.get(..10).unwrap_or_default(), text.get(11..16).unwrap_or_default())
}

/// Days since 1970 as year, month and day (Howard Hinnant's `civil_from_days`).
fn civil(day: i64) -> (i64, i64, i64) {
    let shifted = day + 719_468;
    let era = shifted.div_euclid(146_097);
    let in_era = shifted.rem_euclid(146_097);
    let year = (in_era - in_era / 1460 + in_era / 36_524 - in_era / 146_096) / 365;
    let in_year = in_era - (365 * year + year / 4 - year / 100);
    let month = (5 * in_year + 2) / 153;
    let date = in_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, date)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (value, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 KiB"),
            (512 << 20, "512 MiB"),
            (8_160_437_862, "7.6 GiB"),
            (u64::MAX, "16777216 TiB"),
        ] {
            assert_eq!(bytes(value), expected);
        }
    }

    #[test]
    fn numbers() {
        for (value, expected) in [
            (1.20449, "1.204"),
            (0.0, "0"),
            (12.345, "12.35"),
            (123.45, "123.5"),
            (0.01234, "0.0123"),
            (4.1e-5, "4.10e−5"),
            (2.5e7, "2.50e7"),
            (f64::NAN, "NaN"),
            (-3.5, "-3.500"),
        ] {
            assert_eq!(number(Some(value)), expected);
        }
        assert_eq!(number(None), "–");
    }

    #[test]
    fn counts_and_wholes() {
        for (value, expected) in [
            (3.21, "3.2"),
            (42.4, "42"),
            (9999.0, "9999"),
            (12_400.0, "12.4k"),
            (124_000.0, "124k"),
            (1.35e8, "135M"),
            (2.0e9, "2.0B"),
        ] {
            assert_eq!(count(Some(value)), expected);
        }
        for (value, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1536, "1.5 KiB"),
            (21_000_000, "20 MiB"),
            (8 << 30, "8.0 GiB"),
            (3 << 40, "3.0 TiB"),
        ] {
            assert_eq!(bytes(value), expected);
        }
        for (value, expected) in
            [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567"), (-1000, "−1,000")]
        {
            assert_eq!(whole(value), expected);
        }
    }

    #[test]
    fn durations() {
        for (value, expected) in [
            (0.4, "0 s"),
            (59.4, "59 s"),
            (59.6, "1 min 00 s"),
            (372.0, "6 min 12 s"),
            (3840.0, "1 h 04 min"),
            (183_600.0, "2 d 3 h"),
            (-1.0, "–"),
        ] {
            assert_eq!(duration(Some(value)), expected);
        }
    }

    #[test]
    fn times() {
        for (ms, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400_000, "2000-02-29T00:00:00Z"),
            (1_795_506_192_000, "2026-11-24T07:43:12Z"),
            (-1, "1969-12-31T23:59:59Z"),
        ] {
            assert_eq!(iso(ms), expected);
        }
        assert_eq!(utc(951_782_460_000), "2000-02-29 00:01 UTC");
    }
}
