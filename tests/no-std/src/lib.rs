//! Proves that `sockeye-proto` needs `core` and `alloc` only.
//!
//! A program has one panic handler. This one brings its own, so that it does not compile as soon as anything
//! it depends on links `std`, which brings another ("found duplicate lang item `panic_impl`").
#![no_std]

use core::alloc::{GlobalAlloc, Layout};

use sockeye_proto as _;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

struct Nothing;

// SAFETY: it never gives memory out.
unsafe impl GlobalAlloc for Nothing {
    unsafe fn alloc(&self, _: Layout) -> *mut u8 {
        core::ptr::null_mut()
    }
    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static ALLOCATOR: Nothing = Nothing;
