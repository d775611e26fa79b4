//! Path translation: the spellings that Windows, WSL, virtual machines and guests have for one place.
//!
//! Pure: a path is judged by its text, by the mounts, and by the configuration's shares.

pub mod mountinfo;
pub mod wsl_conf;
