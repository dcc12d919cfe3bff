//! Numbers as a person reads them.

/// Three significant digits, no exponent: 0.0123, 4.56, 78.9, 1234.
#[must_use]
pub fn short(value: f64) -> String {
    let size = value.abs();
    match size {
        _ if !size.is_finite() => "–".into(),
        _ if size >= 100.0 => format!("{value:.0}"),
        _ if size >= 10.0 => format!("{value:.1}"),
        _ if size >= 1.0 => format!("{value:.2}"),
        0.0 => "0".into(),
        _ if size >= 0.1 => format!("{value:.3}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits() {
        let table = [
            (1234.4, "1234"),
            (78.94, "78.9"),
            (4.557, "4.56"),
            (0.5, "0.500"),
            (0.01234, "0.0123"),
            (0.0, "0"),
        ];
        for (value, expected) in table {
            assert_eq!(short(value), expected);
        }
        assert_eq!(short(f64::NAN), "–");
    }
}
