//! Makes a failing program short: what is left when no step and no part of a request can be taken away.

use std::time::{Duration, Instant};

use super::pair::{Difference, Reference, run};
use super::step::Step;

/// A program that fails, and how.
pub struct Failure {
    pub program: Vec<Step>,
    pub difference: Difference,
    pub runs: usize,
}

/// Takes away what the failure does not need. Each attempt runs on fresh servers.
pub async fn shrink(
    program: Vec<Step>,
    difference: Difference,
    reference: Reference<'_>,
    patience: Duration,
) -> Failure {
    let mut shrinking =
        Shrinking { failure: Failure { program, difference, runs: 0 }, reference, end: Instant::now() + patience };
    shrinking.cut();
    shrinking.drop_chunks().await;
    shrinking.simplify().await;
    // A simpler request may have made a step superfluous.
    shrinking.drop_chunks().await;
    shrinking.failure
}

struct Shrinking<'a> {
    failure: Failure,
    reference: Reference<'a>,
    end: Instant,
}

impl Shrinking<'_> {
    /// What follows the failing step does not matter.
    fn cut(&mut self) {
        let failing = self.failure.difference.at + 1;
        self.failure.program.truncate(failing);
    }

    /// Keeps a program if the same method fails in it.
    async fn attempt(&mut self, program: Vec<Step>) -> bool {
        self.failure.runs += 1;
        match run(&program, self.reference).await {
            Err(difference) if difference.method == self.failure.difference.method => {
                (self.failure.program, self.failure.difference) = (program, difference);
                self.cut();
                true
            }
            _ => false,
        }
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    /// Halves, quarters, and so on down to single steps.
    async fn drop_chunks(&mut self) {
        let mut size = self.failure.program.len().div_ceil(2);
        while size > 0 {
            let mut end = self.failure.program.len();
            while end > 0 && !self.is_over() {
                let start = end.saturating_sub(size);
                let mut program = self.failure.program.clone();
                program.drain(start..end);
                self.attempt(program).await;
                end = start.min(self.failure.program.len());
            }
            size = if size == 1 { 0 } else { size.div_ceil(2) };
        }
    }

    /// Simpler requests, one after the other, as long as one helps.
    async fn simplify(&mut self) {
        let mut at = 0;
        while at < self.failure.program.len() {
            let mut helped = false;
            for step in self.failure.program[at].simpler() {
                if self.is_over() {
                    return;
                }
                let mut program = self.failure.program.clone();
                program[at] = step;
                helped = self.attempt(program).await;
                if helped {
                    break;
                }
            }
            if !helped {
                at += 1;
            }
        }
    }
}
