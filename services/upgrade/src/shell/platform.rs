//! The device as the engine sees it: its slots, its records, its small files and its boot loader.

use std::{fs, io, path::PathBuf, sync::Arc};

use super::{
    devices::{Opener, Plain, usage},
    images::Images,
    loader::Loader,
    store::Folder,
    tree,
};
use crate::{
    disk::{Disk, Store},
    engine::contract::{Access, BootControl, Platform, Record, SlotId},
    settings::{BootKind, Component, Settings, Target},
};

/// The device.
pub(crate) struct Device {
    components: Vec<Component>,
    opener: Opener,
    folder: Folder,
    images: Arc<Images>,
    records: Vec<(Record, Plain)>,
    boot: Option<Loader>,
}

impl Device {
    /// Makes the folder's records, so that a full disk is found out before anything is upgraded.
    ///
    /// # Errors
    /// Where they can't be made or opened.
    pub(crate) fn open(
        settings: &Settings,
        folder: Folder,
        images: Arc<Images>,
    ) -> io::Result<Self> {
        let mut records = Vec::new();
        for record in [Record::Journal, Record::Active, Record::Floor] {
            records.push((record, folder.record(record)?));
        }
        let kind = settings.boot_control.kind.clone();
        let boot = (kind != BootKind::None).then(|| Loader::new(kind));
        Ok(Self {
            components: settings.components.clone(),
            opener: Opener::default(),
            folder,
            images,
            records,
            boot,
        })
    }

    fn slot(&self, slot: SlotId) -> io::Result<(Target, bool)> {
        let component = self.components.get(slot.component);
        let target = component.and_then(|component| component.slots.get(slot.letter.index()));
        let (Some(component), Some(target)) = (component, target) else {
            return Err(io::Error::other("upgrade.toml does not name this slot"));
        };
        Ok((target.clone(), component.directory))
    }
}

impl Platform for Device {
    fn open(&mut self, slot: SlotId, access: Access) -> io::Result<Box<dyn Disk>> {
        let (target, directory) = self.slot(slot)?;
        if !directory {
            return Ok(Box::new(self.opener.open(&target, access)?));
        }
        if access == Access::Write && usage::is_mount_point(&target.path)? {
            let text =
                format!("{}: something is mounted there; unmount it first", target.path.display());
            return Err(io::Error::other(text));
        }
        let target = Target { path: tree::archive(&target.path), ..target };
        Ok(Box::new(self.opener.open_growing(&target, access)?))
    }

    fn seal(&mut self, slot: SlotId, size: u64) -> io::Result<()> {
        let (target, directory) = self.slot(slot)?;
        if !directory {
            return Ok(());
        }
        let archive: PathBuf = tree::archive(&target.path);
        let file = fs::OpenOptions::new().write(true).open(&archive)?;
        // What a longer one before it has left behind.
        file.set_len(size)?;
        file.sync_all()?;
        tree::unpack(&archive, size, &target.path)
    }

    fn record(&mut self, record: Record) -> io::Result<&mut dyn Disk> {
        let found = self.records.iter_mut().find(|(known, _)| *known == record);
        let (_, disk) = found.ok_or_else(|| io::Error::other("there is no such record"))?;
        Ok(disk)
    }

    fn store(&mut self) -> &mut dyn Store {
        &mut self.folder
    }

    fn invalidate_image(&mut self, reason: &str) -> io::Result<()> {
        self.images.invalidate(reason)
    }

    fn boot(&mut self) -> Option<&mut dyn BootControl> {
        self.boot.as_mut().map(|boot| boot as &mut dyn BootControl)
    }
}
