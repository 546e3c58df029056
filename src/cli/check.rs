//! `check`: reports how the controller would treat the workloads of some manifests.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::document::{Document, Location};
use crate::cli::given::{Given, Sources};
use crate::cli::yaml::{self, Node, Value};
use crate::kubernetes::object::Object;
use crate::model::annotation::{OptIn, Webhook};
use crate::model::kind::Kind;
use crate::model::scheme::Scheme;
use crate::model::secret::DEFAULT_CONNECTION;
use crate::model::workload::MOST_SECRETS;
use crate::references::environment::{Container, EnvValue, EnvVar, SourceKind};
use crate::references::extraction;
use crate::references::grammar::{Reading, may_hold_reference};
use crate::references::manifest::{Manifest, Target};
use crate::references::place::{Origin, Place};
use crate::references::reason::Reason;
use crate::references::servers::Servers;
use crate::references::settings::{Destination, Destinations};
use crate::references::source::ReadableSources;
use crate::references::time_rules;

/// The lists of containers in a pod template.
const CONTAINERS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

/// The findings of all manifests.
#[derive(Debug, Default)]
pub struct Report {
    /// The workloads that refer to secrets, or opt in, in the order of reading.
    pub workloads: Vec<Checked>,
    /// The inputs that could not be read.
    pub problems: Vec<Problem>,
}

/// One workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// `namespace/Kind/name`, without the namespace if the manifest names none.
    pub workload: String,
    /// The beginning of the manifest.
    #[serde(flatten)]
    pub at: Location,
    /// Whether the workload is reloaded when one of its secrets changes.
    pub reloaded: bool,
    /// The remarks on the workload as a whole.
    pub remarks: Vec<Remark>,
    /// The references of the workload, in the order of the file.
    pub references: Vec<Finding>,
}

/// A reason with its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Remark {
    /// The stable name of the reason.
    pub reason: &'static str,
    /// Whether the user should act.
    pub warning: bool,
    /// The meaning and the remedy.
    pub message: &'static str,
}

/// One reference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Whether the path is watched.
    pub watched: bool,
    /// The path, if its changes can be seen.
    pub path: Option<String>,
    /// The server of the path, if it is not the default one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// The Vault namespace of the path, if the workload or the file of servers names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Why the reference is not watched, or looks odd.
    #[serde(flatten)]
    pub remark: Option<Remark>,
    /// The place in the pod template.
    pub origin: String,
    /// The place in the file.
    #[serde(flatten)]
    pub at: Location,
}

/// An input that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The name of the file as given. `-` is standard input.
    pub file: String,
    /// The line, if it is known.
    pub line: Option<u64>,
    /// The problem and the remedy.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file, self.message),
            None => write!(f, "{}: {}", self.file, self.message),
        }
    }
}

const NOT_OPTED_IN: Remark = Remark {
    reason: "NotOptedIn",
    warning: false,
    message: "not reloaded: set the annotation \
              secrets-reloader.security.bank-vaults.io/reload-on-secret-change: \"true\" on its pod \
              template",
};

const OPT_IN_ON_WORKLOAD: Remark = Remark {
    reason: "OptInOnWorkload",
    warning: true,
    message: "not reloaded: the annotation that opts in stands on the workload; move it to \
              spec.template.metadata.annotations",
};

const OPT_IN_NOT_TRUE: Remark = Remark {
    reason: "OptInNotTrue",
    warning: true,
    message: "not reloaded: the annotation that opts in has another value than \"true\"",
};

const KIND_NOT_RELOADED: Remark = Remark {
    reason: "KindNotReloaded",
    warning: false,
    message: "not reloaded: only Deployments, DaemonSets and StatefulSets are",
};

const KIND_CANNOT_OPT_IN: Remark = Remark {
    reason: "KindNotReloaded",
    warning: true,
    message: "opts in, and is not reloaded: only Deployments, DaemonSets and StatefulSets are",
};

const NO_POD_TEMPLATE: Remark = Remark {
    reason: "NoPodTemplate",
    warning: false,
    message: "has references, but no pod template, so its workloads cannot be checked: render it \
              first, for example with `helm template`, and check the result",
};

const SOURCE_NOT_GIVEN: Remark = Remark {
    reason: "SourceNotGiven",
    warning: false,
    message: "not among these manifests, so its references are unknown: check its manifest, too",
};

const NOTHING_WATCHED: Remark = Remark {
    reason: "NothingWatched",
    warning: true,
    message: "opts in, and refers to no secret whose changes could be seen",
};

impl Report {
    /// Returns the number of findings on which the user should act.
    #[must_use]
    pub fn warnings(&self) -> usize {
        self.workloads.iter().flat_map(Checked::all_remarks).filter(|r| r.warning).count()
    }
}

/// Manifests that belong together.
#[derive(Debug, Default)]
pub struct Manifests {
    /// The namespace of manifests that name none.
    namespace: String,
    objects: Vec<Document>,
    problems: Vec<Problem>,
}

impl Manifests {
    /// Makes an empty set. `namespace` is the namespace of manifests that name none.
    #[must_use]
    pub fn in_namespace(namespace: String) -> Self {
        Self { namespace, ..Self::default() }
    }

    /// Reads a file, or all manifests of a folder and its subfolders, or `stdin` for the name `-`.
    ///
    /// Unreadable inputs are noted as problems. The others are read all the same.
    pub fn read(&mut self, input: &Path, stdin: impl Read) {
        let name = input.to_string_lossy().into_owned();
        if input == Path::new("-") {
            return match text_of(stdin) {
                Ok(text) => self.add(&name, &text),
                Err(error) => self.problem(name, &error.to_string()),
            };
        }
        if !input.is_dir() {
            return match fs::File::open(input).and_then(text_of) {
                Ok(text) => self.add(&name, &text),
                Err(error) => self.problem(name, &error.to_string()),
            };
        }
        match entries(input) {
            Ok(entries) => {
                for entry in entries {
                    if entry.is_dir() || is_manifest(&entry) {
                        self.read(&entry, io::empty());
                    }
                }
            }
            Err(error) => self.problem(name, &error.to_string()),
        }
    }

    fn problem(&mut self, file: String, message: &str) {
        self.problems.push(Problem { file, line: None, message: message.to_owned() });
    }

    /// Adds the documents of a text.
    pub fn add(&mut self, file: &str, text: &str) {
        match yaml::read(text) {
            Ok(documents) => {
                for document in documents {
                    self.add_object(file, document, None);
                }
            }
            Err(yaml::Malformed { line, mut message }) => {
                if text.contains("{{") {
                    message.push_str(
                        "; it looks like a template: render it first, for example with \
                         `helm template`",
                    );
                }
                self.problems.push(Problem { file: file.to_owned(), line, message });
            }
        }
    }

    /// Adds an object, or the objects of a list. The elements of a list of one kind have no kind of
    /// their own.
    fn add_object(&mut self, file: &str, object: Node, kind_of_list: Option<&str>) {
        let kind = object.get("kind").and_then(Node::text).or(kind_of_list);
        let kind = kind.unwrap_or_default().to_owned();
        if let (Some(_), Some(kind)) = (object.get("items"), kind.strip_suffix("List")) {
            let Value::Map(members) = object.value else { return };
            let items = members.into_iter().filter(|(key, _)| key == "items");
            for item in items.flat_map(|(_, items)| items.into_elements()) {
                self.add_object(file, item, Some(kind).filter(|kind| !kind.is_empty()));
            }
            return;
        }
        self.objects.push(Document { file: file.to_owned(), kind, object });
    }

    /// Checks the workloads. `readable` is the kinds that the controller may read, and `servers`
    /// the servers that it knows.
    #[must_use]
    pub fn check(self, readable: ReadableSources, servers: &Servers) -> Report {
        let sources = Sources::of(&self.objects, readable);
        let workloads = self
            .objects
            .iter()
            .filter_map(|Document { file, kind, object }| match Template::of(file, object, kind) {
                Some(template) => template.check(&sources, servers, &self.namespace),
                None => without_template(file, object, kind),
            })
            .collect();
        Report { workloads, problems: self.problems }
    }
}

impl Finding {
    /// Sets the server and the Vault namespace of the path.
    fn set_target(&mut self, target: &Target) {
        self.namespace = target.namespace.as_deref().map(str::to_owned);
        let is_other = *target.server.name != *DEFAULT_CONNECTION;
        self.server = is_other.then(|| target.server.name.to_string());
    }
}

impl Checked {
    /// Returns the remarks on the workload and on its references.
    pub fn all_remarks(&self) -> impl Iterator<Item = &Remark> {
        self.remarks.iter().chain(self.references.iter().filter_map(|found| found.remark.as_ref()))
    }
}

fn text_of(mut file: impl Read) -> io::Result<String> {
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

/// Returns the entries of a folder by name, without hidden ones.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut entries = fs::read_dir(folder)?
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<Vec<PathBuf>>>()?;
    let is_hidden = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
    };
    entries.retain(|path| !is_hidden(path));
    entries.sort();
    Ok(entries)
}

fn is_manifest(file: &Path) -> bool {
    file.extension().is_some_and(|extension| {
        ["yaml", "yml", "json"].iter().any(|known| extension.eq_ignore_ascii_case(known))
    })
}

/// Returns a remark on an object that has references, but no pod template, and is no source of
/// variables.
fn without_template(file: &str, object: &Node, kind: &str) -> Option<Checked> {
    let is_source = SourceKind::ALL.into_iter().any(|known| known.name() == kind);
    if kind.is_empty() || is_source || !object.any_text(&may_hold_reference) {
        return None;
    }
    let text = |key| object.at(&["metadata", key]).and_then(Node::text).unwrap_or_default();
    Some(Checked {
        workload: full_name(text("namespace"), kind, text("name")),
        at: Location { file: file.to_owned(), line: object.line },
        reloaded: false,
        remarks: vec![NO_POD_TEMPLATE],
        references: Vec::new(),
    })
}

fn full_name(namespace: &str, kind: &str, name: &str) -> String {
    match namespace {
        "" => format!("{kind}/{name}"),
        namespace => format!("{namespace}/{kind}/{name}"),
    }
}

/// The target of a reference that can be watched.
type WatchTarget<'m> = Option<(Scheme, Destination<'m>)>;

/// An object with a pod template.
struct Template<'a> {
    file: &'a str,
    object: &'a Node,
    kind: &'a str,
    /// The kind, if workloads of this kind are reloaded.
    reloaded: Option<Kind>,
    /// The metadata of the pods.
    metadata: Option<&'a Node>,
    /// The `spec` of the pods.
    pods: &'a Node,
}

impl<'a> Template<'a> {
    fn of(file: &'a str, object: &'a Node, kind: &'a str) -> Option<Self> {
        let version = object.get("apiVersion").and_then(Node::text);
        let group = version.map(|version| version.split_once('/').map_or("", |(group, _)| group));
        let is_of = |known: Kind| match group {
            // Old manifests name the group that `apps` was before.
            Some("extensions") => known.group() == "apps",
            group => group.is_none_or(|group| known.group() == group),
        };
        let reloaded = Kind::ALL.into_iter().find(|known| is_of(*known) && known.name() == kind);
        let (metadata, pods) = if kind == "Pod" {
            (object.get("metadata"), object.get("spec")?)
        } else {
            let template = object
                .at(&["spec", "template"])
                .or_else(|| object.at(&["spec", "jobTemplate", "spec", "template"]))?;
            (template.get("metadata"), template.get("spec")?)
        };
        pods.get("containers")?;
        Some(Self { file, object, kind, reloaded, metadata, pods })
    }

    /// Checks the workload. Returns `None` if it has nothing to do with secrets. `usual` is the
    /// namespace of manifests that name none.
    fn check(&self, sources: &Sources, servers: &Servers, usual: &str) -> Option<Checked> {
        let manifest = self.manifest();
        let namespace = if manifest.namespace.is_empty() { usual } else { &manifest.namespace };
        let mut references = self.references(&manifest, sources);
        let in_use: BTreeSet<_> = references.iter().filter_map(|(_, target)| *target).collect();
        let targets = manifest.targets(&in_use, servers);
        let remark = if manifest.annotations.opt_in().is_none() {
            let why = self.why_not_opted_in();
            if references.is_empty() && !why.warning {
                return None;
            }
            Some(why)
        } else if self.reloaded.is_none() {
            Some(KIND_CANNOT_OPT_IN)
        } else {
            // A workload without references may be a mistake. Pinned references are intended.
            let remark = Remark { warning: references.is_empty(), ..NOTHING_WATCHED };
            in_use.is_empty().then_some(remark)
        };
        // The server of references that are not watched does not matter.
        let doubts = targets.notes.iter().filter(|_| remark.is_none());
        let doubts = doubts.map(|note| remark_on(note.reason));
        let is_allowed = |found: &Finding, target: &Target| {
            let path = found.path.as_deref().unwrap_or_default();
            servers.path_rules().allow(namespace, &target.secret(path))
        };
        let leads: Vec<Option<(&Target, bool)>> = references
            .iter()
            .map(|(found, target)| {
                let target = targets.known.get(target.as_ref()?)?;
                Some((target, is_allowed(found, target)))
            })
            .collect();
        let is_any_allowed = leads.iter().flatten().any(|(_, is_allowed)| *is_allowed);
        let reloaded = remark.is_none() && is_any_allowed;
        let mut remarks: Vec<_> = remark.into_iter().chain(doubts).collect();
        for ((found, _), (target, is_allowed)) in
            references.iter_mut().zip(leads).filter_map(|(found, leads)| Some((found, leads?)))
        {
            found.set_target(target);
            found.watched = reloaded && is_allowed;
            if !is_allowed {
                // A workload that does not opt in expects no reload.
                let warning = manifest.annotations.opt_in().is_some();
                found.remark = Some(Remark { warning, ..remark_on(Reason::PathRefused) });
            }
        }
        let mut references: Vec<_> = references.into_iter().map(|(found, _)| found).collect();
        if leave_too_many(&mut references) {
            remarks.push(remark_on(Reason::TooManySecrets));
        }
        let of_time = manifest.time_rules.as_deref().filter(|_| reloaded).into_iter();
        remarks.extend(of_time.flat_map(time_rules::notes).map(|note| remark_on(note.reason)));
        let name = full_name(&manifest.namespace, self.kind, &manifest.name);
        Some(Checked { workload: name, at: self.at(self.object), reloaded, remarks, references })
    }

    /// Returns the manifest that the controller decodes.
    fn manifest(&self) -> Manifest {
        let json = |node: Option<&Node>| node.map_or(serde_json::Value::Null, Node::to_json);
        let object = serde_json::json!({
            "metadata": json(self.object.get("metadata")),
            "spec": { "template": {
                "metadata": json(self.metadata),
                "spec": self.pods.to_json(),
            } },
        });
        // Decoding accepts any JSON: a field of another type counts as absent.
        serde_json::from_value::<Object>(object).unwrap_or_default().into_manifest()
    }

    fn references<'m>(
        &self,
        manifest: &'m Manifest,
        sources: &Sources,
    ) -> Vec<(Finding, WatchTarget<'m>)> {
        let namespace = &*manifest.namespace;
        let finding = |path, remark, origin: String, at| {
            let (server, namespace) = (None, None);
            Finding { watched: false, path, server, namespace, remark, origin, at }
        };
        let mut references = Vec::new();
        let look_up = |named: &_| sources.look_up(namespace, named);
        let take = |place: Place<'m>, destinations: Destinations<'m>, reading| {
            let (watched, mut reason) = match reading {
                Reading::Watch(scheme, path) => (Some((scheme, path)), None),
                Reading::WatchOdd(scheme, path, reason) => (Some((scheme, path)), Some(reason)),
                // Most Secrets hold no reference.
                Reading::Skip(Reason::SourceNotRead)
                    if !sources.holds_reference(namespace, &place) =>
                {
                    return;
                }
                Reading::Skip(reason) => (None, Some(reason)),
            };
            let (scheme, path) = watched.unzip();
            let mut target = scheme.map(|scheme| (scheme, destinations.of(scheme)));
            let given = match &place {
                Place::Key { source, .. } => sources.find(namespace, source),
                _ => None,
            };
            if target.is_some() && given.is_some_and(Given::is_resolved_when_applied) {
                (target, reason) = (None, Some(Reason::ResolvedWhenApplied));
            }
            let mut remark = reason.map(remark_on);
            if let Some(remark) = remark.as_mut().filter(|_| reason == Some(Reason::MutateSkip)) {
                // A workload that does not opt in expects no reload.
                remark.warning = manifest.annotations.opt_in().is_some();
            }
            let at = match &place {
                Place::Env(container, variable) => self.at_variable(container, variable),
                Place::Setting(container, name) => match container.variable(name) {
                    Some(variable) => self.at_variable(container, variable),
                    None => self.at(self.object),
                },
                Place::FromPath(scheme, _) => {
                    self.at(self.path_list(*scheme).unwrap_or(self.object))
                }
                Place::Source(..) => self.at(self.object),
                Place::Key { key, .. } => {
                    given.map_or_else(|| self.at(self.object), |given| given.at(key))
                }
            };
            let origin = Origin::from(place).to_string();
            references.push((finding(path, remark, origin, at), target));
        };
        let unknown = extraction::each(&manifest.annotations, &manifest.containers, look_up, take);
        if manifest.annotations.opt_in().is_some() {
            references.extend(unknown.into_iter().map(|source| {
                let at = self.at(self.object);
                (finding(None, Some(SOURCE_NOT_GIVEN), source.to_string(), at), None)
            }));
        }
        references.sort_by_key(|(found, _)| (found.at.file != self.file, found.at.line));
        references
    }

    fn at(&self, node: &Node) -> Location {
        Location { file: self.file.to_owned(), line: node.line }
    }

    /// Returns the place of a variable's value, or of the object. Of several variables with one
    /// name, the one with this text counts, or else the last.
    fn at_variable(&self, container: &Container, wanted: &EnvVar) -> Location {
        let text = |node: &'a Node, key| node.get(key).and_then(Node::text);
        let is_wanted = |value: &&Node| match &wanted.value {
            EnvValue::Literal(literal) | EnvValue::Partly(literal) => value.text() == Some(literal),
            EnvValue::Key { .. } | EnvValue::Other => false,
        };
        let values: Vec<&Node> = CONTAINERS
            .iter()
            .filter_map(|list| self.pods.get(list))
            .flat_map(Node::elements)
            .filter(|node| text(node, "name").unwrap_or_default() == container.name)
            .filter_map(|container| container.get("env"))
            .flat_map(Node::elements)
            .filter(|variable| text(variable, "name").unwrap_or_default() == wanted.name)
            .filter_map(|variable| variable.get("value").or(variable.get("valueFrom")))
            .collect();
        let node = values.iter().copied().find(is_wanted).or(values.last().copied());
        self.at(node.unwrap_or(self.object))
    }

    fn path_list(&self, scheme: Scheme) -> Option<&Node> {
        let annotations = self.metadata?.get("annotations")?;
        Webhook::FromPath(scheme).keys().find_map(|key| annotations.get(key))
    }

    /// Returns why the object does not opt in. The remark is a warning if an opt-in seems intended.
    fn why_not_opted_in(&self) -> Remark {
        let value = |metadata: Option<&'a Node>| {
            let annotations = metadata?.get("annotations")?;
            [OptIn::Current, OptIn::Older].iter().find_map(|opt_in| annotations.get(opt_in.key()))
        };
        match (value(self.metadata), value(self.object.get("metadata"))) {
            _ if self.reloaded.is_none() => KIND_NOT_RELOADED,
            (Some(value), _) if value.text() != Some("false") => OPT_IN_NOT_TRUE,
            (None, Some(_)) => OPT_IN_ON_WORKLOAD,
            _ => NOT_OPTED_IN,
        }
    }
}

/// Stops watching the secrets of a workload beyond the limit. Returns whether there are any.
fn leave_too_many(references: &mut [Finding]) -> bool {
    let secret = |found: &Finding| {
        let Finding { server, namespace, path, .. } = found;
        // The controller uses the same order.
        let server = server.as_deref().unwrap_or(DEFAULT_CONNECTION).to_owned();
        found.watched.then(|| (server, namespace.clone(), path.clone()))
    };
    let secrets: BTreeSet<_> = references.iter().filter_map(secret).collect();
    let Some(first_beyond) = secrets.iter().nth(MOST_SECRETS) else { return false };
    for found in references {
        found.watched &= secret(found).is_some_and(|secret| secret < *first_beyond);
    }
    true
}

fn remark_on(reason: Reason) -> Remark {
    Remark { reason: reason.code(), warning: reason.is_warning(), message: reason.advice() }
}

#[cfg(test)]
mod tests;
