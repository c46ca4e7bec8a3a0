//! Inflates one gzip body under a cap: with ISA-L as our gateway does, or with zlib-rs, Rust's own.

use std::cell::RefCell;
use std::io::Read;

pub const INFLATED_MAX: usize = 8 << 20;

thread_local! {
    static ROOM: RefCell<Vec<u8>> = RefCell::new(vec![0; INFLATED_MAX + 1]);
}

#[cfg(feature = "isal")]
extern "C" {
    fn bench_gunzip(body: *const u8, body_bytes: usize, room: *mut u8, room_bytes: usize) -> std::ffi::c_long;
}

/// Calls `then` with the inflated body; None where the body is damaged or too large.
pub fn inflated<T>(body: &[u8], isal: bool, then: impl FnOnce(&[u8]) -> Option<T>) -> Option<T> {
    ROOM.with(|room| {
        let mut room = room.borrow_mut();
        let length = if isal { with_isal(body, &mut room)? } else { with_zlib(body, &mut room)? };
        (length <= INFLATED_MAX).then_some(())?;
        then(&room[..length])
    })
}

#[cfg(feature = "isal")]
fn with_isal(body: &[u8], room: &mut [u8]) -> Option<usize> {
    let length = unsafe { bench_gunzip(body.as_ptr(), body.len(), room.as_mut_ptr(), room.len()) };
    usize::try_from(length).ok()
}

#[cfg(not(feature = "isal"))]
fn with_isal(_: &[u8], _: &mut [u8]) -> Option<usize> {
    panic!("built without ISA-L")
}

fn with_zlib(body: &[u8], room: &mut [u8]) -> Option<usize> {
    let mut gzip = flate2::bufread::GzDecoder::new(body);
    let mut length = 0;
    loop {
        match gzip.read(&mut room[length..]) {
            Ok(0) => return gzip.into_inner().is_empty().then_some(length),
            Ok(more) => length += more,
            Err(_) => return None,
        }
    }
}
