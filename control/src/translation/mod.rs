//! Path translation: the spellings that Windows, WSL, virtual machines and guests have for one place.
//!
//! Pure: a path is judged by its text, by the mounts, and by the configuration's shares. What only the machine's files
//! say (where a symbolic link leads) is asked through [`Files`].

mod error;
mod machine;
pub mod mountinfo;
mod shares;
mod spelling;
#[cfg(test)]
mod tests;
pub mod words;
pub mod wsl_conf;

pub use error::{TranslationError, quoted};
pub use machine::{Files, Machine, NoFiles, Style};
pub use shares::{Answer, Base, View};
pub use spelling::{Names, Server, Spelling};
