// Curves of several runs over each other: one cursor for all charts, finer buckets where one looks closely.

import { base } from './app.js';
import { Plot, Series, smooth } from './chart.js';

const by = (id) => document.getElementById(id);
const ids = by('compare').dataset.runs.split(',');
const names = [...by('legend').children].map((item) => item.dataset.name);
const boxes = [...document.querySelectorAll('[data-key]')];
const keys = boxes.map((box) => box.dataset.key);
const weight = by('smooth'), log10 = by('log-scale'), all = by('zoom-out');
weight.value = localStorage.getItem('smooth') ?? weight.value;
log10.checked = localStorage.getItem('log') === 'yes';

/** key -> one curve a run */
let curves = Object.fromEntries(keys.map((key) => [key, ids.map(() => new Series())]));
let whole = curves;

const line = (i, label, colour, more) => ({
  label, stroke: colour(`c${i}`), width: 2, spanGaps: true, dash: i >= 5 ? [8, 4] : undefined, points: { show: false }, ...more,
});

/** Faint itself and bold its mean for the noisy ones; the others as they are. */
const NOISY = ['loss', 'grad_norm'];
const plots = boxes.map((box) => {
  const { key, title } = box.dataset;
  const noisy = NOISY.includes(key);
  return new Plot({
    box, title, zoom, bad: () => curves[key].flatMap((curve) => [...curve.bad]), log: () => key.endsWith('loss') && log10.checked,
    curves: () => curves[key].map((curve) => ({ steps: curve.steps, values: noisy ? smooth(curve.values, Number(weight.value)) : curve.values })),
    series: (colour) => names.map((name, i) => line(i, name, colour, key === 'eval_loss' ? { points: { show: true, size: 6, fill: colour(`c${i}`), width: 0 } } : {})),
  });
});

const redraw = () => { for (const plot of plots) plot.draw(); };
weight.addEventListener('input', () => { localStorage.setItem('smooth', weight.value); redraw(); });
log10.addEventListener('change', () => { localStorage.setItem('log', log10.checked ? 'yes' : ''); for (const plot of plots) plot.build(); });

async function load(more = '') {
  const answers = await Promise.all(ids.map(async (id) => {
    const answer = await fetch(`${base}/api/v1/runs/${id}/metrics?keys=${keys}&points=1000${more}`);
    return answer.ok ? answer.json() : {};
  }));
  return Object.fromEntries(keys.map((key) => [key, answers.map((one) => (one[key] ? new Series().load(one[key]) : new Series()))]));
}

let turn = 0;
all.addEventListener('click', () => zoom(null));

async function zoom(from, to) {
  const mine = ++turn;
  all.hidden = from === null;
  for (const plot of plots) plot.show(from === null ? null : { min: from, max: to });
  const fresh = from === null ? whole : await load(`&x0=${from}&x1=${to}`);
  if (mine !== turn) return;
  curves = fresh;
  redraw();
}

await document.fonts.ready;
whole = curves = await load();
// a curve that no run has takes no room
for (const box of boxes) box.closest('figure').hidden = curves[box.dataset.key].every((curve) => curve.steps.length === 0);
redraw();
