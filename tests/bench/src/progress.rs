//! One line on the terminal that says what is going on; where there is no terminal, a line now and then.

use std::io::{IsTerminal, Write};
use std::time::Instant;

#[derive(Debug, Clone)]
pub struct Progress {
    is_terminal: bool,
    label: String,
    began: Instant,
}

impl Progress {
    pub fn new() -> Self {
        Self { is_terminal: std::io::stderr().is_terminal(), label: String::new(), began: Instant::now() }
    }

    /// The same line with something else before what is shown.
    pub fn labelled(&self, label: String) -> Self {
        Self { label, ..self.clone() }
    }

    pub fn label(&self) -> &str {
        &self.label
    }

    /// Something that takes its time begins.
    pub fn step(&self, what: &str) {
        if self.is_terminal {
            self.show(what);
        } else {
            self.line(&format!("{}, {what}", self.label));
        }
    }

    /// Shows how it goes.
    pub fn show(&self, what: &str) {
        if self.is_terminal {
            let seconds = self.began.elapsed().as_secs();
            let _ = write!(std::io::stderr(), "\r\x1b[K{:3}:{:02}  {}  {what}", seconds / 60, seconds % 60, self.label);
            let _ = std::io::stderr().flush();
        }
    }

    /// Ends what is shown with a line that stays.
    pub fn line(&self, text: &str) {
        let clear = if self.is_terminal { "\r\x1b[K" } else { "" };
        let _ = writeln!(std::io::stderr(), "{clear}{text}");
    }
}

/// 1234567 as 1,234,567.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn digits_are_grouped_by_thousands() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(super::grouped(number), text);
        }
    }
}
