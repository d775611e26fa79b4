//! sharefs
