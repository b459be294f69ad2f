//! The binary from outside, as its users run it: one integration binary, so that it is linked once.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

mod audits;
mod bad_input;
mod kill;
mod other_tools;
mod process;
mod real_components;
mod whole_run;
