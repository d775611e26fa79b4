//! Changes to a configuration's text that leave every comment, blank line and
//! the order of everything else as they were. Pure: text in, text out; whether
//! the outcome is a good configuration is asked elsewhere.

use toml_edit::{Array, DocumentMut, InlineTable, Item, RawString, Table, TableLike, Value, value};

/// Where a change was to happen, but the text has something else.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a table in the file")]
pub(crate) struct NotATable(String);

/// Adds `[section.name]` with these fields behind the last of its kind.
pub(crate) fn add_entry(
    document: &mut DocumentMut,
    section: &str,
    name: &str,
    fields: Vec<(&str, Value)>,
) -> Result<(), NotATable> {
    let first_of_all = document.as_table().is_empty()
        && document.trailing().as_str().unwrap_or_default().is_empty();
    let section_table = subtable(document.as_table_mut(), section, true)?;
    if let Some(inline) = section_table.as_inline_mut() {
        let inner: InlineTable = fields.into_iter().collect();
        inline.insert(name, Value::InlineTable(inner));
        return Ok(());
    }
    let mut entry = Table::new();
    for (key, field) in fields {
        entry.insert(key, value(field));
    }
    entry
        .decor_mut()
        .set_prefix(if first_of_all { "" } else { "\n" });
    section_table.insert(name, Item::Table(entry));
    Ok(())
}

/// Takes `section.name` away, with the comment that touches its heading; true if it was there.
pub(crate) fn remove_entry(
    document: &mut DocumentMut,
    section: &str,
    name: &str,
) -> Result<bool, NotATable> {
    if document.get(section).is_none() {
        return Ok(false);
    }
    let section_table = subtable(document.as_table_mut(), section, false)?;
    let Some(removed) = section_table.remove(name) else {
        return Ok(false);
    };
    if section_table.is_empty_standard() {
        document.as_table_mut().remove(section);
    }
    if let Item::Table(gone) = &removed
        && let Some(position) = gone.position()
    {
        let prefix = text(gone.decor().prefix());
        let kept = kept_comment(&prefix, !any_before(document.as_table(), position));
        if !kept.trim().is_empty() {
            hand_over(document, position, &kept);
        }
    }
    Ok(true)
}

/// Sets `key` in `[section]` or `[section.sub]`, made if it is not there.
pub(crate) fn set_value(
    document: &mut DocumentMut,
    path: &[&str],
    key: &str,
    new: impl Into<Value>,
) -> Result<(), NotATable> {
    let target = descend(document, path, true)?;
    match target.get_mut(key) {
        Some(Item::Value(old)) => {
            let decor = old.decor().clone();
            *old = new.into();
            *old.decor_mut() = decor;
        }
        Some(_) | None => {
            target.insert(key, value(new.into()));
        }
    }
    Ok(())
}

/// Takes `key` out of `[path]`; true if it was there.
pub(crate) fn remove_value(
    document: &mut DocumentMut,
    path: &[&str],
    key: &str,
) -> Result<bool, NotATable> {
    let mut level: &Item = document.as_item();
    for step in path {
        match level.get(step) {
            Some(next) => level = next,
            None => return Ok(false),
        }
    }
    let table = descend(document, path, false)?;
    let removed = table.remove(key).is_some();
    let empty = table.is_empty();
    if removed
        && empty
        && let Some((last, parents)) = path.split_last()
    {
        let parent = descend(document, parents, false)?;
        let heading = parent.get(last).and_then(Item::as_table);
        if heading.is_some_and(|heading| !text(heading.decor().prefix()).contains('#')) {
            parent.remove(last);
        }
    }
    Ok(removed)
}

/// Appends to the list `[path] key`, in the list's own layout.
pub(crate) fn push(
    document: &mut DocumentMut,
    path: &[&str],
    key: &str,
    new: &str,
) -> Result<(), NotATable> {
    let target = descend(document, path, true)?;
    if target.get(key).is_none() {
        let list: Array = std::iter::once(new).collect();
        target.insert(key, value(list));
        return Ok(());
    }
    let list = target
        .get_mut(key)
        .and_then(Item::as_array_mut)
        .ok_or_else(|| NotATable(key.to_owned()))?;
    push_in_layout(list, new);
    Ok(())
}

/// Takes the texts that `wanted` picks out of the list `[path] key`; the number taken.
pub(crate) fn remove_from_list(
    document: &mut DocumentMut,
    path: &[&str],
    key: &str,
    wanted: impl Fn(&str) -> bool,
) -> Result<usize, NotATable> {
    let target = descend(document, path, false)?;
    let Some(list) = target.get_mut(key).and_then(Item::as_array_mut) else {
        return Ok(0);
    };
    let mut taken = 0;
    let mut index = 0;
    while let Some(element) = list.get(index) {
        if !element.as_str().is_some_and(&wanted) {
            index += 1;
            continue;
        }
        let removed = list.remove(index);
        taken += 1;
        let before = text(removed.decor().prefix());
        if !before.contains('\n') {
            continue;
        }
        // What ended the line above stays with it; what ended this line goes with it.
        let join = |after: &str| {
            let rest = after.find('\n').map_or("\n", |at| &after[at..]);
            format!("{}{rest}", before.trim_end())
        };
        if let Some(next) = list.get_mut(index) {
            let joined = join(&text(next.decor().prefix()));
            next.decor_mut().set_prefix(joined);
        } else {
            let joined = join(list.trailing().as_str().unwrap_or_default());
            list.set_trailing(joined);
        }
    }
    if list.is_empty()
        && list
            .trailing()
            .as_str()
            .is_none_or(|rest| !rest.contains('#'))
    {
        target.remove(key);
    }
    Ok(taken)
}

/// A table, or something that can stand for one, with what `TableLike` lacks.
trait SectionLike {
    fn as_inline_mut(&mut self) -> Option<&mut InlineTable>;
    fn insert(&mut self, key: &str, item: Item);
    fn remove(&mut self, key: &str) -> Option<Item>;
    /// A `[section]` heading that is not in the text and has nothing below it.
    fn is_empty_standard(&self) -> bool;
}

impl SectionLike for Item {
    fn as_inline_mut(&mut self) -> Option<&mut InlineTable> {
        self.as_inline_table_mut()
    }

    fn insert(&mut self, key: &str, item: Item) {
        if let Some(table) = self.as_table_like_mut() {
            table.insert(key, item);
        }
    }

    fn remove(&mut self, key: &str) -> Option<Item> {
        self.as_table_like_mut()?.remove(key)
    }

    fn is_empty_standard(&self) -> bool {
        self.as_table()
            .is_some_and(|table| table.is_implicit() && table.is_empty())
    }
}

fn subtable<'d>(parent: &'d mut Table, name: &str, make: bool) -> Result<&'d mut Item, NotATable> {
    if make && !parent.contains_key(name) {
        let mut made = Table::new();
        made.set_implicit(true);
        parent.insert(name, Item::Table(made));
    }
    let found = parent.get_mut(name).filter(|item| item.is_table_like());
    found.ok_or_else(|| NotATable(name.to_owned()))
}

fn descend<'d>(
    document: &'d mut DocumentMut,
    path: &[&str],
    make: bool,
) -> Result<&'d mut dyn TableLike, NotATable> {
    let mut level: &mut dyn TableLike = document.as_table_mut();
    for (depth, step) in path.iter().enumerate() {
        if make && level.get(step).is_none() {
            let mut made = Table::new();
            made.set_implicit(depth + 1 < path.len());
            made.decor_mut().set_prefix("\n");
            level.insert(step, Item::Table(made));
        }
        let next = level.get_mut(step).and_then(Item::as_table_like_mut);
        level = next.ok_or_else(|| NotATable((*step).to_owned()))?;
    }
    Ok(level)
}

fn text(raw: Option<&RawString>) -> String {
    raw.and_then(RawString::as_str)
        .unwrap_or_default()
        .to_owned()
}

/// What stands above a heading but does not touch it; the head of the file stays whole.
fn kept_comment(prefix: &str, first: bool) -> String {
    match prefix.rfind("\n\n") {
        Some(at) => prefix[..=at].to_owned(),
        None if first => prefix.to_owned(),
        None => String::new(),
    }
}

fn any_before(table: &Table, position: isize) -> bool {
    table.iter().any(|(_, item)| match item {
        Item::Table(inner) => {
            inner.position().is_some_and(|there| there < position) || any_before(inner, position)
        }
        Item::Value(_) => true,
        Item::None | Item::ArrayOfTables(_) => false,
    })
}

/// Puts `comment` in front of the heading that now stands at `position`, or at the end.
fn hand_over(document: &mut DocumentMut, position: isize, comment: &str) {
    fn next(table: &Table, position: isize) -> Option<isize> {
        let inner = table.iter().filter_map(|(_, item)| item.as_table());
        let own = |table: &Table| {
            table
                .position()
                .filter(|there| *there > position && !table.is_implicit())
        };
        inner
            .filter_map(|table| own(table).into_iter().chain(next(table, position)).min())
            .min()
    }
    fn prepend(table: &mut Table, position: isize, comment: &str) {
        for (_, item) in table.iter_mut() {
            let Some(inner) = item.as_table_mut() else {
                continue;
            };
            if inner.position() == Some(position) && !inner.is_implicit() {
                let prefix = text(inner.decor().prefix());
                inner.decor_mut().set_prefix(format!("{comment}{prefix}"));
            } else {
                prepend(inner, position, comment);
            }
        }
    }
    match next(document.as_table(), position) {
        Some(heir) => prepend(document.as_table_mut(), heir, comment),
        None => {
            let trailing = document.trailing().as_str().unwrap_or_default().to_owned();
            document.set_trailing(format!("{comment}{trailing}"));
        }
    }
}

/// A list over several lines goes on so, and end-of-line comments stay on their lines.
fn push_in_layout(list: &mut Array, new: &str) {
    let last = list.len().checked_sub(1);
    let first_prefix = list
        .get(0)
        .map(|element| text(element.decor().prefix()))
        .unwrap_or_default();
    let Some(last) = last.filter(|_| first_prefix.contains('\n')) else {
        list.push(new);
        return;
    };
    let indent = first_prefix
        .rsplit('\n')
        .next()
        .unwrap_or_default()
        .to_owned();
    let mut rest = String::new();
    if let Some(element) = list.get_mut(last) {
        rest.push_str(&text(element.decor().suffix()));
        element.decor_mut().set_suffix("");
    }
    rest.push_str(list.trailing().as_str().unwrap_or_default());
    let closing = rest.rsplit('\n').next().unwrap_or_default().to_owned();
    let closing = if closing.contains('#') {
        String::new()
    } else {
        closing
    };
    let mut element = Value::from(new);
    element
        .decor_mut()
        .set_prefix(format!("{}\n{indent}", rest.trim_end()));
    list.push_formatted(element);
    list.set_trailing(format!("\n{closing}"));
    list.set_trailing_comma(true);
}

#[cfg(test)]
mod tests;
