//! Binds a thread to a core.

use std::fmt;

/// Binds the calling thread to the core with this number, as the kernel counts them.
///
/// # Errors
/// [`PinError`] when there is no such core, or this process may not run there.
pub fn pin_current_thread(core: usize) -> Result<(), PinError> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let found = cores.iter().find(|candidate| candidate.id == core).copied();
    match found {
        Some(id) if core_affinity::set_for_current(id) => Ok(()),
        _ => Err(PinError { core, allowed: cores.iter().map(|core| core.id).collect() }),
    }
}

/// Why a thread could not be bound.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PinError {
    /// The core that was asked for.
    pub core: usize,
    /// The cores on which the thread may run.
    pub allowed: Vec<usize>,
}

impl fmt::Display for PinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot run on core {}; the allowed cores are {:?}", self.core, self.allowed)
    }
}

impl std::error::Error for PinError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_that_does_not_exist_is_an_error_that_names_the_others() {
        let error = pin_current_thread(1_000_000).unwrap_err();
        assert_eq!(error.core, 1_000_000);
        assert!(!error.allowed.is_empty());
        assert!(error.to_string().contains("1000000"));
    }

    #[test]
    fn a_pinned_thread_runs_on_that_core_only() {
        std::thread::spawn(|| {
            let core = core_affinity::get_core_ids().unwrap()[0].id;
            pin_current_thread(core).unwrap();
            let left: Vec<usize> =
                core_affinity::get_core_ids().unwrap().iter().map(|core| core.id).collect();
            assert_eq!(left, [core]);
        })
        .join()
        .unwrap();
    }
}
