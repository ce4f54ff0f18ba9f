//! `resource.Quantity`: exact amounts with a suffix.
//!
//! Source: `k8s.io/apimachinery/pkg/api/resource`. Amounts are kept in billionths, the finest step Kubernetes knows;
//! anything finer is rounded away from zero, and binary amounts beyond ±(2⁶³−1) are brought to that bound, as upstream
//! does. Decimal amounts are bounded at 10²⁸, which upstream does not; nobody has that much of anything.

use std::cmp::Ordering;
use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub, SubAssign};

const NANO: i128 = 1_000_000_000;
const BINARY_BOUND: i128 = i64::MAX as i128 * NANO;
const DECIMAL_BOUND: i128 = 10_i128.pow(28) * NANO;

/// Kubernetes' own words for text that is not a quantity.
pub const MALFORMED: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

/// How an amount is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Format {
    /// `100m`, `5k`.
    #[default]
    Decimal,
    /// `64Mi`.
    Binary,
    /// `1e3`.
    Exponent,
}

/// An exact amount. Equality and order look at the amount only: `1Ki` equals `1024`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

const DECIMAL: [(&str, i32); 9] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15)];
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { nanos: 0, format: Format::Decimal };

    /// Reads `100m`, `1.5Gi`, `1e3`; `None` for anything Kubernetes would refuse ([`MALFORMED`]).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (negative, rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.len() + fraction.len() == 0 || fraction.contains('.') {
            return None;
        }
        let (format, factor, exponent) = unit(suffix)?;
        let amount = scaled(whole, fraction, factor, exponent);
        Some(Self { nanos: if negative { -amount } else { amount }, format }.bounded())
    }

    /// A whole number of units, written with decimal suffixes.
    #[must_use]
    pub fn from_units(units: i64) -> Self {
        Self { nanos: i128::from(units) * NANO, format: Format::Decimal }
    }

    /// Thousandths, written with decimal suffixes: how CPU is counted.
    #[must_use]
    pub fn from_millis(millis: i64) -> Self {
        Self { nanos: i128::from(millis) * (NANO / 1000), format: Format::Decimal }.bounded()
    }

    /// A whole number of units, written with binary suffixes: how memory is counted.
    #[must_use]
    pub fn from_bytes(bytes: i64) -> Self {
        Self { nanos: i128::from(bytes) * NANO, format: Format::Binary }
    }

    /// Thousandths, rounded away from zero.
    #[must_use]
    pub fn millis(&self) -> i64 {
        round(self.nanos, NANO / 1000)
    }

    /// Whole units, rounded away from zero.
    #[must_use]
    pub fn bytes(&self) -> i64 {
        round(self.nanos, NANO)
    }

    /// Roughly, as a floating point number.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "that is what the caller asks for")]
    pub fn as_f64(&self) -> f64 {
        self.nanos as f64 / NANO as f64
    }

    /// Whether it is nothing.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// Whether it is less than nothing.
    #[must_use]
    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    /// Whether it is a whole number of units.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.nanos % NANO == 0
    }

    fn bounded(self) -> Self {
        let bound = if self.format == Format::Binary { BINARY_BOUND } else { DECIMAL_BOUND };
        Self { nanos: self.nanos.clamp(-bound, bound), ..self }
    }
}

/// The format, a factor and a decimal exponent that a suffix means.
fn unit(suffix: &str) -> Option<(Format, i128, i32)> {
    if let Some((_, exponent)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Some((Format::Decimal, 1, *exponent));
    }
    if suffix == "E" {
        return Some((Format::Decimal, 1, 18));
    }
    if let Some(power) = BINARY.iter().position(|name| *name == suffix) {
        return Some((Format::Binary, 1 << (10 * power), 0));
    }
    let digits = suffix.strip_prefix(['e', 'E'])?;
    let unsigned = digits.strip_prefix(['+', '-']).unwrap_or(digits);
    let plain = !unsigned.is_empty() && unsigned.bytes().all(|byte| byte.is_ascii_digit());
    // An exponent beyond any bound is as good as the bound.
    plain.then(|| (Format::Exponent, 1, digits.parse().unwrap_or(if digits.starts_with('-') { -99 } else { 99 })))
}

/// `whole.fraction × factor × 10^exponent` in billionths, rounded up and bounded.
fn scaled(whole: &str, fraction: &str, factor: i128, exponent: i32) -> i128 {
    let digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).map(|byte| byte - b'0').collect();
    let first = digits.iter().position(|&digit| digit != 0).unwrap_or(digits.len());
    let mut shift = i64::from(exponent) + 9 - i64::try_from(fraction.len()).unwrap_or(i64::MAX / 2);
    let mut amount: i128 = 0;
    let mut rest = false;
    for (index, &digit) in digits[first..].iter().enumerate() {
        // So many digits make the largest amount; later ones only say whether to round up.
        if index < 28 {
            amount = amount * 10 + i128::from(digit);
        } else {
            shift += 1;
            rest |= digit != 0;
        }
    }
    amount = amount.saturating_mul(factor);
    while shift > 0 && amount != 0 && amount < DECIMAL_BOUND {
        amount = amount.saturating_mul(10);
        shift -= 1;
    }
    while shift < 0 && amount != 0 {
        rest |= amount % 10 != 0;
        amount /= 10;
        shift += 1;
    }
    amount.saturating_add(i128::from(rest)).min(DECIMAL_BOUND)
}

fn round(nanos: i128, unit: i128) -> i64 {
    let (quotient, remainder) = (nanos / unit, nanos % unit);
    let rounded = quotient + remainder.signum();
    i64::try_from(rounded).unwrap_or(if rounded < 0 { i64::MIN } else { i64::MAX })
}

/// The one canonical spelling: no fraction, the largest suffix that keeps it exact.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        if self.format == Format::Binary && self.is_whole() && self.nanos.abs() >= 1024 * NANO {
            let (mut amount, mut power) = (self.nanos / NANO, 0);
            while amount % 1024 == 0 && power + 1 < BINARY.len() {
                amount /= 1024;
                power += 1;
            }
            return write!(f, "{amount}{}", BINARY[power]);
        }
        let (mut amount, mut exponent) = (self.nanos, -9);
        while amount % 1000 == 0 && exponent < 18 {
            amount /= 1000;
            exponent += 3;
        }
        match (self.format, exponent) {
            (Format::Exponent, 0) => write!(f, "{amount}"),
            (Format::Exponent, _) => write!(f, "{amount}e{exponent}"),
            (_, 18) => write!(f, "{amount}E"),
            _ => {
                let suffix = DECIMAL.iter().find(|(_, at)| *at == exponent).map_or("", |(suffix, _)| suffix);
                write!(f, "{amount}{suffix}")
            }
        }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

/// Sums are written like their first term that is not nothing.
impl Add for Quantity {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: self.nanos + other.nanos, format }.bounded()
    }
}

impl Sub for Quantity {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: self.nanos - other.nanos, format }.bounded()
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(terms: I) -> Self {
        terms.fold(Self::ZERO, Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantity(text: &str) -> Quantity {
        Quantity::parse(text).unwrap_or_else(|| panic!("{text}"))
    }

    /// Right column: what `kubectl create quota --hard=cpu=…` of 1.33 makes of the left one, where it rewrites it.
    #[test]
    fn one_canonical_spelling() {
        for (text, canonical) in [
            ("0", "0"),
            ("0Ki", "0"),
            ("100m", "100m"),
            ("0.1", "100m"),
            (".5", "500m"),
            ("1.", "1"),
            ("1000m", "1"),
            ("1000", "1k"),
            ("1500", "1500"),
            ("+1", "1"),
            ("-0.5", "-500m"),
            ("1024", "1024"),
            ("1024Ki", "1Mi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Ki", "512"),
            ("0.5Gi", "512Mi"),
            ("100Ki", "100Ki"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("12e-1", "1200e-3"),
            ("1E", "1E"),
            ("1Ei", "1Ei"),
            ("1n", "1n"),
            ("0.1n", "1n"),
            ("1u", "1u"),
            ("9Ei", "9223372036854775807"),
            ("99999999999999999999999", "99999999999999999999999"),
            ("1e19", "10e18"),
            ("1e99", "10000000000e18"),
            ("1.23456789012", "1234567891n"),
            ("0.0000000001Gi", "107374183n"),
            ("1.1Ki", "1126400m"),
            ("0.001Ki", "1024m"),
            ("1000000Mi", "1000000Mi"),
            ("-1Gi", "-1Gi"),
            ("-0.5n", "-1n"),
            ("10E1", "100"),
            ("1e-99999999999999999999", "1e-9"),
        ] {
            assert_eq!(quantity(text).to_string(), canonical, "{text}");
            assert_eq!(quantity(canonical), quantity(text), "{text}");
        }
        for bad in ["", "-", "m", "1.2.3", "1 Gi", "1gi", "1KI", "0x10", "1e", "1e+", "١", "1mm", "1i"] {
            assert!(Quantity::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn numbers_are_rounded_up_as_the_scheduler_expects() {
        assert_eq!(quantity("1.0001").millis(), 1001);
        assert_eq!(quantity("100m").bytes(), 1);
        assert_eq!(quantity("64Mi").bytes(), 64 << 20);
        assert_eq!(quantity("2").millis(), 2000);
        assert_eq!(quantity("9Ei").millis(), i64::MAX);
        assert_eq!(quantity("0.1") + quantity("200m"), quantity("0.3"));
        assert_eq!((Quantity::ZERO + quantity("1Gi")).to_string(), "1Gi");
        assert!(quantity("1Gi") > quantity("1G"));
    }
}
