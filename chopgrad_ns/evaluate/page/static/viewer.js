"use strict";

const MEMORY = 96e6; // bytes of decoded frames to keep
const AHEAD = 48; // frames, at most
const element = (id) => document.getElementById(id);

/* What is shown: a clip, two methods, a frame, whether it plays; and all that changes it. */
class Viewer {
  constructor(report) {
    this.runs = report.runs;
    this.clips = report.runs.flatMap((run) => run.clips.map((clip) => ({ run, clip })));
    this.lossy = report.quality;
    this.cache = new FrameCache(MEMORY, () => this.draw());
    this.playing = false;
    this.began = { frame: 0, at: -Infinity }; // of playing
    this.showsError = false;
    this.stage = new Stage(element("stage"), element("canvas"), element("split"), {
      click: () => this.play(!this.playing),
      twice: () => this.undoClicks(),
      view: (zoom) => { element("zoom").value = `${Math.round(zoom * 100)} %`; },
    });
    this.makeDots();
    this.listen();
    this.showClip(0);
  }

  get run() { return this.clips[this.index].run; }
  get clip() { return this.clips[this.index].clip; }
  get length() { return this.clip.names.length; }

  makeDots() {
    const dots = this.clips.map(({ clip }, index) => {
      const dot = make("button", { type: "button", "aria-label": `Clip ${index + 1}: ${clip.name}`, title: clip.name });
      dot.addEventListener("click", () => this.showClip(index));
      return dot;
    });
    element("dots").replaceChildren(...dots);
    for (const id of ["dots", "previous-clip", "next-clip"]) element(id).hidden = dots.length < 2;
  }

  listen() {
    const click = (id, act) => element(id).addEventListener("click", act);
    click("previous-clip", () => this.showClip(this.index - 1));
    click("next-clip", () => this.showClip(this.index + 1));
    click("play", () => this.play(!this.playing));
    click("back", () => this.step(-1));
    click("forward", () => this.step(1));
    click("error", () => this.showError(!this.showsError));
    click("zoom-in", () => this.stage.zoomBy(1.5));
    click("zoom-out", () => this.stage.zoomBy(1 / 1.5));
    click("zoom-reset", () => this.stage.reset());
    element("scrub").addEventListener("input", () => this.showFrame(Number(element("scrub").value)));
    for (const side of ["left", "right"]) {
      element(side).addEventListener("change", () => {
        this[side] = Number(element(side).value);
        this.showFrame(this.frame);
      });
    }
    document.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select")) return;
    const takes = (selector) => event.target.closest(selector); // what has a use for the key itself
    const pan = { ArrowLeft: [0.1, 0], ArrowRight: [-0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] };
    const acts = {
      ",": () => this.step(-1), ".": () => this.step(1), e: () => this.showError(!this.showsError),
      "+": () => this.stage.zoomBy(1.5), "=": () => this.stage.zoomBy(1.5), "-": () => this.stage.zoomBy(1 / 1.5),
      0: () => this.stage.reset(),
    };
    if (!takes("button, summary, .wide")) acts[" "] = () => this.play(!this.playing);
    if (!takes("input, .wide")) {
      acts.ArrowLeft = () => this.showClip(this.index - 1);
      acts.ArrowRight = () => this.showClip(this.index + 1);
      if (event.shiftKey && event.key in pan) acts[event.key] = () => this.stage.panBy(...pan[event.key]);
    }
    const act = acts[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }

  showClip(index) {
    const before = this.index === undefined ? null : this.run;
    this.index = (index + this.clips.length) % this.clips.length;
    const { run, clip } = this;
    element("clip-name").textContent = this.runs.length > 1 ? `${run.title}: ${clip.name}` : clip.name;
    [...element("dots").children].forEach((dot, number) => dot.setAttribute("aria-current", String(number === this.index)));
    const numbers = Object.keys(clip.sides).map(Number);
    const given = numbers.filter((number) => number !== run.truth);
    if (before !== run || !numbers.includes(this.left)) this.left = given[0] ?? numbers[0];
    if (before !== run || !numbers.includes(this.right)) this.right = given[given.length - 1] ?? numbers[0];
    for (const side of ["left", "right"]) {
      element(side).replaceChildren(...numbers.map((number) => make("option", { value: number }, run.methods[number].label)));
      element(side).value = this[side];
    }
    element("scrub").max = this.length - 1;
    const loss = `Pictures on this page are compressed with loss (WebP, quality ${this.lossy}); metrics were taken before.`;
    element("clip-note").textContent = [clip.note, this.lossy === null ? "" : loss].filter(Boolean).join(" ");
    element("error").disabled = run.truth === null;
    element("error").title = run.truth === null ? "There is no truth to compare with" : "Key E";
    if (run.truth === null) this.showsError = false;
    this.stage.setSize(clip.width, clip.height);
    this.stage.show(null);
    showTables(element("tables"), run, clip);
    this.showFrame(0);
  }

  showError(shown) {
    this.showsError = shown && this.run.truth !== null;
    this.showFrame(this.frame);
  }

  address(method, frame) {
    return `${this.clip.sides[method]}/${String(frame).padStart(5, "0")}.webp`;
  }

  /* The methods whose pictures a frame needs. */
  needed() {
    return [...new Set([this.left, this.right, ...(this.showsError ? [this.run.truth] : [])])];
  }

  ready(frame) {
    return this.needed().every((method) => this.cache.get(this.address(method, frame)));
  }

  /* All of a frame has come, as far as it can be had. */
  arrived(frame) {
    return this.needed().map((method) => this.address(method, frame))
      .every((address) => this.cache.get(address) || this.cache.failed(address));
  }

  showFrame(frame) {
    this.frame = (frame + this.length) % this.length;
    const methods = this.needed();
    const count = Math.min(this.length, AHEAD, this.cache.frames(this.clip.width * this.clip.height, methods.length));
    const frames = Array.from({ length: count }, (_, ahead) => (this.frame + ahead) % this.length);
    if (count < this.length) frames[count - 1] = (this.frame - 1 + this.length) % this.length; // for a step back
    this.cache.want(frames.flatMap((each) => methods.map((method) => this.address(method, each))));
    this.draw();
  }

  step(by) {
    this.play(false);
    this.showFrame(this.frame + by);
  }

  /* Both sides are drawn at once, when both are there; until then the frame before stays. */
  draw() {
    if (this.index === undefined) return;
    const { run, clip, frame } = this;
    const picture = (method) => this.cache.get(this.address(method, frame));
    const lost = this.needed().find((method) => this.cache.failed(this.address(method, frame)));
    if (lost !== undefined) this.stage.show(null); // rather than another frame or method under this one's name
    if (this.ready(frame)) {
      const truth = this.showsError ? picture(run.truth) : null;
      this.stage.show({ left: picture(this.left), right: picture(this.right), truth });
    }
    element("status").textContent = lost === undefined ? ""
      : `${this.address(lost, frame)} cannot be shown; make the report again.`;
    element("scrub").value = frame;
    element("scrub").setAttribute("aria-valuetext", `frame ${frame + 1} of ${this.length}`);
    const named = clip.names[frame] !== String(frame).padStart(5, "0");
    element("frame").value = `${frame + 1} / ${this.length}` + (named ? ` · ${clip.names[frame]}` : "");
    const labels = {};
    for (const side of ["left", "right"]) {
      labels[side] = run.methods[this[side]].label;
      element(`${side}-label`).textContent = labels[side] + (this.showsError ? " − truth" : "");
      element(`${side}-values`).textContent = this.told(this[side]);
    }
    element("canvas").setAttribute("aria-label", `Frame ${frame + 1} of ${this.length}: ${labels.left} on the left, `
      + `${labels.right} on the right${this.showsError ? ", as differences to the truth" : ""}`);
    element("error").setAttribute("aria-pressed", String(this.showsError));
    element("error-note").hidden = !this.showsError;
  }

  /* A method's metrics of the current frame, a line for each region. */
  told(method) {
    const values = this.clip.values[method];
    const regions = new Map();
    this.run.frameColumns.forEach(({ title, region }, column) => {
      if (!regions.has(region)) regions.set(region, []);
      regions.get(region).push(`${title} ${values ? values[column][this.frame] : "–"}`);
    });
    const lines = [...regions].map(([region, parts]) => (region === "whole" ? "" : `${region}: `) + parts.join(" · "));
    return values ? lines.join("\n") : "";
  }

  play(playing) {
    if (playing === this.playing) return;
    this.playing = playing;
    element("play").textContent = playing ? "❚❚" : "▶";
    element("play").setAttribute("aria-label", playing ? "Pause (space)" : "Play (space)");
    if (playing) {
      this.began = { frame: this.frame, at: performance.now() };
      this.due = this.began.at + 1000 / this.clip.fps;
      requestAnimationFrame((now) => this.tick(now));
    }
  }

  /* Two clicks have played and paused: back to the frame that was looked at. */
  undoClicks() {
    if (!this.playing && performance.now() - this.began.at < 1000) this.showFrame(this.began.frame);
  }

  /* The next frame when its time has come and all of it is there. */
  tick(now) {
    if (!this.playing) return;
    if (now >= this.due && this.arrived((this.frame + 1) % this.length)) {
      this.due = Math.max(this.due + 1000 / this.clip.fps, now);
      this.showFrame(this.frame + 1);
    }
    requestAnimationFrame((later) => this.tick(later));
  }
}

function showAbout(section, runs) {
  section.append(make("h2", {}, "How it was made"));
  for (const run of runs) {
    const methods = run.methods.filter((method) => method.about)
      .map((method) => make("li", {}, make("strong", {}, method.label), `: ${method.about}`));
    const lines = run.about.map((line) => make("li", {}, line));
    section.append(make("h3", {}, run.title), make("ul", {}, ...lines, ...methods));
  }
  section.append(make("p", { class: "note" }, `Report of ${window.REPORT.made}.`));
}

const titles = window.REPORT.runs.map((run) => run.title);
document.title = titles.length === 1 ? titles[0] : `Report of ${titles.length} runs`;
element("title").textContent = document.title;
const shown = window.REPORT.runs.filter((run) => run.clips.length);
element("viewer").hidden = !shown.length;
showPlots(element("plots"), window.REPORT.runs);
showAbout(element("about"), window.REPORT.runs);
if (shown.length) window.viewer = new Viewer(window.REPORT);
