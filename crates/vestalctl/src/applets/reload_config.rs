//! Called under the name `reload_config`: lets the configuration's watcher compare now. It prints nothing but what is
//! wrong, and counts as done when every change was announced.

use protocol::config::{Reloaded, Selected};

use super::complain;
use crate::{
    bus::{Bus, How},
    cli::Common,
    error::Error,
};

pub(crate) async fn run() -> Result<(), Error> {
    let bus = Bus::new(&Common::default())?;
    let done: Reloaded = bus.ask("config", "reload", &Selected::default(), How::ONCE).await?;
    for error in &done.errors {
        complain(&format!("reload_config: {}", crate::config::unreadable(error)));
    }
    Ok(())
}
