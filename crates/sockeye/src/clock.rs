//! Timers away from the runtime that carries the messages.
//!
//! A runtime in which any timer is set has the system set one whenever it waits. With one message in
//! flight that is 0.4 µs, a twentieth of all that the message costs; and every connection that is kept has
//! a timer for as long as it is open. So these are with a runtime of their own, on a thread that does
//! nothing but sleep until one of them is due.

use std::{future::pending, sync::LazyLock, thread};

use tokio::{
    runtime::{Builder, Handle},
    time::{self, Instant, Sleep},
};

/// There for as long as the process, once a first timer was made.
static CLOCK: LazyLock<Option<Handle>> = LazyLock::new(start);

/// A timer that wakes whoever polls it, in whichever runtime that is.
///
/// Where time is not the system's, as in a test that has paused it, or where there can be no thread, it
/// is a timer of the runtime that this is called in.
pub(crate) fn sleep_until(deadline: Instant) -> Sleep {
    let clock = if is_systems() { CLOCK.as_ref() } else { None };
    let _entered = clock.map(Handle::enter);
    time::sleep_until(deadline)
}

fn start() -> Option<Handle> {
    let runtime = Builder::new_current_thread().enable_time().build().ok()?;
    let handle = runtime.handle().clone();
    thread::Builder::new()
        .name("sockeye-clock".into())
        .spawn(move || runtime.block_on(pending::<()>()))
        .ok()?;
    Some(handle)
}

/// Whether the time that tokio tells is the system's.
fn is_systems() -> bool {
    let before = std::time::Instant::now();
    let told = Instant::now().into_std();
    before <= told && told <= std::time::Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_timer_wakes_a_task_of_another_runtime() {
        assert!(is_systems());
        let begin = Instant::now();
        sleep_until(begin + Duration::from_millis(20)).await;
        assert!(begin.elapsed() >= Duration::from_millis(20));
    }

    #[test]
    fn a_timer_needs_no_runtime_of_its_user() {
        let sleep = sleep_until(Instant::now() + Duration::from_millis(20));
        let other = Builder::new_current_thread().build().unwrap();
        other.block_on(sleep);
    }

    /// A runtime with a timer of its own would go on to that at once.
    #[tokio::test(start_paused = true)]
    async fn paused_time_is_kept_to() {
        assert!(!is_systems());
        let (begin, real) = (Instant::now(), std::time::Instant::now());
        sleep_until(begin + Duration::from_secs(3600)).await;
        assert!(begin.elapsed() >= Duration::from_secs(3600));
        assert!(real.elapsed() < Duration::from_secs(600));
    }
}
