// Curves of several runs over each other: one cursor for all charts, finer buckets where one looks closely.

import { base } from './app.js';
import { AXES, Along, Plot, Series, offerAxes, recall, remember, smooth } from './chart.js';

const by = (id) => document.getElementById(id);
const ids = by('compare').dataset.runs.split(',');
const names = [...by('legend').children].map((item) => item.dataset.name);
const boxes = [...document.querySelectorAll('[data-key]')];
const keys = boxes.map((box) => box.dataset.key);
const weight = by('smooth'), log10 = by('log-scale'), all = by('zoom-out');
weight.value = recall('smooth') ?? weight.value;
log10.checked = recall('log') === 'yes';
const axis = by('x-axis');
const ALL = [...keys, ...Object.values(AXES).filter(Boolean)];

/** key -> one curve a run */
let curves = Object.fromEntries(ALL.map((key) => [key, ids.map(() => new Series())]));
let whole = curves;

/** Each run has its own way from steps to time or tokens; with the axis drawn, x is that and no longer steps. */
const along = (i) => new Along(axis.value, AXES[axis.value] && whole[AXES[axis.value]][i]);
const drawn = () => ({ kind: axis.value, at: (x) => x, step: (x) => x });

const line = (i, label, colour, more) => ({
  label, stroke: colour(`c${i}`), width: 2, spanGaps: true, dash: i >= 5 ? [8, 4] : undefined, points: { show: false }, ...more,
});

/** Faint itself and bold its mean for the noisy ones; the others as they are. */
const NOISY = ['loss', 'grad_norm'];
const plots = boxes.map((box) => {
  const { key, title } = box.dataset;
  const noisy = NOISY.includes(key);
  return new Plot({
    box, title, zoom, bad: () => curves[key].flatMap((curve, i) => [...curve.bad].map((step) => along(i).at(step))), log: () => key.endsWith('loss') && log10.checked,
    along: drawn,
    curves: () => curves[key].map((curve, i) => {
      const way = along(i);
      return { steps: curve.steps.map((step) => way.at(step)), values: noisy ? smooth(curve.values, Number(weight.value)) : curve.values };
    }),
    series: (colour) => names.map((name, i) => line(i, name, colour, key === 'eval_loss' ? { points: { show: true, size: 6, fill: colour(`c${i}`), width: 0 } } : {})),
  });
});

const redraw = (now) => { for (const plot of plots) plot.draw(now); };
weight.addEventListener('input', () => { remember('smooth', weight.value, '0.6'); redraw(true); });
log10.addEventListener('change', () => { remember('log', log10.checked ? 'yes' : '', ''); for (const plot of plots) plot.build(); });
axis.addEventListener('change', () => { remember('x', axis.value, 'step'); zoom(null); for (const plot of plots) plot.build(); });

/** All, or the part between two places of the x axis. */
async function load(from = null, to = null) {
  const answers = await Promise.all(ids.map(async (id, i) => {
    const [x0, x1] = from === null ? [] : [Math.floor(along(i).step(from)), Math.ceil(along(i).step(to))];
    const part = from === null ? '' : `&x0=${x0}&x1=${x1}`;
    const answer = await fetch(`${base}/api/v1/runs/${id}/metrics?keys=${ALL}&points=1000${part}`);
    return answer.ok ? answer.json() : {};
  }));
  return Object.fromEntries(ALL.map((key) => [key, answers.map((one) => (one[key] ? new Series().load(one[key]) : new Series()))]));
}

let turn = 0;
all.addEventListener('click', () => zoom(null));

async function zoom(from, to) {
  const mine = ++turn;
  all.hidden = from === null;
  for (const plot of plots) plot.show(from === null ? null : { min: from, max: to });
  const fresh = from === null ? whole : await load(from, to);
  if (mine !== turn) return;
  curves = fresh;
  redraw(true);
}

await document.fonts.ready;
whole = curves = await load();
offerAxes(axis, (key) => whole[key].every((curve) => curve.steps.length > 0));
// a curve that no run has takes no room
for (const box of boxes) box.closest('figure').hidden = curves[box.dataset.key].every((curve) => curve.steps.length === 0);
redraw();
