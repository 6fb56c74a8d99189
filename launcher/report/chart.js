// Draws the charts of a report: SVG, no library. All charts of a page share one x axis, one zoom and one cursor.
// Drag, buttons or + - zoom; arrows move the cursor, with Shift the section; double-click, Escape or 0 show everything.
"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const HEIGHT = 220, LEFT = 66, RIGHT = 14, TOP = 10, BOTTOM = 28;
  const source = document.getElementById("chart-data");
  if (!source) return;
  const page = JSON.parse(source.textContent);
  const view = { axis: "step", from: null, to: null, cursor: null };  // from, to: null shows everything
  const charts = [];

  const element = (parent, name, attributes = {}, text = "") => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text) made.textContent = text;
    parent.append(made);
    return made;
  };

  // -- numbers and axes
  const short = (value) => {
    const size = Math.abs(value);
    if (size >= 1e9) return `${+(value / 1e9).toPrecision(4)}G`;
    if (size >= 1e6) return `${+(value / 1e6).toPrecision(4)}M`;
    if (size >= 1e4) return `${+(value / 1e3).toPrecision(4)}k`;
    return size !== 0 && size < 1e-3 ? value.toExponential(1).replace("e-", "e−") : String(+value.toPrecision(4));
  };
  const shown = (value, unit) => {
    if (unit === "share") return `${+(100 * value).toPrecision(4)}%`;
    if (unit === "bytes") return value >= 2 ** 30 ? `${+(value / 2 ** 30).toPrecision(4)} GiB` : `${+(value / 2 ** 20).toPrecision(4)} MiB`;
    return unit === "rate" ? `${short(value)}/s` : short(value);
  };
  const ticks = (low, high, wanted) => {
    const rough = (high - low) / wanted, unit = 10 ** Math.floor(Math.log10(rough));
    const step = unit * [1, 2, 5, 10].find((factor) => unit * factor >= rough);
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
    return found;
  };
  const logTicks = (low, high) => {
    const found = [];
    for (let power = Math.ceil(low); power <= Math.floor(high); power++) found.push(power);
    return found.length > 1 ? found : ticks(low, high, 6);
  };
  const byteTicks = (low, high) => {
    const unit = high >= 2 ** 30 ? 2 ** 30 : 2 ** 20;
    return ticks(low / unit, high / unit, 6).map((tick) => tick * unit);
  };

  // The last place in a sorted list that is not behind x, so that there is one after it.
  const before = (xs, x) => {
    let low = 0, high = xs.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (xs[middle] <= x) low = middle; else high = middle;
    }
    return low;
  };
  const nearest = (xs, x) => {
    const i = before(xs, x);
    return i + 1 < xs.length && Math.abs(xs[i + 1] - x) < Math.abs(xs[i] - x) ? i + 1 : i;
  };
  // A step as samples seen or hours trained, by the nearest two that the page knows.
  const along = (run, step) => {
    if (view.axis === "step") return step;
    const { step: steps, [view.axis]: values } = page.runs[run], i = before(steps, step);
    if (i + 1 >= steps.length) return values[i];
    return values[i] + ((step - steps[i]) / (steps[i + 1] - steps[i])) * (values[i + 1] - values[i]);
  };
  const everything = () => {
    let low = Infinity, high = -Infinity;
    for (const chart of charts) for (const { xs } of chart.series) {
      low = Math.min(low, xs[0]);
      high = Math.max(high, xs[xs.length - 1]);
    }
    return high > low ? [low, high] : [low - 0.5, low + 0.5];
  };
  const range = () => (view.from === null ? everything() : [view.from, view.to]);

  class Chart {
    constructor(figure, data) {
      Object.assign(this, { figure, data, log: false });
      this.series = data.series.map((one) => ({ ...one, visible: true, xs: one.x.map((step) => along(one.run, step)) }));
      this.plot = figure.querySelector(".plot");
      this.readout = figure.querySelector(".readout");
      this.legend();
      this.plot.addEventListener("pointermove", (event) => this.move(event));
      this.plot.addEventListener("pointerleave", () => { if (!this.drag) point(null); });
      this.plot.addEventListener("pointerdown", (event) => this.press(event));
      this.plot.addEventListener("pointerup", (event) => this.release(event));
      this.plot.addEventListener("pointercancel", () => { this.drag = null; point(null); });
      this.plot.addEventListener("dblclick", reset);
      this.plot.addEventListener("blur", () => point(null));
      this.plot.addEventListener("keydown", (event) => key(event) && this.say());
      const log = figure.querySelector(".log");
      if (log) log.addEventListener("click", () => { this.log = !this.log; log.setAttribute("aria-pressed", this.log); this.draw(); });
    }

    legend() {
      const list = this.figure.querySelector(".legend");
      for (const one of this.series.filter((one) => one.kind !== "faint")) {
        const button = document.createElement("button");
        const sample = element(button, "svg", { class: "sample", viewBox: "0 0 26 10", "aria-hidden": "true" });
        element(sample, "path", { class: `line c${one.colour % 8} ${one.colour >= 8 ? "dashed" : ""}`, d: "M1 5H25" });
        one.amount = document.createElement("span");
        one.amount.className = "amount";
        button.append(one.name, one.amount);
        button.type = "button";
        button.setAttribute("aria-pressed", "true");
        button.addEventListener("click", () => {
          one.visible = !one.visible;
          for (const other of this.series) if (other.kind === "faint" && other.colour === one.colour && other.run === one.run) other.visible = one.visible;
          button.setAttribute("aria-pressed", one.visible);
          this.draw();
        });
        list.append(button);
      }
    }

    // -- from values to places
    scale() {
      const [from, to] = range();
      this.width = Math.max(240, this.plot.clientWidth);
      let low = Infinity, high = -Infinity;
      for (const { xs, y, visible } of this.series) {
        if (!visible) continue;
        for (let i = 0; i < y.length; i++) {
          if (xs[i] < from || xs[i] > to || (this.log && y[i] <= 0)) continue;
          low = Math.min(low, y[i]);
          high = Math.max(high, y[i]);
        }
      }
      if (low > high) [low, high] = [this.log ? 0.1 : 0, 1];
      if (this.log) [low, high] = [Math.log10(low), Math.log10(high)];
      const margin = 0.06 * (high - low) || 0.05 * Math.abs(high) || 0.5;
      const floor = !this.log && low >= 0 ? 0 : -Infinity;
      const ceiling = this.data.unit === "share" && high <= 1 ? 1 : Infinity;
      [this.low, this.high] = [Math.max(floor, low - margin), Math.min(ceiling, high + margin)];
      this.px = (x) => LEFT + ((x - from) / (to - from)) * (this.width - LEFT - RIGHT);
      this.x = (px) => from + ((px - LEFT) / (this.width - LEFT - RIGHT)) * (to - from);
      this.py = (y) => HEIGHT - BOTTOM - (((this.log ? Math.log10(y) : y) - this.low) / (this.high - this.low)) * (HEIGHT - TOP - BOTTOM);
    }

    draw() {
      this.scale();
      const [from, to] = range();
      const svg = document.createElementNS(SVG, "svg");
      svg.setAttribute("viewBox", `0 0 ${this.width} ${HEIGHT}`);
      svg.setAttribute("aria-hidden", "true");  // the plot around it has the words
      const clip = `clip-${this.data.key}`;
      element(element(element(svg, "defs"), "clipPath", { id: clip }), "rect",
        { x: LEFT, y: 0, width: this.width - LEFT - RIGHT + 6, height: HEIGHT - BOTTOM + 4 });
      const ticksOf = this.log ? logTicks : this.data.unit === "bytes" ? byteTicks : (low, high) => ticks(low, high, 6);
      for (const tick of ticksOf(this.low, this.high)) {
        const value = this.log ? 10 ** tick : tick, y = this.py(value);
        element(svg, "path", { class: "grid", d: `M${LEFT} ${y.toFixed(1)}H${this.width - RIGHT}` });
        element(svg, "text", { x: LEFT - 8, y: y + 4, "text-anchor": "end" }, shown(value, this.data.unit));
      }
      for (const tick of ticks(from, to, this.width < 420 ? 4 : 6)) {
        element(svg, "text", { x: this.px(tick), y: HEIGHT - 8, "text-anchor": "middle" }, short(tick));
      }
      const inside = element(svg, "g", { "clip-path": `url(#${clip})` });
      let free = 0;  // where the next label has room
      for (const [step, label] of this.data.marks) {
        const x = this.px(along(0, step));
        element(inside, "path", { class: "mark", d: `M${x.toFixed(1)} ${TOP}V${HEIGHT - BOTTOM}` });
        if (x < free || x > 0.85 * this.width) continue;
        element(inside, "text", { class: "marked", x: x + 4, y: TOP + 9 }, label);
        free = x + 12 + 6 * label.length;
      }
      for (const one of this.series) if (one.visible) this.curve(inside, one);
      this.pointer = element(inside, "g", { class: "pointer" });
      this.box = element(inside, "rect", { class: "chosen", y: TOP, height: HEIGHT - TOP - BOTTOM, width: 0 });
      this.plot.replaceChildren(svg);
      this.point();
    }

    curve(inside, one) {
      const colour = `c${one.colour % 8}`, places = [];
      for (let i = 0; i < one.y.length; i++) {
        if (this.log && one.y[i] <= 0) continue;
        places.push(`${this.px(one.xs[i]).toFixed(1)},${this.py(one.y[i]).toFixed(1)}`);
      }
      if (one.kind !== "dots") element(inside, "polyline", { class: `${one.kind} ${colour} ${one.colour >= 8 ? "dashed" : ""}`, points: places.join(" ") });
      if (one.kind === "dots" || (one.kind === "line" && places.length <= 40)) {
        for (const place of places) {
          const [cx, cy] = place.split(",");
          element(inside, "circle", { class: `dot ${colour}`, cx, cy, r: one.kind === "dots" ? 4.5 : 2.5 });
        }
      }
    }

    // -- the cursor, and the values there beside their names; without a cursor the last ones
    point() {
      this.pointer.replaceChildren();
      const last = view.cursor === null;
      this.readout.textContent = last ? "" : `${view.axis.replace("hours", "hour")} ${short(view.axis === "step" ? Math.round(view.cursor) : view.cursor)}`;
      if (!last) {
        const x = this.px(view.cursor).toFixed(1);
        element(this.pointer, "path", { class: "cursor", d: `M${x} ${TOP}V${HEIGHT - BOTTOM}` });
      }
      for (const one of this.series) {
        if (one.kind === "faint") continue;
        const i = last ? one.y.length - 1 : nearest(one.xs, view.cursor);
        one.amount.textContent = shown(one.y[i], this.data.unit);
        if (last || !one.visible || (this.log && one.y[i] <= 0)) continue;
        element(this.pointer, "circle", { class: `dot c${one.colour % 8}`, cx: this.px(one.xs[i]), cy: this.py(one.y[i]), r: 4 });
      }
    }

    // What a screen reader says when the arrow keys have moved the cursor.
    say() {
      const said = this.series.filter((one) => one.visible && one.amount).map((one) => `${one.name} ${one.amount.textContent}`);
      this.figure.querySelector("[aria-live]").textContent = `${this.readout.textContent}: ${said.join(", ")}`;
    }

    place(event) {
      const box = this.plot.getBoundingClientRect();
      return Math.min(this.width - RIGHT, Math.max(LEFT, ((event.clientX - box.left) / box.width) * this.width));
    }

    move(event) {
      const px = this.place(event);
      point(this.x(px));
      if (!this.drag) return;
      this.box.setAttribute("x", Math.min(px, this.drag));
      this.box.setAttribute("width", Math.abs(px - this.drag));
    }

    press(event) {
      if (event.button !== 0) return;
      this.drag = this.place(event);
      this.plot.setPointerCapture(event.pointerId);
    }

    release(event) {
      const start = this.drag, end = this.place(event);
      this.drag = null;
      this.box.setAttribute("width", 0);
      if (start && Math.abs(end - start) > 6) zoom(this.x(Math.min(start, end)), this.x(Math.max(start, end)));
    }
  }

  // -- what all charts do together
  const drawAll = () => charts.forEach((chart) => chart.draw());
  const point = (x) => { view.cursor = x; charts.forEach((chart) => chart.point()); };
  const zoom = (from, to) => {
    const [first, last] = everything();
    [view.from, view.to] = [Math.max(first, from), Math.min(last, to)];
    if (view.to - view.from < (last - first) * 1e-5) return reset();
    if (view.from <= first && view.to >= last) view.from = view.to = null;
    document.body.classList.toggle("zoomed", view.from !== null);
    drawAll();
  };
  const reset = () => {
    view.from = view.to = null;
    document.body.classList.remove("zoomed");
    drawAll();
  };
  const scaleBy = (factor) => {
    const [from, to] = range(), middle = view.cursor ?? (from + to) / 2;
    zoom(middle - (middle - from) * factor, middle + (to - middle) * factor);
  };
  const shift = (part) => {
    const [from, to] = range(), [first, last] = everything();
    const by = Math.min(last - to, Math.max(first - from, part * (to - from)));
    if (view.from !== null) zoom(from + by, to + by);
  };
  const moveCursor = (part) => {
    const [from, to] = range();
    point(Math.min(to, Math.max(from, (view.cursor ?? (from + to) / 2) + part * (to - from))));
  };
  function key(event) {
    const turn = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return false;
    if (turn) (event.shiftKey ? shift : moveCursor)(turn * (event.shiftKey ? 0.2 : 0.02));
    else if (event.key === "+" || event.key === "=") scaleBy(0.5);
    else if (event.key === "-") scaleBy(2);
    else if (event.key === "Escape" || event.key === "0") { point(null); reset(); }
    else return false;
    event.preventDefault();
    return true;
  }

  const actions = { in: () => scaleBy(0.5), out: () => scaleBy(2), all: reset, left: () => shift(-0.3), right: () => shift(0.3) };
  for (const button of document.querySelectorAll("[data-zoom]")) button.addEventListener("click", actions[button.dataset.zoom]);
  for (const choice of document.querySelectorAll("input[name=axis]")) {
    choice.addEventListener("change", () => {
      view.axis = choice.value;
      view.from = view.to = view.cursor = null;
      for (const chart of charts) for (const one of chart.series) one.xs = one.x.map((step) => along(one.run, step));
      reset();
    });
  }
  for (const data of page.charts) charts.push(new Chart(document.getElementById(`chart-${data.key}`), data));
  drawAll();
  new ResizeObserver(drawAll).observe(document.querySelector(".charts"));
  addEventListener("beforeprint", drawAll);
})();

// A page of a run that goes on loads itself again, unless its reader has said no.
(() => {
  const choice = document.getElementById("reload");
  if (!choice) return;
  choice.checked = sessionStorage.getItem("reload") !== "no";
  choice.addEventListener("change", () => sessionStorage.setItem("reload", choice.checked ? "yes" : "no"));
  setInterval(() => {
    if (choice.checked && !document.hidden && !document.body.classList.contains("zoomed")) location.reload();
  }, 1000 * Number(choice.dataset.seconds));
})();
