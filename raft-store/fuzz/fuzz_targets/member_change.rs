//! See `raft_store::fuzz::member_change`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    raft_store::fuzz::member_change(bytes);
});
