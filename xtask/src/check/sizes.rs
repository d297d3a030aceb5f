//! Lines a file.

/// From here a file needs a thought: reported, not refused.
pub const THOUGHT: usize = 500;
/// The end.
pub const END: usize = 700;

/// What is said of a file of so many lines, if anything; true if it fails the check.
pub fn complaint(path: &str, lines: usize) -> Option<(bool, String)> {
    match lines {
        _ if lines > END => Some((true, format!("{path} has {lines} lines; {END} is the end"))),
        _ if lines > THOUGHT => Some((
            false,
            format!("{path} has {lines} lines; above {THOUGHT}, think of a cut"),
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_are_inclusive() {
        assert_eq!(complaint("a", THOUGHT), None);
        assert!(!complaint("a", END).unwrap().0);
        assert!(complaint("a", END + 1).unwrap().0);
    }
}
