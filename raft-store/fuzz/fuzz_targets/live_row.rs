//! See `raft_store::fuzz::live_row`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    raft_store::fuzz::live_row(bytes);
});
