//! The machine's local users and groups, from the text of passwd(5) and group(5). Pure.
//!
//! Other directories (LDAP, systemd-homed) are not asked: that would take sockets and foreign
//! code. Their users and groups are named by number.

use std::collections::{BTreeMap, BTreeSet};

/// Names and numbers of this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Accounts {
    users: BTreeMap<String, User>,
    groups: BTreeMap<String, Group>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct User {
    number: u32,
    group: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    number: u32,
    members: Vec<String>,
}

/// A group that a rule names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Members {
    /// Whoever has it as the first group.
    pub(super) group: u32,
    /// Whom group(5) lists.
    pub(super) users: BTreeSet<u32>,
}

impl Accounts {
    pub(super) fn parse(passwd: &[u8], group: &[u8]) -> Self {
        let mut accounts = Self::default();
        for line in lines(passwd) {
            // name:password:UID:GID:...
            if let [name, _, number, group, ..] = line.split(':').collect::<Vec<_>>()[..]
                && let (Ok(number), Ok(group)) = (number.parse(), group.parse())
            {
                let user = User { number, group };
                accounts.users.entry(name.to_owned()).or_insert(user);
            }
        }
        for line in lines(group) {
            // name:password:GID:member,member
            if let [name, _, number, members] = line.split(':').collect::<Vec<_>>()[..]
                && let Ok(number) = number.parse()
            {
                let members = members.split(',').filter(|name| !name.is_empty());
                let members = members.map(str::to_owned).collect();
                accounts
                    .groups
                    .entry(name.to_owned())
                    .or_insert(Group { number, members });
            }
        }
        accounts
    }

    /// The number of a user, given by name or number.
    pub(super) fn user(&self, text: &str) -> Option<u32> {
        let named = || self.users.get(text).map(|user| user.number);
        text.parse().ok().or_else(named)
    }

    /// The first group of a user.
    pub(super) fn first_group(&self, uid: u32) -> Option<u32> {
        let mut users = self.users.values();
        users.find(|user| user.number == uid).map(|user| user.group)
    }

    /// A group, given by name or number.
    pub(super) fn group(&self, text: &str) -> Option<Members> {
        let number = text.parse::<u32>().ok();
        let found = self
            .groups
            .iter()
            .find(|(name, group)| number.map_or(*name == text, |number| group.number == number));
        match (found, number) {
            (Some((_, group)), _) => Some(Members {
                group: group.number,
                users: group
                    .members
                    .iter()
                    .filter_map(|name| self.users.get(name).map(|user| user.number))
                    .collect(),
            }),
            (None, Some(group)) => Some(Members {
                group,
                users: BTreeSet::new(),
            }),
            (None, None) => None,
        }
    }
}

/// The lines that are text; others name nobody.
fn lines(bytes: &[u8]) -> impl Iterator<Item = &str> {
    bytes
        .split(|byte| *byte == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups_by_name_and_number() {
        let accounts = Accounts::parse(
            b"root:x:0:0::/root:/bin/sh\nann:x:1000:1000:\xE9::\nann:x:7:7:::\nbob:x:1001:1001:::\nbad:x:-1:0\n",
            b"root:x:0:\ndev:x:50:bob,ghost\nempty:x:51:\nshort:x:52\n",
        );
        // Ann's line is no UTF-8, so the second one is the first that can be read.
        assert_eq!(accounts.user("ann"), Some(7));
        assert_eq!(accounts.user("bob"), Some(1001));
        assert_eq!(accounts.user("4711"), Some(4711));
        assert_eq!(accounts.user("bad"), None);
        let dev = Members {
            group: 50,
            users: [1001].into(),
        };
        assert_eq!(accounts.group("dev"), Some(dev.clone()));
        assert_eq!(accounts.group("50"), Some(dev));
        assert_eq!(
            accounts.group("99"),
            Some(Members {
                group: 99,
                users: BTreeSet::new()
            })
        );
        assert_eq!(accounts.group("short"), None);
    }
}
