//! The log on a disk that forgets: what was synced is there again, what was not never passes for it.
