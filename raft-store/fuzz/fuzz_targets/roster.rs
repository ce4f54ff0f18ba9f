//! See `raft_store::fuzz::roster`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    raft_store::fuzz::roster(bytes);
});
