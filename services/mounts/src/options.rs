//! A line's fourth field: flags for mount(2), text for the file system, and what is meant for this program. Touches nothing.

use rustix::mount::MountFlags;

/// mount(2) takes one page of text, its NUL included.
const DATA_MAX: usize = 4095;
const OURS: &str = "x-vestal.";

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Options {
    pub(crate) flags: MountFlags,
    /// What the file system itself understands.
    pub(crate) data: String,
    pub(crate) bind: bool,
    /// A bind takes along what is mounted below its source.
    pub(crate) recursive: bool,
    /// `false`: `noauto`, not for us.
    pub(crate) auto: bool,
    /// A bind's source that is not there yet is made from what lies at the mount point.
    pub(crate) fill: bool,
    /// A tmpfs takes the place of what can't be mounted.
    pub(crate) fallback: bool,
    /// `false`: never checked, whatever the sixth field says.
    pub(crate) fsck: bool,
}

/// Options that set flags, and those that clear them again: the last one counts.
const FLAGS: [(&str, MountFlags, bool); 27] = [
    ("ro", MountFlags::RDONLY, true),
    ("rw", MountFlags::RDONLY, false),
    ("nosuid", MountFlags::NOSUID, true),
    ("suid", MountFlags::NOSUID, false),
    ("nodev", MountFlags::NODEV, true),
    ("dev", MountFlags::NODEV, false),
    ("noexec", MountFlags::NOEXEC, true),
    ("exec", MountFlags::NOEXEC, false),
    ("sync", MountFlags::SYNCHRONOUS, true),
    ("async", MountFlags::SYNCHRONOUS, false),
    ("dirsync", MountFlags::DIRSYNC, true),
    ("noatime", MountFlags::NOATIME, true),
    ("atime", MountFlags::NOATIME, false),
    ("nodiratime", MountFlags::NODIRATIME, true),
    ("diratime", MountFlags::NODIRATIME, false),
    ("relatime", MountFlags::RELATIME, true),
    ("norelatime", MountFlags::RELATIME, false),
    ("strictatime", MountFlags::STRICTATIME, true),
    ("nostrictatime", MountFlags::STRICTATIME, false),
    ("lazytime", MountFlags::LAZYTIME, true),
    ("nolazytime", MountFlags::LAZYTIME, false),
    ("nosymfollow", MountFlags::NOSYMFOLLOW, true),
    ("symfollow", MountFlags::NOSYMFOLLOW, false),
    ("silent", MountFlags::SILENT, true),
    ("loud", MountFlags::SILENT, false),
    ("defaults", MountFlags::empty(), true),
    ("mand", MountFlags::PERMIT_MANDATORY_FILE_LOCKING, true),
];
/// What mount(8) and others read and nobody here needs: everything that fails is told and gone on from, as with `nofail`.
const FOR_OTHERS: [&str; 9] =
    ["auto", "nofail", "_netdev", "nouser", "group", "owner", "user", "users", "sw"];

/// Reads the field of a line of this type. A `problem` is told, and the option left out.
pub(crate) fn parse(
    field: &str,
    kind: &str,
    problems: &mut Vec<String>,
) -> Result<Options, String> {
    let mut options = Options {
        flags: MountFlags::empty(),
        data: String::new(),
        bind: false,
        recursive: false,
        auto: true,
        fill: false,
        fallback: false,
        fsck: true,
    };
    for option in field.split(',').filter(|option| !option.is_empty()) {
        if let Some((_, flag, on)) = FLAGS.iter().find(|(name, ..)| *name == option) {
            options.flags.set(*flag, *on);
            continue;
        }
        match option {
            "bind" | "rbind" => {
                options.bind = true;
                options.recursive = option == "rbind";
            }
            "noauto" => options.auto = false,
            _ if FOR_OTHERS.contains(&option) => {
                // An ordinary user may unmount these: mount(8) lets them hold no devices and no programs.
                if matches!(option, "user" | "users") {
                    let closed = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
                    options.flags.insert(closed);
                }
            }
            _ => match option.strip_prefix(OURS) {
                Some(ours) => own(ours, &mut options, problems),
                None if option.starts_with("x-") || option.starts_with("X-") => {}
                None if option.starts_with("comment=") => {}
                None => {
                    let comma = if options.data.is_empty() { "" } else { "," };
                    options.data = [&options.data, comma, option].concat();
                }
            },
        }
    }
    if options.data.len() > DATA_MAX {
        let length = options.data.len();
        return Err(format!("options of {length} bytes: the kernel takes {DATA_MAX}"));
    }
    if options.fill && !options.bind {
        problems.push("x-vestal.fill is for a bind, and this is none: left out".to_owned());
        options.fill = false;
    }
    if options.fallback && kind == "swap" {
        problems.push("x-vestal.fallback is not for swap: left out".to_owned());
        options.fallback = false;
    }
    Ok(options)
}

fn own(option: &str, options: &mut Options, problems: &mut Vec<String>) {
    match option {
        "fill" => options.fill = true,
        "fallback=tmpfs" => options.fallback = true,
        "fsck=no" => options.fsck = false,
        "fsck=yes" => options.fsck = true,
        _ => problems.push(format!(
            "unknown option {OURS}{option}: there are {OURS}fill, {OURS}fallback=tmpfs and {OURS}fsck=no"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(field: &str) -> (Options, Vec<String>) {
        let mut problems = Vec::new();
        let options = parse(field, "ext4", &mut problems).unwrap();
        (options, problems)
    }

    #[test]
    fn flags_are_told_from_what_the_file_system_reads_and_the_last_word_counts() {
        let (options, problems) = read(
            "defaults,ro,noatime,errors=remount-ro,rw,nofail,commit=5,x-other.thing,comment=x",
        );
        assert_eq!(options.flags, MountFlags::NOATIME);
        assert_eq!(options.data, "errors=remount-ro,commit=5");
        assert_eq!(problems, Vec::<String>::new());
    }

    #[test]
    fn what_a_user_may_mount_holds_no_devices_and_no_programs() {
        assert_eq!(read("user,exec").0.flags, MountFlags::NOSUID | MountFlags::NODEV);
    }

    #[test]
    fn our_own_options_are_known_or_told() {
        let (options, problems) = read("rbind,x-vestal.fill,x-vestal.fsck=no,x-vestal.fil,noauto");
        assert!(options.bind && options.recursive && options.fill);
        assert!(!options.fsck && !options.auto);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].starts_with("unknown option x-vestal.fil: there are x-vestal.fill"));
        let (options, problems) = read("x-vestal.fill");
        assert_eq!((options.fill, problems.len()), (false, 1), "nothing to fill");
    }

    #[test]
    fn more_than_the_kernel_takes_is_refused() {
        let long = format!("a={}", "x".repeat(4095));
        let refused = parse(&long, "ext4", &mut Vec::new()).unwrap_err();
        assert_eq!(refused, "options of 4097 bytes: the kernel takes 4095");
    }
}
