//! A kernel in a folder: modules come and go, and a task that must be waited for.

use std::{
    fs,
    os::{fd::BorrowedFd, unix::fs::FileExt as _},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use super::*;
use crate::{
    settings::Target,
    shell::loaded::{Roots, module::sample},
};

struct Fake {
    roots: Roots,
    /// A new patch takes the place of all others.
    replaces: AtomicBool,
    /// Transitions to a patch never end.
    stuck: AtomicBool,
    refuses: AtomicBool,
    done: Mutex<Vec<String>>,
}

impl Fake {
    fn patch(&self, name: &str) -> PathBuf {
        self.patches().join(name)
    }

    /// Lets every transition that can end do so, as the kernel does by itself.
    fn tick(&self) {
        for entry in fs::read_dir(self.patches()).unwrap() {
            let patch = entry.unwrap().path();
            let is = |name: &str| fs::read_to_string(patch.join(name)).unwrap().trim() == "1";
            if is("enabled") && is("transition") && !self.stuck.load(Relaxed) {
                fs::write(patch.join("transition"), "0\n").unwrap();
                self.replace(&patch);
            } else if !is("enabled") {
                fs::remove_dir_all(&patch).unwrap();
            }
        }
    }

    fn replace(&self, by: &Path) {
        let all = fs::read_dir(self.patches()).unwrap().map(|entry| entry.unwrap().path());
        for other in all.filter(|other| other != by && self.replaces.load(Relaxed)) {
            fs::write(other.join("enabled"), "0\n").unwrap();
        }
    }

    fn done(&self) -> Vec<String> {
        std::mem::take(&mut self.done.lock().unwrap())
    }
}

impl Kernel for Fake {
    fn roots(&self) -> &Roots {
        &self.roots
    }

    fn release(&self) -> String {
        "6.1.0-9-amd64".to_owned()
    }

    fn load(&self, module: BorrowedFd<'_>) -> io::Result<()> {
        if self.refuses.load(Relaxed) {
            return Err(rustix::io::Errno::from_raw_os_error(129).into());
        }
        let file = fs::File::from(module.try_clone_to_owned()?);
        let mut bytes = vec![0; usize::try_from(file.metadata()?.len()).unwrap()];
        file.read_exact_at(&mut bytes, 0)?;
        let name = Module::parse(&bytes).unwrap().name;
        fs::create_dir_all(self.roots.sys.join("module").join(&name))?;
        fs::create_dir(self.patch(&name))?;
        fs::write(self.patch(&name).join("enabled"), "1\n")?;
        fs::write(self.patch(&name).join("transition"), "1\n")?;
        fs::write(self.roots.proc.join("sys/kernel/tainted"), "36864\n")?;
        self.done.lock().unwrap().push(format!("load {name}"));
        Ok(())
    }

    fn unload(&self, name: &str) -> io::Result<()> {
        if self.patch(name).exists() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.done.lock().unwrap().push(format!("unload {name}"));
        fs::remove_dir(self.roots.sys.join("module").join(name))
    }
}

struct House {
    kernel: Arc<Fake>,
    patches: Arc<Patches>,
    folder: tempfile::TempDir,
}

fn house() -> House {
    let folder = tempfile::tempdir().unwrap();
    let roots = Roots { sys: folder.path().join("sys"), proc: folder.path().join("proc") };
    fs::create_dir_all(roots.sys.join("kernel/livepatch")).unwrap();
    fs::create_dir_all(roots.proc.join("sys/kernel")).unwrap();
    fs::write(roots.proc.join("sys/kernel/tainted"), "0\n").unwrap();
    let no = || AtomicBool::new(false);
    let done = Mutex::new(Vec::new());
    let kernel = Fake { roots, replaces: no(), stuck: no(), refuses: no(), done };
    let kernel = Arc::new(kernel);
    let patches = boot(&kernel, folder.path(), "1");
    House { kernel, patches, folder }
}

fn boot(kernel: &Arc<Fake>, folder: &Path, boot: &str) -> Arc<Patches> {
    let store = Folder::open(&folder.join("state")).unwrap();
    let kernel: Arc<dyn Kernel> = Arc::<Fake>::clone(kernel);
    Arc::new(Patches::new(store, boot.to_owned(), kernel))
}

impl House {
    fn image(&self, name: &str, release: &str) -> Image {
        let name = format!("name={name}");
        let release = format!("vermagic={release} SMP preempt mod_unload ");
        self.slot(&sample(&["livepatch=Y", &name, &release]))
    }

    fn slot(&self, bytes: &[u8]) -> Image {
        let path = self.folder.path().join("slot");
        fs::write(&path, bytes).unwrap();
        let hash = bundle::hex::encode(&bundle::sha256(bytes));
        let size = bytes.len() as u64;
        let fact = Fact { version: "2".to_owned(), rollback_index: 2, hash, size };
        Image::read("hotfix", &Target { path, offset: 0, size: None }, &fact).unwrap()
    }

    fn good(&self, name: &str) -> Image {
        self.image(name, "6.1.0-9-amd64")
    }

    /// Switches while the kernel goes on.
    async fn switch(&self, image: Option<Image>, back: bool) -> Result<Vec<String>, String> {
        let kernel = Arc::clone(&self.kernel);
        let ticking = tokio::spawn(async move {
            loop {
                kernel.tick();
                tokio::time::sleep(LOOK / 2).await;
            }
        });
        let switched = self.patches.switch("hotfix", image, back).await;
        ticking.abort();
        switched
    }

    /// Another boot: the kernel knows nothing of it any more.
    fn reboot(&mut self) {
        for folder in ["sys/module", "sys/kernel/livepatch"] {
            let folder = self.folder.path().join(folder);
            fs::remove_dir_all(&folder).unwrap();
            fs::create_dir_all(&folder).unwrap();
        }
        self.patches = boot(&self.kernel, self.folder.path(), "2");
    }
}

#[tokio::test(start_paused = true)]
async fn a_patch_is_loaded_and_watched_and_the_history_says_what_it_did_to_the_kernel() {
    let house = house();
    let image = house.good("fix-one");
    let fact = image.fact.clone();
    let remarks = house.switch(Some(image), false).await.unwrap();
    assert_eq!(remarks, ["the kernel's taint went from 0 to 36864 (OK)"]);
    assert_eq!(house.patches.look("hotfix", &fact), Ok(()));
    let again = house.switch(Some(house.good("fix-one")), false).await;
    assert_eq!(again, Ok(Vec::new()));
    assert_eq!(house.kernel.done(), ["load fix_one"]);
    let other = Fact { hash: "00".to_owned(), ..fact.clone() };
    assert!(matches!(house.patches.look("hotfix", &other), Err(Trouble::Final(_))));
    fs::write(house.kernel.patch("fix_one").join("transition"), "1").unwrap();
    assert!(matches!(house.patches.look("hotfix", &fact), Err(Trouble::Yet(_))));
    house.kernel.disable("fix_one").unwrap();
    assert!(matches!(house.patches.look("hotfix", &fact), Err(Trouble::Final(_))));
}

#[tokio::test(start_paused = true)]
async fn the_old_patch_goes_once_the_new_one_is_in_use_and_comes_back_after_it_has_gone() {
    for replaces in [false, true] {
        let house = house();
        house.kernel.replaces.store(replaces, Relaxed);
        house.switch(Some(house.good("one")), false).await.unwrap();
        house.switch(Some(house.good("two")), false).await.unwrap();
        assert_eq!(house.kernel.done(), ["load one", "load two", "unload one"]);
        house.switch(Some(house.good("one")), true).await.unwrap();
        assert_eq!(house.kernel.done(), ["unload two", "load one"]);
        house.switch(None, true).await.unwrap();
        assert_eq!(house.kernel.done(), ["unload one"]);
        assert_eq!(fs::read_dir(house.kernel.patches()).unwrap().count(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn one_of_the_same_name_takes_the_place_of_the_old_one() {
    let house = house();
    house.switch(Some(house.good("fix")), false).await.unwrap();
    let info = ["livepatch=Y", "name=fix", "vermagic=6.1.0-9-amd64 SMP ", "version=2"];
    house.switch(Some(house.slot(&sample(&info))), false).await.unwrap();
    assert_eq!(house.kernel.done(), ["load fix", "unload fix", "load fix"]);
    fs::create_dir(house.folder.path().join("sys/module/foreign")).unwrap();
    let told = house.switch(Some(house.good("foreign")), false).await.unwrap_err();
    assert!(told.contains("not by this agent"), "{told}");
    assert_eq!(house.kernel.done(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_transition_that_never_ends_is_reversed_and_the_task_is_named() {
    let house = house();
    house.switch(Some(house.good("one")), false).await.unwrap();
    house.kernel.stuck.store(true, Relaxed);
    for (task, state) in [("7/task/7", "1\n"), ("8/task/9", "0\n"), ("8/task/8", "-1\n")] {
        let task = house.folder.path().join("proc").join(task);
        fs::create_dir_all(&task).unwrap();
        fs::write(task.join("patch_state"), state).unwrap();
        fs::write(task.join("comm"), "writer\n").unwrap();
        fs::write(task.join("stack"), "[<0>] seed_write+0x1/0x9\n[<0>] vfs_write+0x2/0x9\n")
            .unwrap();
    }
    let told = house.switch(Some(house.good("two")), false).await.unwrap_err();
    let text = "the live patch two: did not use it within 60s: writer (task 9 in seed_write+0x1/0x9 < vfs_write+0x2/0x9)";
    assert_eq!(told, text);
    assert_eq!(house.kernel.done(), ["load one", "load two", "unload two"]);
    assert_eq!(house.kernel.state("one"), Ok(State::On));
}

#[tokio::test(start_paused = true)]
async fn what_the_kernel_can_not_take_is_refused_before_it_sees_it() {
    let house = house();
    fs::remove_dir(house.kernel.patches()).unwrap();
    let told = house.patches.switch("hotfix", Some(house.image("one", "5.10")), false).await;
    let told = told.unwrap_err();
    assert!(told.contains("this kernel can't be patched"), "{told}");
    assert!(told.contains("built for the kernel 5.10, and 6.1.0-9-amd64 runs"), "{told}");
    fs::create_dir(house.kernel.patches()).unwrap();
    let told = house.switch(Some(house.slot(b"no module")), false).await.unwrap_err();
    assert!(told.contains("is no kernel module"), "{told}");
    house.kernel.refuses.store(true, Relaxed);
    let told = house.switch(Some(house.good("one")), false).await.unwrap_err();
    assert!(told.contains("load one") && told.contains("kernel's log"), "{told}");
    assert!(house.patches.record().loaded.is_empty());
}

#[tokio::test(start_paused = true)]
async fn after_a_boot_it_is_loaded_again_unless_the_kernel_is_another_one() {
    let mut house = house();
    house.switch(Some(house.good("one")), false).await.unwrap();
    house.reboot();
    house.kernel.done();
    house.patches.start("hotfix", Some(house.good("one"))).await.unwrap();
    house.patches.start("hotfix", Some(house.good("one"))).await.unwrap();
    assert_eq!(house.kernel.done(), ["load one"]);
    let told = house.patches.start("other", Some(house.image("two", "5.10"))).await;
    assert!(told.unwrap_err().contains("built for the kernel 5.10"));
}
