//! Feeds the entry `yaml` of `entries.rs` with what libFuzzer finds.
#![no_main]

#[path = "../entries.rs"]
mod entries;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entries::run("yaml", bytes));
