//! What of a program's output reaches the caller.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use u7s_plan::printable::{LineFilter, Stream};

/// Says of a line whether it is shown.
pub type Lines = Rc<RefCell<dyn FnMut(&str) -> bool>>;

/// How the output of an entered program is shown. The node's user decides what a program inside writes, so a terminal must not obey
/// it where the caller did not ask for a terminal of the node's (S39).
#[derive(Clone, Default)]
pub enum Shown {
    /// Every byte: the program is meant to have the terminal, as a shell is.
    #[default]
    Raw,
    /// A terminal gets text without control characters; pipes and files get every byte.
    Text,
    /// Standard output is a row of lines, of which those are shown that this function wants, without control characters wherever they
    /// go; what else reaches a terminal is treated alike.
    Lines(Lines),
}

impl fmt::Debug for Shown {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Raw => "Raw",
            Self::Text => "Text",
            Self::Lines(_) => "Lines",
        })
    }
}

impl Shown {
    /// For what goes to the caller's terminal.
    pub(crate) fn terminal(&self) -> Edit {
        match self {
            Self::Text => Edit::Text(Stream::default()),
            other => other.elsewhere(),
        }
    }

    /// For what goes to a pipe or a file.
    pub(crate) fn elsewhere(&self) -> Edit {
        match self {
            Self::Raw | Self::Text => Edit::None,
            Self::Lines(lines) => Edit::Lines(LineFilter::default(), Rc::clone(lines)),
        }
    }
}

/// Changes a stream on its way.
#[derive(Default)]
pub(crate) enum Edit {
    #[default]
    None,
    Text(Stream),
    Lines(LineFilter, Lines),
}

impl fmt::Debug for Edit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Edit")
    }
}

impl Edit {
    /// What of these bytes goes on now.
    pub(crate) fn apply(&mut self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::None => bytes.to_vec(),
            Self::Text(stream) => stream.take(bytes).into_bytes(),
            Self::Lines(filter, lines) => filter.take(bytes, &mut *lines.borrow_mut()).into_bytes(),
        }
    }

    /// What was held back, now that the stream is over.
    pub(crate) fn end(&mut self) -> Vec<u8> {
        match self {
            Self::None => Vec::new(),
            Self::Text(stream) => stream.end().into_bytes(),
            Self::Lines(filter, lines) => filter.end(&mut *lines.borrow_mut()).into_bytes(),
        }
    }
}
