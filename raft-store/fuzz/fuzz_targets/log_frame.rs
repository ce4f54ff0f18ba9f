//! See `raft_store::fuzz::log_frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    raft_store::fuzz::log_frame(bytes);
});
