//! What stands around every page: language, theme, the rail with the places and the newest runs.

use std::fmt::Display;

use axum::http::{HeaderMap, header};

use super::text::Lang;
use super::view::RunView;
use crate::db::list::{self, Filter};
use crate::db::team::Role;
use crate::web::assets;
use crate::web::error::Result;
use crate::web::extract::Caller;
use crate::web::state::AppState;
use crate::web::team::Who;

/// Runs in the rail.
const RECENT: u32 = 6;

/// One place of the navigation; its key is also the name of its icon.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// What [`Shell::place`] says on its pages.
    pub key: &'static str,
    /// Where it is.
    pub href: &'static str,
    /// Key of its name.
    pub label: &'static str,
}

/// The navigation. A new place is a line here, an icon and a text.
const PLACES: &[Place] = &[
    Place { key: "runs", href: "/runs", label: "nav.runs" },
    Place { key: "datasets", href: "/datasets", label: "nav.datasets" },
    Place { key: "models", href: "/models", label: "nav.models" },
    Place { key: "queue", href: "/queue", label: "nav.queue" },
    Place { key: "system", href: "/system", label: "nav.system" },
    Place { key: "settings", href: "/settings", label: "nav.settings" },
];

/// The frame of a page.
#[derive(Debug, Clone)]
pub struct Shell {
    /// The language of the texts.
    pub lang: Lang,
    /// `light`, `dark`, or empty for what the system wants.
    pub theme: &'static str,
    /// The place that is marked in the navigation.
    pub place: &'static str,
    /// The run that is marked in the rail.
    pub current: String,
    /// The newest runs.
    pub recent: Vec<RunView>,
    /// The machine in one line.
    pub machine: String,
    /// Who looks at it; nobody on the pages that ask no database.
    pub who: Who,
}

impl Shell {
    /// The frame of a page at `place`.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn load(state: &AppState, caller: &Caller, place: &'static str) -> Result<Self> {
        let mut shell = Self::bare(caller);
        let rows = list::list(&state.db, &Filter { limit: RECENT, ..Filter::default() }).await?;
        let now = state.clock.now_ms();
        shell.recent = rows.iter().map(|row| RunView::new(row, now, shell.lang)).collect();
        shell.place = place;
        shell.who = caller.who.clone();
        Ok(shell)
    }

    /// The frame of a page that asks no database: problems and the login.
    #[must_use]
    pub fn bare(headers: &HeaderMap) -> Self {
        let lang = Lang::of(headers);
        Self {
            lang,
            theme: theme(headers),
            place: "",
            current: String::new(),
            recent: Vec::new(),
            machine: machine(lang),
            who: Who::nobody(),
        }
    }

    /// Whether who looks may start and change things.
    #[must_use]
    pub fn may_edit(&self) -> bool {
        self.who.role >= Role::Editor
    }

    /// Whether who looks decides over people and the server.
    #[must_use]
    pub fn may_admin(&self) -> bool {
        self.who.role == Role::Admin
    }

    /// Whether who looks may stop, resume and ask that run.
    #[must_use]
    pub fn may_stop(&self, run: &RunView) -> bool {
        self.who.owns(&run.owner)
    }

    /// The text of a key.
    #[must_use]
    pub fn t<'k>(&self, key: &'k str) -> &'k str {
        self.lang.text(key)
    }

    /// The text of a key with one value in it.
    #[must_use]
    pub fn f(&self, key: &str, value: impl Display) -> String {
        self.lang.fill(key, &[&value])
    }

    /// A role in words.
    #[must_use]
    pub fn role(&self, role: Role) -> String {
        self.t(&format!("role.{role}")).to_owned()
    }

    /// The URL of a file below static/.
    #[must_use]
    pub fn asset(&self, name: &str) -> String {
        assets::url(name)
    }

    /// The URL of a script that others import: by its plain name, as they name it. Under two names it would run twice.
    #[must_use]
    pub fn module(&self, name: &str) -> String {
        format!("/assets/{name}")
    }

    /// The navigation.
    #[must_use]
    pub fn places(&self) -> &'static [Place] {
        PLACES
    }

    /// The languages to choose from.
    #[must_use]
    pub fn languages(&self) -> [Lang; 2] {
        Lang::ALL
    }

    /// The words of the scripts, as JSON.
    #[must_use]
    pub fn script_words(&self) -> String {
        self.lang.script_words()
    }

    /// The program's version.
    #[must_use]
    pub fn version(&self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }
}

/// A cookie's value; the last of several counts.
#[must_use]
pub fn cookie<'h>(headers: &'h HeaderMap, wanted: &str) -> Option<&'h str> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs =
        cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let mut values = pairs.filter(|(name, _)| *name == wanted).map(|(_, value)| value);
    values.next().map(|first| values.fold(first, |_, value| value))
}

/// The cookie `theme`, set by the switch in the rail.
fn theme(headers: &HeaderMap) -> &'static str {
    match cookie(headers, "theme") {
        Some("light") => "light",
        Some("dark") => "dark",
        _ => "",
    }
}

fn machine(lang: Lang) -> String {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let info = rustix::system::sysinfo();
    #[expect(clippy::cast_precision_loss, reason = "one digit is shown")]
    let gib = (info.totalram as f64) * f64::from(info.mem_unit) / f64::from(1 << 30);
    lang.fill("machine.cpu", &[&cores, &format!("{gib:.0} GiB")])
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn themes() {
        for (cookie, expected) in [
            ("", ""),
            ("theme=dark", "dark"),
            ("a=b; theme=light; c", "light"),
            ("theme=\"><script>", ""),
            ("theme=", ""),
            ("theme=dark; theme=light", "light"),
            ("atheme=dark", ""),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::COOKIE, HeaderValue::from_static(cookie));
            assert_eq!(theme(&headers), expected, "{cookie}");
        }
    }
}
