//! See `raft_store::fuzz::history_row`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    raft_store::fuzz::history_row(bytes);
});
