"use strict";

/* An element with attributes and children; text is only ever text. */
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const ARROWS = { 1: ["↑", "larger is better"], "-1": ["↓", "smaller is better"], 0: ["", ""] };

/* A table of methods by metrics, the best of each column marked. It scrolls by itself where it is too wide. */
function metricsTable(title, columns, rows) {
  const head = make("tr", {}, make("th", { scope: "col" }, "method"));
  for (const column of columns) {
    const [arrow, meaning] = ARROWS[column.better];
    const cell = make("th", { scope: "col" }, column.title);
    if (arrow) {
      cell.append(make("span", { "aria-hidden": "true" }, `\u00a0${arrow}`), make("span", { class: "unseen" }, `, ${meaning}`));
    }
    head.append(cell);
  }
  const body = make("tbody");
  for (const row of rows) {
    const line = make("tr", {}, make("th", { scope: "row" }, row.label));
    for (const cell of row.cells) {
      const told = make("td", cell.best ? { class: "best" } : {}, make("span", {}, cell.text));
      if (cell.best) told.append(make("span", { class: "unseen" }, " (best)"));
      line.append(told);
    }
    body.append(line);
  }
  const table = make("table", {}, make("thead", {}, head), body);
  return [make("h3", {}, title), make("div", { class: "wide", role: "region", tabindex: "0", "aria-label": title }, table)];
}

function showTables(section, run, clip) {
  const parts = [make("h2", {}, "Metrics")];
  if (clip.rows.length) parts.push(...metricsTable(`This clip: ${clip.name}`, run.columns, clip.rows));
  if (run.rows.length) parts.push(...metricsTable(run.measuredOn, run.columns, run.rows));
  section.replaceChildren(...parts);
  section.hidden = parts.length === 1;
}
