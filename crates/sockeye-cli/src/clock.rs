//! The time of the day, where the user is.

/// Now, to the second.
pub(crate) fn now() -> String {
    jiff::Zoned::now().strftime("%H:%M:%S").to_string()
}

/// Now, to the millisecond.
pub(crate) fn now_precisely() -> String {
    jiff::Zoned::now().strftime("%H:%M:%S%.3f").to_string()
}
