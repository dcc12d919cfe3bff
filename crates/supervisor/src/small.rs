//! Reads small files whole, with few calls: room is made beforehand, and nobody is asked for a size.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The longest file that is read, bytes: a mountinfo with thousands of mounts.
const MOST: u64 = 4 << 20;

/// Room that is made beforehand, bytes.
const USUAL: usize = 8192;

/// The text of a file that the kernel or root writes.
///
/// # Errors
/// What open(2) and read(2) say; it is no UTF-8, or longer than 4 MiB.
pub(crate) fn read(path: &Path) -> io::Result<String> {
    let mut text = String::with_capacity(USUAL);
    let length = File::open(path)?.take(MOST).read_to_string(&mut text)?;
    if length as u64 == MOST { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_whole_and_an_endless_one_is_refused() {
        assert!(read(Path::new("/proc/self/mountinfo")).unwrap().ends_with('\n'));
        assert_eq!(read(Path::new("/dev/zero")).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(read(Path::new("/nonexistent")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
