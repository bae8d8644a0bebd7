//! Upgrade bundles: what they hold, who signed them, how they are built and read. Pure: no socket, no clock.
