// A line chart: several runs against one axis, with a cross-hair that reads all of them, zoom, and keys for both.
import { h, s, short } from "./shared.js";

const MARGIN = { left: 54, right: 16, top: 8, bottom: 24 };
const SHAPES = [
  (x, y, r) => `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0z`,
  (x, y, r) => `M${x - r} ${y - r}h${2 * r}v${2 * r}h${-2 * r}z`,
  (x, y, r) => `M${x} ${y - 1.2 * r}l${1.2 * r} ${2.1 * r}h${-2.4 * r}z`,
  (x, y, r) => `M${x} ${y - 1.4 * r}l${1.4 * r} ${1.4 * r}l${-1.4 * r} ${1.4 * r}l${-1.4 * r} ${-1.4 * r}z`,
  (x, y, r) => `M${x} ${y + 1.2 * r}l${1.2 * r} ${-2.1 * r}h${-2.4 * r}z`,
  (x, y, r) => `M${x - r * .5} ${y - r * 1.4}h${r}v${r * .9}h${r * .9}v${r}h${-r * .9}v${r * .9}h${-r}v${-r * .9}h${-r * .9}v${-r}h${r * .9}z`,
];
// Six colours and shapes; then the same with dashes: 24 runs look different, and six of them without any colour.
export const look = slot => `c${slot % 6} d${Math.floor(slot / 6) % 4}`;
const marker = (slot, x, y, r = 3.2) => SHAPES[slot % 6](x, y, r);
export const swatch = slot => s("svg", { class: `swatch ${look(slot)}`, viewBox: "0 0 30 12", "aria-hidden": "true" },
  s("path", { class: "line", d: "M1 6H29" }), s("path", { class: "mark", d: marker(slot, 15, 6, 3.6) }));

// Centred moving average over a share of the curve, cut off at its ends; record/curve.py has the same.
export function smooth(values, share) {
  const count = values.length, half = Math.floor(share * count / 2);
  if (half === 0) return values;
  const sums = new Float64Array(count + 1);
  for (let i = 0; i < count; i++) sums[i + 1] = sums[i] + values[i];
  return values.map((_, i) => {
    const first = Math.max(i - half, 0), after = Math.min(i + half + 1, count);
    return (sums[after] - sums[first]) / (after - first);
  });
}

function ticks(low, high, most, log) {
  const found = [];
  if (log && high / low > 20) {
    const decades = Math.log10(high / low), factors = decades > most / 2 ? [1] : decades > most / 3 ? [1, 3] : [1, 2, 5];
    const every = Math.max(1, Math.ceil(decades / most));
    for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++)
      for (const f of factors) if (e % every === 0) found.push(f * 10 ** e);
  } else {
    const rough = (high - low) / most, unit = 10 ** Math.floor(Math.log10(rough));
    const step = unit * ([1, 2, 5, 10].find(f => f * unit >= rough) || 10);
    for (let i = Math.ceil(low / step); i * step <= high + step * 1e-9; i++) found.push(i * step);
  }
  return found.filter(tick => tick >= low * (1 - 1e-12) - 1e-300 && tick <= high * (1 + 1e-12));
}

const nearest = (xs, x) => {
  let low = 0, high = xs.length - 1;
  while (low < high) { const middle = (low + high) >> 1; if (xs[middle] < x) low = middle + 1; else high = middle; }
  return low > 0 && x - xs[low - 1] <= xs[low] - x ? low - 1 : low;
};

let count = 0;
export class Chart {
  // on.hover(x or null, chart), on.zoom([from, to] or null)
  constructor(title, unit, on) {
    [this.title, this.unit, this.on, this.series, this.cross, this.clip] = [title, unit, on, [], null, `clip-${count++}`];
    this.svg = s("svg", { "aria-hidden": "true" });
    this.box = s("rect", { class: "zoombox", visibility: "hidden" });
    this.tip = h("div", { class: "tip", hidden: true });
    this.plot = h("div", { class: "plot", tabindex: "0", role: "slider", "aria-valuemin": "0", "aria-valuemax": "0",
      "aria-valuenow": "0", "aria-label": title }, this.svg, this.tip);
    this.wide = h("button", { type: "button", class: "quiet", "aria-pressed": "false", title: "Wider", "aria-label": `${title}: wider`,
      onclick: () => this.wide.setAttribute("aria-pressed", this.figure.classList.toggle("wide")) }, "⤢");
    this.note = h("small", {});
    this.figure = h("figure", {}, h("figcaption", {}, h("h3", {}, title), this.note, this.wide), this.plot);
    new ResizeObserver(() => this.draw()).observe(this.plot);
    this.listen();
  }

  set(series, view) { [this.series, this.view] = [series, view]; this.draw(); }

  draw() {
    const { svg, plot, view } = this, width = plot.clientWidth, height = plot.clientHeight;
    if (!this.series.length) svg.replaceChildren();
    if (!view || width < 80 || height < 60) return;
    this.note.textContent = [this.unit, `by ${view.label}`].filter(Boolean).join(", ");
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const inside = x => (!view.zoom || (x >= view.zoom[0] && x <= view.zoom[1])) && (!view.logx || x > 0);
    let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
    // A run that diverged leaves the picture at its top, if there are others: they would be one flat line.
    const sound = this.series.filter(one => !one.diverged), ranged = sound.length ? sound : this.series;
    for (const { x, y } of ranged)
      for (let i = 0; i < x.length; i++) {
        if (!inside(x[i]) || (view.logy && y[i] <= 0)) continue;
        x0 = Math.min(x0, x[i]); x1 = Math.max(x1, x[i]); y0 = Math.min(y0, y[i]); y1 = Math.max(y1, y[i]);
      }
    // Of what smoothing leaves faint, single spikes may leave the picture; without smoothing none does.
    for (const { raw } of ranged) {
      const seen = raw ? raw.y.filter((y, i) => inside(raw.x[i]) && !(view.logy && y <= 0)).sort((a, b) => a - b) : [];
      if (seen.length) [y0, y1] = [Math.min(y0, seen[Math.floor(seen.length * 0.02)]), Math.max(y1, seen[Math.ceil(seen.length * 0.98) - 1])];
    }
    if (view.zoom) [x0, x1] = view.zoom;
    this.scale = null;
    if (!(y0 <= y1)) return svg.replaceChildren(s("text", { x: width / 2, y: height / 2, class: "none" }, "no numbers in this range"));
    if (x0 === x1) [x0, x1] = view.logx ? [x0 / 2, x1 * 2] : [x0 - 0.5, x1 + 0.5];
    if (view.logy) { const pad = Math.max((y1 / y0) ** 0.05, 1.01); y0 /= pad; y1 *= pad; }
    else { const pad = (y1 - y0) * 0.06 || Math.abs(y1) * 0.05 || 1; y0 = y0 >= 0 ? Math.max(0, y0 - pad) : y0 - pad; y1 += pad; }
    const axis = (low, high, from, to, log) => {
      const t = log ? Math.log : v => v, a = t(low), b = t(high) - a;
      return [v => from + (t(v) - a) / b * (to - from), p => log ? Math.exp(a + (p - from) / (to - from) * b) : a + (p - from) / (to - from) * b];
    };
    const right = width - MARGIN.right, bottom = height - MARGIN.bottom;
    const [px, ux] = axis(x0, x1, MARGIN.left, right, view.logx), [py] = axis(y0, y1, bottom, MARGIN.top, view.logy);
    this.scale = { px, ux, py, x0, x1, right, bottom };
    const grid = s("g", { class: "grid" });
    for (const tick of ticks(y0, y1, Math.max(2, height / 48), view.logy))
      grid.append(s("path", { d: `M${MARGIN.left} ${py(tick).toFixed(1)}H${right}` }), s("text", { x: MARGIN.left - 8, y: py(tick) + 4, class: "y" }, short(tick, 4)));
    for (const tick of ticks(x0 / view.unit, x1 / view.unit, Math.max(2, width / 100), view.logx)) {
      const at = px(tick * view.unit);
      grid.append(s("text", { x: Math.min(at, right - 6), y: bottom + 18, class: "x" }, short(tick, 4)));
    }
    grid.append(s("path", { class: "base", d: `M${MARGIN.left} ${bottom}H${right}` }));
    const lines = s("g", { "clip-path": `url(#${this.clip})`, class: this.series.length > 4 ? "many" : null });
    for (const one of this.series) lines.append(this.line(one));
    this.marks = s("g", { class: "cross" });
    const clip = s("clipPath", { id: this.clip }, s("rect", { x: MARGIN.left - 4, y: MARGIN.top - 4, width: right - MARGIN.left + 10, height: bottom - MARGIN.top + 8 }));
    svg.replaceChildren(clip, grid, lines, this.marks, this.box);
    const ends = this.series.map(one => `${one.name} ${short(one.y[one.y.length - 1], 4)}`);
    plot.setAttribute("aria-label", `${this.title}, by ${view.label}. Last values: ${ends.slice(0, 12).join("; ")}. Arrow keys read, plus and minus zoom.`);
    plot.setAttribute("aria-valuemin", x0); plot.setAttribute("aria-valuemax", x1);
    this.setCross(this.cross, this.showsTip);
  }

  line(one) {
    const { view, scale: { px, py } } = this;
    const path = (x, y) => {
      let d = "";
      for (let i = 0; i < x.length; i++)
        if ((!view.logx || x[i] > 0) && (!view.logy || y[i] > 0)) d += `${d ? "L" : "M"}${px(x[i]).toFixed(1)} ${py(y[i]).toFixed(1)}`;
      return d;
    };
    const group = s("g", { class: `run ${look(one.slot)}`, "data-run": one.id });
    if (one.raw) group.append(s("path", { class: "line faint", d: path(one.raw.x, one.raw.y) }));
    group.append(s("path", { class: "line", d: path(one.x, one.y) }));
    // Marks along the line and at its end tell runs apart without colours.
    let next = MARGIN.left + 30 + one.slot % 6 * 22, d = "";
    const last = one.x.length - 1;
    for (let i = 0; i <= last; i++) {
      if ((view.logx && one.x[i] <= 0) || (view.logy && one.y[i] <= 0)) continue;
      const at = px(one.x[i]);
      if (i !== last && at < next) continue;
      d += i === last && one.diverged ? "" : marker(one.slot, +at.toFixed(1), +py(one.y[i]).toFixed(1));
      while (next <= at) next += 132;
    }
    group.append(s("path", { class: "mark", d }));
    if (one.diverged && last >= 0) {
      const [x, y] = [px(one.x[last]), Math.max(MARGIN.top + 6, Math.min(py(one.y[last]), this.scale.bottom - 6))];
      group.append(s("path", { class: "end", d: `M${x - 5} ${y - 5}l10 10m0 -10l-10 10` }, s("title", {}, `${one.name} diverged`)));
    }
    return group;
  }

  // The cross-hair at a value of x; null takes it away. Only the chart under the pointer or with the focus shows the values.
  setCross(x, shows) {
    [this.cross, this.showsTip] = [x, shows];
    this.tip.hidden = true;
    if (!this.marks) return;
    this.marks.replaceChildren();
    if (x === null || !this.scale || x < this.scale.x0 || x > this.scale.x1) return;
    const { px, py, bottom } = this.scale, found = [];
    for (const one of this.series) {
      if (!one.x.length || x > one.x[one.x.length - 1] + (this.scale.x1 - this.scale.x0) * 0.02) continue;
      const i = nearest(one.x, x);
      if ((this.view.logy && one.y[i] <= 0) || (this.view.logx && one.x[i] <= 0)) continue;
      found.push({ ...one, at: one.x[i], value: one.y[i] });
    }
    this.marks.append(s("path", { d: `M${px(x)} ${MARGIN.top}V${bottom}` }));
    for (const one of found) this.marks.append(s("circle", { class: look(one.slot), cx: px(one.at), cy: py(one.value), r: 4 }));
    if (!shows) return;
    found.sort((a, b) => b.value - a.value);
    const near = found.reduce((best, one) => this.pointer !== undefined && (!best || Math.abs(py(one.value) - this.pointer) < Math.abs(py(best.value) - this.pointer)) ? one : best, null);
    const at = found.length ? (near || found[0]).at : x, most = 14;
    const first = near ? Math.max(0, Math.min(found.indexOf(near) - most / 2, found.length - most)) : 0;
    const rows = found.slice(first, first + most).map(one => h("tr", { class: one === near ? "near" : null }, h("td", {}, swatch(one.slot)),
      h("th", {}, one.name), h("td", {}, short(one.value, 5))));
    const more = found.length > most ? h("p", {}, `${found.length - most} more`) : null;
    this.tip.replaceChildren(h("p", {}, `${this.view.label} ${this.view.text(at)}`), h("table", {}, h("tbody", {}, rows)), more || "");
    this.tip.hidden = false;
    const leftHalf = px(x) < this.plot.clientWidth / 2;
    this.tip.style.left = leftHalf ? `${Math.min(px(x) + 14, this.plot.clientWidth - this.tip.offsetWidth)}px` : "auto";
    this.tip.style.right = leftHalf ? "auto" : `${Math.min(this.plot.clientWidth - px(x) + 14, this.plot.clientWidth - this.tip.offsetWidth)}px`;
    this.plot.setAttribute("aria-valuenow", x);
    this.plot.setAttribute("aria-valuetext", `${this.view.label} ${this.view.text(at)}: ` + found.map(one => `${one.name} ${short(one.value, 5)}`).join("; "));
  }

  listen() {
    const { plot, box } = this, place = event => event.clientX - plot.getBoundingClientRect().left;
    let from = null;
    const hover = x => this.on.hover(x, this);
    plot.addEventListener("pointermove", event => {
      if (!this.scale) return;
      const { ux, right, bottom } = this.scale, at = Math.max(MARGIN.left, Math.min(place(event), right));
      this.pointer = event.clientY - plot.getBoundingClientRect().top;
      hover(ux(at));
      if (from === null || Math.abs(at - from) < 6) return;
      for (const [name, value] of Object.entries({ x: Math.min(at, from), y: MARGIN.top, width: Math.abs(at - from), height: bottom - MARGIN.top, visibility: "visible" }))
        box.setAttribute(name, value);
    });
    plot.addEventListener("pointerdown", event => {
      if (event.pointerType !== "mouse" || event.button || !this.scale) return;
      from = Math.max(MARGIN.left, place(event));
      plot.setPointerCapture(event.pointerId);
    });
    plot.addEventListener("pointerup", event => {
      const to = this.scale && Math.min(place(event), this.scale.right);
      if (from !== null && this.scale && Math.abs(to - from) >= 6) this.on.zoom([this.scale.ux(Math.min(from, to)), this.scale.ux(Math.max(from, to))]);
      from = null;
      box.setAttribute("visibility", "hidden");
    });
    plot.addEventListener("pointerleave", () => { if (from === null) { this.pointer = undefined; hover(null); } });
    plot.addEventListener("dblclick", () => this.on.zoom(null));
    plot.addEventListener("blur", () => hover(null));
    plot.addEventListener("keydown", event => {
      if (!this.scale || event.ctrlKey || event.metaKey || event.altKey) return;
      const { x0, x1, px, ux } = this.scale, longest = this.series.reduce((a, b) => b.x.length > a.x.length ? b : a, { x: [] }).x.filter(x => x >= x0 && x <= x1);
      const i = this.cross === null ? longest.length - 1 : nearest(longest, this.cross), stride = event.shiftKey ? 10 : 1;
      const to = { ArrowLeft: i - (this.cross === null ? 0 : stride), ArrowRight: i + stride, Home: 0, End: longest.length - 1 }[event.key];
      this.pointer = undefined;
      if (to !== undefined) hover(longest[Math.max(0, Math.min(to, longest.length - 1))]);
      else if (event.key === "+" || event.key === "-" || event.key === "=") {
        const middle = px(this.cross ?? ux((px(x0) + px(x1)) / 2)), half = (px(x1) - px(x0)) * (event.key === "-" ? 1 : 0.25);
        this.on.zoom([ux(middle - half), ux(middle + half)]);
      } else if (event.key === "Escape") { if (this.view.zoom) this.on.zoom(null); else hover(null); }
      else return;
      event.preventDefault();
    });
  }
}
