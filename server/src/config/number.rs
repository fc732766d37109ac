//! Whole numbers as Go reads them in flags: `10`, `0x1f`, `0b11`, `0o17`, `017`, `1_000`.

/// Why a text is no number of a kind, in Go's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumberError {
    /// It is no number.
    Syntax,
    /// It is one, but too small or too large.
    Range,
}

/// Reads a number between two bounds.
pub fn parse(text: &str, min: i128, max: i128) -> Result<i128, NumberError> {
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') if min < 0 => (true, &text[1..]),
        Some(b'+') if min < 0 => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, rest) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    // An underscore stands between digits, or between a prefix and a digit.
    let prefixed = rest.len() < lower.len();
    let underscores = !rest.contains("__") && !rest.ends_with('_') && (prefixed || !rest.starts_with('_'));
    let rest = rest.replace('_', "");
    if !underscores || rest.is_empty() || !rest.chars().all(|digit| digit.is_digit(radix)) {
        return Err(NumberError::Syntax);
    }
    let value = i128::from_str_radix(&rest, radix).map_err(|_| NumberError::Range)?;
    let value = if negative { -value } else { value };
    if value < min || value > max { Err(NumberError::Range) } else { Ok(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_gos() {
        let unsigned = |text| parse(text, 0, u64::MAX.into());
        for (text, expected) in [
            ("0", Ok(0)),
            ("10", Ok(10)),
            ("0x1F", Ok(31)),
            ("0b11", Ok(3)),
            ("0o17", Ok(15)),
            ("017", Ok(15)),
            ("1_000", Ok(1000)),
            ("18446744073709551615", Ok(u64::MAX.into())),
            ("18446744073709551616", Err(NumberError::Range)),
            ("99999999999999999999999999999999999999999999", Err(NumberError::Range)),
            ("", Err(NumberError::Syntax)),
            ("-1", Err(NumberError::Syntax)),
            ("+1", Err(NumberError::Syntax)),
            ("1__0", Err(NumberError::Syntax)),
            ("_1", Err(NumberError::Syntax)),
            ("09", Err(NumberError::Syntax)),
            ("0x", Err(NumberError::Syntax)),
            ("1.5", Err(NumberError::Syntax)),
            ("é", Err(NumberError::Syntax)),
        ] {
            assert_eq!(unsigned(text), expected, "{text}");
        }
        assert_eq!(parse("-0x10", i64::MIN.into(), i64::MAX.into()), Ok(-16));
    }
}
