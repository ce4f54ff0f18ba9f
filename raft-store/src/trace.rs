//! Lets raft's own trace, which goes through slog, appear in ours.

use std::fmt::Write as _;

use slog::{Drain, KV, Level, Logger, Never, OwnedKVList, Record, Serializer, o};

/// A logger for raft that forwards to `tracing`, with the member's number.
pub(crate) fn logger(member: u64) -> Logger {
    Logger::root(Forward, o!("member" => member))
}

struct Forward;

impl Drain for Forward {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        // raft tells every step at info; in a quiet house that is debug.
        if record.level() > Level::Warning && !tracing::enabled!(target: "raft", tracing::Level::DEBUG) {
            return Ok(());
        }
        let mut text = Pairs(record.msg().to_string());
        let told = record.kv().serialize(record, &mut text).and_then(|()| values.serialize(record, &mut text));
        let text = if told.is_ok() { text.0 } else { record.msg().to_string() };
        match record.level() {
            Level::Critical | Level::Error => tracing::error!(target: "raft", "{text}"),
            Level::Warning => tracing::warn!(target: "raft", "{text}"),
            Level::Info | Level::Debug | Level::Trace => tracing::debug!(target: "raft", "{text}"),
        }
        Ok(())
    }
}

struct Pairs(String);

impl Serializer for Pairs {
    fn emit_arguments(&mut self, key: slog::Key, value: &std::fmt::Arguments<'_>) -> slog::Result {
        write!(self.0, " {key}={value}").map_err(slog::Error::from)
    }
}
