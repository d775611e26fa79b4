//! One user's wish -> that user's block in the hosts file.
//!
//! The file is the whole memory: a block tagged `uid-1000` is that user's claim. So nothing can
//! disagree with it after a crash, and an administrator sees and edits all there is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use control::failure::{Failure, FailureKind};
use control::names::HostName;

use super::policy::{Peer, Policy};
use super::protocol::{Done, MOST_NAMES, Refused, owner_of};
use crate::section::{self, Tag};
use crate::writer::{self, How, WriteError, Writer};

/// Blocks that the file may have, over all users.
const MOST_BLOCKS: usize = 64;
/// Blocks that one user may have.
const MOST_OF_ONE: usize = 4;

/// The file, and where its journal and backups are.
#[derive(Debug)]
pub(super) struct Claims {
    pub(super) file: PathBuf,
    pub(super) state: PathBuf,
}

impl Claims {
    /// Brings the block `tag` of `peer` to what of `names` the policy allows.
    pub(super) fn set(
        &self,
        policy: &Policy,
        peer: Peer,
        tag: &Tag,
        names: &BTreeMap<HostName, IpAddr>,
    ) -> Result<Done, Failure> {
        if names.len() > MOST_NAMES {
            return Err(Failure::invalid(format!(
                "{} names, a user may have {MOST_NAMES}",
                names.len()
            )));
        }
        let (given, refused) = judged(policy, peer, names);
        let mut left_out = Vec::new();
        let mut full = None;
        let report = self.writer().update(&self.file, &mut |old| {
            full = no_room(&section::tags(old), peer.uid, tag).filter(|_| !given.is_empty());
            if full.is_some() {
                return Ok(None);
            }
            let edit = section::edit(old, &given, tag)?;
            left_out = edit.left_out;
            Ok(edit.new)
        });
        if let Some(why) = full {
            let hint = "sharectl-hostsync clear, for a block that is not needed";
            return Err(Failure::new(FailureKind::Conflict, why).with_hint(hint));
        }
        let report = report.map_err(|error| failure(&error))?;
        Ok(Done {
            how: report.how,
            mended: report.mended,
            refused,
            left_out,
            hold: policy.grace().is_some() && !given.is_empty(),
        })
    }

    /// Takes a block away.
    pub(super) fn remove(&self, tag: &Tag) -> Result<(), WriteError> {
        self.writer()
            .update(&self.file, &mut |old| {
                section::edit(old, &BTreeMap::new(), tag).map(|edit| edit.new)
            })
            .map(drop)
    }

    /// Finishes what an interrupted write left, and takes out what the policy no longer allows.
    /// Gives the blocks that stand.
    pub(super) fn review(&self, policy: &Policy) -> Result<Vec<Tag>, WriteError> {
        let mut taken: BTreeSet<HostName> = BTreeSet::new();
        let report = self.writer().update(&self.file, &mut |old| {
            let mut new = old.to_vec();
            for tag in section::tags(old) {
                let Some(peer) = owner_of(tag.as_str()).and_then(|uid| policy.peer(uid)) else {
                    continue;
                };
                let mut names = section::present(&new, &tag);
                names.retain(|name, address| {
                    let allowed = policy.judge(peer, name, *address).is_ok();
                    if !allowed {
                        taken.insert(name.clone());
                    }
                    allowed
                });
                new = section::edit(&new, &names, &tag)?.new.unwrap_or(new);
            }
            Ok((new != old).then_some(new))
        })?;
        if let Some(mended) = report.mended {
            tracing::warn!(?mended, "an earlier write was interrupted");
        }
        if report.how != How::Unchanged {
            let names: Vec<&str> = taken.iter().map(HostName::as_str).collect();
            tracing::info!(
                names = names.join(" "),
                "names are no longer allowed and are gone"
            );
        }
        let standing = writer::read(&self.file)?;
        let mut tags = section::tags(&standing);
        tags.retain(|tag| owner_of(tag.as_str()).is_some());
        Ok(tags)
    }

    fn writer(&self) -> Writer {
        Writer::new(&self.state)
    }
}

/// The names that `peer` may have, and those that it may not.
pub(super) fn judged(
    policy: &Policy,
    peer: Peer,
    names: &BTreeMap<HostName, IpAddr>,
) -> (BTreeMap<HostName, IpAddr>, Vec<Refused>) {
    let mut given = BTreeMap::new();
    let mut refused = Vec::new();
    for (name, address) in names {
        match policy.judge(peer, name, *address) {
            Ok(()) => drop(given.insert(name.clone(), *address)),
            Err(why) => refused.push(Refused {
                name: name.clone(),
                why,
            }),
        }
    }
    (given, refused)
}

/// Why one more block would be too many.
fn no_room(tags: &[Tag], uid: u32, wanted: &Tag) -> Option<String> {
    if tags.contains(wanted) {
        return None;
    }
    let owners = tags.iter().filter_map(|tag| owner_of(tag.as_str()));
    let (mut all, mut own) = (0, 0);
    for owner in owners {
        all += 1;
        own += usize::from(owner == uid);
    }
    if own >= MOST_OF_ONE {
        Some(format!(
            "user {uid} has {own} blocks in the file already, the limit is {MOST_OF_ONE}"
        ))
    } else if all >= MOST_BLOCKS {
        Some(format!(
            "the file has {all} users' blocks already, the limit is {MOST_BLOCKS}"
        ))
    } else {
        None
    }
}

/// What a client is told. The hint is for root where it takes root.
fn failure(error: &WriteError) -> Failure {
    let failure = Failure::new(error.kind(), format!("the hosts writer: {error}"));
    if matches!(error, WriteError::Refused { .. }) {
        return failure.with_hint("sudo sharectl host repair");
    }
    match error.hint() {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::super::policy::Texts;
    use super::*;

    const OLD: &str = "127.0.0.1 localhost\n10.0.0.7 mine.test\n";
    const ANN: Peer = Peer {
        uid: 1000,
        gid: 1000,
    };
    const BOB: Peer = Peer {
        uid: 1001,
        gid: 1001,
    };

    struct Place {
        folder: tempfile::TempDir,
        claims: Claims,
    }

    fn place() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("hosts");
        std::fs::write(&file, OLD).unwrap();
        let state = folder.path().join("state");
        Place {
            folder,
            claims: Claims { file, state },
        }
    }

    fn policy(text: Option<&str>) -> Policy {
        Policy::parse(&Texts {
            policy: text,
            passwd: b"ann:x:1000:1000:::\nbob:x:1001:1001:::\n",
            node_name: "box",
            ..Texts::default()
        })
        .unwrap()
    }

    fn names(texts: &[(&str, &str)]) -> BTreeMap<HostName, IpAddr> {
        let name =
            |(name, address): &(&str, &str)| (name.parse().unwrap(), address.parse().unwrap());
        texts.iter().map(name).collect()
    }

    impl Place {
        fn set(&self, peer: Peer, wanted: &[(&str, &str)]) -> Result<Done, Failure> {
            let tag = super::super::protocol::block_tag(peer.uid, "").unwrap();
            self.claims.set(&policy(None), peer, &tag, &names(wanted))
        }

        fn text(&self) -> String {
            std::fs::read_to_string(self.folder.path().join("hosts")).unwrap()
        }
    }

    #[test]
    fn each_user_has_a_block_and_the_first_has_the_name() {
        let place = place();
        let own = "127.64.0.1";
        let done = place
            .set(
                ANN,
                &[
                    ("a.test", own),
                    ("box", own),
                    ("mine.test", own),
                    ("x.com", own),
                ],
            )
            .unwrap();
        let refused: Vec<&str> = done.refused.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(refused, ["box", "x.com"]);
        assert_eq!(done.left_out[0].name.as_str(), "mine.test");
        let done = place.set(BOB, &[("a.test", own), ("b.test", own)]).unwrap();
        assert_eq!(done.left_out[0].name.as_str(), "a.test");
        assert!(place.text().starts_with(OLD), "{}", place.text());
        place.set(ANN, &[]).unwrap();
        let text = place.text();
        assert!(
            !text.contains("uid-1000") && text.contains("\tb.test\n"),
            "{text}"
        );
        place.set(BOB, &[]).unwrap();
        assert_eq!(place.text(), OLD);
    }

    #[test]
    fn blocks_and_names_are_bounded() {
        let place = place();
        for number in 0..MOST_BLOCKS {
            let uid = 2000 + u32::try_from(number).unwrap();
            let name = format!("n{number}.test");
            let peer = Peer { uid, gid: uid };
            place.set(peer, &[(&name, "127.0.0.1")]).unwrap();
        }
        let error = place.set(ANN, &[("a.test", "127.0.0.1")]).unwrap_err();
        assert!(error.message.contains("64 users' blocks"), "{error}");
        assert_eq!(place.set(ANN, &[]).unwrap().how, How::Unchanged);
        let many: Vec<String> = (0..=MOST_NAMES)
            .map(|number| format!("m{number}.test"))
            .collect();
        let many: Vec<(&str, &str)> = many
            .iter()
            .map(|name| (name.as_str(), "127.0.0.1"))
            .collect();
        assert!(
            place
                .set(BOB, &many)
                .unwrap_err()
                .message
                .contains("257 names")
        );

        let tags: Vec<Tag> = ["", ".a", ".b", ".c"]
            .map(|end| Tag::parse(&format!("uid-7{end}")).unwrap())
            .into();
        let fifth = Tag::parse("uid-7.d").unwrap();
        assert!(no_room(&tags, 7, &fifth).is_some());
        assert!(no_room(&tags, 7, &tags[0]).is_none());
        assert!(no_room(&tags, 8, &Tag::parse("uid-8").unwrap()).is_none());
    }

    #[test]
    fn a_new_policy_takes_names_back_at_the_next_start() {
        let place = place();
        place
            .set(ANN, &[("a.test", "127.0.0.1"), ("a.old.test", "127.0.0.1")])
            .unwrap();
        place.set(BOB, &[("b.test", "127.0.0.1")]).unwrap();
        let stricter = "[[allow]]\nusers = [\"ann\"]\nsuffixes = [\"old.test\"]\n";
        let standing = place.claims.review(&policy(Some(stricter))).unwrap();
        assert_eq!(standing, [Tag::parse("uid-1000").unwrap()]);
        let text = place.text();
        assert!(text.contains("\ta.old.test\n"), "{text}");
        assert!(
            !text.contains("\ta.test\n") && !text.contains("b.test"),
            "{text}"
        );
    }

    #[test]
    fn damaged_markers_are_refused_with_the_cure() {
        let place = place();
        std::fs::write(&place.claims.file, "# END sharectl\n").unwrap();
        let error = place.set(ANN, &[("a.test", "127.0.0.1")]).unwrap_err();
        assert_eq!(error.kind, FailureKind::Conflict);
        assert_eq!(error.hint.as_deref(), Some("sudo sharectl host repair"));
        assert_eq!(place.text(), "# END sharectl\n");
    }
}
