//! See `raft_store::fuzz::command`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    raft_store::fuzz::command(bytes);
});
