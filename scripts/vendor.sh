#!/usr/bin/env bash
# Fetches the third-party browser files once and commits them: no Node and no network at build time.
# Needs npm, python3 (fonttools in a throw-away venv cuts the font to the characters that the pages use).
# The result is checked by `cargo test --test vendor`; change a version here, run, commit the lot.
set -euo pipefail

HTMX=4.0.1 UPLOT=1.6.32 GEIST=5.3.0 AXE=4.14.1 FONTTOOLS=4.68.0 BROTLI=1.2.1
root=$(cd "$(dirname "$0")/.." && pwd)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

fetch() { # fetch PACKAGE VERSION -> $tmp/NAME/package
  local name
  name=$(echo "$1" | tr '/@' '__')
  mkdir -p "$tmp/$name"
  (cd "$tmp/$name" && npm pack --silent "$1@$2" >/dev/null && tar xzf ./*.tgz)
  echo "$tmp/$name/package"
}

htmx=$(fetch htmx.org "$HTMX")
uplot=$(fetch uplot "$UPLOT")
geist=$(fetch @fontsource-variable/geist "$GEIST")
axe=$(fetch axe-core "$AXE")

out=$root/static/vendor
dev=$root/tests/vendor
mkdir -p "$out" "$dev"
cp "$htmx/dist/htmx.min.js" "$out/htmx.min.js"
cp "$uplot/dist/uPlot.iife.min.js" "$out/uplot.min.js"
cp "$uplot/dist/uPlot.min.css" "$out/uplot.min.css"
cp "$axe/axe.min.js" "$dev/axe.min.js"

python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check "fonttools==$FONTTOOLS" "brotli==$BROTLI"
"$tmp/venv/bin/pyftsubset" "$geist/files/geist-latin-wght-normal.woff2" \
  --unicodes="U+20-7E,U+A0,U+A9,U+B1,U+B7,U+D7,U+2013,U+2014,U+2018,U+2019,U+201C,U+201D,U+2026,U+2190-2193,U+2212,U+2248,U+2264,U+2265" \
  --layout-features=kern,tnum,calt,zero,liga --flavor=woff2 --output-file="$out/geist.woff2"

{
  echo "# Third-party files in the browser"
  echo
  echo "Made by \`scripts/vendor.sh\`. The files are unchanged but for the font, which is cut to Latin."
  echo
  echo "| file | package | licence |"
  echo "|---|---|---|"
  echo "| static/vendor/htmx.min.js | htmx.org $HTMX | 0BSD |"
  echo "| static/vendor/uplot.min.js, uplot.min.css | uplot $UPLOT | MIT |"
  echo "| static/vendor/geist.woff2 | @fontsource-variable/geist $GEIST | OFL-1.1 |"
  echo "| tests/vendor/axe.min.js (tests only, not in the binary) | axe-core $AXE | MPL-2.0 |"
  for entry in "htmx.org:$htmx/LICENSE" "uplot:$uplot/LICENSE" "geist:$geist/LICENSE"; do
    echo
    echo "## ${entry%%:*}"
    echo
    echo '```'
    cat "${entry#*:}"
    echo '```'
  done
  echo
  echo "## axe-core"
  echo
  echo "Mozilla Public License 2.0, https://www.mozilla.org/MPL/2.0/; source: https://github.com/dequelabs/axe-core."
} >"$root/static/THIRD_PARTY.md"

(cd "$root" && sha256sum static/vendor/*.js static/vendor/*.css static/vendor/*.woff2 tests/vendor/*.js >static/vendor/SHA256SUMS)
