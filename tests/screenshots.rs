//! Pictures of every page, light and dark, in English and Chinese: with TALLOW_SCREENSHOTS set, docs/screenshots is made
//! anew; without, it is checked that none is missing and that they are small.
//!
//! Chinese wants a font: `apt-get install -y fonts-wqy-microhei`.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "browser_support/pages.rs"]
mod pages;
#[path = "browser_support/seed.rs"]
mod seed;
#[path = "browser_support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use pages::At;
use serde_json::json;
use support::{Browser, Server, Theme, root};

const LANGUAGES: [&str; 2] = ["en", "zh"];
const WIDE: u32 = 1280;
/// No picture is higher: below stands more of the same.
const HIGHEST: u32 = 1500;
const MOST_BYTES: u64 = 4 << 20;

fn folder() -> PathBuf {
    root().join("docs/screenshots")
}

fn names() -> Vec<&'static str> {
    ["live"].into_iter().chain(pages::all().into_iter().map(|(_, _, name)| name)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_has_its_pictures() {
    if std::env::var_os("TALLOW_SCREENSHOTS").is_some() {
        take_them().await;
    }
    let mut wanted = BTreeSet::from(["README.md".to_owned()]);
    for name in names() {
        for lang in LANGUAGES {
            wanted.extend(Theme::BOTH.map(|theme| format!("{name}-{}-{lang}.webp", theme.word())));
        }
    }
    let files: Vec<_> = fs::read_dir(folder()).unwrap().map(Result::unwrap).collect();
    let there: BTreeSet<String> =
        files.iter().map(|file| file.file_name().into_string().unwrap()).collect();
    let again = "TALLOW_SCREENSHOTS=1 cargo test --release --test screenshots";
    assert_eq!(there, wanted, "make them anew: {again}");
    let bytes: u64 = files.iter().map(|file| file.metadata().unwrap().len()).sum();
    assert!(bytes < MOST_BYTES, "{bytes} bytes of pictures");
}

async fn take_them() {
    let _ = fs::remove_dir_all(folder());
    fs::create_dir_all(folder()).unwrap();
    let filled = Server::ticking(seed::three_states).await;
    let empty = Server::start().await;
    filled.allow(84);
    let live = filled.begin("SmolLM2 · support tickets · LoRA r16");
    filled.begin("the same with rank 32");
    filled.begin("the same, packed");
    filled.until_step(&live, 84).await;
    let browser = Browser::open().await;
    for lang in LANGUAGES {
        for theme in Theme::BOTH {
            browser.theme(theme).await;
            let mut todo = vec![(At::Filled, format!("/runs/{live}"), "live")];
            todo.extend(pages::all());
            for (at, path, name) in todo {
                let server = if at == At::Empty { &empty } else { &filled };
                let cookie = json!({ "url": server.url, "name": "lang", "value": lang });
                browser.cdp("Network.setCookie", cookie).await;
                browser.size(WIDE, 900).await;
                browser.tab.goto(&format!("{}{path}", server.url)).await.unwrap();
                browser.settle(&path).await;
                let picture = browser.picture(WIDE, HIGHEST).await;
                let file = folder().join(format!("{name}-{}-{lang}.webp", theme.word()));
                fs::write(file, picture).unwrap();
            }
        }
    }
    browser.close().await;
    fs::write(folder().join("README.md"), index()).unwrap();
}

/// A table of all pictures.
fn index() -> String {
    let mut text = String::from(
        "# Every page\n\nMade by `TALLOW_SCREENSHOTS=1 cargo test --release --test screenshots`.\n\n\
         | page | light | dark | 浅色 | 深色 |\n|---|---|---|---|---|\n",
    );
    for name in names() {
        let _ = write!(text, "| {name} |");
        for lang in LANGUAGES {
            for theme in Theme::BOTH {
                let _ = write!(text, " [{lang}]({name}-{}-{lang}.webp) |", theme.word());
            }
        }
        text.push('\n');
    }
    text
}
