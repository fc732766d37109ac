//! Sizes as Kubernetes writes them.

const UNITS: [(&str, f64); 13] = [
    ("", 1.0),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
    ("E", 1e18),
    ("Ki", 1024.0),
    ("Mi", 1048576.0),
    ("Gi", 1073741824.0),
    ("Ti", 1099511627776.0),
    ("Pi", 1125899906842624.0),
    ("Ei", 1152921504606846976.0),
];

/// The bytes of a size such as `8Gi`, `1.5G` or `1e9`; `None` for what is none.
pub fn bytes(size: &str) -> Option<f64> {
    let digits = size.trim_end_matches(|unit: char| unit.is_ascii_alphabetic());
    let (_, unit) = UNITS.iter().find(|(unit, _)| *unit == &size[digits.len()..])?;
    let number: f64 = digits.parse().ok()?;
    (number.is_finite() && number >= 0.0).then_some(number * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_compared_by_their_bytes() {
        assert_eq!(bytes("1Gi"), bytes("1024Mi"));
        assert_eq!(bytes("1.5k"), Some(1500.0));
        assert_eq!(bytes("1e9"), bytes("1G"));
        assert!(bytes("1G") < bytes("1Gi"));
        for wrong in ["", "Gi", "many", "1g", "-1Gi", "1 Gi"] {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
    }
}
