//! Exported state: a layout and fields, each with an id. Every length is checked before it is believed.

use std::collections::BTreeMap;

use crate::STATE_MAX;

const HEAD: usize = 8;
const FIELD: usize = 8;

/// What one version exports and the next one imports.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct State {
    /// Names the meaning of the fields.
    pub layout: u32,
    pub fields: BTreeMap<u16, Vec<u8>>,
}

/// Why exported state is none.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum StateError {
    #[error("{0} bytes of state; at most {STATE_MAX} are allowed")]
    TooLong(usize),
    #[error("it ends at byte {at}, but {needed} more bytes were to come")]
    Short { at: usize, needed: usize },
    #[error("{0} bytes follow the last field")]
    Rest(usize),
    #[error("field {id} at byte {at} does not come after field {before}: ids must rise")]
    Order { id: u16, before: u16, at: usize },
    #[error("the two bytes after the id of field {0} are not 0")]
    Reserved(u16),
}

impl State {
    /// # Errors
    /// What is wrong, and where.
    pub fn parse(bytes: &[u8]) -> Result<Self, StateError> {
        if bytes.len() > STATE_MAX {
            return Err(StateError::TooLong(bytes.len()));
        }
        let mut rest = Rest { bytes, at: 0 };
        let layout = u32::from_le_bytes(rest.array()?);
        let count = u32::from_le_bytes(rest.array()?);
        let mut fields = BTreeMap::new();
        let mut before = None;
        for _ in 0..count {
            let at = rest.at;
            let id = u16::from_le_bytes(rest.array()?);
            let reserved = u16::from_le_bytes(rest.array()?);
            let length = u32::from_le_bytes(rest.array()?);
            if reserved != 0 {
                return Err(StateError::Reserved(id));
            }
            if let Some(before) = before
                && id <= before
            {
                return Err(StateError::Order { id, before, at });
            }
            before = Some(id);
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            fields.insert(id, rest.take(length)?.to_vec());
        }
        match bytes.len() - rest.at {
            0 => Ok(Self { layout, fields }),
            left => Err(StateError::Rest(left)),
        }
    }

    /// # Errors
    /// More than [`STATE_MAX`] bytes.
    pub fn encode(&self) -> Result<Vec<u8>, StateError> {
        let length = self.fields.values().map(|field| FIELD + field.len()).sum::<usize>() + HEAD;
        if length > STATE_MAX {
            return Err(StateError::TooLong(length));
        }
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes();
        let mut bytes = Vec::with_capacity(length);
        bytes.extend(self.layout.to_le_bytes());
        bytes.extend(number(self.fields.len()));
        for (id, field) in &self.fields {
            bytes.extend(id.to_le_bytes());
            bytes.extend([0, 0]);
            bytes.extend(number(field.len()));
            bytes.extend(field);
        }
        Ok(bytes)
    }
}

struct Rest<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Rest<'b> {
    fn take(&mut self, length: usize) -> Result<&'b [u8], StateError> {
        let left = &self.bytes[self.at..];
        let Some(taken) = left.get(..length) else {
            return Err(StateError::Short { at: self.bytes.len(), needed: length - left.len() });
        };
        self.at += length;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], StateError> {
        Ok(self.take(N)?.try_into().expect("take answers as many bytes as asked"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn golden() -> (State, Vec<u8>) {
        let state = State { layout: 7, fields: BTreeMap::from([(1, vec![9]), (300, vec![])]) };
        let bytes = [7, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 9, 44, 1, 0, 0, 0, 0, 0, 0];
        (state, bytes.to_vec())
    }

    #[test]
    fn state_is_the_bytes_of_the_header() {
        let (state, bytes) = golden();
        assert_eq!(state.encode().unwrap(), bytes);
        assert_eq!(State::parse(&bytes).unwrap(), state);
    }

    #[test]
    fn each_truncation_and_each_rest_is_refused() {
        let (_, bytes) = golden();
        for cut in 0..bytes.len() {
            assert!(matches!(State::parse(&bytes[..cut]), Err(StateError::Short { .. })), "{cut}");
        }
        assert_eq!(State::parse(&[&bytes[..], &[0]].concat()), Err(StateError::Rest(1)));
    }

    #[test]
    fn ids_rise_and_reserved_bytes_are_zero() {
        let twice = [0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        assert!(matches!(
            State::parse(&twice),
            Err(StateError::Order { id: 1, before: 1, at: 16 })
        ));
        let reserved = [0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0];
        assert_eq!(State::parse(&reserved), Err(StateError::Reserved(1)));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_parsed_again(
            layout: u32,
            fields in proptest::collection::btree_map(any::<u16>(), proptest::collection::vec(any::<u8>(), 0..40), 0..20),
        ) {
            let state = State { layout, fields };
            prop_assert_eq!(State::parse(&state.encode().unwrap()).unwrap(), state);
        }

        #[test]
        fn what_is_parsed_is_the_only_way_to_write_it(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(state) = State::parse(&bytes) {
                prop_assert_eq!(state.encode().unwrap(), bytes);
            }
        }
    }
}
