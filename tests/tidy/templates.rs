//! Pages: nothing that the content security policy would block, and no unescaped text.

use super::files::{self, File};
use super::{must_fail, must_hold, must_pass};

/// The token page must look right before anybody may load a file: its own style sheet stands in it,
/// and the page's policy allows it by its hash (src/web/pages/login.rs).
const HASHED: (&str, &str) = ("templates/pages/login.html", "<style>{{ styles|safe }}</style>");

fn page_rules(file: &File) -> Vec<String> {
    let text = without_comments(&file.text.to_lowercase());
    let mut complaints = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if (file.path.as_str(), line.trim()) == HASHED {
            continue;
        }
        let mut complain = |what: &str| complaints.push(file.at(index + 1, what));
        let packed: String = line.chars().filter(|letter| !letter.is_whitespace()).collect();
        if packed.contains("|safe") {
            complain("`|safe`: text from outside must be escaped");
        }
        for tag in line.split("<script").skip(1) {
            if !tag.split('>').next().unwrap_or("").contains("src=") {
                complain("an inline <script>: put it in static/");
            }
        }
        if line.contains("<style") || line.contains(" style=") {
            complain("inline style: put it in static/");
        }
        if line.contains("javascript:") || line.contains("hx-on") {
            complain("a script in an attribute: put it in static/");
        }
        if line.split_whitespace().any(is_handler) {
            complain("an on… handler: put it in static/");
        }
        if ["http://", "https://", "src=\"//"].iter().any(|start| loads(line, start)) {
            complain("loads from another host");
        }
    }
    complaints
}

/// `onclick=`, `oninput="..."`, ...
fn is_handler(word: &str) -> bool {
    let name = word.trim_start_matches('"').split('=').next().unwrap_or("");
    let letters = name.strip_prefix("on").unwrap_or("");
    word.contains('=') && !letters.is_empty() && letters.bytes().all(|b| b.is_ascii_lowercase())
}

/// Whether a script, style sheet or image comes from `start`; a link that a person clicks may.
fn loads(line: &str, start: &str) -> bool {
    let address = format!("src=\"{start}");
    line.contains(&address) || (line.contains("<link") && line.contains(start))
}

/// Blanks `<!-- -->` and `{# #}`, keeping the line numbers.
fn without_comments(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((start, end)) = ["<!--", "{#"]
        .iter()
        .zip(["-->", "#}"])
        .filter_map(|(open, close)| rest.find(open).map(|at| (at, close)))
        .min_by_key(|(at, _)| *at)
    {
        out.push_str(&rest[..start]);
        let stop = rest[start..].find(end).map_or(rest.len(), |at| start + at + end.len());
        out.extend(rest[start..stop].chars().filter(|&letter| letter == '\n'));
        rest = &rest[stop..];
    }
    out + rest
}

#[test]
fn templates_keep_the_policy() {
    let pages = files::under("templates", "html");
    must_hold(&pages, page_rules);
    let planted = [
        ("<p>{{ name|safe }}</p>", "|safe"),
        ("<p>{{ name | safe }}</p>", "|safe"),
        ("<script>go()</script>", "inline <script>"),
        ("<script src=\"/a.js\"></script><script>go()</script>", "inline <script>"),
        ("<style>p { color: red }</style>", "inline style"),
        (HASHED.1, "inline style"),
        ("<p style=\"color: red\">", "inline style"),
        ("<button onclick=\"go()\">", "handler"),
        ("<a href=\"javascript:go()\">", "script in an attribute"),
        ("<div hx-on:click=\"go()\">", "script in an attribute"),
        ("<script src=\"https://cdn.example/a.js\"></script>", "another host"),
    ];
    for (text, expected) in planted {
        must_fail(page_rules, "templates/a.html", text, expected);
    }
    must_pass(page_rules, "templates/a.html", "{# no <script> here #}\n<p>on = 1</p>\n");
    must_pass(page_rules, "templates/a.html", "<script src=\"/static/app.js\" defer></script>\n");
}
