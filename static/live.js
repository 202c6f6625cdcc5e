// The live page: curves, readings, log and samples follow one event stream (stream.js).

import { base, count, duration, number, paintTimes, say, size, word } from './app.js';
import { AXES, Along, Plot, Series, offerAxes, recall, remember, smooth } from './chart.js';
import { follow } from './stream.js';

const page = document.getElementById('live').dataset;
const by = (id) => document.getElementById(id);
const KEYS = ['loss', 'eval_loss', 'lr', 'grad_norm', 'tokens_per_s', 'elapsed_s', 'total_tokens'];
const curves = Object.fromEntries(KEYS.map((key) => [key, new Series()]));
const checkpoints = new Set(JSON.parse(by('plot-loss').dataset.marks || '[]'));
let status = page.status;

// curves ---------------------------------------------------------------------------------------------------------

const weight = by('smooth');
weight.value = recall('smooth') ?? weight.value;
weight.addEventListener('input', () => { remember('smooth', weight.value, '0.6'); plots.loss.draw(true); });

const log10 = by('log-scale');
log10.checked = recall('log') === 'yes';
log10.addEventListener('change', () => { remember('log', log10.checked ? 'yes' : '', ''); plots.loss.build(); });

const axis = by('x-axis');
axis.addEventListener('change', () => { remember('x', axis.value, 'step'); for (const plot of Object.values(plots)) plot.build(); });
/** A stretch that is looked at closely has its own, finer; all charts share one. */
const along = () => new Along(axis.value, AXES[axis.value] && shown()[AXES[axis.value]]);

const line = (label, stroke, width, more) => ({ label, stroke, width, spanGaps: true, points: { show: false }, ...more });

/** The stretch that is looked at closely, with its own finer curves; null shows everything. */
let near = null;
const shown = () => near?.curves ?? curves;

function lossCurves() {
  const { loss, eval_loss: held } = shown();
  const of = (values) => ({ steps: loss.steps, values });
  return [of(loss.low ?? []), of(loss.high ?? []), loss, of(smooth(loss.values, Number(weight.value))), held];
}

const plots = {
  loss: new Plot({
    box: by('plot-loss'), title: word('plot.loss'), curves: lossCurves, along, log: () => log10.checked, marks: () => checkpoints,
    bad: () => [...shown().loss.bad, ...shown().eval_loss.bad], zoom,
    bands: (colour) => [{ series: [2, 1], fill: colour('train', 0.14) }],
    series: (colour) => [
      line('', colour('train', 0.35), 1), line('', colour('train', 0.35), 1),
      line(word('plot.train'), colour('train', 0.32), 1),
      line(word('plot.smoothed'), colour('train'), 2.25),
      line(word('plot.eval'), colour('eval'), 1.5, { points: { show: true, size: 8, width: 0, fill: colour('eval') } }),
    ],
  }),
};
for (const [key, name] of [['lr', 'plot.lr'], ['grad_norm', 'plot.grad'], ['tokens_per_s', 'plot.speed']]) {
  plots[key] = new Plot({
    box: by(`plot-${key}`), title: word(name), curves: () => [shown()[key]], along, bad: () => shown()[key].bad, zoom,
    series: (colour) => [line(word(name), colour('ink-2'), 1.5)],
  });
}

async function fetchCurves(more) {
  const answer = await fetch(`${base}/api/v1/runs/${page.run}/metrics?keys=${KEYS}&points=1500${more}`);
  if (!answer.ok) return null;
  const all = await answer.json();
  return Object.fromEntries(KEYS.map((key) => [key, new Series().load(all[key])]));
}

const redraw = (now) => { for (const plot of Object.values(plots)) plot.draw(now); };

const offer = () => offerAxes(axis, (key) => curves[key].steps.length > 0);

async function loadCurves() {
  const fresh = await fetchCurves(`&upto=${page.after}`);
  if (fresh) Object.assign(curves, fresh);
  offer();
  redraw();
}

/** Too many single points have come: the server has them in buckets. What comes meanwhile is kept. */
let refreshing = false;
async function coarsen() {
  if (refreshing) return;
  refreshing = true;
  const fresh = await fetchCurves('').catch(() => null);
  for (const key of fresh ? KEYS : []) {
    const old = curves[key];
    const from = fresh[key].steps.at(-1) ?? -Infinity;
    old.steps.forEach((step, i) => { if (step > from) fresh[key].push(step, old.values[i]); });
    curves[key] = fresh[key];
  }
  refreshing = false;
  redraw();
}

// zoom: the curve that is there stays until the finer one has come ---------------------------------------------------

const all = by('zoom-out');
all.addEventListener('click', () => zoom(null));
let asked = 0;

async function zoom(from, to) {
  const turn = ++asked;
  if (from === null) near = null;
  const window = near === null && from === null ? null : { min: from, max: to };
  all.hidden = !window;
  for (const plot of Object.values(plots)) plot.show(window);
  const part = new URLSearchParams(location.search);
  part.delete('from'); part.delete('to');
  if (window) { part.set('from', from); part.set('to', to); }
  history.replaceState(null, '', part.size ? `?${part}` : location.pathname);
  if (!window) return;
  const fresh = await fetchCurves(`&x0=${from}&x1=${to}`).catch(() => null);
  if (!fresh || turn !== asked) return;
  near = { curves: fresh };
  redraw(true);
}

// readings -------------------------------------------------------------------------------------------------------

const paces = []; // [step, elapsed seconds] of the last steps
let spoken = 0;

function put(id, text, unit) {
  const box = by(id);
  if (box.textContent === text + (unit ? ` ${unit}` : '')) return;
  box.replaceChildren(text);
  if (unit) box.append(' ', Object.assign(document.createElement('small'), { textContent: unit }));
}

/** Seconds left with their spread, from the pace of the last steps. */
function eta(left) {
  const seconds = paces.slice(1).map(([step, at], i) => (at - paces[i][1]) / (step - paces[i][0]));
  if (seconds.length < 3) return null;
  const mean = seconds.reduce((sum, s) => sum + s, 0) / seconds.length;
  const variance = seconds.reduce((sum, s) => sum + (s - mean) ** 2, 0) / (seconds.length - 1);
  return [left * mean, 2 * Math.sqrt(variance * (left + left ** 2 / seconds.length))];
}

function paintStep(step, total) {
  if (!total) return;
  put('r-step', step.toLocaleString(), `/ ${total.toLocaleString()}`);
  const bar = by('r-bar');
  bar.max = total;
  bar.value = step;
  const percent = Math.floor((100 * step) / total);
  by('r-percent').textContent = `${percent}%`;
  document.title = document.title.replace(/^(\d+% )?/, status === 'running' ? `${percent}% ` : '');
  const tenth = Math.floor(percent / 10);
  if (tenth > spoken) { spoken = tenth; say(word('say.progress', percent, number(curves.loss.last))); }
  const left = status === 'running' ? eta(total - step) : null;
  if (left) put('r-eta', duration(left[0]), left[1] > 0.05 * left[0] && left[1] >= 1 ? `± ${duration(left[1])}` : '');
}

function takeMetric(point) {
  for (const key of KEYS) {
    const value = point[key];
    if (value === undefined || (key === 'elapsed_s' && point.loss === undefined)) continue;
    curves[key].push(point.step, value);
    const reading = by(`v-${key}`);
    if (reading) reading.textContent = key === 'tokens_per_s' ? count(value) : number(value);
  }
  const { loss, tokens_per_s: speed } = point;
  if (loss === undefined) return;
  put('r-loss', number(loss));
  if (speed) put('r-speed', count(speed), word('unit.tokens'));
  put('r-epoch', point.epoch.toFixed(2));
  put('r-elapsed', duration(point.elapsed_s));
  if (paces.length && paces.at(-1)[0] >= point.step) paces.length = 0;
  paces.push([point.step, point.elapsed_s]);
  if (paces.length > 40) paces.shift();
  paintStep(point.step, point.total_steps);
}

function takeState(state) {
  if (state.status === 'queued' && status === 'queued') return; // the page knows how many are ahead
  const phase = state.status === 'running' && state.phase ? word(`phase.${state.phase}`) : word(`phase.${state.status}`);
  const done = state.phase_total && state.phase !== 'training' ? ` ${Math.floor((100 * state.phase_done) / state.phase_total)}%` : '';
  if (by('r-phase').textContent !== phase + done) by('r-phase').textContent = phase + done;
  const changed = state.status !== status;
  status = state.status;
  const waiting = by('plot-loss').querySelector('.waiting');
  if (waiting) waiting.textContent = phase + done;
  if (state.elapsed_s) put('r-elapsed', duration(state.elapsed_s));
  if (state.resident) {
    const own = state.cores === null ? size(state.resident) : word('run.usage', state.cores.toFixed(1), size(state.resident));
    const gpu = state.gpu ? ` · ${word('run.gpu', state.gpu.busy, size(state.gpu.used), size(state.gpu.size))}` : '';
    by('r-usage').textContent = own + gpu;
  }
  if (!changed) return;
  say(word(`status.${status}`));
  by('r-bar').className = `s-${status}`;
  if (status !== 'running') { put('r-eta', '–'); document.title = document.title.replace(/^\d+% /, ''); }
  refresh();
}

/** Pill, buttons, error card and the list at the side come from the server again. */
async function refresh() {
  await window.htmx.ajax('GET', `${base}/runs/${page.run}?part=head`, { target: '#main', swap: 'none' });
  paintTimes();
}

// samples --------------------------------------------------------------------------------------------------------

function takeSample({ step, prompt, text }) {
  const box = by('samples');
  box.hidden = false;
  let sample = [...box.querySelectorAll('.sample')].find((one) => one.dataset.prompt === prompt);
  if (!sample) {
    sample = by('sample-shape').content.firstElementChild.cloneNode(true);
    sample.dataset.prompt = prompt;
    sample.querySelector('.prompt span:last-child').textContent = prompt;
    sample.querySelector('.answers').setAttribute('aria-label', prompt);
    box.append(sample);
  }
  const answers = sample.querySelector('.answers');
  answers.querySelector('[data-wait]')?.remove();
  const old = [...answers.children].find((one) => Number(one.dataset.step) === step);
  const answer = old ?? by('answer-shape').content.firstElementChild.cloneNode(true);
  answer.dataset.step = step;
  answer.querySelector('h3').textContent = step === 0 ? word('samples.before') : word('samples.after', step.toLocaleString());
  answer.querySelector('blockquote').textContent = text;
  if (!old) answers.append(answer);
  answers.scrollLeft = answers.scrollWidth;
}

/** Answers of steps that a resume took back. */
function dropSamples(step) {
  for (const answer of document.querySelectorAll('.answer[data-step]')) if (Number(answer.dataset.step) > step) answer.remove();
}

// log ------------------------------------------------------------------------------------------------------------

const log = by('log'), filter = by('log-filter'), pursue = by('log-follow');
const LINES = 2000;
for (const control of [filter, by('follow-box')]) control.hidden = false;

// the first line that says what went wrong
const trouble = by('log-error');
const seeTrouble = () => { trouble.hidden = !log.querySelector('.bad'); };
trouble.addEventListener('click', () => {
  pursue.checked = false;
  const line = log.querySelector('.bad');
  line.hidden = false;
  log.scrollTop = line.offsetTop - log.offsetTop - 24;
});

function wanted(text) {
  return text.toLowerCase().includes(filter.value.trim().toLowerCase());
}

function bottom() {
  if (pursue.checked) log.scrollTop = log.scrollHeight;
}

function takeLog(lines) {
  log.querySelector('.waiting')?.remove();
  const fresh = lines.map(({ text }) => {
    const p = document.createElement('p');
    p.textContent = text;
    p.className = /error|panicked/i.test(text) ? 'bad' : /warning/i.test(text) ? 'warn' : '';
    p.hidden = !wanted(text);
    return p;
  });
  log.append(...fresh);
  while (log.childElementCount > LINES) log.firstElementChild.remove();
  seeTrouble();
  bottom();
}

filter.addEventListener('input', () => {
  for (const p of log.children) p.hidden = !wanted(p.textContent);
  bottom();
});
pursue.addEventListener('change', bottom);
log.addEventListener('scroll', () => {
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 24;
  if (!atEnd) pursue.checked = false;
});

// the stream -----------------------------------------------------------------------------------------------------

function take(kind, data) {
  switch (kind) {
    case 'metric': {
      for (const point of data) takeMetric(point);
      offer();
      redraw();
      if (curves.loss.steps.length > 3000) coarsen();
      break;
    }
    case 'log': takeLog(data.flat()); break;
    case 'notice': break; // the worker's log says it too
    case 'sample': takeSample(data); break;
    case 'checkpoint': checkpoints.add(data.step); plots.loss.draw(); break;
    case 'rewound': {
      for (const curve of Object.values(curves)) curve.rewind(data.to_step);
      for (const step of checkpoints) if (step > data.to_step) checkpoints.delete(step);
      dropSamples(data.to_step);
      paces.length = 0;
      break;
    }
    default: takeState(data);
  }
}

const pill = by('link');
function link(state) {
  pill.className = `link s-${state}`;
  pill.textContent = word(`link.${state}`);
  document.body.classList.toggle('stale', state === 'reconnecting' || state === 'offline');
}

seeTrouble();
bottom();
await Promise.all([document.fonts.ready, loadCurves()]);
const [from, to] = ['from', 'to'].map((name) => Number(new URLSearchParams(location.search).get(name) ?? NaN));
if (to > from) zoom(from, to);
if (['queued', 'running', 'stopping'].includes(status)) follow(`${base}/runs/${page.run}/events`, Number(page.after), take, link);
