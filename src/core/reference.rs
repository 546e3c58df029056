//! What counts as a reference to a secret, and what is done with each.
//!
//! This is the one place that reads references: [`grammar`] says how one value is read, [`reason`] why
//! a reference is not watched, [`settings`] where those of a container lead, and [`each`] where in a pod
//! template they stand.
//!
//! Architecture Invariant: reading never fails. Every value yields the paths to watch and, for each
//! reference that is not watched or looks odd, a note with the reason.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;

use super::annotation::Annotations;
use super::environment::{Container, EnvFrom, EnvValue, EnvVar, SourceName};
use super::source::{Content, Known};

pub mod grammar;
pub mod reason;
pub mod settings;

pub use grammar::{Reading, Scheme, may_hold_reference};
pub use reason::Reason;
use settings::{Destination, Destinations, Setting, Value};

/// Where in a pod template a reference stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// The environment of a container.
    Env {
        /// The container's name.
        container: String,
        /// The variable's name.
        name: String,
    },
    /// A key of a source that a variable comes from.
    Key {
        /// The container's name.
        container: String,
        /// The variable's name.
        name: String,
        /// The source.
        source: SourceName,
        /// The key.
        key: String,
    },
    /// A source that variables come from, as a whole.
    Source {
        /// The container's name.
        container: String,
        /// The source.
        source: SourceName,
    },
    /// The annotation that lists paths of a scheme.
    FromPath(Scheme),
    /// The annotation that names the Vault namespace of a scheme.
    Namespace(Scheme),
    /// The annotation that names the address of the server of a scheme.
    Address(Scheme),
    /// The workload as a whole.
    Workload,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env { container, name } => write!(f, "variable {name} of container {container}"),
            Self::Key { container, name, source, key } => {
                write!(f, "variable {name} of container {container}, key {key} of {source}")
            }
            Self::Source { container, source } => write!(f, "{source} of container {container}"),
            Self::FromPath(scheme) => write!(f, "annotation {}-from-path", scheme.name()),
            Self::Namespace(scheme) => write!(f, "annotation {}-namespace", scheme.name()),
            Self::Address(scheme) => write!(f, "annotation {}-addr", scheme.name()),
            Self::Workload => f.write_str("the references of the workload"),
        }
    }
}

/// One reference that is not watched or looks odd. It never holds the value itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Note {
    /// Where it stands.
    pub origin: Origin,
    /// Why it is noted.
    pub reason: Reason,
}

/// What a pod template refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extraction<'a> {
    /// The API paths to watch, cleaned, each once for the injector that looks for it and for where it
    /// looks, in order.
    pub paths: BTreeSet<(Scheme, Destination<'a>, String)>,
    /// What is not watched or looks odd.
    pub notes: Vec<Note>,
    /// Whether it names sources that are not known yet.
    pub is_waiting: bool,
}

/// Where one reference stands, and what stands there.
#[derive(Clone, Debug)]
pub enum Place<'a> {
    /// A variable of a container.
    Env(&'a Container, &'a EnvVar),
    /// A key of a source that a variable comes from.
    Key {
        /// The container.
        container: &'a Container,
        /// The variable's name.
        variable: String,
        /// The source.
        source: &'a SourceName,
        /// The key.
        key: String,
    },
    /// A source that variables come from, as a whole.
    Source(&'a Container, &'a SourceName),
    /// A variable that tells an injector something.
    Setting(&'a Container, &'static str),
    /// An item of an annotation that lists paths.
    FromPath(Scheme, &'a str),
}

impl From<Place<'_>> for Origin {
    fn from(place: Place) -> Self {
        match place {
            Place::Env(container, variable) => {
                Self::Env { container: container.name.clone(), name: variable.name.clone() }
            }
            Place::Key { container, variable, source, key } => Self::Key {
                container: container.name.clone(),
                name: variable,
                source: source.clone(),
                key,
            },
            Place::Source(container, source) => {
                Self::Source { container: container.name.clone(), source: source.clone() }
            }
            Place::Setting(container, name) => {
                Self::Env { container: container.name.clone(), name: name.to_owned() }
            }
            Place::FromPath(scheme, _) => Self::FromPath(scheme),
        }
    }
}

/// Reads all references of a pod template from its annotations and the environment of its containers,
/// and says of each where the references that stand there lead. Answers the sources that are not known
/// yet.
///
/// `look_up` says what is known of a source.
pub fn each<'a>(
    annotations: &'a Annotations,
    containers: &'a [Container],
    look_up: impl Fn(&SourceName) -> Known,
    mut take: impl FnMut(Place<'a>, Destinations<'a>, Reading),
) -> BTreeSet<&'a SourceName> {
    let mut sources = Sources { look_up, looked: HashMap::new(), left: MOST_WORK };
    // Where the paths lead that all containers get.
    let mut of_lists = Scheme::ALL.map(|scheme| (scheme, BTreeSet::new()));
    for container in containers {
        if annotations.is_left_alone() && !container.starts_injector {
            for place in not_injected(container) {
                take(place, Destinations::default(), Reading::Skip(Reason::MutateSkip));
            }
            continue;
        }
        let readings = sources.environment(container);
        let told = sources.told(annotations, container, &readings);
        for (place, reading) in readings {
            take(place, told.destinations, by_provider(annotations, reading));
        }
        for (scheme, name, list) in told.lists {
            for item in list.split(',') {
                let reading = by_provider(annotations, read_item(scheme, item));
                take(Place::Setting(container, name), told.destinations, reading);
            }
        }
        for (name, reason) in told.notes {
            take(Place::Setting(container, name), told.destinations, Reading::Skip(reason));
        }
        for (scheme, destinations) in &mut of_lists {
            destinations.insert(told.destinations.of(*scheme));
        }
    }
    if !annotations.is_left_alone() {
        for (scheme, destinations) in of_lists {
            sources.lists(annotations, scheme, destinations, &mut take);
        }
    }
    sources.unknown()
}

/// The variables with references of a container that has no injector.
fn not_injected(container: &Container) -> impl Iterator<Item = Place<'_>> {
    let refers = |variable: &&EnvVar| match &variable.value {
        EnvValue::Literal(value) | EnvValue::Partly(value) => {
            !grammar::parse(&variable.name, value).is_empty()
        }
        EnvValue::Key { .. } | EnvValue::Other => false,
    };
    container.variables.iter().filter(refers).map(|variable| Place::Env(container, variable))
}

/// What is done about a reference where the provider is named.
fn by_provider(annotations: &Annotations, reading: Reading) -> Reading {
    let is_resolved = match &reading {
        Reading::Watch(scheme, _) | Reading::WatchOdd(scheme, ..) => annotations.resolves(*scheme),
        Reading::Skip(_) => Scheme::ALL.into_iter().any(|scheme| annotations.resolves(scheme)),
    };
    // It is the webhook that reads the annotation.
    let is_resolved = is_resolved || annotations.is_left_alone();
    if is_resolved { reading } else { Reading::Skip(Reason::OtherProvider) }
}

/// Reads an item of a list of paths, which nobody trims.
fn read_item(scheme: Scheme, item: &str) -> Reading {
    let (path, version) = item.split_once('#').unwrap_or((item, ""));
    grammar::read_latest(scheme, path, version)
}

/// What a container's variables tell its injector.
struct Told<'a> {
    destinations: Destinations<'a>,
    /// Lists of paths that are its own: of which scheme, in which variable, and the list.
    lists: Vec<(Scheme, &'static str, &'a str)>,
    /// What is to be said of its variables.
    notes: Vec<(&'static str, Reason)>,
}

/// How much is done for one workload beyond reading each of its variables, and each reference of its
/// sources, once: the names of variables that come from whole sources, and references that are read
/// again since several variables come from one key.
///
/// A source can be named many times, so these are the product of what a tenant writes. No program
/// starts with more variables than this: Linux gives it 6 MiB for them at most.
const MOST_WORK: usize = 50_000;

/// The sources that a workload names, each looked up once.
struct Sources<'a, L> {
    look_up: L,
    looked: HashMap<&'a SourceName, Looked>,
    /// How much may still be done of what [`MOST_WORK`] bounds.
    left: usize,
}

/// A source, and which of its keys were read.
struct Looked {
    known: Known,
    read: HashSet<usize>,
    /// Whether it was read as a whole, whatever the names of its variables.
    is_all_read: bool,
    /// Whether there is a reference in it.
    refers: bool,
}

impl<'a, L: Fn(&SourceName) -> Known> Sources<'a, L> {
    fn look_up(&mut self, source: &'a SourceName) -> Known {
        let look_up = &self.look_up;
        let new = || {
            let known = look_up(source);
            let refers = matches!(&known, Known::Read(content) if content.refers());
            Looked { known, read: HashSet::new(), is_all_read: false, refers }
        };
        self.looked.entry(source).or_insert_with(new).known.clone()
    }

    /// Whether there is a reference in a source that was looked up.
    fn refers(&self, source: &SourceName) -> bool {
        self.looked.get(source).is_some_and(|looked| looked.refers)
    }

    /// Whether a source was read as a whole before. It counts as such from now on.
    fn is_all_read(&mut self, source: &SourceName) -> bool {
        let looked = self.looked.get_mut(source);
        looked.is_none_or(|looked| std::mem::replace(&mut looked.is_all_read, true))
    }

    /// The sources that are not known yet.
    fn unknown(self) -> BTreeSet<&'a SourceName> {
        let unknown = self.looked.into_iter().filter(|(_, looked)| looked.known == Known::NotYet);
        unknown.map(|(source, _)| source).collect()
    }

    /// Whether something that is a product of what the tenant writes may be done.
    fn spend(&mut self, work: usize) -> bool {
        let is_enough = work <= self.left;
        if is_enough {
            self.left -= work;
        }
        is_enough
    }

    /// The references behind a key, for a variable. Those that were read before are left out where
    /// too many were: they are watched already.
    fn readings(
        &mut self,
        source: &'a SourceName,
        (index, kept): (usize, &[Kept]),
        variable: &Variable,
    ) -> Vec<Reading> {
        if kept.is_empty() {
            return Vec::new();
        }
        if variable.is_overridden {
            return vec![Reading::Skip(Reason::Overridden)];
        }
        let looked = self.looked.get_mut(source);
        let is_first = looked.is_some_and(|looked| looked.read.insert(index));
        if !is_first && !self.spend(kept.len()) {
            return Vec::new();
        }
        kept.iter().map(|kept| kept.reading_in(variable.name)).collect()
    }

    /// What is known of a setting of a container, and in which variable it is.
    fn setting(
        &mut self,
        container: &'a Container,
        setting: Setting,
        scheme: Scheme,
    ) -> Option<(&'static str, Value<'a>)> {
        let names = setting.names(scheme).iter();
        names.copied().find_map(|name| Some((name, self.setting_in(container, name)?)))
    }

    /// What is known of the value of a variable that is a setting; `None` where there is no such
    /// variable, or it is not known whether there is.
    fn setting_in(&mut self, container: &'a Container, name: &str) -> Option<Value<'a>> {
        let mut holds = |source: &'a SourceName, key: &str| match self.look_up(source) {
            Known::Read(content) => content.get(key).is_some(),
            Known::NotYet | Known::Not(_) | Known::Missing => false,
        };
        match container.variable(name).map(|variable| &variable.value) {
            Some(EnvValue::Literal(text)) => return Some(Value::Text(text)),
            Some(EnvValue::Partly(_) | EnvValue::Other) => return Some(Value::Unknown),
            Some(EnvValue::Key { source, key, optional }) if !optional || holds(source, key) => {
                return Some(Value::Unknown);
            }
            Some(EnvValue::Key { .. }) | None => {}
        }
        let mut from = container.from.iter();
        let is_in_source = from.any(|from| {
            let key = name.strip_prefix(from.prefix.as_str());
            key.is_some_and(|key| holds(&from.source, key))
        });
        is_in_source.then_some(Value::Unknown)
    }

    /// What a container's variables tell its injector. `readings` are those of its environment.
    fn told(
        &mut self,
        annotations: &'a Annotations,
        container: &'a Container,
        readings: &[(Place<'a>, Reading)],
    ) -> Told<'a> {
        let mut told =
            Told { destinations: Destinations::default(), lists: Vec::new(), notes: Vec::new() };
        let is_by_hand = annotations.is_left_alone();
        // The webhook puts an injector only where there is something to resolve.
        let is_injected = is_by_hand
            || readings
                .iter()
                .any(|(place, _)| matches!(place, Place::Env(..) | Place::Key { .. }));
        for scheme in Scheme::ALL {
            let list = annotations.path_list(scheme).filter(|_| !is_by_hand);
            if list.is_none() && !is_injected {
                continue;
            }
            let mut is_used = list.is_some()
                || readings.iter().any(|(_, reading)| match reading {
                    Reading::Watch(of, _) | Reading::WatchOdd(of, ..) => *of == scheme,
                    Reading::Skip(_) => false,
                });
            if list.is_none() {
                match self.setting(container, Setting::FromPath, scheme) {
                    Some((name, Value::Text(list))) if !list.is_empty() => {
                        told.lists.push((scheme, name, list));
                        is_used = true;
                    }
                    Some((name, Value::Unknown)) => {
                        told.notes.push((name, Reason::SettingUnknown));
                        is_used = true;
                    }
                    Some((_, Value::Text(_))) | None => {}
                }
            }
            if is_used {
                self.set_destination(annotations, container, scheme, &mut told);
            }
        }
        told
    }

    /// Says where the references of a scheme in a container lead.
    fn set_destination(
        &mut self,
        annotations: &'a Annotations,
        container: &'a Container,
        scheme: Scheme,
        told: &mut Told<'a>,
    ) {
        let is_by_hand = annotations.is_left_alone();
        let mut destination = Destination::default();
        if is_by_hand {
            destination.container = Some(&container.name);
            match self.setting(container, Setting::Address, scheme) {
                Some((_, Value::Text(text))) => {
                    destination.address = Some(text).filter(|text| !text.is_empty());
                }
                Some((name, Value::Unknown)) => told.notes.push((name, Reason::SettingUnknown)),
                None => {}
            }
        }
        // The webhook adds its own variable where the annotation names one.
        if is_by_hand || annotations.vault_namespace(scheme).is_none() {
            match self.setting(container, Setting::Namespace, scheme) {
                Some((name, Value::Text(text))) => {
                    destination.namespace = settings::namespace(text);
                    let is_bad = destination.namespace.is_some_and(|n| !settings::is_namespace(n));
                    told.notes.extend(is_bad.then_some((name, Reason::BadNamespace)));
                }
                Some((name, Value::Unknown)) => told.notes.push((name, Reason::SettingUnknown)),
                None => {}
            }
        }
        told.destinations.set(scheme, destination);
    }

    /// Reads the list of paths that all containers get, for each place where they look.
    fn lists(
        &mut self,
        annotations: &'a Annotations,
        scheme: Scheme,
        destinations: BTreeSet<Destination<'a>>,
        take: &mut impl FnMut(Place<'a>, Destinations<'a>, Reading),
    ) {
        let Some(list) = annotations.path_list(scheme) else { return };
        let mut is_first = true;
        let none = destinations.is_empty().then(Destination::default);
        for destination in destinations.into_iter().chain(none) {
            let mut all = Destinations::default();
            all.set(scheme, destination);
            // Of many containers with namespaces of their own, this is a product.
            if !std::mem::take(&mut is_first) && !self.spend(list.split(',').count()) {
                take(Place::FromPath(scheme, list), all, Reading::Skip(Reason::TooManyVariables));
                return;
            }
            for item in list.split(',') {
                let reading = by_provider(annotations, read_item(scheme, item));
                take(Place::FromPath(scheme, item), all, reading);
            }
        }
    }

    /// The references in the environment that a container gets, in order: of several variables of
    /// one name, the last one counts, and `env` comes after `envFrom`.
    fn environment(&mut self, container: &'a Container) -> Vec<(Place<'a>, Reading)> {
        let mut environment = Environment { container, names: HashSet::new(), found: Vec::new() };
        // From the end: a name that was met before is that of a later variable.
        for variable in container.variables.iter().rev() {
            match &variable.value {
                EnvValue::Literal(value) | EnvValue::Partly(value) => {
                    let is_first = environment.names.insert(Cow::Borrowed(&variable.name));
                    let mut readings = match &variable.value {
                        EnvValue::Partly(_) => read_partly(&variable.name, value),
                        _ => read_value(&variable.name, value),
                    };
                    if !is_first && !readings.is_empty() {
                        readings = vec![Reading::Skip(Reason::Overridden)];
                    }
                    environment.add(&Place::Env(container, variable), readings);
                }
                EnvValue::Other => {
                    environment.names.insert(Cow::Borrowed(&variable.name));
                }
                EnvValue::Key { source, key, optional } => {
                    let name = variable.name.as_str();
                    let is_overridden = environment.names.contains(name);
                    let of = Variable { name, is_overridden };
                    let Some(readings) = self.key(&of, source, key, *optional) else { continue };
                    environment.names.insert(Cow::Borrowed(name));
                    let place = environment.place_of_key(name.to_owned(), source, key);
                    environment.add(&place, readings);
                }
            }
        }
        // The same once more has the same names.
        let mut whole = HashSet::new();
        for from in container.from.iter().rev() {
            let place = Place::Source(container, &from.source);
            let reason = match self.look_up(&from.source) {
                Known::Missing if from.optional => None,
                Known::NotYet => None,
                Known::Missing => Some(Reason::SourceMissing),
                Known::Not(reason) => Some(reason),
                Known::Read(_) if !whole.insert((&from.source, &from.prefix)) => {
                    self.refers(&from.source).then_some(Reason::Overridden)
                }
                Known::Read(content) => self.all(from, &content, &mut environment),
            };
            let reading = reason.map(|reason| (place, Reading::Skip(reason)));
            environment.found.extend(reading);
        }
        environment.found.reverse();
        environment.found
    }

    /// The references behind one key; `None` where there is no such variable.
    fn key(
        &mut self,
        variable: &Variable,
        source: &'a SourceName,
        key: &str,
        optional: bool,
    ) -> Option<Vec<Reading>> {
        let reason = match self.look_up(source) {
            Known::Read(content) => match content.get(key) {
                Some(found) => return Some(self.readings(source, found, variable)),
                None if optional => return None,
                None => Reason::KeyMissing,
            },
            Known::Missing if optional => return None,
            Known::Missing => Reason::SourceMissing,
            Known::Not(reason) => reason,
            Known::NotYet => return Some(Vec::new()),
        };
        Some(vec![Reading::Skip(reason)])
    }

    /// The references behind all keys of a source, and what is to be said of the source as a whole.
    fn all(
        &mut self,
        from: &'a EnvFrom,
        content: &Content,
        environment: &mut Environment<'a>,
    ) -> Option<Reason> {
        let is_told_apart = self.spend(content.len());
        if !is_told_apart && self.is_all_read(&from.source) {
            return Some(Reason::TooManyVariables);
        }
        for (index, key, kept) in content.iter().rev() {
            if !is_told_apart && kept.is_empty() {
                continue;
            }
            let name = format!("{}{key}", from.prefix);
            let is_overridden = is_told_apart && environment.names.contains(&*name);
            let of = Variable { name: &name, is_overridden };
            let readings = self.readings(&from.source, (index, kept), &of);
            if !readings.is_empty() {
                let place = environment.place_of_key(name.clone(), &from.source, key);
                environment.add(&place, readings);
            }
            if is_told_apart && !is_overridden {
                environment.names.insert(Cow::Owned(name));
            }
        }
        (!is_told_apart).then_some(Reason::TooManyVariables)
    }
}

/// A variable that has its value from a source.
struct Variable<'n> {
    name: &'n str,
    /// Whether a later one has its name.
    is_overridden: bool,
}

/// What is known of the environment of a container, from its end on.
struct Environment<'a> {
    container: &'a Container,
    /// The names of the variables that were met.
    names: HashSet<Cow<'a, str>>,
    /// The references that were met, the last one first.
    found: Vec<(Place<'a>, Reading)>,
}

impl<'a> Environment<'a> {
    fn add(&mut self, place: &Place<'a>, readings: Vec<Reading>) {
        let readings = readings.into_iter().rev();
        self.found.extend(readings.map(|reading| (place.clone(), reading)));
    }

    fn place_of_key(&self, name: String, source: &'a SourceName, key: &str) -> Place<'a> {
        Place::Key { container: self.container, variable: name, source, key: key.to_owned() }
    }
}

/// Collects the references of a pod template from its annotations and the environment of its
/// containers; `look_up` says what is known of a source.
#[must_use]
pub fn extract<'a>(
    annotations: &'a Annotations,
    containers: &'a [Container],
    look_up: impl Fn(&SourceName) -> Known,
) -> Extraction<'a> {
    let mut found = Extraction::default();
    let unknown = each(annotations, containers, look_up, |place, destinations, reading| {
        found.add(place, destinations, reading);
    });
    found.is_waiting = !unknown.is_empty();
    found
}

impl<'a> Extraction<'a> {
    fn add(&mut self, place: Place, destinations: Destinations<'a>, reading: Reading) {
        let (path, reason) = match reading {
            Reading::Watch(scheme, path) => (Some((scheme, path)), None),
            Reading::WatchOdd(scheme, path, reason) => (Some((scheme, path)), Some(reason)),
            Reading::Skip(reason) => (None, Some(reason)),
        };
        let path = path.map(|(scheme, path)| (scheme, destinations.of(scheme), path));
        self.paths.extend(path);
        self.notes.extend(reason.map(|reason| Note { origin: place.into(), reason }));
    }
}

/// What is kept of one reference in the value of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    reading: Reading,
    /// The variable in which it is the pod's own token.
    login_in: Option<&'static str>,
}

impl Kept {
    /// All references of a value.
    #[must_use]
    pub fn all_of(value: &str) -> Box<[Self]> {
        let mut kept: Box<[Self]> = grammar::parse("", value)
            .iter()
            .map(|reference| Self { reading: reference.read(), login_in: None })
            .collect();
        for variable in Scheme::ALL.map(Scheme::token_variable) {
            // Only what a reference is depends on the variable, not where there is one.
            let references =
                if kept.is_empty() { Vec::new() } else { grammar::parse(variable, value) };
            for (kept, reference) in kept.iter_mut().zip(references) {
                if reference.form == grammar::Form::Login {
                    kept.login_in = Some(variable);
                }
            }
        }
        kept
    }

    /// What is done about it in a variable.
    #[must_use]
    pub fn reading_in(&self, variable: &str) -> Reading {
        if self.login_in == Some(variable) {
            return Reading::Skip(Reason::Login);
        }
        self.reading.clone()
    }
}

/// As [`read_value`], where some variables in the value are not known and stand as `$(NAME)`.
fn read_partly(variable: &str, value: &str) -> Vec<Reading> {
    grammar::parse(variable, value).iter().map(grammar::Reference::read_partly).collect()
}

/// Finds the references in one value, and what is done about each; a literal has none.
#[must_use]
pub fn read_value(variable: &str, value: &str) -> Vec<Reading> {
    grammar::parse(variable, value).iter().map(grammar::Reference::read).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::environment::SourceKind;
    use super::*;

    fn unknown(_: &SourceName) -> Known {
        Known::NotYet
    }

    fn container(from: &[EnvFrom], variables: &[EnvVar]) -> Container {
        let (from, variables) = (from.to_vec(), variables.to_vec());
        Container { name: "app".to_owned(), from, variables, ..Container::default() }
    }

    fn config_map(name: &str) -> SourceName {
        SourceName { kind: SourceKind::ConfigMap, name: name.to_owned() }
    }

    fn from(name: &str, prefix: &str, optional: bool) -> EnvFrom {
        EnvFrom { prefix: prefix.to_owned(), source: config_map(name), optional }
    }

    fn key(variable: &str, name: &str, key: &str, optional: bool) -> EnvVar {
        let (source, key) = (config_map(name), key.to_owned());
        EnvVar { name: variable.to_owned(), value: EnvValue::Key { source, key, optional } }
    }

    /// A cluster of some ConfigMaps: `refs`, `more`, one that may not be read, one that is not known
    /// yet; all others do not exist.
    fn cluster(named: &SourceName) -> Known {
        let read = |data: &[(&'static str, &'static str)]| {
            let data = data.iter().map(|(key, value)| (*key, value.as_bytes()));
            Known::Read(Arc::new(Content::new(data)))
        };
        match &*named.name {
            "refs" => read(&[
                ("A", "vault:secret/data/a#k"),
                ("B", "x${vault:secret/data/b#k}y${vault:secret/data/c#k#2}"),
                ("PLAIN", "x"),
                ("TOKEN", "vault:login"),
            ]),
            "more" => read(&[("A", "vault:secret/data/more#k"), ("B", "plain")]),
            "denied" => Known::Not(Reason::SourceDenied),
            "later" => Known::NotYet,
            _ => Known::Missing,
        }
    }

    fn paths_of(paths: BTreeSet<(Scheme, Destination, String)>) -> Vec<String> {
        paths.into_iter().map(|(.., path)| path).collect()
    }

    fn found(from: &[EnvFrom], variables: &[EnvVar]) -> (Vec<String>, Vec<Reason>, bool) {
        let (annotations, app) = (Annotations::default(), [container(from, variables)]);
        let found = extract(&annotations, &app, cluster);
        let reasons = found.notes.iter().map(|note| note.reason).collect();
        (paths_of(found.paths), reasons, found.is_waiting)
    }

    #[test]
    fn env_from_takes_all_keys_and_the_last_of_a_name_counts() {
        let (a, b, more) = ("secret/data/a", "secret/data/b", "secret/data/more");
        let whole = (vec![a.into(), b.into()], vec![Reason::Pinned, Reason::NoKey], false);
        assert_eq!(found(&[from("refs", "", false)], &[]), whole);
        // Under another name nothing is overridden.
        let (paths, ..) = found(&[from("refs", "", false), from("more", "X_", false)], &[]);
        assert_eq!(paths, [a, b, more]);
        // The later source: `A` is another one there, and `B` a text.
        let (paths, reasons, _) = found(&[from("refs", "", false), from("more", "", false)], &[]);
        assert_eq!(paths, [more]);
        let overridden = reasons.iter().filter(|reason| **reason == Reason::Overridden).count();
        assert_eq!(overridden, 2);
        // `env` comes after `envFrom`, whatever its value.
        for value in [EnvValue::Literal("x".to_owned()), EnvValue::Other] {
            let variable = EnvVar { name: "A".to_owned(), value };
            assert_eq!(found(&[from("refs", "", false)], &[variable]).0, [b]);
        }
        let twice = [EnvVar::literal("X", "vault:a#k"), EnvVar::literal("X", "vault:b#k")];
        assert_eq!(found(&[], &twice).0, ["b"]);
    }

    /// A source with so many keys, each with so many references.
    fn source(keys: usize, references: usize) -> Known {
        let value = |key| {
            let reference = |number| format!("${{vault:secret/data/{key}-{number}#k}}");
            (0..references).map(reference).collect::<String>()
        };
        let data: Vec<_> = (0..keys).map(|key| (format!("K{key}"), value(key))).collect();
        let data = data.iter().map(|(key, value)| (key.as_str(), value.as_bytes()));
        Known::Read(Arc::new(Content::new(data)))
    }

    #[test]
    fn a_product_of_sources_and_keys_is_not_worked_out() {
        let read = |container: &Container, known: &Known| {
            let mut taken = 0;
            let mut paths = HashSet::new();
            let annotations = Annotations::default();
            let mut reasons = BTreeSet::new();
            let containers = std::slice::from_ref(container);
            each(
                &annotations,
                containers,
                |_| known.clone(),
                |_, _, reading| {
                    taken += 1;
                    match reading {
                        Reading::Watch(_, path) => _ = paths.insert(path),
                        Reading::WatchOdd(_, _, reason) | Reading::Skip(reason) => {
                            reasons.insert(reason);
                        }
                    }
                },
            );
            (taken, paths.len(), reasons)
        };
        // The same source again and again is one source.
        let same: Vec<_> = (0..1_000).map(|_| from("big", "", false)).collect();
        let (taken, paths, reasons) = read(&container(&same, &[]), &source(10_000, 1));
        assert_eq!((paths, reasons), (10_000, BTreeSet::from([Reason::Overridden])));
        assert!(taken <= 10_000 + 1_000, "{taken}");
        // Under other names each time, it is said that they are too many; nothing goes unwatched.
        let other: Vec<_> =
            (0..1_000).map(|number| from("big", &format!("P{number}_"), false)).collect();
        let (taken, paths, reasons) = read(&container(&other, &[]), &source(10_000, 1));
        assert_eq!((paths, reasons), (10_000, BTreeSet::from([Reason::TooManyVariables])));
        assert!(taken <= 10_000 + MOST_WORK + 1_000, "{taken}");
        // So it is with one key in many variables.
        let keys: Vec<_> =
            (0..4_000).map(|number| key(&format!("V{number}"), "big", "K0", false)).collect();
        let (taken, paths, _) = read(&container(&[], &keys), &source(1, 4_000));
        assert_eq!(paths, 4_000);
        assert!(taken <= 4_000 + MOST_WORK, "{taken}");
        // A source whose keys are all overridden, and which is named once more in another container.
        let (once, again) = (container(&same, &[]), container(&other, &keys));
        let mut paths = BTreeSet::new();
        let known = source(10_000, 1);
        each(
            &Annotations::default(),
            &[once, again],
            |_| known.clone(),
            |_, _, reading| {
                if let Reading::Watch(_, path) = reading {
                    paths.insert(path);
                }
            },
        );
        assert_eq!(paths.len(), 10_000);
    }

    #[test]
    fn an_overridden_reference_is_watched_where_another_variable_has_it_too() {
        let variables = [key("X", "refs", "A", false), EnvVar::literal("X", "plain")];
        assert_eq!(found(&[], &variables).0, [""; 0]);
        let (paths, reasons, _) = found(&[from("refs", "", false)], &variables);
        assert_eq!(paths, ["secret/data/a", "secret/data/b"]);
        assert!(reasons.contains(&Reason::Overridden));
    }

    #[test]
    fn the_value_of_a_key_is_read_as_one_of_its_variable() {
        let (paths, reasons, _) = found(&[], &[key("X", "refs", "A", false)]);
        assert_eq!((paths, reasons), (vec!["secret/data/a".to_owned()], vec![]));
        let reasons = |variable| found(&[], &[key(variable, "refs", "TOKEN", false)]).1;
        assert_eq!(reasons("VAULT_TOKEN"), [Reason::Login]);
        assert_eq!(reasons("BAO_TOKEN"), [Reason::NoKey]);
        assert_eq!(found(&[], &[key("X", "refs", "PLAIN", false)]), (vec![], vec![], false));
    }

    #[test]
    fn what_is_missing_is_said_unless_it_is_optional() {
        assert_eq!(found(&[from("none", "", false)], &[]).1, [Reason::SourceMissing]);
        assert_eq!(found(&[from("none", "", true)], &[]).1, []);
        assert_eq!(found(&[], &[key("X", "none", "A", false)]).1, [Reason::SourceMissing]);
        assert_eq!(found(&[], &[key("X", "refs", "NONE", false)]).1, [Reason::KeyMissing]);
        for optional in [key("A", "none", "A", true), key("A", "refs", "NONE", true)] {
            // Then there is no such variable, which could take the place of another one.
            let all = found(&[from("more", "", false)], &[optional]);
            assert_eq!(all, (vec!["secret/data/more".to_owned()], vec![], false));
        }
    }

    #[test]
    fn what_is_not_known_is_waited_for_and_what_cannot_be_is_said() {
        assert!(found(&[from("later", "", true)], &[]).2);
        assert!(found(&[], &[key("X", "later", "A", true)]).2);
        let (paths, reasons, waits) = found(
            &[from("denied", "", false), from("refs", "", false)],
            &[key("Z", "denied", "Z", false)],
        );
        assert_eq!((paths.len(), waits), (2, false));
        assert_eq!(reasons.iter().filter(|reason| **reason == Reason::SourceDenied).count(), 2);
    }

    #[test]
    fn kubernetes_replaces_nothing_in_the_values_of_sources() {
        let value = "vault:secret/data/$(STAGE)/a$$#k";
        let path = "secret/data/$(STAGE)/a$$".to_owned();
        assert_eq!(Kept::all_of(value)[0].reading_in("X"), Reading::Watch(Scheme::Vault, path));
    }

    #[test]
    fn nobody_trims_the_items_of_a_list_of_paths() {
        let annotations: Annotations = [(
            "secrets-webhook.security.bank-vaults.io/vault-from-path",
            "secret/data/a , secret/data/b#1,,secret/data/c#0,secret/data/d#x,secret/data/e# 1",
        )]
        .into_iter()
        .collect();
        let found = extract(&annotations, &[], unknown);
        assert_eq!(paths_of(found.paths), ["secret/data/a ", "secret/data/c"]);
        let reasons: Vec<_> = found.notes.iter().map(|note| note.reason).collect();
        assert_eq!(
            reasons,
            [
                Reason::SpaceAroundPath,
                Reason::Pinned,
                Reason::NoPath,
                Reason::BadVersion,
                Reason::BadVersion,
            ]
        );
    }

    #[test]
    fn a_product_of_namespaces_and_listed_paths_is_not_worked_out() {
        let list: Vec<_> = (0..10_000).map(|number| format!("secret/data/{number}")).collect();
        let list = ("secrets-webhook.security.bank-vaults.io/vault-from-path", list.join(","));
        let annotations: Annotations = [list].into_iter().collect();
        let app = |number| {
            let namespace = EnvVar::literal("VAULT_NAMESPACE", format!("ns{number}"));
            container(&[], &[namespace])
        };
        let containers: Vec<_> = (0..1_000).map(app).collect();
        let found = extract(&annotations, &containers, unknown);
        assert_eq!(found.paths.len(), 10_000 + MOST_WORK);
        let reasons: Vec<_> = found.notes.iter().map(|note| note.reason).collect();
        assert_eq!(reasons, [Reason::TooManyVariables]);
    }

    #[test]
    fn a_source_that_holds_a_setting_makes_it_unknown() {
        let named = |key: &'static str| {
            move |_: &SourceName| Known::Read(Arc::new(Content::new([(key, b"team".as_slice())])))
        };
        let reference = EnvVar::literal("X", "vault:secret/data/a#k");
        let reasons = |from: &[EnvFrom], variables: &[EnvVar], key| {
            let variables = [&[reference.clone()], variables].concat();
            let (annotations, app) = (Annotations::default(), [container(from, &variables)]);
            let found = extract(&annotations, &app, named(key));
            assert_eq!(found.paths.len(), 1);
            found.notes.iter().map(|note| note.reason).collect::<Vec<_>>()
        };
        let (plain, prefixed) = (from("m", "", false), from("m", "VAULT_", false));
        let is_unknown = [Reason::SettingUnknown];
        assert_eq!(reasons(std::slice::from_ref(&plain), &[], "VAULT_NAMESPACE"), is_unknown);
        assert_eq!(reasons(&[prefixed], &[], "NAMESPACE"), is_unknown);
        assert_eq!(reasons(std::slice::from_ref(&plain), &[], "BAO_NAMESPACE"), []);
        // The variable of the container wins, if there is one.
        let literal = EnvVar::literal("VAULT_NAMESPACE", "team");
        assert_eq!(reasons(&[plain], &[literal], "VAULT_NAMESPACE"), []);
        assert_eq!(reasons(&[], &[key("VAULT_NAMESPACE", "m", "k", true)], "k"), is_unknown);
        assert_eq!(reasons(&[], &[key("VAULT_NAMESPACE", "m", "k", true)], "other"), []);
    }

    #[test]
    fn the_older_annotation_counts_only_where_the_current_is_absent() {
        let older = ("vault.security.banzaicloud.io/vault-env-from-path", "secret/data/old");
        let current =
            ("secrets-webhook.security.bank-vaults.io/vault-from-path", "secret/data/new");
        let paths = |pairs: &[(&str, &str)]| {
            let annotations: Annotations = pairs.iter().copied().collect();
            paths_of(extract(&annotations, &[], unknown).paths)
        };
        assert_eq!(paths(&[older]), ["secret/data/old"]);
        assert_eq!(paths(&[older, current]), ["secret/data/new"]);
    }

    #[test]
    fn another_provider_is_skipped_and_a_path_is_listed_once() {
        let app = [container(
            &[],
            &[
                EnvVar::literal("X", "vault:secret/data/a#x"),
                EnvVar::literal("Y", "vault:/secret/data/a/#y"),
            ],
        )];
        assert_eq!(extract(&Annotations::default(), &app, unknown).paths.len(), 1);
        let aws: Annotations =
            [("secrets-webhook.security.bank-vaults.io/provider", "aws")].into_iter().collect();
        let found = extract(&aws, &app, unknown);
        assert!(found.paths.is_empty());
        assert!(found.notes.iter().all(|note| note.reason == Reason::OtherProvider));
    }
}
