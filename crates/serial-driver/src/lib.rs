//! An example driver: a serial line on a pseudo-terminal.
