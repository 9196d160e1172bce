//! Names in a file are replaced by what they stand for: a NAT by a preset or an entry of `nats`, a link by an entry of
//! `links`, rules by an entry of `rules` or a word. A table may begin with `like = "name"` and change some of it.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Mistake, Step, key, placeless};
use crate::nat::Preset;
use crate::rules::Rules;

/// What kinds of things have names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Nat,
    Link,
    Rules,
}

/// The named tables of a file, as far as they are resolved.
struct Named<'i> {
    nats: BTreeMap<String, DeTable<'i>>,
    links: BTreeMap<String, DeTable<'i>>,
    rules: BTreeMap<String, DeTable<'i>>,
}

pub(super) fn resolve(tree: &mut DeTable<'_>) -> Result<(), Mistake> {
    let mut named = Named {
        nats: BTreeMap::new(),
        links: BTreeMap::new(),
        rules: BTreeMap::new(),
    };
    for kind in [Kind::Nat, Kind::Link, Kind::Rules] {
        named.read(tree, kind)?;
    }
    for list in ["router", "host", "event"] {
        let Some(DeValue::Array(items)) = tree.get_mut(list).map(Spanned::get_mut) else {
            continue;
        };
        for (index, item) in items.iter_mut().enumerate() {
            if let DeValue::Table(item) = item.get_mut() {
                named.fill(item, &[key(list), Step::Index(index)])?;
            }
        }
    }
    Ok(())
}

impl<'i> Named<'i> {
    /// The file's own names of one kind. One may be like another that stands before it in the alphabet.
    fn read(&mut self, tree: &mut DeTable<'i>, kind: Kind) -> Result<(), Mistake> {
        let section = kind.section();
        let Some(DeValue::Table(entries)) = tree.get_mut(section).map(Spanned::get_mut) else {
            return Ok(());
        };
        for (name, value) in entries.iter_mut() {
            let path = [key(section), key(name.get_ref())];
            self.replace(value, kind, &path)?;
            if let DeValue::Table(table) = value.get_ref() {
                self.of(kind)
                    .insert(name.get_ref().to_string(), table.clone());
            }
        }
        Ok(())
    }

    fn fill(&mut self, item: &mut DeTable<'i>, path: &[Step]) -> Result<(), Mistake> {
        for (field, kind) in FIELDS {
            let path = [path, &[key(field)]].concat();
            if let Some(value) = item.get_mut(field) {
                match kind {
                    Kind::Link => self.replace_access(value, &path)?,
                    Kind::Nat | Kind::Rules => self.replace(value, kind, &path)?,
                }
            }
        }
        if let Some(DeValue::Array(also)) = item.get_mut("also").map(Spanned::get_mut) {
            for (index, item) in also.iter_mut().enumerate() {
                let path = [path, &[key("also"), Step::Index(index)]].concat();
                if let DeValue::Table(item) = item.get_mut() {
                    self.fill(item, &path)?;
                }
            }
        }
        Ok(())
    }

    /// A word becomes the table that it stands for; a table gets what its `like` has and it has not.
    fn replace(
        &mut self,
        value: &mut Spanned<DeValue<'i>>,
        kind: Kind,
        path: &[Step],
    ) -> Result<(), Mistake> {
        match value.get_mut() {
            DeValue::String(word) => {
                let table = self.find(kind, word, path)?;
                *value.get_mut() = DeValue::Table(table);
            }
            DeValue::Table(table) => {
                if let Some(like) = table.remove("like") {
                    let path = [path, &[key("like")]].concat();
                    let word = like.get_ref().as_str();
                    let word = word.ok_or_else(|| Mistake::new(&path, "a name, as text"))?;
                    let base = self.find(kind, word, &path)?;
                    merge(table, base);
                }
            }
            DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_) => {}
        }
        Ok(())
    }

    /// A link's name or its figures are both ways; `up` and `down` are one way each.
    fn replace_access(
        &mut self,
        value: &mut Spanned<DeValue<'i>>,
        path: &[Step],
    ) -> Result<(), Mistake> {
        if let DeValue::Table(table) = value.get_mut()
            && (table.contains_key("up") || table.contains_key("down"))
        {
            for way in ["up", "down"] {
                let path = [path, &[key(way)]].concat();
                if let Some(one) = table.get_mut(way) {
                    self.replace(one, Kind::Link, &path)?;
                }
            }
            return Ok(());
        }
        self.replace(value, Kind::Link, path)?;
        let both = ["up", "down"].map(|way| {
            let way = Spanned::new(0..0, way.into());
            (way, value.clone())
        });
        *value.get_mut() = DeValue::Table(both.into_iter().collect());
        Ok(())
    }

    fn find(&mut self, kind: Kind, word: &str, path: &[Step]) -> Result<DeTable<'i>, Mistake> {
        if let Some(own) = self.of(kind).get(word) {
            return Ok(own.clone());
        }
        let text = match kind {
            Kind::Nat if word == "cone" => PRESETS.get("port-restricted"),
            Kind::Nat => PRESETS.get(word),
            Kind::Rules => RULES.get(word),
            Kind::Link => None,
        };
        let parsed = text.and_then(|text| DeTable::parse(text).ok());
        parsed.map(Spanned::into_inner).ok_or_else(|| {
            let own = self.of(kind).keys().cloned();
            let given = match kind {
                Kind::Nat => PRESETS.keys().copied().collect(),
                Kind::Rules => RULES.keys().copied().collect(),
                Kind::Link => Vec::new(),
            };
            let all = own.chain(given.into_iter().map(str::to_owned));
            let all = all.collect::<Vec<_>>().join(", ");
            let what = kind.section();
            Mistake::new(path, format!("`{word}` is none of the {what}: {all}"))
        })
    }

    const fn of(&mut self, kind: Kind) -> &mut BTreeMap<String, DeTable<'i>> {
        match kind {
            Kind::Nat => &mut self.nats,
            Kind::Link => &mut self.links,
            Kind::Rules => &mut self.rules,
        }
    }
}

impl Kind {
    const fn section(self) -> &'static str {
        match self {
            Self::Nat => "nats",
            Self::Link => "links",
            Self::Rules => "rules",
        }
    }
}

/// What `table` does not say is as in `base`, also inside its tables.
fn merge<'i>(table: &mut DeTable<'i>, base: DeTable<'i>) {
    for (name, value) in base {
        match table.get_mut(name.get_ref().as_ref()).map(Spanned::get_mut) {
            Some(DeValue::Table(inner)) => {
                if let DeValue::Table(value) = value.into_inner() {
                    merge(inner, value);
                }
            }
            Some(_) => {}
            None => {
                table.insert(name, placeless(value.into_inner()));
            }
        }
    }
}

/// Where names may stand in routers, hosts and events.
const FIELDS: [(&str, Kind); 4] = [
    ("nat", Kind::Nat),
    ("ipv6", Kind::Nat),
    ("rules", Kind::Rules),
    ("link", Kind::Link),
];

/// The presets as text, so that they are tables like those of a file.
static PRESETS: LazyLock<BTreeMap<&'static str, String>> = LazyLock::new(|| {
    let text = |preset: Preset| toml::to_string(&preset.config()).unwrap_or_default();
    Preset::ALL
        .into_iter()
        .map(|preset| (preset.name(), text(preset)))
        .collect()
});

static RULES: LazyLock<BTreeMap<&'static str, String>> = LazyLock::new(|| {
    let text = |name: &str| {
        let rules: Option<Rules> = name.parse().ok();
        toml::to_string(&rules).unwrap_or_default()
    };
    ["everything", "udp-blocked", "only-443", "nothing"]
        .map(|name| (name, text(name)))
        .into()
});
