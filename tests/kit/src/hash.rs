//! Content hashes: keys of recipes, digests of blobs and sums of binaries.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::Error;

/// The sha256 of a byte string in lower-case hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The sha256 of a file's content in lower-case hexadecimal.
///
/// # Errors
/// The file cannot be read.
pub fn sha256_file(path: &Path) -> Result<String, Error> {
    let mut file = File::open(path).map_err(Error::file("reading", path))?;
    let mut sink = HashWriter::new(io::sink());
    io::copy(&mut file, &mut sink).map_err(Error::file("reading", path))?;
    Ok(sink.finish().0)
}

/// Hashes and counts what passes through to another writer.
pub(crate) struct HashWriter<W> {
    inner: W,
    digest: Sha256,
    bytes: u64,
}

impl<W: Write> HashWriter<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self { inner, digest: Sha256::new(), bytes: 0 }
    }

    /// The digest in hexadecimal, the number of bytes, and the writer below.
    pub(crate) fn finish(self) -> (String, u64, W) {
        (hex(&self.digest.finalize()), self.bytes, self.inner)
    }
}

impl<W: Write> Write for HashWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.digest.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes `SHA256SUMS` for all files of `dir/bin`, in the format of sha256sum(1).
pub(crate) fn write_sums(dir: &Path) -> Result<(), Error> {
    let bin = dir.join("bin");
    let mut names = Vec::new();
    for entry in fs::read_dir(&bin).map_err(Error::file("listing", &bin))? {
        let entry = entry.map_err(Error::file("listing", &bin))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    let mut text = String::new();
    for name in names {
        text += &format!("{}  {name}\n", sha256_file(&bin.join(&name))?);
    }
    let path = dir.join("SHA256SUMS");
    fs::write(&path, text).map_err(Error::file("writing", path))
}

/// Reads what [`write_sums`] wrote: (name, sum) pairs.
pub(crate) fn read_sums(dir: &Path) -> Result<Vec<(String, String)>, Error> {
    let path = dir.join("SHA256SUMS");
    let text = fs::read_to_string(&path).map_err(Error::file("reading", path))?;
    let pair = |line: &str| line.split_once("  ").map(|(sum, name)| (name.into(), sum.into()));
    Ok(text.lines().filter_map(pair).collect())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_digest() {
        assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn sums_survive_a_round_trip() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("bin")).unwrap();
        fs::write(dir.path().join("bin/tool"), "abc").unwrap();
        write_sums(dir.path()).unwrap();
        assert_eq!(read_sums(dir.path()).unwrap(), [("tool".to_string(), sha256(b"abc"))]);
    }
}
