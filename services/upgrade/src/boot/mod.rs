//! Where a boot loader looks, in the formats that loaders read. Each keeps a [`Choice`](crate::engine::choice::Choice) and leaves
//! everything else that it finds as it is. Bytes and a [`Disk`](crate::disk::Disk); who opens it is the shell.

pub(crate) mod grub;
pub(crate) mod own;
#[cfg(test)]
mod tests;
pub(crate) mod uboot;
mod variables;

pub(crate) use variables::Names;
