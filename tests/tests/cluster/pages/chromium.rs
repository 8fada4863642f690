//! Chromium, driven over WebDriver.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cluster_tests::browser::Site;
use cluster_tests::ports;
use cluster_tests::wait::{ensure, eventually};
use cluster_tests::watched::FAILOVER;
use fantoccini::elements::Element;
use fantoccini::error::CmdError;
use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder, Locator};
use http::Method;
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// For what a page shows when something has happened; a failover may take this long.
pub(super) const SOON: Duration = FAILOVER;

/// The size of a window, and what it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Screen {
    pub(super) name: &'static str,
    width: u32,
    height: u32,
}

pub(super) const DESKTOP: Screen = Screen { name: "desktop", width: 1100, height: 800 };
pub(super) const PHONE: Screen = Screen { name: "phone", width: 390, height: 844 };

/// A browser with a profile of its own, looking at one site.
pub(super) struct Chromium {
    client: Client,
    site: Site,
}

/// What drives all browsers of this process; it ends with the process, however that ends.
static DRIVER: OnceCell<Driver> = OnceCell::const_new();

struct Driver {
    port: u16,
    _process: Child,
}

impl Driver {
    async fn start() -> Self {
        let found = Command::new("chromedriver").arg("--version").stdout(Stdio::null()).status();
        assert!(
            found.is_ok_and(|status| status.success()),
            "chromedriver is missing: `apt-get install chromium chromium-driver`; `cargo xtask test` does so where it may"
        );
        let [port] = ports::free();
        // It reads from a pipe that only this process writes to, which the system closes at this process' end of any kind.
        let script = "chromedriver --port=$0 & read -r _; kill -- -$$";
        let process = Command::new("sh")
            .args(["-c", script, &port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("sh starts");
        eventually("chromedriver listens", SOON, async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.map(drop).map_err(|error| error.to_string())
        })
        .await;
        Self { port, _process: process }
    }
}

impl Chromium {
    pub(super) async fn open(site: Site) -> Self {
        let this = Self { site, ..Self::open_empty().await };
        this.look("light", DESKTOP).await;
        this
    }

    /// Looking at nothing yet.
    pub(super) async fn open_empty() -> Self {
        let driver = DRIVER.get_or_init(Driver::start).await;
        let arguments = [
            "--headless=new",
            "--disable-gpu",
            "--hide-scrollbars",
            "--no-first-run",
            "--disable-background-networking",
            // Containers give /dev/shm little room, and root gets no sandbox.
            "--disable-dev-shm-usage",
            "--no-sandbox",
        ];
        let capabilities = json!({
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let Value::Object(capabilities) = capabilities else { unreachable!("it is an object") };
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{}", driver.port))
            .await
            .expect("Chromium starts");
        Self { client, site: Site { port: 0 } }
    }

    /// The colours that its user prefers, and the size of the window.
    pub(super) async fn look(&self, colours: &str, screen: Screen) {
        let features = json!([{ "name": "prefers-color-scheme", "value": colours }]);
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": features })).await;
        let Screen { width, height, .. } = screen;
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": screen == PHONE });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics).await;
    }

    pub(super) async fn switch_javascript_off(&self) {
        self.devtools("Emulation.setScriptExecutionDisabled", json!({ "value": true })).await;
    }

    pub(super) async fn goto(&self, path: &str) {
        self.visit(&format!("http://127.0.0.1:{}{path}", self.site.port)).await;
    }

    pub(super) async fn visit(&self, url: &str) {
        self.client.goto(url).await.unwrap_or_else(|error| panic!("{url}: {error}"));
    }

    /// The one element that is meant.
    pub(super) async fn find(&self, css: &str) -> Element {
        self.on(css, async |element| Ok(element)).await
    }

    pub(super) async fn text(&self, css: &str) -> String {
        self.on(css, async |element| element.text().await).await
    }

    pub(super) async fn click(&self, css: &str) {
        self.on(css, async |element| element.click().await).await;
    }

    /// A click that leads to another page, and that page: the click returns while the one before may still be there.
    pub(super) async fn follow(&self, css: &str) {
        let before = self.find("html").await;
        self.click(css).await;
        eventually("another page", SOON, async || {
            // An element of a page that is gone can be asked nothing.
            ensure(before.tag_name().await.is_err(), || format!("{css}: still the same page"))
        })
        .await;
    }

    pub(super) async fn fill(&self, css: &str, text: &str) {
        self.on(css, async |element| element.send_keys(text).await).await;
    }

    /// Does something with the one element that is meant, when it is there: a click that leads to another page returns before that
    /// page is there, and what was found meanwhile may be gone with the one before.
    async fn on<T>(&self, css: &str, act: impl AsyncFn(Element) -> Result<T, CmdError>) -> T {
        eventually(css, SOON, async || {
            let done = async { act(self.client.find(Locator::Css(css)).await?).await };
            done.await.map_err(|error| error.to_string())
        })
        .await
    }

    pub(super) async fn log_in_as_alice(&self) {
        self.fill("form[action='/login'] [name=username]", "alice").await;
        self.fill("form[action='/login'] [name=password]", "wonderland").await;
        self.follow("form[action='/login'] button").await;
    }

    pub(super) async fn press_tab(&self) {
        let focused = self.client.active_element().await.expect("something has the focus");
        focused.send_keys("\u{E004}").await.expect("Tab can be pressed");
    }

    /// Runs a script in the page.
    pub(super) async fn run(&self, script: &str) -> Value {
        self.client.execute(script, Vec::new()).await.unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// Runs a script that ends with what a promise brings.
    pub(super) async fn resolve(&self, promise: &str) -> Value {
        let script = format!(
            "const done = arguments[arguments.length - 1]; ({promise}).then(done, (error) => done(`failed: ${{error}}`));"
        );
        self.client.execute_async(&script, Vec::new()).await.unwrap_or_else(|error| panic!("{promise}: {error}"))
    }

    /// Waits until a script says `true`.
    pub(super) async fn wait_for(&self, what: &str, script: &str) {
        eventually(what, SOON, async || {
            let found = self.client.execute(script, Vec::new()).await.map_err(|error| error.to_string())?;
            ensure(found == Value::Bool(true), || found.to_string())
        })
        .await;
    }

    /// What the console holds since it was last asked: errors of scripts, refused loads, violations of the policy.
    pub(super) async fn console(&self) -> Vec<String> {
        let entries = self.issue("se/log", json!({ "type": "browser" })).await;
        let entries = entries.as_array().cloned().unwrap_or_default();
        entries.iter().map(|entry| format!("{}: {}", entry["level"], entry["message"])).collect()
    }

    /// A picture of the whole page, kept for whoever looks at the tests.
    pub(super) async fn keep_picture(&self, name: &str) {
        let size = self
            .run("const root = document.documentElement; return [root.clientWidth, Math.min(root.scrollHeight, 4000)]")
            .await;
        let clip = json!({ "x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1 });
        let what = json!({ "format": "png", "captureBeyondViewport": true, "clip": clip });
        let picture = self.devtools("Page.captureScreenshot", what).await;
        let png = STANDARD.decode(picture["data"].as_str().expect("a picture")).expect("base64");
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("artefacts");
        std::fs::create_dir_all(&folder).expect("the folder can be made");
        std::fs::write(folder.join(format!("{name}.png")), png).expect("the picture can be written");
    }

    /// What axe finds wrong with the page: one line for each rule and element.
    pub(super) async fn axe(&self) -> Vec<String> {
        let path = axe_core();
        let axe = std::fs::read_to_string(&path).unwrap_or_else(|error| {
            panic!("{} ({error}); `cargo xtask test` fetches it", path.display());
        });
        self.client.execute(&axe, Vec::new()).await.expect("axe can be loaded");
        let tags = json!(["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]);
        let found = self.resolve(&format!("axe.run({{ runOnly: {tags} }})")).await;
        let passes = found["passes"].as_array().map_or(0, Vec::len);
        assert!(passes > 10, "axe has looked at the page: {found}");
        let violations = found["violations"].as_array().expect("a list");
        let line = |rule: &Value| {
            let nodes = rule["nodes"].as_array().cloned().unwrap_or_default();
            let nodes: Vec<_> =
                nodes.iter().map(|node| format!("{}: {}", node["html"], node["failureSummary"])).collect();
            format!("{}: {}\n  {}", rule["id"], rule["help"], nodes.join("\n  "))
        };
        violations.iter().map(line).collect()
    }

    pub(super) async fn close(self) {
        self.client.close().await.expect("the browser closes");
    }

    pub(super) async fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.issue("goog/cdp/execute", json!({ "cmd": command, "params": parameters })).await
    }

    async fn issue(&self, path: &'static str, body: Value) -> Value {
        let command = OfChromium { path, body };
        self.client.issue_cmd(command).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }
}

/// Where `cargo xtask test` puts axe-core.
fn axe_core() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it is in the target folder");
    target.join("axe/axe_playwright_python/axe.min.js")
}

/// A command that WebDriver leaves to browsers.
#[derive(Debug)]
struct OfChromium {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for OfChromium {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _: &url::Url) -> (Method, Option<String>) {
        (Method::POST, Some(self.body.to_string()))
    }
}
