//! See `raft_store::fuzz::log_payload`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    raft_store::fuzz::log_payload(bytes);
});
