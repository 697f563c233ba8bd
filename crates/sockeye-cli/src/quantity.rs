//! Numbers as people write and read them: sizes, counts, durations.

use std::{fmt, num::IntErrorKind, ops::AddAssign, time::Duration};

/// A number with its thousands apart.
pub(crate) struct Whole(pub(crate) u64);

impl fmt::Display for Whole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        let mut text = String::with_capacity(digits.len() * 4 / 3);
        for (at, digit) in digits.chars().enumerate() {
            if at > 0 && (digits.len() - at).is_multiple_of(3) {
                text.push(',');
            }
            text.push(digit);
        }
        f.pad(&text)
    }
}

/// How many messages, and how many bytes were in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

impl Traffic {
    pub(crate) fn add(&mut self, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes as u64;
    }
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.messages += other.messages;
        self.bytes += other.bytes;
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { messages, bytes } = *self;
        write!(f, "{} ({} B)", Messages(messages), Whole(bytes))
    }
}

/// How many messages.
pub(crate) struct Messages(pub(crate) u64);

impl fmt::Display for Messages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.0 == 1 { "" } else { "s" };
        write!(f, "{} message{plural}", Whole(self.0))
    }
}

/// A duration in the unit that suits it.
pub(crate) struct Took(pub(crate) Duration);

impl fmt::Display for Took {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match seconds {
            0 if self.0.as_micros() < 10_000 => {
                write!(f, "{:.2} ms", self.0.as_secs_f64() * 1e3)
            }
            0 => write!(f, "{} ms", self.0.as_millis()),
            1..60 => write!(f, "{:.1} s", self.0.as_secs_f64()),
            60..3600 => write!(f, "{} min {} s", seconds / 60, seconds % 60),
            _ => write!(f, "{} h {} min", seconds / 3600, seconds / 60 % 60),
        }
    }
}

/// Reads a size in bytes: `65536`, `64K`, `16MiB`.
pub(crate) fn parse_size(text: &str) -> Result<usize, String> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let unit = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        _ => return Err("a size is a number of bytes, or of K, M or G, such as 64M".into()),
    };
    if digits.bytes().all(|digit| digit == b'0') {
        return Err("a size is a positive number, such as 65536 or 64M".into());
    }
    let size = digits.parse::<usize>().ok();
    size.and_then(|number| number.checked_mul(unit))
        .ok_or_else(|| "that is more than a machine has".into())
}

/// Reads a whole number: `100`.
pub(crate) fn parse_count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) => Ok(count),
        Err(error) if *error.kind() == IntErrorKind::PosOverflow => {
            Err("that is more than is counted".into())
        }
        Err(_) => Err("a whole number is needed, such as 100".into()),
    }
}

/// Reads a number of seconds: `2`, `0.5`.
pub(crate) fn parse_seconds(text: &str) -> Result<Duration, String> {
    // What a timer can hold; nobody waits longer.
    const YEAR: f64 = 365.0 * 24.0 * 3600.0;
    match text.parse::<f64>() {
        Ok(seconds) if seconds > YEAR => {
            return Err("that is more than a year, 31536000 seconds".into());
        }
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => None,
    }
    .ok_or_else(|| "a number of seconds is needed, such as 2 or 0.5".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_stand_apart() {
        let shown = |number| Whole(number).to_string();
        assert_eq!(shown(0), "0");
        assert_eq!(shown(999), "999");
        assert_eq!(shown(1000), "1,000");
        assert_eq!(shown(16_777_216), "16,777,216");
    }

    #[test]
    fn a_duration_has_the_unit_that_suits_it() {
        let shown = |millis| Took(Duration::from_millis(millis)).to_string();
        assert_eq!(Took(Duration::from_micros(123)).to_string(), "0.12 ms");
        assert_eq!(shown(12), "12 ms");
        assert_eq!(shown(1_250), "1.2 s");
        assert_eq!(shown(61_000), "1 min 1 s");
        assert_eq!(shown(7_320_000), "2 h 2 min");
    }

    #[test]
    fn sizes_are_read_with_and_without_a_unit() {
        assert_eq!(parse_size("65536"), Ok(65_536));
        assert_eq!(parse_size("64K"), Ok(65_536));
        assert_eq!(parse_size("1 MiB"), Ok(1 << 20));
        for wrong in [
            "",
            "0",
            "M",
            "-1",
            "1T",
            "1.5M",
            "99999999999999999999",
            "99999999999G",
        ] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
        let told = |text| parse_size(text).unwrap_err();
        assert!(told("99999999999G").contains("more than a machine has"));
        assert!(told("0").contains("positive"));
    }

    #[test]
    fn a_count_is_whole() {
        assert_eq!(parse_count("0"), Ok(0));
        assert_eq!(parse_count("65536"), Ok(65_536));
        for wrong in ["", "-1", "1.5", "1K", "many"] {
            assert!(parse_count(wrong).unwrap_err().contains("whole number"));
        }
        let told = parse_count("99999999999999999999").unwrap_err();
        assert!(told.contains("more than is counted"));
    }

    #[test]
    fn seconds_are_read_with_a_fraction() {
        assert_eq!(parse_seconds("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_seconds("0"), Ok(Duration::ZERO));
        for wrong in ["", "-1", "nan", "inf", "1e300", "soon"] {
            assert!(parse_seconds(wrong).is_err(), "{wrong}");
        }
    }
}
