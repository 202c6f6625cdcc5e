// What every page needs: theme, copy buttons, times, the live list of runs. Plain modules, no build.
// The pages read without it; everything here only adds.

const root = document.documentElement;
root.classList.add('js');

/** What stands before every address of ours: behind a proxy the server may have a part of it only. */
export const base = root.dataset.base ?? '';

/** The page's words, from the locale file: word('copied'), word('say.progress', 50, 1.2). */
const words = JSON.parse(document.getElementById('words').dataset.words);
export function word(key, ...values) {
  return (words[key] ?? key).replace(/\{(\d)\}/g, (_, i) => values[i]);
}

/** Speaks to screen readers, politely. */
export function say(text) {
  document.getElementById('say').textContent = text;
}

// numbers with units ---------------------------------------------------------------------------------------------

/** A loss or a norm: about four significant digits, never a bare "0.000". */
export function number(value) {
  if (value === null || value === undefined) return '–';
  if (!Number.isFinite(value)) return 'NaN';
  const size = Math.abs(value);
  if (size === 0) return '0';
  if (size < 1e-3 || size >= 1e6) return value.toExponential(2).replace('+', '').replace('e-', 'e−');
  return value.toFixed(size >= 100 ? 1 : size >= 10 ? 2 : size >= 1 ? 3 : 4);
}

/** 12400 -> "12.4k" */
export function count(value) {
  if (!Number.isFinite(value)) return '–';
  const [scale, unit] = value >= 1e9 ? [1e9, 'B'] : value >= 1e6 ? [1e6, 'M'] : value >= 1e4 ? [1e3, 'k'] : [1, ''];
  return (value / scale).toFixed(scale === 1 ? (value < 10 ? 1 : 0) : value / scale < 100 ? 1 : 0) + unit;
}

/** 451938304 -> "431 MiB" */
export function size(value) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  while (value >= 1000 && unit + 1 < units.length) { value /= 1024; unit += 1; }
  return `${value.toFixed(unit > 0 && value < 10 ? 1 : 0)} ${units[unit]}`;
}

/** Seconds -> "8 s", "6 min 12 s", "1 h 04 min", "2 d 3 h" */
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return '–';
  const s = Math.round(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${String(s % 60).padStart(2, '0')} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${String(Math.floor((s % 3600) / 60)).padStart(2, '0')} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

// theme ----------------------------------------------------------------------------------------------------------

function paintTheme() {
  for (const button of document.querySelectorAll('[data-theme-set]')) {
    button.setAttribute('aria-pressed', String(button.dataset.themeSet === root.dataset.theme));
  }
}

function setTheme(theme) {
  root.dataset.theme = theme;
  document.cookie = `theme=${theme}; path=/; max-age=31536000; samesite=lax`;
  paintTheme();
  document.dispatchEvent(new Event('theme'));
}

matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => document.dispatchEvent(new Event('theme')));

// times: local and relative ----------------------------------------------------------------------------------------

const relative = new Intl.RelativeTimeFormat(root.lang, { numeric: 'auto', style: 'short' });
const absolute = new Intl.DateTimeFormat(root.lang, { dateStyle: 'medium', timeStyle: 'short' });

export function paintTimes(scope = document) {
  for (const time of scope.querySelectorAll('time[datetime]')) {
    const at = new Date(time.dateTime);
    const ago = (Date.now() - at) / 1000;
    time.title = absolute.format(at);
    if (ago < 45) time.textContent = word('time.now');
    else if (ago < 3600) time.textContent = relative.format(-Math.round(ago / 60), 'minute');
    else if (ago < 86400) time.textContent = relative.format(-Math.round(ago / 3600), 'hour');
    else if (ago < 7 * 86400) time.textContent = relative.format(-Math.round(ago / 86400), 'day');
    else time.textContent = new Intl.DateTimeFormat(root.lang, { dateStyle: 'medium' }).format(at);
  }
}

// the list of runs follows while the tab is visible ------------------------------------------------------------------

const POLL = 2000;

async function followList(body) {
  let shown = null;
  while (body.isConnected) {
    await new Promise((resolve) => setTimeout(resolve, POLL));
    if (document.hidden || body.dataset.busy) continue;
    try {
      const answer = await fetch(body.dataset.live, { headers: { 'HX-Request': 'true' } });
      if (!answer.ok) continue;
      const html = await answer.text();
      if (html === shown) continue;
      shown = html;
      await window.htmx.swap({ text: html, sourceElement: body, target: body, swap: 'innerMorph' });
      paintTimes(body);
    } catch { /* the server is away: the next round tries again */ }
  }
}

// copy buttons -----------------------------------------------------------------------------------------------------

async function copy(button) {
  const source = document.querySelector(button.dataset.copy);
  const text = source?.value ?? source?.textContent ?? '';
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = Object.assign(document.createElement('textarea'), { value: text, className: 'sr' });
    document.body.append(area);
    area.select();
    document.execCommand('copy');
    area.remove();
    button.focus();
  }
  const before = button.textContent;
  button.textContent = word('copied');
  say(word('copied'));
  setTimeout(() => { button.textContent = before; }, 1500);
}

function showCopyButtons(scope = document) {
  for (const button of scope.querySelectorAll('[data-copy][hidden]')) button.hidden = false;
}

document.addEventListener('click', (event) => {
  const theme = event.target.closest('[data-theme-set]');
  if (theme) setTheme(theme.dataset.themeSet);
  const button = event.target.closest('[data-copy]');
  if (button) copy(button);
});
document.addEventListener('htmx:after:swap', () => { showCopyButtons(); paintTimes(); });

// one click, one run: a form that was sent is not sent again
document.addEventListener('submit', (event) => {
  if (event.target.method !== 'post' || event.defaultPrevented) return;
  if (event.target.dataset.sent) event.preventDefault();
  event.target.dataset.sent = 'yes';
});
addEventListener('pageshow', () => {
  for (const form of document.forms) delete form.dataset.sent;
});

// keys: n new run, g and a letter a place, / search, ? what there is; not while typing, and not where they are off -------

let before = '';
const PLACES = { r: '/runs', d: '/datasets', m: '/models', q: '/queue', s: '/system', e: '/settings' };
const keys = document.getElementById('keys');
if (keys) {
  document.getElementById('keys-box').hidden = false;
  keys.checked = localStorage.getItem('keys') !== 'off';
  keys.addEventListener('change', () => localStorage.setItem('keys', keys.checked ? 'on' : 'off'));
}
document.addEventListener('keydown', (event) => {
  if (localStorage.getItem('keys') === 'off' || event.ctrlKey || event.metaKey || event.altKey || event.target.closest('input, select, textarea, [contenteditable]')) return;
  const search = document.querySelector('input[type=search]:not([hidden])');
  if (event.key === '/' && search) { event.preventDefault(); search.focus(); }
  else if (event.key === '?') location.href = `${base}/settings#t-keys`;
  else if (event.key === 'n') location.href = `${base}/runs/new`;
  else if (before === 'g' && PLACES[event.key]) location.href = base + PLACES[event.key];
  before = event.key;
});

const theme = document.getElementById('theme');
if (theme) theme.hidden = false;
paintTheme();
paintTimes();
showCopyButtons();
const rows = document.querySelector('[data-live]');
if (rows) followList(rows);
document.getElementById('summary')?.focus();
