//! Memory from the operating system, taken once and touched before service begins.
//!
//! The only unsafe code of the server.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::io;
use std::ptr::{self, NonNull};

/// Private anonymous memory, zeroed, page-aligned, for the life of the value.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    /// A multiple of `HUGE_PAGE_SIZE_BYTES`, above 0.
    length: usize,
    pages: Pages,
}

/// What kind of pages a mapping got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pages {
    /// From the system's pool of huge pages (vm.nr_hugepages).
    Huge,
    /// Ordinary ones, of which the kernel makes huge ones where it can.
    Transparent,
    /// Ordinary ones.
    Plain,
}

/// When memory is made present.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Presence {
    /// Before anything is done with it: no page fault later, and no lack of memory.
    AtOnce,
    /// Page by page, as it is used.
    OnDemand,
}

impl Mapping {
    /// Maps at least `length` bytes.
    ///
    /// # Errors
    /// The system has not that much memory, or limits forbid it.
    pub(crate) fn new(length: usize, presence: Presence) -> io::Result<Mapping> {
        let length = length
            .max(1)
            .checked_next_multiple_of(HUGE_PAGE_SIZE_BYTES)
            .ok_or(io::ErrorKind::OutOfMemory)?;
        if presence == Presence::OnDemand {
            return Ok(Mapping { start: map(length, 0)?, length, pages: Pages::Plain });
        }
        // From the pool, the kernel says at once whether there is enough.
        if let Ok(start) = map(length, libc::MAP_HUGETLB) {
            return Ok(Mapping { start, length, pages: Pages::Huge });
        }
        let mut mapping = Mapping { start: map(length, 0)?, length, pages: Pages::Plain };
        if mapping.advise(libc::MADV_HUGEPAGE).is_ok() {
            mapping.pages = Pages::Transparent;
        }
        mapping.touch()?;
        Ok(mapping)
    }

    /// What kind of pages it got.
    pub(crate) fn pages(&self) -> Pages {
        self.pages
    }

    /// All of it.
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `start` is the start of `length` bytes that are mapped, initialised (zeroed by the
        // kernel), and ours alone until drop; the borrow of `self` excludes `bytes_mut`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }

    /// All of it.
    #[inline]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; the exclusive borrow of `self` excludes every other.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }

    /// All of it as words in the machine's byte order.
    #[inline]
    pub(crate) fn words(&self) -> &[u64] {
        // SAFETY: as in `bytes`; a page start is aligned for u64, the length is a multiple of 8, and
        // every bit pattern is a u64.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.length / 8) }
    }

    /// All of it as words in the machine's byte order.
    #[inline]
    pub(crate) fn words_mut(&mut self) -> &mut [u64] {
        // SAFETY: as in `words`; the exclusive borrow of `self` excludes every other.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.length / 8) }
    }

    /// Has the processor fetch the cache line of this word, if there is one and a way to ask for it.
    #[inline]
    pub(crate) fn prefetch(&self, word: usize) {
        if let Some(word) = self.words().get(word) {
            prefetch(ptr::from_ref(word).cast());
        }
    }

    /// Makes every page present. An error means that there is not enough memory.
    fn touch(&mut self) -> io::Result<()> {
        match self.advise(libc::MADV_POPULATE_WRITE) {
            // Kernels before 5.14 do not know it.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                for byte in self.bytes_mut().iter_mut().step_by(PAGE_SIZE_BYTES) {
                    *byte = std::hint::black_box(0);
                }
                Ok(())
            }
            result => result,
        }
    }

    fn advise(&self, advice: c_int) -> io::Result<()> {
        // SAFETY: the range is our own mapping; the advices used here do not change its contents.
        match unsafe { libc::madvise(self.start.as_ptr().cast(), self.length, advice) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by us, and no borrow of it outlives `self`.
        let result = unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
        debug_assert_eq!(result, 0, "the range is our own");
    }
}

// SAFETY: the mapping is plain memory with one owner; nothing about it belongs to a thread.
unsafe impl Send for Mapping {}

/// Bytes of a cache line.
pub(super) const LINE_SIZE_BYTES: usize = 64;

/// Has the processor fetch the cache lines of a value, if there is a way to ask for it.
#[inline]
pub(crate) fn prefetch_value<T>(value: &T) {
    let start = ptr::from_ref(value).cast::<i8>();
    for offset in (0..size_of::<T>()).step_by(LINE_SIZE_BYTES) {
        prefetch(start.wrapping_add(offset));
    }
}

#[inline]
fn prefetch(address: *const i8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: it reads and writes nothing that a program could see, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

fn map(length: usize, flags: c_int) -> io::Result<NonNull<u8>> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory that
    // exists.
    let start = unsafe { libc::mmap(ptr::null_mut(), length, protection, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(NonNull::new(start.cast()).expect("the kernel never maps page 0 unasked"))
}

const HUGE_PAGE_SIZE_BYTES: usize = 2 << 20;
const PAGE_SIZE_BYTES: usize = 4 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_zeroed_writable_and_whole_huge_pages_long() {
        for presence in [Presence::AtOnce, Presence::OnDemand] {
            let mut mapping = Mapping::new(3 << 20, presence).unwrap();
            assert_eq!(mapping.bytes().len(), 4 << 20);
            assert!(mapping.words().iter().all(|word| *word == 0));
            mapping.bytes_mut()[8] = 1;
            mapping.words_mut()[2] = u64::MAX;
            assert_eq!(mapping.words()[1].to_ne_bytes()[0], 1);
            assert_eq!(mapping.bytes()[16..24], [255; 8]);
        }
    }

    #[test]
    fn more_memory_than_there_is_is_an_error() {
        for presence in [Presence::AtOnce, Presence::OnDemand] {
            assert!(Mapping::new(1 << 60, presence).is_err());
            assert!(Mapping::new(usize::MAX, presence).is_err());
        }
    }
}
