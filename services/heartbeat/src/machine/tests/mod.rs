//! Scenarios on a clock the test owns.

mod device;
mod floods;
mod frozen;
mod lives;
mod loss;
mod supervisor;
mod suspicion;
mod trust;
