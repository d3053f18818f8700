//! Quantities of Kubernetes as numbers, to compare and to count with.

/// A quantity in its base unit, such as `500m`, `1Gi`, `2e3`; none where it is none.
pub fn quantity(text: &str) -> Option<f64> {
    let text = text.trim();
    let units = [
        ("Ki", 1024.0),
        ("Mi", 1024f64.powi(2)),
        ("Gi", 1024f64.powi(3)),
        ("Ti", 1024f64.powi(4)),
        ("Pi", 1024f64.powi(5)),
        ("Ei", 1024f64.powi(6)),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("E", 1e18),
    ];
    // An `E` may be an exponent, so the plain number is tried first.
    let plain = text.parse::<f64>().ok();
    let scaled = || {
        units.iter().find_map(|(unit, factor)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * factor))
    };
    plain.or_else(scaled).filter(|number| number.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read() {
        let cases = [
            ("2", Some(2.0)),
            ("500m", Some(0.5)),
            ("1Gi", Some(1_073_741_824.0)),
            ("1e3", Some(1000.0)),
            ("3E", Some(3e18)),
            ("1G", Some(1e9)),
            ("", None),
            ("Gi", None),
            ("inf", None),
            ("many", None),
        ];
        for (text, number) in cases {
            assert_eq!(quantity(text), number, "{text}");
        }
    }
}
