//! The page at `/ui`, in a real headless Chromium: what it shows, how it follows a rotation, how it is used
//! by keyboard, and whether it is accessible.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use e2e::binaries::{from_environment, workspace};
use e2e::browser::{Programs, Scheme, key};
use e2e::scenario::{SOON, polling_faster};
use e2e::{Bed, Browser, Controller, Workload, eventually};
use serde_json::{Value, json};

e2e::scenarios! {
    the_page_follows_a_rotation: long,
    the_page_asks_for_the_token,
}

const NAMESPACE: &str = "page";

/// The secret that is rotated.
const ROTATED: &str = "secret/data/page/kept";

/// The path of a secret that is markup. A tenant can write it.
const MARKUP: &str = "secret/data/page/<img/src=x/onerror=alert(1)>";

/// The most presses of Tab until a link has the focus.
const MOST_TABS: usize = 60;

/// Returns the programs of the browser. `None` if there are none, and it is said that the scenario
/// is skipped.
fn programs() -> Result<Option<Programs>> {
    let found = Programs::find();
    let remedy = "install chromium and chromium-driver, or set VSR_CHROMIUM and VSR_CHROMEDRIVER";
    if found.is_none() && std::env::var_os("CI").is_some_and(|value| value == "true") {
        bail!("there is no Chromium with its driver: {remedy}");
    }
    if found.is_none() {
        say_skipped(&format!("there is no Chromium with its driver; {remedy}"));
    }
    Ok(found)
}

#[expect(clippy::print_stdout, reason = "a test program talks to who runs it")]
fn say_skipped(reason: &str) {
    println!("skipped: page: {reason}");
}

/// The page of a controller in a browser.
struct Scene {
    browser: Browser,
    /// The address of the status.
    address: String,
}

impl Scene {
    async fn open(bed: &Bed, programs: &Programs, controller: &Controller) -> Result<Self> {
        let browser = Browser::start(bed, programs).await?;
        browser.resize(1200, 900).await?;
        let address = controller.status_address()?;
        browser.open(&format!("{address}/ui")).await?;
        Ok(Self { browser, address })
    }

    /// Returns the result of an expression.
    async fn eval(&self, expression: &str) -> Result<Value> {
        self.browser.script(&format!("return {expression};"), &[]).await
    }

    /// Waits until an expression is true.
    async fn wait_for(&self, what: &str, expression: &str) -> Result<()> {
        let found = eventually(what, SOON, || async {
            Ok((self.eval(expression).await? == json!(true)).then_some(()))
        })
        .await;
        if found.is_ok() {
            return found;
        }
        let text = self.eval("location.hash + '\\n' + document.body.innerText").await?;
        found.with_context(|| format!("the page was\n{}", text.as_str().unwrap_or_default()))
    }

    /// Waits until there is a row with all these texts.
    async fn wait_for_row(&self, texts: &[&str]) -> Result<()> {
        let expression = format!(
            "[...document.querySelectorAll('#view tbody tr')]\
             .some((row) => {}.every((text) => row.textContent.includes(text)))",
            json!(texts)
        );
        self.wait_for(&format!("a row with {texts:?}"), &expression).await
    }

    /// Waits until the list has just this number of rows.
    async fn wait_for_rows(&self, count: usize) -> Result<()> {
        let expression =
            format!("document.querySelectorAll('#view tbody th[scope=row]').length === {count}");
        self.wait_for(&format!("{count} rows"), &expression).await
    }

    /// Opens a view by its hash.
    async fn go(&self, hash: &str) -> Result<()> {
        self.browser.script("location.hash = arguments[0];", &[json!(hash)]).await.map(drop)
    }

    /// Sets a filter, as a user does who types.
    async fn filter(&self, id: &str, text: &str) -> Result<()> {
        let script = "const field = document.getElementById(arguments[0]); field.focus(); \
                      field.select();";
        self.browser.script(script, &[json!(id)]).await?;
        let text = if text.is_empty() { "\u{e003}" } else { text };
        self.browser.press(text).await
    }

    /// Selects a state.
    async fn select(&self, state: &str) -> Result<()> {
        let script = "const field = document.getElementById('state'); \
                      field.value = arguments[0]; field.dispatchEvent(new Event('change'));";
        self.browser.script(script, &[json!(state)]).await.map(drop)
    }

    /// Presses Tab until the link with this text has the focus.
    async fn tab_to(&self, text: &str) -> Result<()> {
        for _ in 0..MOST_TABS {
            self.browser.press(key::TAB).await?;
            if self.eval("document.activeElement.textContent").await? == json!(text) {
                return Ok(());
            }
        }
        bail!("{text} cannot be reached by {MOST_TABS} presses of Tab")
    }

    /// Waits until the element with this tag and text has the focus.
    async fn wait_for_focus(&self, tag: &str, text: &str) -> Result<()> {
        let (tag_found, text_found) =
            ("document.activeElement.tagName", "document.activeElement.textContent");
        let expression =
            format!("{tag_found} === {} && {text_found} === {}", json!(tag), json!(text));
        self.wait_for(&format!("the focus on {text}"), &expression).await
    }

    /// Checks the present view for violations of accessibility, and takes a picture, in both colour
    /// schemes.
    async fn examine(&self, axe: Option<&str>, name: &str) -> Result<()> {
        for (scheme, suffix) in [(Scheme::Light, "light"), (Scheme::Dark, "dark")] {
            self.browser.prefer(scheme).await?;
            // A row that has changed is tinted for a moment.
            self.wait_for("the animations to end", "document.getAnimations().length === 0").await?;
            self.browser.save_picture(&picture(&format!("{name}-{suffix}"))?).await?;
            let Some(axe) = axe else { continue };
            let script = format!(
                "{axe}; const done = arguments[arguments.length - 1]; \
                 axe.run(document, {{ resultTypes: ['violations'] }}).then(({{ violations }}) => \
                 done(violations.map(({{ id, help, nodes }}) => \
                 [id, help, ...nodes.map(({{ html }}) => html)])), \
                 (error) => done([String(error)]));"
            );
            let violations = self.browser.script_with_callback(&script).await?;
            ensure!(violations == json!([]), "{name}, {suffix}: {violations:#}");
        }
        self.browser.prefer(Scheme::Light).await
    }

    /// Checks that the console has no message, and that each request went to the controller.
    async fn expect_quiet(&self) -> Result<()> {
        let messages = self.browser.console().await?;
        ensure!(messages.is_empty(), "the console has {messages:#?}");
        let requests = self.browser.requests().await?;
        let is_elsewhere = |request: &&String| {
            !request.starts_with(&format!("{}/", self.address)) && !request.starts_with("data:")
        };
        let elsewhere: Vec<_> = requests.iter().filter(is_elsewhere).collect();
        ensure!(elsewhere.is_empty() && !requests.is_empty(), "requests to {elsewhere:?}");
        Ok(())
    }
}

/// Returns the file of a picture of the page, for people to look at.
fn picture(name: &str) -> Result<PathBuf> {
    let folder = workspace().join("target");
    fs::create_dir_all(&folder)?;
    Ok(folder.join(format!("page-{name}.png")))
}

/// Returns the script of axe-core; `None` if there is none, and it is said that its checks are skipped.
fn axe() -> Result<Option<String>> {
    let Some(file) = from_environment("VSR_AXE") else {
        say_skipped("VSR_AXE does not name axe.min.js; accessibility is not tested");
        return Ok(None);
    };
    fs::read_to_string(&file).map(Some).with_context(|| format!("cannot read {}", file.display()))
}

fn using(name: &str, paths: &[&str]) -> Workload {
    let workload = Workload::deployment(NAMESPACE, name).opted_in();
    paths.iter().enumerate().fold(workload, |workload, (index, path)| {
        workload.env(&format!("VARIABLE_{index}"), &format!("vault:{path}#k"))
    })
}

async fn the_page_follows_a_rotation() -> Result<()> {
    let Some(programs) = programs()? else { return Ok(()) };
    let axe = axe()?;
    let axe = axe.as_deref();
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace(NAMESPACE).await?;
    bed.write_secrets(&["page/kept", "page/gone"]).await?;
    let web = using("web", &[ROTATED]);
    let paused = using("paused", &[ROTATED]);
    let held = using("held", &[ROTATED, "secret/data/page/gone"]);
    let odd = using("odd", &[MARKUP]);
    bed.deploy_all(&[&web, &paused, &held, &odd]).await?;
    bed.cluster.patch(&paused, &json!({ "spec": { "paused": true } })).await?;
    let controller = Controller::start(&bed, &polling_faster().switch("--status-page")).await?;
    let scene = Scene::open(&bed, &programs, &controller).await?;

    // What is not complete is shown first, and what a tenant wrote is text.
    scene.wait_for_row(&[MARKUP, "server default"]).await?;
    scene.wait_for_rows(1).await?;
    assert_eq!(scene.eval("document.images.length").await?, json!(0));
    scene
        .wait_for(
            "the connection",
            "document.getElementById('connection').textContent === 'Connected'",
        )
        .await?;
    scene.tab_to(MARKUP).await?;
    scene.browser.script("window.isSamePage = true;", &[]).await?;

    // A rotation appears, and the focus stays where it is.
    bed.vault.kv("secret").delete_latest("page/gone").await?;
    controller.wait_for("Vault secret path secret/data/page/gone not found", SOON).await?;
    bed.rotate("page/kept").await?;
    scene.wait_for_row(&[ROTATED, "Held", "1 of 3 complete", "1 held, 1 silent"]).await?;
    scene.wait_for_row(&["secret/data/page/gone", "Missing"]).await?;
    scene.wait_for_focus("A", MARKUP).await?;
    let said = "document.getElementById('summary').textContent.includes('1 held')";
    scene.wait_for("the change to be said", said).await?;
    scene.examine(axe, "rotations").await?;

    select_rows(&scene).await?;
    use_the_keyboard(&scene).await?;

    look_around(&scene, axe).await?;

    // The rotation is completed while its detail is shown.
    scene.go("#/secret?path=secret%2Fdata%2Fpage%2Fkept&server=default").await?;
    scene.wait_for_row(&["page/Deployment/paused", "Silent", "kubectl rollout resume"]).await?;
    scene.examine(axe, "secret").await?;
    bed.rotate("page/gone").await?;
    bed.cluster.patch(&paused, &json!({ "spec": { "paused": false } })).await?;
    let answer = "document.querySelector('.answer').textContent.includes('revoked? Yes.')";
    scene.wait_for("the rotation to be complete", answer).await?;
    scene.wait_for_row(&["page/Deployment/held", "Complete"]).await?;
    assert_eq!(scene.eval("window.isSamePage").await?, json!(true), "the page was loaded again");

    fit_a_narrow_window(&scene).await?;
    scene.expect_quiet().await
}

/// Opens the other views.
async fn look_around(scene: &Scene, axe: Option<&str>) -> Result<()> {
    // A workload tells why it is held.
    scene.go("#/workload?name=page%2FDeployment%2Fheld").await?;
    scene.wait_for_row(&[ROTATED, "Held", "SecretMissing"]).await?;
    scene.examine(axe, "workload").await?;
    scene.go("#/workloads").await?;
    scene.wait_for_row(&["page/Deployment/web", "Complete"]).await?;
    scene.examine(axe, "workloads").await?;
    scene.go("#/servers").await?;
    scene.wait_for_row(&["default", "ago"]).await?;
    scene.examine(axe, "servers").await
}

/// Checks that a narrow window needs no scrolling to the side.
async fn fit_a_narrow_window(scene: &Scene) -> Result<()> {
    scene.browser.resize(400, 800).await?;
    for (hash, row, name) in [
        ("#/secret?path=secret%2Fdata%2Fpage%2Fkept", "page/Deployment/web", "secret"),
        ("#/rotations?state=all", ROTATED, "rotations"),
    ] {
        scene.go(hash).await?;
        scene.wait_for_row(&[row]).await?;
        let width = scene.eval("document.documentElement.scrollWidth").await?;
        assert!(width.as_u64().is_some_and(|width| width <= 400), "{hash}: {width}");
        scene.browser.save_picture(&picture(&format!("{name}-narrow"))?).await?;
    }
    Ok(())
}

/// Searches and filters the list of rotations. Leaves it as it was.
async fn select_rows(scene: &Scene) -> Result<()> {
    scene.wait_for_rows(3).await?;
    scene.filter("search", "PAGE/kept").await?;
    scene.wait_for_rows(1).await?;
    scene.wait_for_row(&[ROTATED]).await?;
    scene.wait_for("the hash", "location.hash.includes('search=PAGE%2Fkept')").await?;
    scene.filter("search", "nothing").await?;
    let none = "document.querySelector('.empty').textContent === 'No rotations match the filters.'";
    scene
        .wait_for("an empty list", &format!("!!document.querySelector('.empty') && {none}"))
        .await?;
    scene.filter("search", "").await?;
    scene.wait_for_rows(3).await?;
    scene.select("held").await?;
    scene.wait_for_rows(1).await?;
    scene.wait_for_row(&[ROTATED]).await?;
    // Back undoes the selection.
    scene.browser.back().await?;
    scene.wait_for_rows(3).await?;
    scene.filter("in", "elsewhere").await?;
    scene.wait_for_rows(0).await?;
    scene.filter("in", NAMESPACE).await?;
    scene.wait_for_rows(3).await?;
    scene.go("#/rotations").await
}

/// Opens and leaves a detail by keys alone.
async fn use_the_keyboard(scene: &Scene) -> Result<()> {
    scene.wait_for_rows(3).await?;
    scene.browser.script("document.activeElement.blur();", &[]).await?;
    scene.tab_to(ROTATED).await?;
    scene.browser.press(key::ENTER).await?;
    scene.wait_for_row(&["page/Deployment/held", "Held", "SecretMissing"]).await?;
    let answer = "document.querySelector('.answer').textContent.includes('revoked? Not yet.')";
    scene.wait_for("the answer", answer).await?;
    // A screen reader begins to read at the heading.
    scene.wait_for_focus("H2", ROTATED).await?;
    scene.browser.press(key::ESCAPE).await?;
    scene.wait_for_rows(3).await?;
    scene.wait_for_focus("A", ROTATED).await?;
    scene.browser.press(key::ENTER).await?;
    scene.wait_for_row(&["page/Deployment/held"]).await?;
    scene.browser.back().await?;
    scene.wait_for_rows(3).await?;
    scene.wait_for_focus("A", ROTATED).await
}

async fn the_page_asks_for_the_token() -> Result<()> {
    let Some(programs) = programs()? else { return Ok(()) };
    let axe = axe()?;
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace(NAMESPACE).await?;
    bed.write_secrets(&["page/kept"]).await?;
    bed.deploy_all(&[&using("web", &[ROTATED])]).await?;
    let file = bed.folder().join("page-token");
    fs::write(&file, "the-token-of-the-page\n")?;
    let file = file.to_str().context("the folder of the bed is no text")?;
    let options = polling_faster().switch("--status-page").flag("--status-token-file", file);
    let mut controller = Controller::start(&bed, &options).await?;
    controller.must_not_say("the-token-of-the-page");
    let scene = Scene::open(&bed, &programs, &controller).await?;
    let has_form =
        "!document.getElementById('login').hidden && document.activeElement.id === 'token'";
    scene.wait_for("the form", has_form).await?;
    scene.examine(axe.as_deref(), "token").await?;
    scene.browser.press(&format!("wrong{}", key::ENTER)).await?;
    let refused = "document.getElementById('refused').textContent.includes('does not accept')";
    scene.wait_for("the refusal", refused).await?;
    scene.wait_for("the field", has_form).await?;
    scene.browser.press(&format!("the-token-of-the-page{}", key::ENTER)).await?;
    scene
        .wait_for("the status", "document.getElementById('connection').textContent === 'Connected'")
        .await?;
    scene.go("#/rotations?state=all").await?;
    scene.wait_for_row(&[ROTATED, "Complete"]).await?;
    // The token lasts while the tab is open, and no longer.
    scene.browser.script("location.reload();", &[]).await?;
    scene.wait_for_row(&[ROTATED, "Complete"]).await?;
    let kept = "localStorage.length + document.cookie.length + sessionStorage.length";
    assert_eq!(scene.eval(kept).await?, json!(1));
    Ok(())
}
