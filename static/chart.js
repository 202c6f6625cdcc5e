// Curves on uPlot: colours from the style sheet, one cursor for all, rebuilt when the theme changes.
// Data come in columns (API) and then point by point (stream); a step that comes again replaces what was behind it.

import { number, say, word } from './app.js';

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
  /** spec: {box, title, curves: () => [...], series: () => [...], marks: () => steps, bad: () => steps, zoom: (from, to) => {}} */
  constructor(spec) {
    this.spec = spec;
    this.chart = null;
    this.timer = null;
    this.visible = true;
    new ResizeObserver(() => this.resize()).observe(spec.box);
    new IntersectionObserver((entries) => { this.visible = entries.at(-1).isIntersecting; if (this.visible) this.draw(); }).observe(spec.box);
    document.addEventListener('theme', () => this.build());
    spec.box.addEventListener('keydown', (event) => this.key(event));
  }

  get size() {
    const { clientWidth, clientHeight } = this.spec.box;
    return { width: clientWidth, height: Math.max(clientHeight, 80) };
  }

  resize() {
    const size = this.size;
    if (this.chart && size.width > 0 && (size.width !== this.chart.width || size.height !== this.chart.height)) this.chart.setSize(size);
  }

  /** Asks for a redraw; many points in a short time make one. */
  draw() {
    if (this.timer || !this.visible) return;
    this.timer = setTimeout(() => {
      this.timer = null;
      const { data } = this;
      this.spec.box.dataset.count = data[0].length;
      this.spec.box.dataset.last = data[0].at(-1) ?? '';
      if (!this.chart) { if (data[0].length) this.build(data); return; }
      this.chart.setData(data, !this.window);
      if (this.window) this.chart.setScale('x', this.window);
    }, this.chart ? REDRAW : 0);
  }

  get data() { return join(this.spec.curves(), this.spec.log?.()); }

  build(data = this.data) {
    if (!data[0].length) return;
    this.chart?.destroy();
    const { box } = this.spec;
    box.replaceChildren();
    const axis = { stroke: colour('ink-3'), font: FONT, ticks: { show: false }, grid: { stroke: colour('line'), width: 1 } };
    const small = this.size.height < 200;
    this.tip = Object.assign(document.createElement('div'), { className: 'tip', hidden: true });
    this.chart = new window.uPlot({
      ...this.size, legend: { show: false }, padding: [8, 12, 0, 0],
      cursor: { y: false, sync: { key: 'run', setSeries: false }, points: { size: 7 }, drag: { x: true, y: false, setScale: false } },
      scales: { ...(this.spec.log?.() ? { y: { distr: 3 } } : {}), x: { time: false, range: (_, low, high) => (low === high ? [low - 1, high + 1] : [low, high]) } },
      axes: [
        { ...axis, grid: { show: false }, size: 26, space: small ? 44 : 64, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6, 1e7] },
        { ...axis, size: 52, space: small ? 20 : 44, values: (_, ticks) => ticks.map((value) => (value === null ? '' : tick(value))) },
      ],
      series: [{}, ...this.spec.series(colour)],
      bands: this.spec.bands?.(colour) ?? [],
      hooks: {
        draw: [(chart) => this.marks(chart)], setCursor: [(chart) => this.point(chart)],
        setSelect: [(chart) => this.select(chart)],
      },
    }, data, box);
    if (this.window) this.chart.setScale('x', this.window);
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
    const [from, to] = [left, left + width].map((x) => chart.posToVal(x, 'x'));
    chart.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
    if (this.spec.zoom) this.spec.zoom(Math.floor(from), Math.ceil(to));
    else this.show({ min: from, max: to });
  }

  /** Shows that part of the x axis; null is all of it. */
  show(window) {
    this.window = window;
    this.draw();
  }

  /** Checkpoints: small triangles on the x axis. Values that are not finite: red strokes above it. */
  marks(chart) {
    const { ctx, bbox } = chart, ratio = devicePixelRatio;
    ctx.save();
    ctx.fillStyle = colour('accent');
    for (const step of this.spec.marks?.() ?? []) {
      if (step < chart.scales.x.min || step > chart.scales.x.max) continue;
      const x = chart.valToPos(step, 'x', true), y = bbox.top + bbox.height, r = 4 * ratio;
      ctx.beginPath();
      ctx.moveTo(x, y - 1.6 * r);
      ctx.lineTo(x + r, y);
      ctx.lineTo(x - r, y);
      ctx.fill();
    }
    ctx.strokeStyle = colour('fail');
    ctx.lineWidth = 2 * ratio;
    for (const step of this.spec.bad?.() ?? []) {
      if (step < chart.scales.x.min || step > chart.scales.x.max) continue;
      const x = chart.valToPos(step, 'x', true), y = bbox.top + bbox.height;
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
    const lines = [word('chart.step', this.chart.data[0][index].toLocaleString())];
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
  if (size < 1e-3) return value.toExponential(0 + (String(value).replace(/e.*/, '').length > 2)).replace('e-', 'e−');
  return String(+value.toPrecision(4));
}
