//! How values are read from the command line.

use crate::api::Part;
use std::time::Duration;
use wire::units::{BadUnit, parse_duration};

/// Milliseconds of `300ms`, `5s`, `7d`.
pub(super) fn millis(s: &str) -> Result<u64, BadUnit> {
    let d: Duration = parse_duration(s)?;
    u64::try_from(d.as_millis()).map_err(|_| BadUnit::Duration(s.into()))
}

/// `KEY=VALUE`.
pub(super) fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or("write KEY=VALUE, for example max_upload=20M")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// `K/N`, 1 <= K <= N <= 64.
pub(super) fn part(s: &str) -> Result<Part, String> {
    let parsed = s
        .split_once('/')
        .and_then(|(k, n)| Some((k.parse().ok()?, n.parse().ok()?)));
    match parsed {
        Some((k, n)) if (1..=n).contains(&k) && n <= crate::defaults::MAX_PARTS => Ok(Part { k, n }),
        _ => Err(format!(
            "'{s}' is not a part such as 1/2 (of at most {})",
            crate::defaults::MAX_PARTS
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_spans() {
        assert_eq!(part("2/3"), Ok(Part { k: 2, n: 3 }));
        for bad in ["", "1", "0/2", "3/2", "1/65", "a/b", "1/2/3", "-1/2"] {
            assert!(part(bad).is_err(), "{bad}");
        }
        assert_eq!(millis("7d"), Ok(604_800_000));
        assert!(millis("soon").is_err());
    }
}
