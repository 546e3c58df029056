//! A real headless Chromium, driven by `chromedriver`. The protocol is `WebDriver`: JSON over HTTP.
//!
//! Invariant: the browser ends with the bed. It reaches no host but this machine.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::bed::{Bed, answers, empty_folder};
use crate::binaries::from_environment;
use crate::ports::Port;
use crate::server::{CommandLine, Server};

/// The longest time of a command. The start of the browser is the longest one.
const ANSWER_WITHIN: Duration = Duration::from_mins(1);

/// The names of the browser's program.
const BROWSERS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];

/// The keys of a keyboard, by their number in `WebDriver`.
pub mod key {
    /// The tabulator.
    pub const TAB: &str = "\u{e004}";
    /// Enter.
    pub const ENTER: &str = "\u{e007}";
    /// Escape.
    pub const ESCAPE: &str = "\u{e00c}";
}

/// The programs of the browser and of its driver.
#[derive(Debug, Clone)]
pub struct Programs {
    browser: PathBuf,
    driver: PathBuf,
}

impl Programs {
    /// Returns the programs: the variables `VSR_CHROMIUM` and `VSR_CHROMEDRIVER`, or else those on
    /// the `PATH`. `None` if one of them is missing.
    #[must_use]
    pub fn find() -> Option<Self> {
        let browser =
            from_environment("VSR_CHROMIUM").or_else(|| BROWSERS.into_iter().find_map(on_path))?;
        let driver = from_environment("VSR_CHROMEDRIVER").or_else(|| on_path("chromedriver"))?;
        Some(Self { browser, driver })
    }
}

fn on_path(name: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// A colour scheme that the user prefers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Dark text on a light ground.
    Light,
    /// Light text on a dark ground.
    Dark,
}

/// A browser with one window.
#[derive(Debug)]
pub struct Browser {
    _driver: Server,
    _port: Port,
    http: reqwest::Client,
    /// The address of the session.
    session: String,
}

impl Browser {
    /// Starts a browser.
    ///
    /// # Errors
    /// When the driver or the browser does not start.
    pub async fn start(bed: &Bed, programs: &Programs) -> Result<Self> {
        let port = Port::any()?;
        let folder = empty_folder(bed.folder().join("browser"))?;
        let command = CommandLine {
            name: "chromedriver",
            program: programs.driver.clone(),
            args: vec![OsString::from(format!("--port={}", port.number()))],
        };
        let ready = answers(port.number(), "http", "status");
        let driver = Server::new(command, &folder, bed.group(), ready);
        driver.start().await?;
        let http = reqwest::Client::builder()
            .timeout(ANSWER_WITHIN)
            .pool_max_idle_per_host(0)
            .no_proxy()
            .build()?;
        let driver_address = format!("http://127.0.0.1:{}", port.number());
        let answer =
            send(&http, &format!("{driver_address}/session"), Some(&wanted(programs))).await?;
        let id = answer["sessionId"].as_str().context("no session")?;
        let session = format!("{driver_address}/session/{id}");
        Ok(Self { _driver: driver, _port: port, http, session })
    }

    /// Opens an address.
    ///
    /// # Errors
    /// When the address cannot be loaded.
    pub async fn open(&self, address: &str) -> Result<()> {
        self.command("url", &json!({ "url": address })).await.map(drop)
    }

    /// Goes back in the history.
    ///
    /// # Errors
    /// When the browser does not answer.
    pub async fn back(&self) -> Result<()> {
        self.command("back", &json!({})).await.map(drop)
    }

    /// Runs the body of a function in the page. Returns its result.
    ///
    /// # Errors
    /// When the script throws.
    pub async fn script(&self, script: &str, args: &[Value]) -> Result<Value> {
        self.command("execute/sync", &json!({ "script": script, "args": args })).await
    }

    /// Runs the body of a function that calls its last argument with its result.
    ///
    /// # Errors
    /// When the script throws, or does not end in time.
    pub async fn script_with_callback(&self, script: &str) -> Result<Value> {
        self.command("execute/async", &json!({ "script": script, "args": [] })).await
    }

    /// Presses keys, one after the other: each character, or a constant of [`key`].
    ///
    /// # Errors
    /// When the browser does not answer.
    pub async fn press(&self, keys: &str) -> Result<()> {
        let mut actions = Vec::new();
        for key in keys.chars() {
            actions.push(json!({ "type": "keyDown", "value": key.to_string() }));
            actions.push(json!({ "type": "keyUp", "value": key.to_string() }));
        }
        let keyboard = json!({ "type": "key", "id": "keyboard", "actions": actions });
        self.command("actions", &json!({ "actions": [keyboard] })).await.map(drop)
    }

    /// Sets the size of the page in pixels.
    ///
    /// # Errors
    /// When the browser does not answer.
    pub async fn resize(&self, width: u32, height: u32) -> Result<()> {
        let size =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", &size).await
    }

    /// Sets the colour scheme that the user prefers.
    ///
    /// # Errors
    /// When the browser does not answer.
    pub async fn prefer(&self, scheme: Scheme) -> Result<()> {
        let value = if scheme == Scheme::Dark { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": value }]);
        self.devtools("Emulation.setEmulatedMedia", &json!({ "features": features })).await
    }

    /// Writes a picture of the window to a PNG file.
    ///
    /// # Errors
    /// When there is no picture, or the file cannot be written.
    pub async fn save_picture(&self, file: &Path) -> Result<()> {
        let answer = send(&self.http, &format!("{}/screenshot", self.session), None).await?;
        let picture = STANDARD.decode(answer.as_str().context("no picture")?)?;
        std::fs::write(file, picture).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Returns the messages of the console since the last call.
    ///
    /// # Errors
    /// When the browser does not answer.
    pub async fn console(&self) -> Result<Vec<String>> {
        let entries = self.log("browser").await?;
        Ok(entries.iter().map(|entry| entry["message"].to_string()).collect())
    }

    /// Returns the addresses of all requests since the last call.
    ///
    /// # Errors
    /// When the browser does not answer.
    pub async fn requests(&self) -> Result<Vec<String>> {
        let mut addresses = Vec::new();
        for entry in self.log("performance").await? {
            let text = entry["message"].as_str().context("an entry without a message")?;
            let entry: Value = serde_json::from_str(text)?;
            if entry["message"]["method"] == "Network.requestWillBeSent" {
                let address = entry["message"]["params"]["request"]["url"].as_str();
                addresses.push(address.context("a request without an address")?.to_owned());
            }
        }
        Ok(addresses)
    }

    async fn log(&self, kind: &str) -> Result<Vec<Value>> {
        let answer = self.command("se/log", &json!({ "type": kind })).await?;
        Ok(answer.as_array().context("no log")?.clone())
    }

    async fn devtools(&self, command: &str, params: &Value) -> Result<()> {
        let body = json!({ "cmd": command, "params": params });
        self.command("goog/cdp/execute", &body).await.map(drop)
    }

    async fn command(&self, path: &str, body: &Value) -> Result<Value> {
        send(&self.http, &format!("{}/{path}", self.session), Some(body)).await
    }
}

/// The session that is asked for.
fn wanted(programs: &Programs) -> Value {
    let args = [
        "--headless=new",
        // A container has no user namespaces, and only the bed's own page is opened.
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        "--no-proxy-server",
        // The browser ends with its driver.
        "--remote-debugging-pipe",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ];
    json!({ "capabilities": { "alwaysMatch": {
        "browserName": "chrome",
        "goog:chromeOptions": { "binary": programs.browser, "args": args },
        "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
    } } })
}

/// Sends a command to the driver: a POST with a body, or a GET. Returns the value of the answer.
async fn send(http: &reqwest::Client, address: &str, body: Option<&Value>) -> Result<Value> {
    let request = match body {
        Some(body) => http.post(address).json(body),
        None => http.get(address),
    };
    let answer = request.send().await?;
    let status = answer.status();
    let mut answer: Value = serde_json::from_str(&answer.text().await?)?;
    let value = answer["value"].take();
    if !status.is_success() {
        bail!("{}: {}", value["error"], value["message"]);
    }
    Ok(value)
}
