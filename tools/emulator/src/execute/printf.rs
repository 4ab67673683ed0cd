//! `printf` in kernels: formats as C does, what does not fit into the buffer of a launch pushes out the oldest.

use std::collections::VecDeque;
use std::io::{self, Write};

/// What the threads of a launch have printed, in the order in which they did.
pub(crate) struct Printed {
    texts: VecDeque<Vec<u8>>,
    bytes: usize,
    most: usize,
}

impl Printed {
    /// Room for so many bytes.
    pub fn new(most: usize) -> Self {
        Self { texts: VecDeque::new(), bytes: 0, most }
    }

    /// Adds what one thread printed with one call.
    pub fn push(&mut self, text: Vec<u8>) {
        self.bytes += text.len();
        self.texts.push_back(text);
        while self.bytes > self.most {
            let Some(oldest) = self.texts.pop_front() else { break };
            self.bytes -= oldest.len();
        }
    }

    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    pub fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        self.texts.iter().try_for_each(|text| to.write_all(text))?;
        to.flush()
    }
}

/// The memory that values and texts are read from, by generic addresses.
pub(super) trait Source {
    /// Up to 8 bytes, the lowest first; `None` where there is nothing.
    fn bytes(&self, address: u64, bytes: usize) -> Option<u64>;
    /// A text up to its zero byte; `None` where there is none.
    fn text(&self, address: u64) -> Option<Vec<u8>>;
}

/// One conversion: `%-8.3lld` and the like.
#[derive(Default)]
struct Conversion {
    left: bool,
    plus: bool,
    space: bool,
    alternate: bool,
    zeros: bool,
    width: usize,
    precision: Option<usize>,
    /// Bytes of an integer.
    bytes: usize,
    kind: u8,
}

/// The widest field: more is a mistake in the format.
const WIDEST: usize = 1 << 16;

/// The values that a format takes, one behind the other, each aligned to its size (CUDA C++ Programming Guide,
/// "Formatted Output").
struct Values<'s> {
    source: &'s dyn Source,
    at: u64,
    count: i32,
}

impl Values<'_> {
    fn next(&mut self, bytes: u64) -> u64 {
        let at = self.at.next_multiple_of(bytes);
        self.at = at + bytes;
        self.count += 1;
        self.source.bytes(at, bytes as usize).unwrap_or(0)
    }
}

/// The text of a format and of the values at an address, and how many values it took.
pub(super) fn format(template: &[u8], values: u64, source: &dyn Source) -> (Vec<u8>, i32) {
    let mut values = Values { source, at: values, count: 0 };
    let (mut out, mut at) = (Vec::new(), 0);
    while let Some(&byte) = template.get(at) {
        if byte != b'%' {
            out.push(byte);
            at += 1;
            continue;
        }
        match conversion(&template[at + 1..], &mut values) {
            Some((conversion, length)) => {
                conversion.write(&mut values, &mut out);
                at += 1 + length;
            }
            // What is no conversion is printed as it is.
            None => {
                out.push(b'%');
                at += 1;
            }
        }
    }
    (out, values.count)
}

/// A conversion behind its `%`, and its length.
fn conversion(text: &[u8], values: &mut Values<'_>) -> Option<(Conversion, usize)> {
    let mut it = Conversion { bytes: 4, ..Conversion::default() };
    let mut at = 0;
    loop {
        match text.get(at)? {
            b'-' => it.left = true,
            b'+' => it.plus = true,
            b' ' => it.space = true,
            b'#' => it.alternate = true,
            b'0' => it.zeros = true,
            _ => break,
        }
        at += 1;
    }
    let figure = |at: &mut usize, values: &mut Values<'_>| -> i64 {
        if text.get(*at) == Some(&b'*') {
            *at += 1;
            return i64::from(values.next(4) as i32);
        }
        let mut n = 0i64;
        while let Some(digit @ b'0'..=b'9') = text.get(*at) {
            n = (10 * n + i64::from(digit - b'0')).min(WIDEST as i64);
            *at += 1;
        }
        n
    };
    let width = figure(&mut at, values);
    it.left |= width < 0;
    it.width = (width.unsigned_abs() as usize).min(WIDEST);
    if text.get(at) == Some(&b'.') {
        at += 1;
        // A negative precision is none.
        it.precision = usize::try_from(figure(&mut at, values)).ok().map(|n| n.min(WIDEST));
    }
    loop {
        match text.get(at)? {
            b'h' => it.bytes = if it.bytes == 2 { 1 } else { 2 },
            b'l' | b'j' | b'z' | b't' => it.bytes = 8,
            _ => break,
        }
        at += 1;
    }
    it.kind = text[at];
    b"diouxXcspeEfFgGaA%".contains(&it.kind).then_some((it, at + 1))
}

impl Conversion {
    fn write(&self, values: &mut Values<'_>, out: &mut Vec<u8>) {
        match self.kind {
            b'%' => out.push(b'%'),
            b'c' => self.pad(b"", &[values.next(4) as u8], false, out),
            b's' => {
                let address = values.next(8);
                let text = values.source.text(address).unwrap_or_else(|| b"(null)".to_vec());
                let kept = self.precision.unwrap_or(usize::MAX).min(text.len());
                self.pad(b"", &text[..kept], false, out);
            }
            b'p' => {
                let address = values.next(8);
                let text = if address == 0 { "(nil)".to_owned() } else { format!("{address:#x}") };
                self.pad(b"", text.as_bytes(), false, out);
            }
            b'd' | b'i' | b'o' | b'u' | b'x' | b'X' => self.integer(values, out),
            _ => self.float(f64::from_bits(values.next(8)), out),
        }
    }

    fn sign(&self, negative: bool) -> &'static [u8] {
        match (negative, self.plus, self.space) {
            (true, ..) => b"-",
            (_, true, _) => b"+",
            (_, _, true) => b" ",
            _ => b"",
        }
    }

    fn integer(&self, values: &mut Values<'_>, out: &mut Vec<u8>) {
        // Integers of fewer than 32 bits are passed as such of 32.
        let bits = values.next(self.bytes.max(4) as u64);
        let unused = 64 - 8 * self.bytes as u32;
        let (unsigned, signed) = (bits << unused >> unused, (bits << unused) as i64 >> unused);
        let (mut prefix, digits) = match self.kind {
            b'd' | b'i' => (self.sign(signed < 0), signed.unsigned_abs().to_string()),
            b'o' => (&b""[..], format!("{unsigned:o}")),
            b'x' => (&b"0x"[..], format!("{unsigned:x}")),
            b'X' => (&b"0X"[..], format!("{unsigned:X}")),
            _ => (&b""[..], unsigned.to_string()),
        };
        if matches!(self.kind, b'x' | b'X') && (!self.alternate || unsigned == 0) {
            prefix = b"";
        }
        let least = match self.precision {
            Some(0) if unsigned == 0 && !(self.kind == b'o' && self.alternate) => {
                return self.pad(prefix, b"", false, out);
            }
            Some(least) => least,
            None => 1,
        };
        let octal_zero = self.kind == b'o' && self.alternate && unsigned != 0;
        let least = if octal_zero { least.max(digits.len() + 1) } else { least };
        self.pad(prefix, format!("{digits:0>least$}").as_bytes(), self.precision.is_none(), out);
    }

    fn float(&self, value: f64, out: &mut Vec<u8>) {
        let upper = self.kind.is_ascii_uppercase();
        let sign = self.sign(value.is_sign_negative());
        let magnitude = value.abs();
        let mut text = match self.kind.to_ascii_lowercase() {
            _ if value.is_nan() => "nan".to_owned(),
            _ if value.is_infinite() => "inf".to_owned(),
            b'f' => self.point(format!("{magnitude:.*}", self.precision.unwrap_or(6))),
            b'e' => self.exponential(magnitude, self.precision.unwrap_or(6)),
            b'g' => self.general(magnitude),
            _ => hexadecimal(magnitude, self.precision),
        };
        if upper {
            text.make_ascii_uppercase();
        }
        self.pad(sign, text.as_bytes(), value.is_finite(), out);
    }

    /// With a decimal point, if it is asked for where no digits follow.
    fn point(&self, mut text: String) -> String {
        if self.alternate && !text.contains('.') {
            text.push('.');
        }
        text
    }

    /// C's exponents have a sign and two digits at least.
    fn exponential(&self, magnitude: f64, precision: usize) -> String {
        let text = format!("{magnitude:.precision$e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let exponent: i32 = exponent.parse().unwrap_or(0);
        let digits = self.point(digits.to_owned());
        format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
    }

    fn general(&self, magnitude: f64) -> String {
        let precision = self.precision.unwrap_or(6).max(1);
        let rounded = format!("{magnitude:.*e}", precision - 1);
        let exponent: i32 = rounded.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
        let text = if exponent < -4 || exponent >= precision as i32 {
            self.exponential(magnitude, precision - 1)
        } else {
            self.point(format!("{magnitude:.*}", (precision as i32 - 1 - exponent) as usize))
        };
        if self.alternate || !text.contains('.') {
            return text;
        }
        let (digits, exponent) = text.find('e').map_or((&text[..], ""), |at| text.split_at(at));
        format!("{}{exponent}", digits.trim_end_matches('0').trim_end_matches('.'))
    }

    /// Fills a field: with zeros behind the sign, or with blanks.
    fn pad(&self, prefix: &[u8], text: &[u8], may_have_zeros: bool, out: &mut Vec<u8>) {
        let fill = self.width.saturating_sub(prefix.len() + text.len());
        let zeros = self.zeros && may_have_zeros && !self.left;
        if !self.left && !zeros {
            out.resize(out.len() + fill, b' ');
        }
        out.extend_from_slice(prefix);
        if zeros {
            out.resize(out.len() + fill, b'0');
        }
        out.extend_from_slice(text);
        if self.left {
            out.resize(out.len() + fill, b' ');
        }
    }
}

/// `%a`: a hexadecimal fraction and a power of two.
fn hexadecimal(magnitude: f64, precision: Option<usize>) -> String {
    let bits = magnitude.to_bits();
    let (field, mut fraction) = ((bits >> 52) as i32, bits & ((1 << 52) - 1));
    let mut lead = u64::from(field != 0);
    let exponent = match (field, fraction) {
        (0, 0) => 0,
        (0, _) => -1022,
        _ => field - 1023,
    };
    if let Some(kept) = precision.filter(|&n| n < 13) {
        let drop = 52 - 4 * kept as u32;
        let whole = lead << 52 | fraction;
        let (low, half) = (whole & ((1 << drop) - 1), 1u64 << (drop - 1));
        let up = low > half || low == half && whole >> drop & 1 != 0;
        let whole = ((whole >> drop) + u64::from(up)) << drop;
        (lead, fraction) = (whole >> 52, whole & ((1 << 52) - 1));
    }
    let digits = format!("{fraction:013x}");
    let digits = match precision {
        Some(n) => format!("{digits:0<n$}")[..n].to_owned(),
        None => digits.trim_end_matches('0').to_owned(),
    };
    let point = if digits.is_empty() { "" } else { "." };
    format!("0x{lead}{point}{digits}p{exponent:+}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values at their offsets; texts behind 1000.
    struct Words(Vec<u8>, Vec<u8>);

    impl Source for Words {
        fn bytes(&self, address: u64, bytes: usize) -> Option<u64> {
            let mut value = [0; 8];
            value[..bytes].copy_from_slice(self.0.get(address as usize..address as usize + bytes)?);
            Some(u64::from_le_bytes(value))
        }

        fn text(&self, address: u64) -> Option<Vec<u8>> {
            (address == 1000).then(|| self.1.clone())
        }
    }

    fn printed(template: &str, values: &[u64], bytes: &[usize]) -> String {
        let mut packed: Vec<u8> = Vec::new();
        for (value, &size) in values.iter().zip(bytes) {
            packed.resize(packed.len().next_multiple_of(size), 0xee);
            packed.extend_from_slice(&value.to_le_bytes()[..size]);
        }
        let (text, count) = format(template.as_bytes(), 0, &Words(packed, b"hello".to_vec()));
        assert_eq!(count as usize, values.len(), "{template}");
        String::from_utf8(text).unwrap()
    }

    /// Each line is what glibc's printf gives.
    #[test]
    fn integers_texts_and_characters_as_c_formats_them() {
        let minus = -42i32 as u32 as u64;
        for (template, value, size, wanted) in [
            ("%d|%%", minus, 4, "-42|%"),
            ("%5i|", minus, 4, "  -42|"),
            ("%-5d|", minus, 4, "-42  |"),
            ("%06d|", minus, 4, "-00042|"),
            ("%.5d|", minus, 4, "-00042|"),
            ("%08.5d|", minus, 4, "  -00042|"),
            ("%+d|", 42, 4, "+42|"),
            ("% d|", 42, 4, " 42|"),
            ("%.0d|", 0, 4, "|"),
            ("%u", minus, 4, "4294967254"),
            ("%x", minus, 4, "ffffffd6"),
            ("%#X", minus, 4, "0XFFFFFFD6"),
            ("%#x", 0, 4, "0"),
            ("%o", 8, 4, "10"),
            ("%#o", 8, 4, "010"),
            ("%#o", 0, 4, "0"),
            ("%#.3o|", 8, 4, "010|"),
            ("%hhd", 0x1ff, 4, "-1"),
            ("%hu", 0x1_0005, 4, "5"),
            ("%lld", u64::MAX, 8, "-1"),
            ("%llu", u64::MAX, 8, "18446744073709551615"),
            ("%ld", i64::MIN as u64, 8, "-9223372036854775808"),
            ("%zx", 1 << 40, 8, "10000000000"),
            ("%c|", 65, 4, "A|"),
            ("%3c|", 65, 4, "  A|"),
            ("%s|", 1000, 8, "hello|"),
            ("%8s|", 1000, 8, "   hello|"),
            ("%-8s|", 1000, 8, "hello   |"),
            ("%.3s|", 1000, 8, "hel|"),
            ("%s|", 0, 8, "(null)|"),
            ("%p", 0xdead_beef, 8, "0xdeadbeef"),
        ] {
            assert_eq!(printed(template, &[value], &[size]), wanted, "{template}");
        }
        assert_eq!(
            printed("%*d|%-*d|%.*f", &[5, 7, 4, 8, 2, 1.5f64.to_bits()], &[4, 4, 4, 4, 4, 8]),
            "    7|8   |1.50"
        );
        assert_eq!(printed("%d %lld %d", &[1, 2, 3], &[4, 8, 4]), "1 2 3");
        assert_eq!(printed("100%! %q %", &[], &[]), "100%! %q %");
    }

    #[test]
    fn floats_as_c_formats_them() {
        for (template, value, wanted) in [
            ("%f", 1.5, "1.500000"),
            ("%f", -0.0, "-0.000000"),
            ("%.0f", 2.5, "2"),
            ("%#.0f", 2.5, "2."),
            ("%.3f", 0.0005, "0.001"),
            ("%10.2f|", 2.24159, "      2.24|"),
            ("%-10.2f|", 2.24159, "2.24      |"),
            ("%010.2f|", -2.24159, "-000002.24|"),
            ("%e", 12345.678, "1.234568e+04"),
            ("%.0e", 1e-300, "1e-300"),
            ("%E", 0.0, "0.000000E+00"),
            ("%g", 0.0001, "0.0001"),
            ("%g", 0.00001, "1e-05"),
            ("%g", 123456.0, "123456"),
            ("%g", 1234567.0, "1.23457e+06"),
            ("%g", 999999.5, "1e+06"),
            ("%g", 100.0, "100"),
            ("%.3g", 0.0, "0"),
            ("%#g", 1.0, "1.00000"),
            ("%G", 1e20, "1E+20"),
            ("%5g|", f64::INFINITY, "  inf|"),
            ("%05f|", f64::NEG_INFINITY, " -inf|"),
            ("%F", f64::NAN, "NAN"),
            ("%a", 1.0, "0x1p+0"),
            ("%a", 0.1, "0x1.999999999999ap-4"),
            ("%.2a", 1.999, "0x2.00p+0"),
        ] {
            assert_eq!(printed(template, &[f64::to_bits(value)], &[8]), wanted, "{template} of {value:?}");
        }
    }

    #[test]
    fn the_oldest_goes_when_the_buffer_is_full() {
        let mut printed = Printed::new(10);
        ["abcd", "efgh", "ij", "k"].into_iter().for_each(|text| printed.push(text.into()));
        let mut out = Vec::new();
        printed.write(&mut out).unwrap();
        assert_eq!(out, b"efghijk");
        printed.push(vec![b'x'; 11]);
        assert!(printed.is_empty());
    }
}
