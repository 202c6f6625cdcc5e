//! What strangers send: ways out of a folder, and texts that want to be scripts.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeSet;

/// At least 250 ways to say "elsewhere".
pub fn traversals() -> BTreeSet<String> {
    let ups = [
        "../",
        "..%2f",
        "%2e%2e/",
        "%2e%2e%2f",
        "%252e%252e%252f",
        "..%252f",
        "..%5c",
        "..\\",
        ".%2e/",
        "%2e./",
        "..;/",
        "..%00/",
        "....//",
        "..%c0%af",
        "%c0%ae%c0%ae/",
        "..//",
        "/../",
        "./../",
        "..%ef%bc%8f",
    ];
    let targets = [
        "secret.txt",
        "token",
        "tallow.db",
        "etc/passwd",
        "proc/self/environ",
        "data-evil/secret.txt",
        "secret.txt%00.css",
    ];
    let mut all = BTreeSet::new();
    for up in ups {
        for target in targets {
            for depth in [1, 3] {
                all.insert(format!("{}{target}", up.repeat(depth)));
            }
        }
    }
    all.extend(
        [
            "/etc/passwd",
            "//etc/passwd",
            "file:///etc/passwd",
            "%2fetc%2fpasswd",
            "C:%5cwindows",
            "~root",
            "%00",
            "link/secret.txt",
            "link-dir",
            "CON",
            "aux.",
            "token.",
            "TOKEN",
            "%u002e%u002e",
            "\u{202e}token",
        ]
        .map(str::to_owned),
    );
    all.insert("a".repeat(300));
    all.insert("../".repeat(80) + "etc/passwd");
    assert!(all.len() >= 250, "{}", all.len());
    all
}

/// At least 120 texts that want to be more.
pub fn scripts() -> Vec<String> {
    let mut all = Vec::new();
    for tag in [
        "script",
        "SCRIPT",
        "img src=x",
        "svg",
        "body",
        "iframe",
        "math",
        "details open",
        "video",
        "input autofocus",
    ] {
        for handler in [
            "",
            " onerror=alert(1)",
            " onload=alert(1)",
            " onfocus=alert(1)",
            " hx-on:click=alert(1)",
            " hx-get=//evil.test",
        ] {
            all.push(format!("<{tag}{handler}>alert(1)"));
            all.push(format!("\"><{tag}{handler}>"));
        }
    }
    all.extend(
        [
            "'\"></title><script>alert(1)</script>",
            "</script><script>alert(1)</script>",
            "<!--<script>-->",
            "]]><script>",
            "<a href=\"javascript:alert(1)\">x</a>",
            "<a href='javascript:alert(1)'>",
            "\" onmouseover=\"alert(1)",
            "' onmouseover='alert(1)",
            "<style>*{}</style>",
            "<base href=//evil.test>",
            "<meta http-equiv=refresh content=0>",
            "<form action=//evil.test>",
            "&lt;script&gt;",
            "&#60;script&#62;",
            "<\u{0}script>",
            "<scr<script>ipt>",
            "{{7*7}}",
            "{% raw %}",
            "${7*7}",
            "<%= 7 %>",
        ]
        .map(str::to_owned),
    );
    assert!(all.len() >= 120, "{}", all.len());
    all
}
