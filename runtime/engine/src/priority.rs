//! Threads to which the system prefers any other.

/// Lets every thread of the machine that wakes go before the calling one, at once: `SCHED_IDLE` of Linux (sched(7)), the
/// one kind of thread that is put off its CPU whatever turn of its it is. A niceness is not enough: whoever is nice still
/// ends its turn of some milliseconds.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
pub(crate) fn give_way() {
    // Everybody may ask for less; where it fails the thread stays like any other.
    // SAFETY: the call reads the structure it is given and keeps no reference to it; 0 means the calling thread.
    let _ = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &libc::sched_param { sched_priority: 0 }) };
}

/// Elsewhere all threads are of one kind.
#[cfg(not(target_os = "linux"))]
pub(crate) fn give_way() {}
