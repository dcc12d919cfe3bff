//! The words between this machine and the agent in the guest: frames on one byte stream, many commands at a time.

use std::io::{self, Read, Write};

/// A payload is at most this long: a virtio port takes 32 KiB at once.
pub const MOST: usize = 32 << 10;

/// What a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// To the guest: run this command line, a JSON array of words.
    Run = 1,
    /// To the guest: bytes for its standard input; none at all close it.
    Input = 2,
    /// To the guest: kill its process group.
    Kill = 3,
    /// From the guest: standard output.
    Output = 4,
    /// From the guest: standard error.
    Error = 5,
    /// From the guest: how it ended, a decimal number; 128 and the number of the signal that ended it.
    Exit = 6,
    /// From the guest, once, of no command: the agent runs; a JSON object, see `Hello`.
    Hello = 7,
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Which command it is about.
    pub id: u32,
    /// What it says.
    pub kind: Kind,
    /// The bytes of it.
    pub payload: Vec<u8>,
}

impl Frame {
    /// A frame from its parts.
    #[must_use]
    pub fn new(id: u32, kind: Kind, payload: impl Into<Vec<u8>>) -> Self {
        Self { id, kind, payload: payload.into() }
    }

    /// Reads one; `None` at the end of the stream.
    ///
    /// # Errors
    /// Those of reading, and `InvalidData` for what is no frame.
    pub fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut head = [0; 9];
        match from.read_exact(&mut head) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let [a, b, c, d, kind, e, f, g, h] = head;
        let length = u32::from_le_bytes([e, f, g, h]) as usize;
        let kind = Kind::of(kind).filter(|_| length <= MOST);
        let kind = kind.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "this is no frame"))?;
        let mut payload = vec![0; length];
        from.read_exact(&mut payload)?;
        Ok(Some(Self { id: u32::from_le_bytes([a, b, c, d]), kind, payload }))
    }

    /// Writes it at once.
    ///
    /// # Errors
    /// Those of writing, and `InvalidInput` if the payload is too long.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let length = u32::try_from(self.payload.len()).ok().filter(|_| self.payload.len() <= MOST);
        let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "too long"))?;
        let mut bytes = Vec::with_capacity(9 + self.payload.len());
        bytes.extend(self.id.to_le_bytes());
        bytes.push(self.kind as u8);
        bytes.extend(length.to_le_bytes());
        bytes.extend(&self.payload);
        to.write_all(&bytes)?;
        to.flush()
    }
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        use Kind::{Error, Exit, Hello, Input, Kill, Output, Run};
        [Run, Input, Kill, Output, Error, Exit, Hello].into_iter().find(|kind| *kind as u8 == byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_back_as_it_went() {
        let frames = [Frame::new(7, Kind::Output, "text"), Frame::new(u32::MAX, Kind::Exit, "")];
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| frame.write(&mut bytes).unwrap());
        let mut from = bytes.as_slice();
        for frame in frames {
            assert_eq!(Frame::read(&mut from).unwrap(), Some(frame));
        }
        assert_eq!(Frame::read(&mut from).unwrap(), None);
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        for bytes in [[0_u8; 9], [1, 0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff]] {
            let error = Frame::read(&mut bytes.as_slice()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
        assert!(Frame::new(1, Kind::Input, vec![0; MOST + 1]).write(&mut Vec::new()).is_err());
    }
}
