//! Durations as Go writes them: `1h30m`, `5s`, `1.5s`, `300ms`.

use std::time::Duration;

/// Reads a duration that is not negative; `None` if it is none.
pub fn parse(text: &str) -> Option<Duration> {
    let text = text.strip_prefix('+').unwrap_or(text);
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut nanoseconds = 0f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit_length = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..unit_length] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        nanoseconds += number * unit;
        rest = &rest[unit_length..];
    }
    let in_range = !text.is_empty() && nanoseconds <= i64::MAX as f64;
    in_range.then(|| Duration::from_nanos(nanoseconds.round() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_writes() {
        for (text, milliseconds) in
            [("0", 0), ("0s", 0), ("300ms", 300), ("1.5s", 1500), ("1h30m", 5_400_000), ("1m0.5s", 60_500)]
        {
            assert_eq!(parse(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "5", "s", "-1s", "1x", "1 s", "1..5s", "9999999999h"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
