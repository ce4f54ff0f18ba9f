//! See `raft_store::fuzz::head`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    raft_store::fuzz::head(bytes);
});
