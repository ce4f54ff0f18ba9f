//! See `raft_store::fuzz::snapshot_rows`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    raft_store::fuzz::snapshot_rows(bytes);
});
