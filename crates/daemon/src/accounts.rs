//! Users and groups by name, from the texts of passwd(5) and group(5) alone: a static program has no NSS.

/// Users that the suite's own services run as, with the numbers they get where `/etc/passwd` doesn't have them
/// (`docs/definitions.md`). Numbers are never reused.
pub const BUILT_IN: [(&str, u32); 5] = [
    ("vestal-registry", 870),
    ("vestal-heartbeat", 871),
    ("vestal-log", 873),
    ("vestal-upgrade", 874),
    ("vestal-driver", 875),
];

/// What both files say, as far as it is well-formed.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    users: Vec<Account>,
    groups: Vec<Group>,
}

/// A user.
#[derive(Clone, Debug)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

#[derive(Clone, Debug)]
struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

impl Accounts {
    /// Lines that aren't well-formed are skipped, as the C library does.
    #[must_use]
    pub fn parse(passwd: &str, group: &str) -> Self {
        let account = |line: &str| {
            let mut fields = line.split(':');
            let name = fields.next().filter(|name| !name.is_empty())?.to_owned();
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            Some(Account { name, uid, gid })
        };
        let group_of = |line: &str| {
            let mut fields = line.split(':');
            let name = fields.next().filter(|name| !name.is_empty())?.to_owned();
            let gid = fields.nth(1)?.parse().ok()?;
            let members = fields.next().unwrap_or_default().split(',').map(str::trim);
            let members = members.filter(|member| !member.is_empty()).map(str::to_owned).collect();
            Some(Group { name, gid, members })
        };
        Self {
            users: passwd.lines().filter_map(account).collect(),
            groups: group.lines().filter_map(group_of).collect(),
        }
    }

    #[must_use]
    pub fn user(&self, name: &str) -> Option<&Account> {
        self.users.iter().find(|account| account.name == name)
    }

    #[must_use]
    pub fn user_of(&self, uid: u32) -> Option<&Account> {
        self.users.iter().find(|account| account.uid == uid)
    }

    #[must_use]
    pub fn group(&self, name: &str) -> Option<u32> {
        self.groups.iter().find(|group| group.name == name).map(|group| group.gid)
    }

    /// The groups that list this user as a member.
    pub fn groups_with(&self, user: &str) -> impl Iterator<Item = u32> {
        let lists = move |group: &&Group| group.members.iter().any(|member| member == user);
        self.groups.iter().filter(lists).map(|group| group.gid)
    }
}

/// The fixed number of a user, and group, of the suite's own services.
#[must_use]
pub fn built_in(name: &str) -> Option<u32> {
    BUILT_IN.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

/// A number written as a name. `u32::MAX` means "leave as it is" to setresuid(2), so it is nobody.
#[must_use]
pub fn number(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| digits && *number != u32::MAX)
}
