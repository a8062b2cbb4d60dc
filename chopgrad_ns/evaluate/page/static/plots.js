"use strict";

const COLOURS = ["#3b82f6", "#e07b00", "#16a05d", "#d6336c", "#9468e0", "#8a7500", "#0e9bb0", "#c2513c", "#7a7f87", "#b44ac0"];
const DASHES = ["", "7 4", "2 3"];
const TICK_DIGITS = 12; // ticks are round: so many tell neighbours apart, and leave out what is only inexact
const PLOT = { width: 480, height: 300, left: 62, right: 12, top: 12, bottom: 44 };

function makeSvg(name, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/* Round values in a range, about `count` of them. */
function ticks([low, high], count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((each) => each * power >= rough);
  const first = Math.ceil(low / step - 1e-9);
  const values = Array.from({ length: count + 2 }, (_, n) => (first + n) * step);
  return values.filter((value) => value <= high + 1e-9 * step);
}

function powersOfTen([low, high]) { // of logarithms
  const every = Math.max(1, Math.ceil((high - low) / 6));
  const values = [];
  for (let n = Math.ceil(low); n <= high; n += every) values.push(n);
  return values.length > 1 ? values : ticks([low, high], 4);
}

/* With so many digits at most. */
function number(value, digits) {
  const rounded = Number(value.toPrecision(digits));
  const size = Math.abs(rounded);
  return size >= 1e5 || (size < 1e-3 && size > 0) ? rounded.toExponential() : String(rounded);
}

function range(values, zero) {
  let low = Math.min(...values);
  let high = Math.max(...values);
  if (zero) low = Math.min(0, low);
  const margin = (high - low || Math.abs(high) || 1) * 0.05;
  return [zero && low === 0 ? 0 : low - margin, high + margin];
}

/* A figure with a title, axes, lines and a legend. */
function drawPlot(plot) {
  const up = plot.log ? Math.log10 : (y) => y;
  const points = plot.series.flatMap((series) => series.points);
  const xs = range(points.map(([x]) => x), false);
  const ys = range(points.map(([, y]) => up(y)), plot.zero);
  const inner = { width: PLOT.width - PLOT.left - PLOT.right, height: PLOT.height - PLOT.top - PLOT.bottom };
  const px = (x) => PLOT.left + (inner.width * (x - xs[0])) / (xs[1] - xs[0]);
  const py = (y) => PLOT.top + inner.height * (1 - (up(y) - ys[0]) / (ys[1] - ys[0]));
  const svg = makeSvg("svg", { viewBox: `0 0 ${PLOT.width} ${PLOT.height}`, role: "img", "aria-label": plot.title });
  const bottom = PLOT.top + inner.height;
  for (const x of ticks(xs, 6)) {
    svg.append(makeSvg("line", { class: "grid", x1: px(x), x2: px(x), y1: PLOT.top, y2: bottom }),
      makeSvg("text", { x: px(x), y: bottom + 16, "text-anchor": "middle" }, number(x, TICK_DIGITS)));
  }
  for (const level of plot.log ? powersOfTen(ys) : ticks(ys, 5)) {
    const y = plot.log ? 10 ** level : level;
    const told = number(y, plot.log ? 2 : TICK_DIGITS);
    svg.append(makeSvg("line", { class: "grid", x1: PLOT.left, x2: PLOT.left + inner.width, y1: py(y), y2: py(y) }),
      makeSvg("text", { x: PLOT.left - 6, y: py(y) + 4, "text-anchor": "end" }, told));
  }
  svg.append(makeSvg("path", { class: "axis", fill: "none", d: `M${PLOT.left} ${PLOT.top}V${bottom}h${inner.width}` }));
  const middle = PLOT.top + inner.height / 2;
  svg.append(makeSvg("text", { x: PLOT.left + inner.width / 2, y: PLOT.height - 8, "text-anchor": "middle" }, plot.x),
    makeSvg("text", { x: 13, y: middle, "text-anchor": "middle", transform: `rotate(-90 13 ${middle})` }, plot.y));
  plot.series.forEach((series, index) => svg.append(drawSeries(series, index, px, py)));
  const legend = make("ul", { class: "legend" }, ...plot.series.map((series, index) => {
    const sample = { ...series, points: series.line ? [[3, 6], [25, 6]] : [[14, 6]] };
    const drawn = drawSeries(sample, index, (x) => x, (y) => y);
    return make("li", {}, makeSvg("svg", { viewBox: "0 0 28 12", "aria-hidden": "true" }, drawn), series.label);
  }));
  return make("figure", {}, make("figcaption", {}, plot.title), svg, legend);
}

function drawSeries(series, index, px, py) {
  const colour = COLOURS[index % COLOURS.length];
  const group = makeSvg("g", {});
  if (series.line) {
    group.append(makeSvg("polyline", { fill: "none", stroke: colour, "stroke-width": 2,
      "stroke-dasharray": DASHES[Math.floor(index / COLOURS.length) % DASHES.length],
      points: series.points.map(([x, y]) => `${px(x)},${py(y)}`).join(" ") }));
  }
  for (const [x, y] of series.points) {
    group.append(makeSvg("circle", { cx: px(x), cy: py(y), r: 3, fill: colour },
      makeSvg("title", {}, `${series.label}: ${number(x, 4)}, ${number(y, 4)}`)));
  }
  return group;
}

function showPlots(section, runs) {
  const parts = [];
  for (const run of runs.filter((each) => each.plots.length)) {
    parts.push(make("h2", {}, runs.length > 1 ? `Plots: ${run.title}` : "Plots"),
      make("div", { class: "plots" }, ...run.plots.map(drawPlot)));
  }
  section.replaceChildren(...parts);
  section.hidden = !parts.length;
}
