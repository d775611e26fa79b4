//! What netd said last, kept over restarts: while netd is not there, that stands.

use std::io;
use std::path::{Path, PathBuf};

use control::config::Config;

use crate::table::{Fact, Source};

/// The file in the state folder that holds the facts as JSON.
#[derive(Debug, Clone)]
pub struct Known {
    path: PathBuf,
}

impl Known {
    /// In `folder`, which is made when first needed.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self {
            path: folder.join("known.json"),
        }
    }

    /// The facts kept last. A file that cannot be used is as good as none: netd will tell.
    #[must_use]
    pub fn load(&self) -> Vec<Fact> {
        let Ok(bytes) = std::fs::read(&self.path) else {
            return Vec::new();
        };
        serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            tracing::debug!(file = %self.path.display(), %error, "kept facts cannot be used");
            Vec::new()
        })
    }

    /// Keeps `facts`, in one step.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn store(&self, facts: &[Fact]) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(&self.path);
        std::fs::create_dir_all(folder)?;
        let new = self.path.with_extension("new");
        std::fs::write(&new, serde_json::to_vec_pretty(facts)?)?;
        std::fs::rename(&new, &self.path)
    }
}

/// Takes away the facts of guests that the configuration no longer has: what netd
/// said about them was about another configuration.
pub fn forget_strangers(facts: &mut Vec<Fact>, config: &Config) {
    facts.retain(|fact| match &fact.from {
        Source::Static => false,
        Source::Guest { guest, .. } => config.guests.contains_key(guest),
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::config::Surroundings;

    fn config(text: &str) -> Config {
        let surroundings = Surroundings {
            home: None,
            uid: 1,
            gid: 1,
            machine: None,
            drives: Default::default(),
        };
        Config::parse(text, Path::new("c.toml"), &surroundings).unwrap()
    }

    #[test]
    fn facts_come_back_and_a_broken_file_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let known = Known::new(&folder.path().join("hosts"));
        assert_eq!(known.load(), []);
        let facts = super::super::config::guest_facts(&config("[guest.dev]\n"));
        known.store(&facts).unwrap();
        assert_eq!(known.load(), facts);
        std::fs::write(&known.path, "[{").unwrap();
        assert_eq!(known.load(), []);
    }

    #[test]
    fn guests_that_left_the_configuration_are_forgotten() {
        let mut facts = super::super::config::guest_facts(&config("[guest.dev]\n[guest.web]\n"));
        forget_strangers(&mut facts, &config("[guest.web]\n"));
        assert_eq!(facts.len(), 1);
        assert_eq!(facts[0].name.as_str(), "web.test");
    }
}
