// Curves on uPlot: colours from the style sheet, one cursor for all, rebuilt when the theme changes.
// Data come in columns (API) and then point by point (stream); a step that comes again replaces what was behind it.

import { count, number, say, word } from './app.js';

const probe = document.createElement('i');
probe.hidden = true;
document.body.append(probe);

/** The computed colour of a custom property: canvas does not know light-dark(). */
function colour(name, alpha = 1) {
  probe.style.color = `var(--${name})`;
  const [r, g, b] = getComputedStyle(probe).color.match(/[\d.]+/g);
  return `rgb(${r} ${g} ${b} / ${alpha})`;
}

const FONT = '11px "Tallow Sans", system-ui, sans-serif';
const REDRAW = 250;

/** One curve: steps rising, values null where not finite; low and high where the server bucketed. */
export class Series {
  steps = []; values = []; low = null; high = null; of = 0; bad = new Set();

  load(columns) {
    this.steps = [...columns.step];
    this.values = [...columns.value];
    this.low = columns.min ? [...columns.min] : null;
    this.high = columns.max ? [...columns.max] : null;
    this.of = columns.of ?? columns.step.length;
    this.bad = new Set(columns.bad);
    return this;
  }

  push(step, value) {
    this.rewind(step - 1);
    this.steps.push(step);
    this.values.push(value);
    this.low?.push(value);
    this.high?.push(value);
    this.of += 1;
    if (value === null) this.bad.add(step);
  }

  /** Forgets everything after `step`: a resumed run shows no zigzag. */
  rewind(step) {
    while (this.steps.length && this.steps.at(-1) > step) {
      this.steps.pop(); this.values.pop(); this.low?.pop(); this.high?.pop(); this.of -= 1;
    }
    for (const one of this.bad) if (one > step) this.bad.delete(one);
  }

  get last() { return this.values.at(-1); }
}

/** How curves are looked at: in the address, so that a link shows the same; else as it was the last time. */
export const recall = (name) => new URLSearchParams(location.search).get(name) ?? localStorage.getItem(name);

/** Keeps it for the next time and in the address, where it is not the usual. */
export function remember(name, value, usual) {
  localStorage.setItem(name, value);
  const query = new URLSearchParams(location.search);
  if (value === usual) query.delete(name);
  else query.set(name, value);
  history.replaceState(null, '', query.size ? `?${query}` : location.pathname);
}

/** What lies along x: the steps themselves, or the seconds or tokens until a step; straight between known places. */
export class Along {
  constructor(kind, curve) {
    this.kind = kind;
    if (kind === 'step') return;
    // a bucket's step is its last, and so is its highest value
    const reached = curve.steps.map((step, i) => [step, (i ? curve.high?.[i] : null) ?? curve.values[i]]).filter(([, x]) => x !== null);
    this.steps = [0, ...reached.map(([step]) => step)];
    this.places = [0, ...reached.map(([, x]) => x)];
  }

  /** Where a step is on the axis. */
  at(step) { return this.kind === 'step' ? step : between(this.steps, this.places, step); }

  /** Which step, with a fraction, is there. */
  step(x) { return this.kind === 'step' ? x : between(this.places, this.steps, x); }
}

/** The value at `x` of a line through rising points; beyond its ends it stays. */
function between(xs, ys, x) {
  let low = 0, high = xs.length - 1;
  if (x >= xs[high]) return ys[high];
  if (x <= xs[0]) return ys[0];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (xs[middle] <= x) low = middle; else high = middle;
  }
  return xs[high] === xs[low] ? ys[low] : ys[low] + ((ys[high] - ys[low]) * (x - xs[low])) / (xs[high] - xs[low]);
}

/** What may lie along x, and the curve that says where a step is there. */
export const AXES = { step: null, time: 'elapsed_s', tokens: 'total_tokens' };

/** Offers what the curves know of; gives what is chosen. */
export function offerAxes(select, known) {
  for (const option of select.options) option.disabled = option.value !== 'step' && !known(AXES[option.value]);
  const wanted = recall('x') ?? 'step';
  const chosen = [...select.options].find((option) => option.value === wanted && !option.disabled);
  select.value = chosen ? wanted : 'step';
}

/** 3725 -> "1:02:05" */
function clock(seconds) {
  const s = Math.round(seconds), two = (n) => String(n).padStart(2, '0');
  const rest = `${two(Math.floor((s % 3600) / 60))}:${two(s % 60)}`;
  return s >= 3600 ? `${Math.floor(s / 3600)}:${rest}` : rest.replace(/^0/, '');
}

const SECONDS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800, 604800];
const COUNTS = [1, 2, 5].flatMap((n) => [...Array(12).keys()].map((power) => n * 10 ** power)).sort((a, b) => a - b);
const place = (kind, x) => (kind === 'time' ? clock(x) : kind === 'tokens' ? word('chart.tokens', count(x)) : word('chart.step', x.toLocaleString()));

/** Exponential mean without the bias of its start; gaps stay gaps. */
export function smooth(values, weight) {
  let mean = 0, mass = 0;
  return values.map((value) => {
    if (value === null) return null;
    mean = weight * mean + (1 - weight) * value;
    mass = weight * mass + (1 - weight);
    return mean / mass;
  });
}

/** Brings curves of different steps on one axis: undefined = no point here, null = not finite, or not above 0 on a log axis. */
function join(curves, log) {
  const steps = [...new Set(curves.flatMap((curve) => curve.steps))].sort((a, b) => a - b);
  const place = new Map(steps.map((step, i) => [step, i]));
  const columns = curves.map((curve) => {
    const column = new Array(steps.length);
    curve.steps.forEach((step, i) => { column[place.get(step)] = log && curve.values[i] <= 0 ? null : curve.values[i]; });
    return column;
  });
  return [steps, ...columns];
}

export class Plot {
  /** spec: {box, title, curves: () => [...], series: () => [...], along: () => Along, marks: () => steps, bad: () => steps,
   *  zoom: (from, to) => {} with steps} */
  constructor(spec) {
    this.spec = spec;
    this.chart = null;
    this.timer = null;
    new ResizeObserver(() => this.resize()).observe(spec.box);
    new IntersectionObserver(() => this.draw()).observe(spec.box);
    document.addEventListener('theme', () => this.build());
    spec.box.addEventListener('keydown', (event) => this.key(event));
  }

  get size() {
    const { clientWidth, clientHeight } = this.spec.box;
    return { width: clientWidth, height: Math.max(clientHeight, 80) };
  }

  /** Looked up and not remembered: a capture of the whole page tells an observer that nothing is on the screen. */
  get visible() {
    const { top, bottom, width } = this.spec.box.getBoundingClientRect();
    return width > 0 && bottom >= 0 && top <= innerHeight;
  }

  resize() {
    const size = this.size;
    if (this.chart && size.width > 0 && (size.width !== this.chart.width || size.height !== this.chart.height)) this.chart.setSize(size);
  }

  /** Asks for a redraw; many points in a short time make one. `now`: somebody waits for it. */
  draw(now = false) {
    if (!this.visible || (this.timer && !now)) return;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.timer = null;
      const { data } = this;
      this.spec.box.dataset.count = data[0].length;
      this.spec.box.dataset.last = this.steps.at(-1) ?? '';
      if (!this.chart) { if (data[0].length) this.build(data); return; }
      this.chart.setData(data, !this.window);
      if (this.window) this.chart.setScale('x', this.range);
    }, this.chart && !now ? REDRAW : 0);
  }

  get data() {
    const [steps, ...columns] = join(this.spec.curves(), this.spec.log?.());
    this.along = this.spec.along?.() ?? new Along('step');
    this.steps = steps;
    return [this.along.kind === 'step' ? steps : steps.map((step) => this.along.at(step)), ...columns];
  }

  /** The window, which is kept in steps, on the axis. */
  get range() { return { min: this.along.at(this.window.min), max: this.along.at(this.window.max) }; }

  build(data = this.data) {
    if (!data[0].length) return;
    this.chart?.destroy();
    const { box } = this.spec;
    box.replaceChildren();
    const axis = { stroke: colour('ink-3'), font: FONT, ticks: { show: false }, grid: { stroke: colour('line'), width: 1 } };
    const small = this.size.height < 200, { kind } = this.along;
    this.tip = Object.assign(document.createElement('div'), { className: 'tip', hidden: true });
    this.chart = new window.uPlot({
      ...this.size, legend: { show: false }, padding: [8, 12, 0, 0],
      cursor: { y: false, sync: { key: 'run', setSeries: false }, points: { size: 7 }, drag: { x: true, y: false, setScale: false } },
      scales: { ...(this.spec.log?.() ? { y: { distr: 3 } } : {}), x: { time: false, range: (_, low, high) => (low === high ? [low - 1, high + 1] : [low, high]) } },
      axes: [
        { ...axis, grid: { show: false }, size: 26, space: small ? 48 : 64, incrs: kind === 'time' ? SECONDS : COUNTS, values: (_, ticks) => ticks.map((x) => (kind === 'time' ? clock(x) : tick(x))) },
        { ...axis, size: 52, space: small ? 20 : 44, values: (_, ticks) => ticks.map((value) => (value === null ? '' : tick(value))) },
      ],
      series: [{}, ...this.spec.series(colour)],
      bands: this.spec.bands?.(colour) ?? [],
      hooks: {
        draw: [(chart) => this.marks(chart)], setCursor: [(chart) => this.point(chart)],
        setSelect: [(chart) => this.select(chart)],
      },
    }, data, box);
    if (this.window) this.chart.setScale('x', this.range);
    this.chart.over.addEventListener('dblclick', () => this.spec.zoom?.(null));
    this.chart.over.append(this.tip);
    box.tabIndex = 0;
    box.setAttribute('role', 'group');
    box.setAttribute('aria-label', word('chart.keys', this.spec.title));
  }

  /** A stretch was drawn with the mouse: whoever has the data fetches it anew, in finer buckets. */
  select(chart) {
    const { left, width } = chart.select;
    if (width < 4) return;
    const [from, to] = [left, left + width].map((x) => this.along.step(chart.posToVal(x, 'x')));
    chart.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
    if (this.spec.zoom) this.spec.zoom(Math.floor(from), Math.ceil(to));
    else this.show({ min: from, max: to });
  }

  /** Shows the steps from `min` to `max`, at once from what is there; null is all of them. */
  show(window) {
    this.window = window;
    this.draw(true);
  }

  /** Checkpoints: small triangles on the x axis. Values that are not finite: red strokes above it. */
  marks(chart) {
    const { ctx, bbox } = chart, ratio = devicePixelRatio;
    ctx.save();
    ctx.fillStyle = colour('accent');
    const inside = (steps) => [...steps].map((step) => this.along.at(step)).filter((x) => x >= chart.scales.x.min && x <= chart.scales.x.max);
    for (const at of inside(this.spec.marks?.() ?? [])) {
      const x = chart.valToPos(at, 'x', true), y = bbox.top + bbox.height, r = 4 * ratio;
      ctx.beginPath();
      ctx.moveTo(x, y - 1.6 * r);
      ctx.lineTo(x + r, y);
      ctx.lineTo(x - r, y);
      ctx.fill();
    }
    ctx.strokeStyle = colour('fail');
    ctx.lineWidth = 2 * ratio;
    for (const at of inside(this.spec.bad?.() ?? [])) {
      const x = chart.valToPos(at, 'x', true), y = bbox.top + bbox.height;
      ctx.beginPath();
      ctx.moveTo(x, y);
      ctx.lineTo(x, y - 12 * ratio);
      ctx.stroke();
    }
    ctx.restore();
  }

  point(chart) {
    const index = chart.cursor.idx;
    const hovered = chart.over.matches(':hover') || document.activeElement === this.spec.box;
    this.tip.hidden = index === null || index === undefined || !hovered;
    if (this.tip.hidden) return;
    this.tip.textContent = this.text(index);
    const room = chart.over.clientWidth - this.tip.offsetWidth;
    this.tip.style.left = `${Math.max(0, chart.cursor.left > room - 16 ? chart.cursor.left - this.tip.offsetWidth - 12 : chart.cursor.left + 12)}px`;
  }

  text(index) {
    const { kind } = this.along, lines = [place('step', this.steps[index])];
    if (kind !== 'step') lines[0] = `${place(kind, this.chart.data[0][index])} · ${lines[0]}`;
    this.chart.series.forEach((series, i) => {
      if (i && series.label && this.chart.data[i][index] !== undefined) lines.push(`${series.label}  ${number(this.chart.data[i][index])}`);
    });
    return lines.join('\n');
  }

  /** Arrow keys move the cursor, and the value is spoken. */
  key(event) {
    if (event.key === 'Escape') { this.spec.zoom?.(null); return; }
    const move = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity }[event.key];
    if (!move || !this.chart) return;
    event.preventDefault();
    const last = this.chart.data[0].length - 1;
    const index = Math.min(last, Math.max(0, (this.chart.cursor.idx ?? last) + move));
    this.chart.setCursor({ left: this.chart.valToPos(this.chart.data[0][index], 'x'), top: this.chart.over.clientHeight / 2 });
    say(this.text(index).replaceAll('\n', ', '));
  }
}

function tick(value) {
  if (value === 0) return '0';
  const size = Math.abs(value);
  if (size >= 1e3) return `${+(value / 1e3).toPrecision(4)}k`;
  if (size < 1e-3) return (+value.toPrecision(3)).toExponential().replace('e-', 'e−');
  return String(+value.toPrecision(4));
}
