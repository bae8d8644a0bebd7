//! The handshake, and how two sides agree on a version. Hello, Goodbye and the header are frozen: a peer of any
//! future version can read them, so they must never change.

use bincode::{BorrowDecode, Encode};

use crate::frame::{FrameError, MAJOR};

/// Most objects in one Welcome.
pub const OBJECTS_MAX: usize = 1024;
/// Longest name of an object or an interface, in bytes.
pub const OBJECT_NAME_MAX: usize = 128;
/// Newest additions this build knows; tells a peer nothing it must obey.
pub const MINOR: u16 = 0;

/// Opens a connection: what the caller can speak.
#[derive(BorrowDecode, Clone, Copy, Debug, Encode, Eq, PartialEq)]
pub struct Hello {
    pub min_major: u8,
    pub max_major: u8,
    pub minor: u16,
    /// One bit a feature; none is defined yet. Unknown bits are ignored.
    pub features: u64,
}

/// Ends a connection.
#[derive(BorrowDecode, Clone, Copy, Debug, Encode, Eq, PartialEq)]
pub struct Goodbye<'a> {
    /// A code of [`crate::failure::Code`] in kebab-case, or `protocol` for a violation of this protocol.
    pub code: &'a str,
    /// What was wrong, for a person.
    pub text: &'a str,
}

/// Answers Hello: what is spoken from now on, and what is served here.
#[derive(BorrowDecode, Clone, Debug, Encode, Eq, PartialEq)]
pub struct Welcome<'a> {
    pub major: u8,
    /// The lower one of both sides.
    pub minor: u16,
    /// The bits that both sides have.
    pub features: u64,
    /// Drawn once a process; the registry recognises an endpoint by it.
    pub nonce: [u8; 16],
    pub objects: Vec<Object<'a>>,
}

/// One served object.
#[derive(BorrowDecode, Clone, Copy, Debug, Encode, Eq, PartialEq)]
pub struct Object<'a> {
    pub name: &'a str,
    pub token: u32,
    pub generation: u32,
    pub interface: &'a str,
    pub version: u32,
    /// [`crate::objects::Description::hash`]: equal hashes, equal methods.
    pub hash: u64,
}

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Agreed {
    pub major: u8,
    pub minor: u16,
    pub features: u64,
}

impl Hello {
    /// What this build says.
    pub const OURS: Self = Self { min_major: MAJOR, max_major: MAJOR, minor: MINOR, features: 0 };

    /// What both sides have: the highest version, the lower minor one, the common features.
    ///
    /// # Errors
    /// The sentence for Goodbye, which names both ranges.
    pub fn agree(&self, theirs: &Self) -> Result<Agreed, String> {
        let major = self.max_major.min(theirs.max_major);
        if major >= self.min_major && major >= theirs.min_major {
            let minor = self.minor.min(theirs.minor);
            return Ok(Agreed { major, minor, features: self.features & theirs.features });
        }
        Err(format!(
            "no common major version: this side speaks {} to {}, the other {} to {}",
            self.min_major, self.max_major, theirs.min_major, theirs.max_major
        ))
    }
}

impl Welcome<'_> {
    pub(crate) fn check(&self) -> Result<(), FrameError> {
        let limit = |field, length, limit| {
            if length > limit { Err(FrameError::Field { field, length, limit }) } else { Ok(()) }
        };
        limit("the number of objects", self.objects.len(), OBJECTS_MAX)?;
        for object in &self.objects {
            limit("the length of an object's name", object.name.len(), OBJECT_NAME_MAX)?;
            limit("the length of an interface's name", object.interface.len(), OBJECT_NAME_MAX)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(min_major: u8, max_major: u8) -> Hello {
        Hello { min_major, max_major, minor: 0, features: 0 }
    }

    #[test]
    fn the_highest_common_version_is_chosen() {
        let agree = |ours: Hello, theirs| ours.agree(&theirs).unwrap().major;
        assert_eq!(agree(range(1, 3), range(2, 5)), 3);
        assert_eq!(agree(range(1, 1), range(1, 1)), 1);
    }

    #[test]
    fn without_a_common_version_both_ranges_are_named() {
        let text = range(1, 1).agree(&range(2, 3)).unwrap_err();
        assert!(text.contains("1 to 1") && text.contains("2 to 3"), "{text}");
    }
}
