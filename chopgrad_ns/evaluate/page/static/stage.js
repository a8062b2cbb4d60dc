"use strict";

const MOST_ZOOM = 32;
const CLICK = 4; // CSS pixels that a pointer may move in a click
const ERROR_DOUBLINGS = 3; // of brightness in the error map: 2³ = 8

/* The picture with its split: draws two sides under one zoom, and turns pointers and the wheel into split, zoom and clicks. */
class Stage {
  /* `on.click()` for clicks on the picture, `on.twice()` after both of a double one, `on.view(zoom)` when it may be new. */
  constructor(element, canvas, handle, on) {
    Object.assign(this, { element, canvas, handle, on });
    this.context = canvas.getContext("2d");
    this.errors = [document.createElement("canvas"), document.createElement("canvas")];
    this.split = 0.5;
    this.pictures = null; // {left, right, truth}, truth only in error maps
    this.setSize(16, 9);
    this.reset();
    this.listen();
    new ResizeObserver(() => this.fit()).observe(element.parentElement);
    window.addEventListener("resize", () => this.fit()); // also when the window moves to a screen of another density
  }

  /* Of frames, in pixels. */
  setSize(width, height) {
    if (width === this.width && height === this.height) return;
    this.width = width;
    this.height = height;
    for (const canvas of this.errors) Object.assign(canvas, { width, height });
    this.reset();
    this.fit();
  }

  /* As wide as there is room, and not higher than most of the window. */
  fit() {
    const room = this.element.parentElement.clientWidth;
    const width = Math.max(1, Math.min(room, Math.round((0.72 * window.innerHeight * this.width) / this.height)));
    const height = Math.max(1, Math.round((width * this.height) / this.width));
    Object.assign(this.element.style, { width: `${width}px`, height: `${height}px` });
    const density = window.devicePixelRatio || 1;
    const size = { width: Math.round(width * density), height: Math.round(height * density) };
    if (this.canvas.width !== size.width || this.canvas.height !== size.height) Object.assign(this.canvas, size);
    this.draw();
  }

  show(pictures) {
    this.pictures = pictures;
    this.draw();
  }

  draw() {
    const { width, height } = this.canvas;
    const edge = Math.round(this.split * width);
    this.handle.style.left = `${this.split * 100}%`;
    this.handle.setAttribute("aria-valuenow", Math.round(this.split * 100));
    if (!this.pictures) {
      this.context.clearRect(0, 0, width, height);
      return;
    }
    const { left, right, truth } = this.pictures;
    this.drawSide(truth ? this.error(0, left, truth) : left, 0, edge);
    this.drawSide(truth ? this.error(1, right, truth) : right, edge, width);
  }

  /* The part of a picture that the zoom shows, between two columns of the canvas. */
  drawSide(picture, from, to) {
    const { context, canvas, zoom } = this;
    const shown = { width: this.width / zoom, height: this.height / zoom };
    context.save();
    context.beginPath();
    context.rect(from, 0, to - from, canvas.height);
    context.clip();
    context.imageSmoothingEnabled = canvas.width / shown.width < 2; // larger pixels are shown as they are
    context.drawImage(picture, this.centre.x * this.width - shown.width / 2, this.centre.y * this.height - shown.height / 2,
      shown.width, shown.height, 0, 0, canvas.width, canvas.height);
    context.restore();
  }

  /* |picture − truth| · 8. By composition, since pages from disk may not read the pixels of pictures. */
  error(number, picture, truth) {
    const canvas = this.errors[number];
    const context = canvas.getContext("2d");
    context.globalCompositeOperation = "copy";
    context.drawImage(picture, 0, 0);
    context.globalCompositeOperation = "difference";
    context.drawImage(truth, 0, 0);
    context.globalCompositeOperation = "lighter";
    for (let doubling = 0; doubling < ERROR_DOUBLINGS; doubling++) context.drawImage(canvas, 0, 0);
    return canvas;
  }

  setSplit(split) {
    this.split = Math.min(1, Math.max(0, split));
    this.changed();
  }

  reset() {
    this.zoom = 1;
    this.centre = { x: 0.5, y: 0.5 };
    this.changed();
  }

  /* Zoom by a factor, keeping what is at a point of the stage (0…1) where it is. */
  zoomBy(factor, at = { x: 0.5, y: 0.5 }) {
    const zoom = Math.min(MOST_ZOOM, Math.max(1, this.zoom * factor));
    this.centre.x += (at.x - 0.5) * (1 / this.zoom - 1 / zoom);
    this.centre.y += (at.y - 0.5) * (1 / this.zoom - 1 / zoom);
    this.zoom = zoom;
    this.panBy(0, 0);
  }

  /* Move the picture by parts of the stage, as far as there is more of it. */
  panBy(x, y) {
    const room = 0.5 / this.zoom;
    this.centre.x = Math.min(1 - room, Math.max(room, this.centre.x - x / this.zoom));
    this.centre.y = Math.min(1 - room, Math.max(room, this.centre.y - y / this.zoom));
    this.changed();
  }

  changed() {
    this.element.classList.toggle("zoomed", this.zoom > 1);
    this.draw();
    this.on.view(this.zoom);
  }

  listen() {
    const { element, handle } = this;
    this.pointers = new Map();
    element.addEventListener("pointerdown", (event) => this.down(event));
    element.addEventListener("pointermove", (event) => this.move(event));
    element.addEventListener("pointerup", (event) => this.up(event, true));
    element.addEventListener("pointercancel", (event) => this.up(event, false));
    element.addEventListener("dblclick", () => { this.reset(); this.on.twice(); });
    element.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    // The browser would scroll with two fingers that are meant to zoom.
    const touchmove = (event) => { if (event.touches.length > 1) event.preventDefault(); };
    element.addEventListener("touchmove", touchmove, { passive: false });
    handle.addEventListener("keydown", (event) => this.handleKey(event));
  }

  /* Where an event is, in parts of the stage. */
  place(event) {
    const box = this.element.getBoundingClientRect();
    return { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
  }

  down(event) {
    if (event.button !== 0) return;
    this.element.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, this.place(event));
    if (this.pointers.size > 1) {
      this.gesture = { kind: "pinch", spread: this.spread() };
    } else {
      const splits = event.target === this.handle || this.zoom === 1;
      const { clientX: x, clientY: y } = event;
      this.gesture = { kind: splits ? "split" : "pan", x, y, moved: event.target === this.handle };
    }
  }

  move(event) {
    if (!this.pointers.has(event.pointerId)) return;
    const before = this.pointers.get(event.pointerId);
    const now = this.place(event);
    this.pointers.set(event.pointerId, now);
    const { gesture } = this;
    if (gesture.kind === "pinch") {
      const spread = this.spread();
      this.zoomBy(spread.length / gesture.spread.length, spread.middle);
      this.panBy(spread.middle.x - gesture.spread.middle.x, spread.middle.y - gesture.spread.middle.y);
      gesture.spread = spread;
      return;
    }
    gesture.moved ||= Math.hypot(event.clientX - gesture.x, event.clientY - gesture.y) > CLICK;
    if (!gesture.moved) return;
    if (gesture.kind === "split") this.setSplit(now.x);
    else this.panBy(now.x - before.x, now.y - before.y);
  }

  up(event, ended) {
    if (!this.pointers.delete(event.pointerId)) return;
    if (this.gesture.kind !== "pinch" && !this.gesture.moved && ended) this.on.click();
    // A finger that stays after a pinch moves the picture on.
    if (this.pointers.size) this.gesture = { kind: "pan", moved: true };
  }

  /* How far two pointers are apart, in CSS pixels, and where their middle is. */
  spread() {
    const [a, b] = [...this.pointers.values()];
    const box = this.element.getBoundingClientRect();
    const length = Math.hypot((a.x - b.x) * box.width, (a.y - b.y) * box.height);
    return { length: Math.max(1, length), middle: { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 } };
  }

  wheel(event) {
    if (this.zoom === 1 && event.deltaY > 0) return; // the page scrolls on
    event.preventDefault();
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 30 : 1;
    this.zoomBy(Math.exp(-0.002 * lines * event.deltaY), this.place(event));
  }

  handleKey(event) {
    const steps = { ArrowLeft: this.split - 0.02, ArrowRight: this.split + 0.02, ArrowDown: this.split - 0.02,
      ArrowUp: this.split + 0.02, PageDown: this.split - 0.1, PageUp: this.split + 0.1, Home: 0, End: 1 };
    if (!(event.key in steps) || event.shiftKey) return;
    event.preventDefault();
    event.stopPropagation();
    this.setSplit(steps[event.key]);
  }
}
