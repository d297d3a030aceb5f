//! Counts from what libtest prints.

/// Tests by outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Ran and held.
    pub passed: u64,
    /// Ran and did not hold, or did not run to a result.
    pub failed: u64,
    /// Could not run here; each said why.
    pub skipped: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, o: Self) {
        self.passed += o.passed;
        self.failed += o.failed;
        self.skipped += o.skipped;
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// One command that either holds or not, such as clippy.
pub fn one(ok: bool) -> Tally {
    Tally {
        passed: u64::from(ok),
        failed: u64::from(!ok),
        skipped: 0,
    }
}

/// Reads the output of one or more libtest binaries run with `--show-output`. A test that prints a line `skipped: …` and
/// passes counts as skipped. If `ok` is false though no test failed, something broke before or beside the tests: that
/// is one failure.
pub fn libtest(output: &str, ok: bool) -> Tally {
    let mut t = Tally::default();
    for line in output.lines() {
        if let Some(rest) = line.strip_prefix("test result: ") {
            t.passed += count(rest, "passed");
            t.failed += count(rest, "failed");
            t.skipped += count(rest, "ignored");
        }
    }
    let skipped = skips(output).len() as u64;
    t.passed = t.passed.saturating_sub(skipped);
    t.skipped += skipped;
    if !ok && t.failed == 0 {
        t.failed = 1;
    }
    t
}

/// The reasons that tests gave for not running.
pub fn skips(output: &str) -> Vec<&str> {
    output.lines().filter_map(|l| l.strip_prefix("skipped: ")).collect()
}

/// The part that says which tests failed and why.
pub fn failures(output: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for line in output.lines() {
        inside = match line {
            "failures:" => true,
            l if l.starts_with("test result:") => false,
            _ => inside,
        };
        if inside || line.starts_with("error") || line.contains("signal:") {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

/// The number before `word` in `ok. 15 passed; 0 failed; …`.
fn count(result: &str, word: &str) -> u64 {
    let parts = result.split([';', '.']).map(str::trim);
    let n = parts
        .filter_map(|p| p.strip_suffix(word))
        .find_map(|n| n.trim().parse().ok());
    n.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "running 3 tests
skipped: lab-home: missing root
test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.33s

failures:

---- a stdout ----
it broke

failures:
    a

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 2 filtered out; finished in 1.00s
";

    #[test]
    fn results_of_several_binaries_add_up_and_skipped_tests_did_not_pass() {
        let want = Tally {
            passed: 3,
            failed: 1,
            skipped: 2,
        };
        assert_eq!(libtest(TWO, false), want);
        assert_eq!(want.to_string(), "3 passed, 1 failed, 2 skipped");
        assert!(failures(TWO).contains("it broke"));
        assert_eq!(skips(TWO), ["lab-home: missing root"]);
    }

    #[test]
    fn a_runner_that_fails_without_a_failed_test_is_a_failure() {
        assert_eq!(libtest("error: could not compile", false), one(false));
    }
}
