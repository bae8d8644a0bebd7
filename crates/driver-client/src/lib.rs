//! Calls the operations of a driver.
