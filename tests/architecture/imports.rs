//! Reads which file of a Rust workspace names what.
//!
//! The reader follows each `use` declaration, and each path inside the code, to the file that
//! defines the item. A re-export leads to the definition, not to the file that re-exports it, unless
//! the definition is in a crate outside the workspace. A path that leads to a module alone is no
//! import: what the code takes from the module is.
//!
//! The reader leaves out what is compiled for tests only (`#[cfg(test)]`). The reader knows no types:
//! a call of a method on a value whose type is not named is no import.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Ident, Item, Meta, UseTree};

/// A crate of the workspace.
#[derive(Debug, Clone)]
pub(crate) struct Crate {
    /// How other crates name this one. A program or a test has a name that no code uses.
    pub name: String,
    /// The file of its root module.
    pub root: String,
}

/// What one file names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    /// The other files of the workspace, each with the paths that lead there, as they are written.
    pub files: BTreeMap<String, BTreeSet<String>>,
    /// The files of the child modules that it declares.
    pub children: BTreeSet<String>,
    /// Full paths into other crates: `std::env::var` also where the code says `env::var`.
    pub outside: BTreeSet<String>,
    /// The methods that the file calls.
    pub methods: BTreeSet<String>,
    /// Whether the file holds `async` or `.await`.
    pub is_async: bool,
}

/// What the files of a workspace name.
#[derive(Debug, Default)]
pub(crate) struct Imports {
    /// What each file names.
    pub files: BTreeMap<String, Names>,
    /// The files and folders that are compiled for tests only.
    pub test_only: BTreeSet<String>,
}

/// Reads some crates, whose sources are given by their path.
pub(crate) fn read(crates: &[Crate], sources: &BTreeMap<String, String>) -> Imports {
    let mut workspace = Workspace { sources, modules: Vec::new(), roots: BTreeMap::new() };
    let mut imports = Imports::default();
    for Crate { name, root } in crates {
        let folder = parent_folder(root);
        let id = workspace.add_file(root, folder, None, &mut imports.test_only);
        workspace.roots.insert(name.clone(), id);
    }
    for id in 0..workspace.modules.len() {
        let module = &workspace.modules[id];
        let names = imports.files.entry(module.file.clone()).or_default();
        let children = module.children.values().map(|child| &workspace.modules[*child].file);
        names.children.extend(children.filter(|file| **file != module.file).cloned());
        let mut reader = Reader { workspace: &workspace, module: id, names };
        for item in &module.items {
            reader.visit_item(item);
        }
    }
    imports
}

type ModuleId = usize;

/// A module: a file, or a `mod name { .. }` inside of one.
struct Module {
    file: String,
    parent: Option<ModuleId>,
    children: BTreeMap<String, ModuleId>,
    /// The items that it defines, other than modules.
    defined: BTreeSet<String>,
    /// The names that it imports, and the paths that they stand for.
    imported: BTreeMap<String, Vec<UsePath>>,
    /// The modules whose names it imports with `*`.
    globs: Vec<UsePath>,
    items: Vec<Item>,
}

/// Where a path leads.
enum Target {
    Module(ModuleId),
    Item { file: String },
    Outside(Vec<String>),
}

struct Workspace<'a> {
    sources: &'a BTreeMap<String, String>,
    modules: Vec<Module>,
    roots: BTreeMap<String, ModuleId>,
}

impl Workspace<'_> {
    fn add_file(
        &mut self,
        file: &str,
        folder: &str,
        parent: Option<ModuleId>,
        test_only: &mut BTreeSet<String>,
    ) -> ModuleId {
        let source = self.sources.get(file).unwrap_or_else(|| panic!("there is no file {file}"));
        let parsed = syn::parse_file(source).unwrap_or_else(|error| panic!("{file}: {error}"));
        self.add_module(file, folder, parent, parsed.items, test_only)
    }

    fn add_module(
        &mut self,
        file: &str,
        folder: &str,
        parent: Option<ModuleId>,
        items: Vec<Item>,
        test_only: &mut BTreeSet<String>,
    ) -> ModuleId {
        let (children, items): (Vec<_>, Vec<_>) =
            items.into_iter().partition(|item| matches!(item, Item::Mod(_)));
        let mut uses = Uses::default();
        for item in &items {
            uses.visit_item(item);
        }
        let mut imported = BTreeMap::<_, Vec<_>>::new();
        for (name, path) in uses.named {
            imported.entry(name).or_default().push(path);
        }
        let id = self.modules.len();
        self.modules.push(Module {
            file: file.to_owned(),
            parent,
            children: BTreeMap::new(),
            defined: items.iter().filter_map(defined_name).collect(),
            imported,
            globs: uses.globs,
            items,
        });
        for child in children {
            let Item::Mod(child) = child else { continue };
            let name = child.ident.to_string();
            let child_folder = format!("{folder}/{name}");
            let places = [format!("{child_folder}.rs"), format!("{child_folder}/mod.rs")];
            if is_for_tests(&child.attrs) {
                test_only.extend(places);
                test_only.insert(format!("{child_folder}/"));
                continue;
            }
            let child_id = if let Some((_, items)) = child.content {
                self.add_module(file, &child_folder, Some(id), items, test_only)
            } else {
                let place = places.iter().find(|place| self.sources.contains_key(*place));
                let place = place.unwrap_or_else(|| panic!("{file}: no file for `mod {name};`"));
                self.add_file(place, &child_folder, Some(id), test_only)
            };
            self.modules[id].children.insert(name, child_id);
        }
        id
    }

    /// Where a path leads that a module names. None for a path that begins with a type whose name is
    /// not imported: a type of the prelude, `Self`, or a type parameter.
    fn resolve(&self, from: ModuleId, path: &UsePath) -> Option<Target> {
        self.resolve_unless_seen(from, path, &mut BTreeSet::new())
    }

    fn resolve_unless_seen<'p>(
        &'p self,
        from: ModuleId,
        path: &'p UsePath,
        seen: &mut BTreeSet<(ModuleId, &'p UsePath)>,
    ) -> Option<Target> {
        if !seen.insert((from, path)) {
            return None;
        }
        let (first, mut rest) = path.segments.split_first()?;
        let mut target = match first.as_str() {
            "crate" => Target::Module(self.root_of(from)),
            "self" => Target::Module(from),
            "super" => Target::Module(self.modules[from].parent?),
            name if path.is_absolute => self.outside(name)?,
            name => {
                self.look_up(from, name, !rest.is_empty(), seen).or_else(|| self.outside(name))?
            }
        };
        while let Some((name, after)) = rest.split_first() {
            rest = after;
            target = match target {
                Target::Module(id) if name == "super" => Target::Module(self.modules[id].parent?),
                Target::Module(id) => match self.look_up(id, name, !rest.is_empty(), seen) {
                    // A macro makes the name if no item has it. Of a re-export of another crate, it is
                    // the re-exporting file that names that crate.
                    None | Some(Target::Outside(_)) => {
                        Target::Item { file: self.modules[id].file.clone() }
                    }
                    Some(target) => target,
                },
                Target::Item { file } => return Some(Target::Item { file }),
                Target::Outside(mut path) => {
                    path.push(name.clone());
                    Target::Outside(path)
                }
            };
        }
        Some(target)
    }

    /// What a name stands for in a module. A module and a function may share a name: the module is
    /// meant where the path goes on.
    fn look_up<'p>(
        &'p self,
        id: ModuleId,
        name: &str,
        goes_on: bool,
        seen: &mut BTreeSet<(ModuleId, &'p UsePath)>,
    ) -> Option<Target> {
        let module = &self.modules[id];
        let child = module.children.get(name).map(|child| Target::Module(*child));
        let item =
            module.defined.contains(name).then(|| Target::Item { file: module.file.clone() });
        let own = if goes_on { child.or(item) } else { item.or(child) };
        if own.is_some() {
            return own;
        }
        let imported = module.imported.get(name).into_iter().flatten();
        let imported: Vec<_> =
            imported.filter_map(|path| self.resolve_unless_seen(id, path, seen)).collect();
        let mut found = imported.into_iter();
        if let Some(first) = found.next() {
            let is_module = |target: &Target| matches!(target, Target::Module(_));
            if is_module(&first) == goes_on {
                return Some(first);
            }
            return found.find(|target| is_module(target) == goes_on).or(Some(first));
        }
        for glob in &module.globs {
            if let Some(Target::Module(from)) = self.resolve_unless_seen(id, glob, seen)
                && let Some(target) = self.look_up(from, name, goes_on, seen)
            {
                return Some(target);
            }
        }
        None
    }

    fn root_of(&self, mut id: ModuleId) -> ModuleId {
        while let Some(parent) = self.modules[id].parent {
            id = parent;
        }
        id
    }

    /// Another crate, if a name can be that of one: of the workspace, or of elsewhere.
    fn outside(&self, name: &str) -> Option<Target> {
        if let Some(root) = self.roots.get(name) {
            return Some(Target::Module(*root));
        }
        let is_type = name.starts_with(char::is_uppercase) || PRIMITIVES.contains(&name);
        (!is_type).then(|| Target::Outside(vec![name.to_owned()]))
    }
}

/// The types that are spelt like a module.
const PRIMITIVES: [&str; 17] = [
    "bool", "char", "f32", "f64", "i8", "i16", "i32", "i64", "i128", "isize", "str", "u8", "u16",
    "u32", "u64", "u128", "usize",
];

/// A path as a file names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct UsePath {
    segments: Vec<String>,
    /// Whether it begins with `::`, and so with the name of a crate.
    is_absolute: bool,
}

/// The `use` declarations of a module, also those inside functions, but not those of its children.
#[derive(Default)]
struct Uses {
    /// Each name with its path, which is `_` for a trait that needs no name.
    named: Vec<(String, UsePath)>,
    globs: Vec<UsePath>,
}

impl Uses {
    fn add(&mut self, tree: &UseTree, before: &UsePath) {
        let extended = |name: &Ident| {
            let mut path = before.clone();
            // `use path::{self}` imports the path itself.
            if name != "self" || path.segments.is_empty() {
                path.segments.push(unraw(name));
            }
            path
        };
        match tree {
            UseTree::Path(tree) => self.add(&tree.tree, &extended(&tree.ident)),
            UseTree::Name(tree) => {
                let path = extended(&tree.ident);
                let name = path.segments.last().cloned().unwrap_or_default();
                self.named.push((name, path));
            }
            UseTree::Rename(tree) => self.named.push((unraw(&tree.rename), extended(&tree.ident))),
            UseTree::Glob(_) => self.globs.push(before.clone()),
            UseTree::Group(tree) => tree.items.iter().for_each(|item| self.add(item, before)),
        }
    }
}

impl<'ast> Visit<'ast> for Uses {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_for_tests(attributes_of(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        if !is_for_tests(&function.attrs) {
            visit::visit_impl_item_fn(self, function);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let is_absolute = item.leading_colon.is_some();
        self.add(&item.tree, &UsePath { segments: Vec::new(), is_absolute });
    }
}

/// Collects what a module names.
struct Reader<'a> {
    workspace: &'a Workspace<'a>,
    module: ModuleId,
    names: &'a mut Names,
}

impl Reader<'_> {
    fn add(&mut self, path: &UsePath) {
        let own_file = &self.workspace.modules[self.module].file;
        match self.workspace.resolve(self.module, path) {
            Some(Target::Item { file }) if file != *own_file => {
                self.names.files.entry(file).or_default().insert(path.segments.join("::"));
            }
            Some(Target::Outside(path)) => {
                self.names.outside.insert(path.join("::"));
            }
            Some(Target::Item { .. } | Target::Module(_)) | None => {}
        }
    }

    fn add_glob(&mut self, path: &UsePath) {
        let workspace = self.workspace;
        let Some(Target::Module(id)) = workspace.resolve(self.module, path) else {
            return self.add(path);
        };
        let file = workspace.modules[id].file.clone();
        if file != workspace.modules[self.module].file {
            let written = format!("{}::*", path.segments.join("::"));
            self.names.files.entry(file).or_default().insert(written);
        }
    }

    /// A path of several names: one name alone is in the scope already.
    fn add_segments(&mut self, segments: &mut Vec<String>, is_absolute: bool) {
        let segments = std::mem::take(segments);
        if segments.len() > 1 {
            self.add(&UsePath { segments, is_absolute });
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_for_tests(attributes_of(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        if !is_for_tests(&function.attrs) {
            visit::visit_impl_item_fn(self, function);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let mut uses = Uses::default();
        uses.visit_item_use(item);
        for (_, path) in uses.named {
            self.add(&path);
        }
        for path in uses.globs {
            self.add_glob(&path);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let mut segments = path.segments.iter().map(|segment| unraw(&segment.ident)).collect();
        self.add_segments(&mut segments, path.leading_colon.is_some());
        visit::visit_path(self, path);
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        let lints = ["allow", "expect", "warn", "deny", "forbid"];
        if !lints.iter().any(|lint| attribute.path().is_ident(lint)) {
            visit::visit_attribute(self, attribute);
        }
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        self.names.methods.insert(unraw(&call.method));
        visit::visit_expr_method_call(self, call);
    }

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        self.names.is_async |= signature.asyncness.is_some();
        visit::visit_signature(self, signature);
    }

    fn visit_expr_closure(&mut self, closure: &'ast syn::ExprClosure) {
        self.names.is_async |= closure.asyncness.is_some();
        visit::visit_expr_closure(self, closure);
    }

    fn visit_expr_async(&mut self, block: &'ast syn::ExprAsync) {
        self.names.is_async = true;
        visit::visit_expr_async(self, block);
    }

    fn visit_expr_await(&mut self, expression: &'ast syn::ExprAwait) {
        self.names.is_async = true;
        visit::visit_expr_await(self, expression);
    }

    /// The arguments of a macro or an attribute, in which only the macro knows what is a path: all
    /// that looks like a path is taken for one.
    fn visit_token_stream(&mut self, tokens: &'ast TokenStream) {
        self.read_tokens(tokens.clone());
    }
}

impl Reader<'_> {
    fn read_tokens(&mut self, tokens: TokenStream) {
        let mut path = Vec::new();
        // The punctuation since the last name.
        let mut between = String::new();
        let mut is_absolute = false;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if between != "::" || path.is_empty() {
                        self.add_segments(&mut path, is_absolute);
                        // `<T as Trait>::name` ends with `::`, too.
                        is_absolute = between.ends_with("::")
                            && (between.ends_with("=>::") || !between.ends_with(">::"));
                    }
                    match ident.to_string().as_str() {
                        "async" | "await" => self.names.is_async = true,
                        method if between == "." => {
                            self.names.methods.insert(method.to_owned());
                        }
                        _ => {}
                    }
                    path.push(unraw(&ident));
                    between.clear();
                }
                TokenTree::Punct(punct) => between.push(punct.as_char()),
                TokenTree::Group(group) => {
                    self.add_segments(&mut path, is_absolute);
                    between.clear();
                    self.read_tokens(group.stream());
                }
                TokenTree::Literal(_) => {
                    self.add_segments(&mut path, is_absolute);
                    between.clear();
                }
            }
        }
        self.add_segments(&mut path, is_absolute);
    }
}

/// Whether something is compiled for tests only.
fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string() == "test",
        _ => false,
    })
}

fn attributes_of(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// The name that an item has, if it is none of a module.
fn defined_name(item: &Item) -> Option<String> {
    if is_for_tests(attributes_of(item)) {
        return None;
    }
    let name = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(unraw(name))
}

/// A name without the `r#` of one that is a keyword.
fn unraw(name: &Ident) -> String {
    let name = name.to_string();
    name.strip_prefix("r#").map_or(name.clone(), ToOwned::to_owned)
}

fn parent_folder(file: &str) -> &str {
    file.rsplit_once('/').map_or("", |(folder, _)| folder)
}
