//! The functions of a loaded driver.

use driver_abi::Op;

use crate::Room;

/// One function, where it lies and what the file has there.
#[derive(Clone, Debug)]
pub struct Function {
    /// As the object's symbol table has it. Others may have the same: functions that no other file sees.
    pub name: String,
    pub address: usize,
    pub size: u64,
    /// SHA-256 of the first 32 bytes in the file, or of as many as there are. Memory is compared with it before it is written to.
    pub hash: [u8; 32],
    pub room: Room,
    /// The operation that it is, where the driver's table leads to it. The first of them.
    pub operation: Option<Op>,
}
