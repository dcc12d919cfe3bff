//! As much of tar as an archive of texts needs.
//!
//! Source: POSIX.1-1988, ustar interchange format; tar(5).

/// Size of a block, bytes.
const BLOCK: usize = 512;

/// What an archive ends with.
pub(super) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// Header, content and padding of a regular file, 0600 root. A name of more than 100 bytes is cut.
pub(super) fn member(name: &str, content: &[u8], modified: u64) -> Vec<u8> {
    let mut header = [0_u8; BLOCK];
    put(&mut header, 0, name.as_bytes().get(..name.len().min(100)).unwrap_or_default());
    put(&mut header, 100, b"0000600\0");
    put(&mut header, 108, b"0000000\0");
    put(&mut header, 116, b"0000000\0");
    put(&mut header, 124, format!("{:011o}\0", content.len()).as_bytes());
    put(&mut header, 136, format!("{modified:011o}\0").as_bytes());
    // The checksum counts its own field as blanks.
    put(&mut header, 148, b"        ");
    put(&mut header, 156, b"0");
    put(&mut header, 257, b"ustar\x0000");
    put(&mut header, 265, b"root\0");
    put(&mut header, 297, b"root\0");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    put(&mut header, 148, format!("{sum:06o}\0 ").as_bytes());
    let mut bytes = header.to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

fn put(header: &mut [u8], at: usize, bytes: &[u8]) {
    for (place, byte) in header.iter_mut().skip(at).zip(bytes) {
        *place = *byte;
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn tar_reads_what_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.tar");
        let mut bytes = member("d/one", b"first\n", 1_700_000_000);
        bytes.extend(member("d/two", &[b'x'; 513], 0));
        bytes.extend(END);
        std::fs::write(&path, bytes).unwrap();
        let output = Command::new("tar").args(["--utc", "-tvf"]).arg(&path).output().unwrap();
        let listed = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success() && listed.contains("-rw------- root/root         6 2023-11-14"),
            "{listed}"
        );
        assert!(listed.contains("513") && listed.contains("d/two"), "{listed}");
    }
}
