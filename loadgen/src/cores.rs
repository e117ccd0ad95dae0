//! How far two cores are apart: what it takes for a cache line to pass from one to the other and back.
//!
//! The host of a virtual machine moves its virtual cores about. Whether two of them share a cache just then decides how fast
//! client and server hand each other data, so figures can be compared only where their cores were equally far apart.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tcpstack::{PinError, pin_current_thread};

/// Nanoseconds from one core to the other and back: of several short batches the fastest, so that whatever else runs there
/// does not count. It takes some 10 ms, and 200 at most.
///
/// # Errors
/// [`CoresError`] when there are no two cores to run on, or one of them is never free.
pub fn round_trip_ns((asks, answers): (usize, usize)) -> Result<f64, CoresError> {
    if thread::available_parallelism().is_ok_and(|cores| cores.get() == 1) {
        return Err(CoresError::OneCore);
    }
    let line = Line::default();
    thread::scope(|scope| {
        let answering = scope.spawn(|| pin_current_thread(answers).map(|()| line.answer()));
        // A thread of its own: who calls is not to stay on that core.
        let asking = scope.spawn(|| {
            let asked = pin_current_thread(asks).map(|()| line.fastest_batch(TIME_MAX));
            line.is_over.0.store(true, Ordering::Relaxed);
            asked
        });
        answering.join().expect("it does not panic").map_err(CoresError::Pin)?;
        let batch = asking.join().expect("it does not panic").map_err(CoresError::Pin)?;
        let batch = batch.ok_or(CoresError::Busy)?;
        Ok(batch.as_secs_f64() * 1e9 / f64::from(ROUND_TRIPS))
    })
}

/// Why the distance of two cores is not known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CoresError {
    /// This process may use one core only.
    OneCore,
    /// It may not use these.
    Pin(PinError),
    /// Others leave so little of them that not one batch was done.
    Busy,
}

impl fmt::Display for CoresError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CoresError::OneCore => {
                f.write_str("it takes two cores, and there is only one to run on")
            }
            CoresError::Pin(error) => error.fmt(f),
            CoresError::Busy => {
                f.write_str("the cores are too busy to tell how far they are apart")
            }
        }
    }
}

impl std::error::Error for CoresError {}

/// What passes between two threads.
#[derive(Default)]
struct Line {
    /// Odd: a question; the even number behind it is its answer.
    turn: Alone<AtomicU32>,
    /// No question follows.
    is_over: Alone<AtomicBool>,
}

/// Shares its cache line with nothing, nor the one beside it, which some processors fetch along.
#[derive(Default)]
#[repr(align(128))]
struct Alone<T>(T);

impl Line {
    /// Answers every question until it is over.
    fn answer(&self) {
        let mut question = 1_u32;
        loop {
            while self.turn.0.load(Ordering::Acquire) != question {
                if self.is_over.0.load(Ordering::Relaxed) {
                    return;
                }
            }
            self.turn.0.store(question.wrapping_add(1), Ordering::Release);
            question = question.wrapping_add(2);
        }
    }

    /// The least time that a batch of questions took, or nothing if none was done in `time_max`.
    fn fastest_batch(&self, time_max: Duration) -> Option<Duration> {
        let begin = Instant::now();
        let deadline = begin + time_max;
        let (mut question, mut batches, mut fastest) = (1_u32, 0, None);
        while batches < BATCHES_MIN || begin.elapsed() < TIME_MIN {
            let batch_begin = Instant::now();
            for _ in 0..ROUND_TRIPS {
                if !self.ask(question, deadline) {
                    return fastest;
                }
                question = question.wrapping_add(2);
            }
            let took = batch_begin.elapsed();
            fastest = Some(fastest.map_or(took, |least: Duration| least.min(took)));
            batches += 1;
            if Instant::now() > deadline {
                break;
            }
        }
        fastest
    }

    /// Whether the question was answered before the deadline.
    fn ask(&self, question: u32, deadline: Instant) -> bool {
        self.turn.0.store(question, Ordering::Release);
        let mut looks = 0_u32;
        while self.turn.0.load(Ordering::Acquire) != question.wrapping_add(1) {
            looks = looks.wrapping_add(1);
            // The clock takes as long as a round trip.
            if looks.is_multiple_of(LOOKS_BETWEEN_TIMES) && Instant::now() > deadline {
                return false;
            }
        }
        true
    }
}

/// Of one batch: it is done between two interruptions, and its time is far above what the clock takes.
const ROUND_TRIPS: u32 = 2_000;
/// So many are measured at least, and for so long: cores that slept are not fast at once.
const BATCHES_MIN: u32 = 20;
const TIME_MIN: Duration = Duration::from_millis(10);
/// For no longer than that, whoever keeps the cores busy.
const TIME_MAX: Duration = Duration::from_millis(200);
/// How often who waits looks for an answer before it looks at the clock.
const LOOKS_BETWEEN_TIMES: u32 = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_ever_for_an_answer() {
        let begin = Instant::now();
        assert_eq!(Line::default().fastest_batch(Duration::from_millis(20)), None);
        let took = begin.elapsed();
        assert!(took >= Duration::from_millis(20), "it gave up after {took:?}");
        assert!(took < Duration::from_secs(5), "it took {took:?}");
    }

    #[test]
    fn an_interruption_does_not_count() {
        let line = Line::default();
        let fastest = thread::scope(|scope| {
            scope.spawn(|| {
                // As if somebody else had the core in the midst of the first batch.
                while line.turn.0.load(Ordering::Acquire) != 1 {}
                thread::sleep(Duration::from_millis(50));
                line.answer();
            });
            let fastest = line.fastest_batch(Duration::from_secs(5));
            line.is_over.0.store(true, Ordering::Relaxed);
            fastest
        });
        assert!(fastest.unwrap() < Duration::from_millis(50), "{fastest:?}");
    }

    #[test]
    fn cores_that_are_not_there_are_named() {
        if thread::available_parallelism().unwrap().get() == 1 {
            assert_eq!(round_trip_ns((0, 1)), Err(CoresError::OneCore));
            return;
        }
        for cores in [(0, 1_000_000), (1_000_000, 0)] {
            let error = round_trip_ns(cores).unwrap_err();
            assert!(error.to_string().contains("core 1000000"), "{error}");
        }
    }
}
