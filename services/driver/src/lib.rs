//! Hosts user-space drivers.
