// The lab: the runs of a folder while they are trained. Asks for what is new every two seconds while the page is seen.
import { Chart, look, smooth, swatch } from "./chart.js";
import { $, ask, copyButton, h, loss, plain, readAddress, short, themeButton, time, whole, writeAddress } from "./shared.js";

const POLL = 2000, AUTOMATIC = 6, MOST_LINES = 24;
const MEASURES = {
  val_loss: ["Validation loss", "nats per token"], train_loss: ["Training loss", "nats per token"],
  lr: ["Learning rate", ""], grad_norm: ["Gradient norm", "before clipping"], tokens_per_second: ["Speed", "tokens per second"],
  val_bpb: ["Bits per byte", "validation"], val_perplexity: ["Perplexity", "validation"], mfu: ["Model FLOPs utilization", "share of peak"],
  peak_memory: ["Peak memory", "bytes"],
};
const STATUS = { training: "●", finished: "✓", stopped: "■", diverged: "▲", crashed: "✕", broken: "!", unfinished: "○", imported: "↓" };
const MEANS = { training: "a process trains it now", stopped: "ended before its last step; it can be resumed", diverged: "the loss became non-finite",
  crashed: "its process failed", broken: "its files are damaged", unfinished: "no process trains it, and it did not end; it can be resumed",
  finished: "reached its last step", imported: "a model of another program" };
const FIGURES = [["status", "status", value => value], ["val_loss", "val loss", loss], ["best_val_loss", "lowest", loss], ["train_loss", "train loss", loss],
  ["val_bpb", "bits/byte", loss], ["steps", "steps", whole], ["tokens", "tokens", short], ["seconds", "time", time],
  ["tokens_per_second", "tokens/s", short], ["parameters", "parameters", short], ["device", "device", value => value || "–"]];
const FIRST_CHARTS = Object.keys(MEASURES).slice(0, 5);
const DEFAULTS = { x: "step", smooth: "3", logx: "", logy: "", charts: FIRST_CHARTS.join(), filter: "", sort: "started", order: "",
  zoom: "", sample: "" };

let state, runs = new Map(), shown = [], slots = [], automatic = false, described = [], differing = {}, samples = {}, tableSort = ["", false];
const data = new Map(), charts = new Map(), rows = new Map(), groups = new Map();

// Address
const ids = () => slots.filter(id => id && runs.has(id));
const on = id => slots.includes(id);
const measures = () => state.charts.split(",").filter(Boolean);
function restore() {
  const { runs: named, ...rest } = readAddress();
  const known = Object.entries(rest).filter(([name]) => name in DEFAULTS).map(([name, value]) => [name, plain(value)]);
  state = { ...DEFAULTS, ...Object.fromEntries(known) };
  automatic = named === undefined;
  slots = (named || "").split(",");
  for (const name of ["x", "smooth", "filter", "sort"]) $(name).value = state[name];
  for (const name of ["logx", "logy"]) $(name).checked = state[name] === "1";
  pressed();
}
function pressed() { $("order").setAttribute("aria-pressed", state.order === "1"); }

function save() {
  while (slots.length && !slots[slots.length - 1]) slots.pop();
  const changed = Object.entries(state).filter(([name, value]) => value !== DEFAULTS[name]);
  const encoded = changed.map(([name, value]) => [name, encodeURIComponent(value)]);
  writeAddress({ ...(automatic ? {} : { runs: slots.join(",") || "," }), ...Object.fromEntries(encoded) });
}

// Linking needs the runs even where the page chose them by itself.
function link() {
  const was = automatic;
  automatic = false; save();
  automatic = was;
  return location.href;
}

function choose(id, yes) {
  automatic = false;
  if (!yes) slots = slots.map(other => other === id ? "" : other);
  else if (!on(id)) {  // a run keeps its look until it is put away; a free look is taken first
    const free = slots.indexOf("");
    if (free < 0) slots.push(id); else slots[free] = id;
  }
}

function chooseByItself() {
  const first = [...runs.values()].sort((a, b) => (b.status === "training") - (a.status === "training") || b.started - a.started);
  const training = first.filter(run => run.status === "training").length;
  for (const run of first.slice(0, Math.max(AUTOMATIC, Math.min(training, MOST_LINES)))) { choose(run.id, true); automatic = true; }
}

// Asking the server
async function get(path) {
  const answer = await ask(path);
  if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
  return answer.json();
}

let listText = "", asking = false, again = false;
async function refresh() {
  if (asking) { again = true; return; }
  asking = true;
  try {
    do {
      again = false;
      const list = await get(`/lab/api/runs?filter=${encodeURIComponent(state.filter)}`), text = JSON.stringify(list);
      if (text !== listText) { listText = text; takeList(list); }
      await Promise.all([askCurves(), askDetails()]);
    } while (again);
    $("trouble").hidden = true;
    document.documentElement.dataset.ready = "";
  } catch (error) {
    if (!(error instanceof TypeError) && !/^\d/.test(error.message)) throw error;
    $("trouble").textContent = "The lab does not answer: it was stopped, or the connection is lost. The page goes on when it is back.";
    $("trouble").hidden = false;
  } finally { asking = false; }
}

function takeList(list) {
  const { folder } = list;
  runs = new Map(list.runs.map(run => [run.id, run]));
  if (automatic) chooseByItself();
  for (const id of data.keys()) if (!runs.has(id)) data.delete(id);
  const training = list.runs.filter(run => run.status === "training").length;
  $("summary").textContent = `${folder} · ${list.runs.length} ${list.runs.length === 1 ? "run" : "runs"}${training ? ` · ${training} training now` : ""}`;
  document.title = `${training ? "● " : ""}${folder} – groundup lab`;
  $("filter-problem").textContent = list.problem;
  $("filter").setAttribute("aria-invalid", Boolean(list.problem));
  drawAll();
  $("empty").hidden = list.runs.length > 0;
  $("main").classList.toggle("nothing", !list.runs.length);
  if (list.runs.length) return;
  $("empty").replaceChildren(h("h2", {}, list.missing ? `The folder ${folder} does not exist yet` : `No runs in ${folder} yet`),
    h("p", {}, "Train a model in the folder that holds it, and its curves appear here while it learns:"),
    h("pre", {}, "groundup demo\ngroundup train demo --data.train data/train --data.valid data/valid --name first"));
}

async function askCurves() {
  const asked = ids(), wanted = measures();
  if (!asked.length || !wanted.length) return drawCharts();
  const at = id => wanted.every(name => data.get(id)?.asked.has(name)) ? data.get(id).at : "";
  const query = [...asked.map(id => `run=${id}&at=${at(id)}`), ...wanted.map(name => `measure=${encodeURIComponent(name)}`)];
  const answer = await get(`/lab/api/curves?${query.join("&")}`);
  let changed = false;
  for (const [id, found] of Object.entries(answer)) {
    if (found.gone || found.problem) continue;
    const have = data.get(id);
    if (!found.more) data.set(id, { ...found, asked: new Set(wanted), fresh: 0 });
    else {
      for (const [name, { points }] of Object.entries(found.curves))
        for (const curve of [have.curves[name]?.points, have.curves[name]?.means]) curve?.forEach((column, i) => column.push(...points[i]));
      for (const name of Object.keys(found.curves)) have.curves[name] ||= found.curves[name];
      have.fresh += Math.max(0, ...Object.values(found.curves).map(curve => curve.points[0].length));
      // Thinned anew when many points came one by one.
      Object.assign(have, { at: have.fresh > 1000 ? "" : found.at, names: found.names, tokens_per_step: found.tokens_per_step });
    }
    changed ||= !found.more || Object.keys(found.curves).length > 0;
  }
  again ||= asked.length > Object.keys(answer).length;  // the rest takes the server longer
  if (changed || !charts.size) drawCharts();
}

let detailsOf = "";
async function askDetails() {
  const asked = ids(), query = asked.map(id => `run=${id}`).join("&");
  const answers = asked.length ? await Promise.all([get(`/lab/api/options?${query}`), get(`/lab/api/samples?${query}`)]) : [{}, {}];
  [described, differing, samples] = [asked, ...answers];
  if (detailsOf !== (detailsOf = JSON.stringify([asked, differing, samples]))) { drawTable(); drawSamples(); }
}

// The list of runs
function badge(run) {
  const sign = h("i", { "aria-hidden": "true" }, STATUS[run.status] || "?");
  return h("span", { class: `status is-${run.status}`, title: MEANS[run.status] || "" }, sign, ` ${run.status}`);
}
const shortName = run => run.group ? run.run.slice(run.group.length + 1) : run.run;
function row(run) {
  let made = rows.get(run.id);
  if (!made) {
    const box = h("input", { type: "checkbox", onchange: () => { choose(run.id, box.checked); chosen(); } });
    const body = h("span", { class: "what" }), mark = h("span", { class: "key" });
    made = { box, body, mark, element: h("li", { class: "run", onpointerenter: () => light(run.id), onpointerleave: () => light(null),
      onfocusin: () => light(run.id), onfocusout: () => light(null) }, h("label", {}, box, mark, body)) };
    rows.set(run.id, made);
  }
  const slot = slots.indexOf(run.id), text = JSON.stringify([run, slot]);
  if (made.text === text) return made.element;
  [made.text, made.box.checked] = [text, slot >= 0];
  made.mark.replaceChildren(slot >= 0 ? swatch(slot) : "");
  const steps = run.max_iters ? `${whole(run.steps ?? 0)} / ${whole(run.max_iters)}` : whole(run.steps);
  const facts = [[["val", loss(run.val_loss)], ["train", loss(run.train_loss)]],
    [["step", steps], ["tok/s", short(run.tokens_per_second)], ["", time(run.seconds)]]];
  const factsOf = line => line.filter(([, value]) => value !== "–").map(([name, value]) => h("span", {}, name && h("small", {}, `${name} `), value));
  made.body.replaceChildren(...[
    h("span", { class: "line1" }, h("b", { title: run.run }, shortName(run)), badge(run)),
    ...facts.map(line => h("span", { class: "facts" }, factsOf(line))),
    run.tags.length ? h("span", { class: "tags" }, run.tags.map(tag => h("span", { class: "tag" }, tag))) : null,
    run.problem && run.status !== "stopped" ? h("span", { class: "warn" }, run.problem) : null,
    run.status === "training" && run.max_iters && h("progress", { max: String(run.max_iters), value: run.steps || 0, "aria-label": "steps done" }),
  ].filter(Boolean));
  return made.element;
}

function sorted(list) {
  const key = state.sort, order = Object.keys(STATUS);
  const back = (state.order === "1") !== ["started", "steps", "tokens_per_second"].includes(key);  // these begin with the highest
  const value = run => key === "status" ? order.indexOf(run.status) : key === "run" ? run.run : run[key];
  return list.sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === null || y === null) return (x === null) - (y === null);
    const by = key === "run" ? x.localeCompare(y, undefined, { numeric: true }) : x - y;
    return (back ? -by : by) || a.run.localeCompare(b.run, undefined, { numeric: true });
  });
}

function group(name, members) {
  let made = groups.get(name);
  if (!made) {
    const list = h("ul", {}), count = h("small", {}), box = h("input", { type: "checkbox", "aria-label": `All trials of ${name}`,
      onchange: () => { for (const run of made.members) choose(run.id, box.checked); chosen(); } });
    const summary = h("summary", {}, h("b", {}, name), count);
    made = { list, box, count, element: h("li", { class: "group" }, box, h("details", { open: members.length <= 24 }, summary, list)) };
    groups.set(name, made);
  }
  made.members = members;
  const drawn = members.filter(run => on(run.id)).length;
  [made.box.checked, made.box.indeterminate] = [drawn === members.length, drawn > 0 && drawn < members.length];
  made.count.textContent = `sweep, ${members.length} ${members.length === 1 ? "trial" : "trials"}`;
  arrange(made.list, members.map(row));
  return made.element;
}

// Put elements in this order; the focus stays where it was.
function arrange(list, wanted) {
  if (wanted.length === list.children.length && wanted.every((element, i) => list.children[i] === element)) return;
  const focus = document.activeElement;
  list.replaceChildren(...wanted);
  if (list.contains(focus)) focus.focus({ preventScroll: true });
}

function drawList() {
  shown = sorted([...runs.values()].filter(run => !run.hidden));
  const items = new Map();
  for (const run of shown) {
    const key = run.group ? `sweep ${run.group}` : run.id;
    items.set(key, [...(items.get(key) || []), run]);
  }
  arrange($("runs"), [...items.values()].map(members => members[0].group ? group(members[0].group, members) : row(members[0])));
  for (const id of rows.keys()) if (!runs.has(id)) rows.delete(id);
  oneStop();
  const hidden = runs.size - shown.length;
  $("chosen").textContent = `${ids().length} of ${runs.size} in the charts${hidden ? `, ${hidden} filtered out` : ""}`;
}

// One stop of the tab key for the whole list; arrows move inside.
let stop = null;
function oneStop() {
  const boxes = [...$("runs").querySelectorAll("input")];
  if (!boxes.includes(stop)) stop = boxes[0];
  for (const box of boxes) box.tabIndex = box === stop ? 0 : -1;
}

function light(id) {
  const known = id !== null && on(id);
  for (const element of document.querySelectorAll("[data-run]")) {
    element.classList.toggle("lit", known && element.dataset.run === id);
    element.classList.toggle("dim", known && element.dataset.run !== id);
  }
}

// Charts
const AXES = {
  step: { label: "step", column: 0, scale: () => 1, text: whole },
  tokens: { label: "tokens", column: 0, scale: run => run.tokens_per_step || NaN, text: value => short(value, 4) },
  time: { label: "time", column: 2, scale: () => 1, text: time },
};

function seriesOf(measure) {
  const axis = AXES[state.x], share = measure === "lr" ? 0 : state.smooth / 100, found = [];
  slots.forEach((id, slot) => {
    const have = data.get(id), run = runs.get(id), curve = have?.curves[measure], scale = have && axis.scale(have);
    if (!run || !curve?.points[0].length || !Number.isFinite(scale)) return;
    const [source, by] = [share ? curve.means || curve.points : curve.points, column => column.map(value => value * scale)];
    const one = { id, slot, name: shortName(run), diverged: run.status === "diverged", x: by(source[axis.column]), y: source[1] };
    one.y = smooth(source[1], share);
    if (one.y !== source[1]) one.raw = { x: by(curve.points[axis.column]), y: curve.points[1] };
    found.push(one);
  });
  return found;
}

function drawCharts() {
  const known = [...new Set([...FIRST_CHARTS, ...ids().flatMap(id => data.get(id)?.names || [])])], fields = $("measures");
  if (fields.dataset.known !== known.join()) {
    fields.dataset.known = known.join();
    const field = name => h("input", { type: "checkbox", value: name, checked: measures().includes(name) });
    fields.replaceChildren(fields.firstElementChild, ...known.map(name => h("label", {}, field(name), ` ${MEASURES[name]?.[0] || name}`)));
  }
  const wanted = measures(), all = new Map(wanted.map(name => [name, seriesOf(name)]));
  const xs = [...all.values()].flat().map(one => one.x[one.x.length - 1]), most = Math.max(0, ...xs);
  const { label: name, text } = AXES[state.x];
  const [unit, label] = state.x !== "time" ? [1, name] : most > 3 * 3600 ? [3600, "hours"] : most > 600 ? [60, "minutes"] : [1, "seconds"];
  const [from, to] = state.zoom.split("~").map(Number), [logx, logy] = [state.logx === "1", state.logy === "1"];
  const view = { label, unit, text, logx, logy, zoom: from < to && !(logx && from <= 0) ? [from, to] : null };
  $("unzoom").hidden = !view.zoom;
  for (const [name, chart] of charts) if (!wanted.includes(name)) { chart.figure.remove(); charts.delete(name); }
  for (const name of wanted) if (!charts.has(name)) {
    const hover = (x, from) => { for (const chart of charts.values()) chart.setCross(x, chart === from); };
    charts.set(name, new Chart(...(MEASURES[name] || [name, ""]), { hover, zoom: range => zoomTo(range) }));
  }
  arrange($("grid"), wanted.map(name => charts.get(name).figure));
  for (const [name, chart] of charts) { chart.figure.hidden = !all.get(name).length; chart.set(all.get(name), view); }
  const loaded = ids().every(id => data.has(id)), none = loaded ? "The chosen runs have no numbers yet." : "Reading the curves…";
  $("grid").dataset.empty = xs.length || !runs.size ? "" : ids().length ? none : "Choose runs in the list to draw their curves.";
  drawLegend(slots.map((id, slot) => [id, slot]).filter(([id]) => runs.has(id)));
}

let legendText = "";
function drawLegend(used) {
  if (legendText === (legendText = JSON.stringify(used))) return;
  $("legend").replaceChildren(...used.map(([id, slot]) => {
    const { run } = runs.get(id), [lit, unlit] = [() => light(id), () => light(null)];
    const away = h("button", { type: "button", class: "quiet icon", "aria-label": `Take ${run} out of the charts`, onfocus: lit, onblur: unlit,
      onclick: () => { unlit(); choose(id, false); chosen(); } }, "×");
    return h("li", { "data-run": id, onpointerenter: lit, onpointerleave: unlit }, swatch(slot), h("span", { title: run }, shortName(runs.get(id))), away);
  }));
}

function zoomTo(range) {
  const xs = measures().flatMap(seriesOf).map(one => one.x), low = Math.min(...xs.map(x => x[0])), high = Math.max(...xs.map(x => x[x.length - 1]));
  const inside = value => Number(Math.max(low, Math.min(value, high)).toPrecision(6));
  state.zoom = !range || (range[0] <= low && range[1] >= high) ? "" : range.map(inside).join("~");
  save(); drawCharts();
}

// Figures, options and samples
function drawTable() {
  const chosenRuns = ids().map(id => runs.get(id)), single = chosenRuns.length === 1, focused = document.activeElement.dataset.sort;
  // What was asked for other runs has no place here until the answer for these comes.
  const known = single === (described.length === 1), options = known ? Object.entries(differing) : [], place = run => described.indexOf(run.id);
  $("compare").hidden = $("samples").hidden = !chosenRuns.length;
  $("compare-title").textContent = single ? "Figures and options" : "Figures and options that differ";
  $("same").textContent = !single && known && described.length && !options.length ? "The options are the same." : "";
  const figures = FIGURES.filter(([name]) => chosenRuns.some(run => run[name] !== null));
  const lowest = name => Math.min(...chosenRuns.map(run => run[name]).filter(value => value !== null));
  const best = Object.fromEntries(["val_loss", "best_val_loss", "val_bpb"].map(name => [name, chosenRuns.length > 1 ? lowest(name) : NaN]));
  const cell = (run, [name, , text]) => h("td", run[name] === best[name] ? { class: "best", title: "lowest" } : {},
    name === "status" ? badge(run) : text(run[name]));
  if (single) {
    const values = options.map(([name, values]) => [name, h("td", {}, values[place(chosenRuns[0])])]);
    const pairs = [...figures.map(figure => [figure[1], cell(chosenRuns[0], figure)]), ...values];
    $("table").replaceChildren(h("tbody", { class: "pairs" }, pairs.map(([name, value]) => h("tr", {}, h("th", { scope: "row" }, name), value))));
    return;
  }
  const columns = [["run", "run"], ...figures];
  columns.splice(4, 0, ...options.map(([name, values]) => [name, name.split(".").pop(), null, values]));  // behind the losses
  const at = columns.findIndex(([name]) => name === tableSort[0]), [key, , , values] = columns[at] || [];
  const value = (run, i) => at < 0 ? i : values ? values[place(run)] : run[key];
  const order = chosenRuns.map((run, i) => [run, i]).sort(([a, i], [b, j]) => {
    const [x, y] = [value(a, i), value(b, j)], numbers = !isNaN(x) && !isNaN(y) && x !== null && y !== null;
    return (tableSort[1] ? -1 : 1) * (numbers ? x - y : String(x ?? "~").localeCompare(String(y ?? "~"), undefined, { numeric: true }));
  });
  const sortBy = name => { tableSort = [name, tableSort[0] === name && !tableSort[1]]; drawTable(); };
  const heads = columns.map(([name, label], i) => h("th", { scope: "col", title: name, "aria-sort": at === i && (tableSort[1] ? "descending" : "ascending") },
    h("button", { type: "button", "data-sort": name, onclick: () => sortBy(name) }, label)));
  const lines = order.map(([run]) => h("tr", { "data-run": run.id },
    h("th", { scope: "row" }, swatch(slots.indexOf(run.id)), h("span", { title: run.run }, shortName(run))),
    columns.slice(1).map(column => column[3] ? h("td", {}, column[3][place(run)]) : cell(run, column))));
  $("table").replaceChildren(h("thead", {}, h("tr", {}, heads)), h("tbody", {}, lines));
  if (focused) $("table").querySelector(`[data-sort="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

function drawSamples() {
  const steps = [...new Set(Object.values(samples).flat().map(sample => sample.step))].sort((a, b) => a - b);
  const last = steps.length - 1, wanted = state.sample === "" ? Infinity : Number(state.sample);
  const place = Math.max(0, steps.findLastIndex(step => step <= wanted));
  $("steps").hidden = steps.length < 2;
  Object.assign($("step"), { max: Math.max(0, last), value: place });
  $("step").setAttribute("aria-valuetext", `step ${steps[place]}`);
  $("at").textContent = steps.length ? whole(steps[place]) + (state.sample === "" ? ", the newest" : "") : "";
  $("step").oninput = () => { state.sample = +$("step").value === last ? "" : String(steps[$("step").value]); save(); drawSamples(); };
  const cards = ids().flatMap(id => {
    const sample = (samples[id] || []).findLast(one => one.step <= (steps[place] ?? 0));
    if (!sample) return [];
    const { step, prompt, text, ...settings } = sample, numbers = Object.entries(settings).filter(([, value]) => typeof value === "number");
    const head = h("h3", {}, swatch(slots.indexOf(id)), h("span", {}, shortName(runs.get(id))), h("small", {}, `step ${whole(step)}`));
    return [h("article", { "data-run": id }, head, h("blockquote", {}, h("span", { class: "prompt" }, prompt), text.trim() ? text : h("i", { class: "soft" }, text ? " (only spaces and line breaks)" : " (no text)")),
      h("p", { class: "soft" }, numbers.map(([name, value]) => `${name} ${value}`).join(", ")))];
  });
  const none = h("p", { class: "soft" }, "The chosen runs have written no samples yet (sample.interval sets how often they do).");
  $("texts").replaceChildren(...(cards.length ? cards : [none]));
}

function drawAll() { drawList(); drawCharts(); drawTable(); drawSamples(); }
function chosen() { save(); drawAll(); refresh(); }

// Controls
restore();
themeButton($("theme")); copyButton($("link"), link);
let typing;
$("filter").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(() => { state.filter = $("filter").value; save(); refresh(); }, 200); });
$("sort").addEventListener("change", () => { state.sort = $("sort").value; save(); drawList(); });
$("order").addEventListener("click", () => { state.order = state.order ? "" : "1"; pressed(); save(); drawList(); });
$("all").addEventListener("click", () => { for (const run of shown) choose(run.id, true); chosen(); });
$("none").addEventListener("click", () => { automatic = false; slots = []; chosen(); });
$("controls").addEventListener("submit", event => event.preventDefault());
$("controls").addEventListener("input", event => {
  const name = event.target.id;
  if (event.target.closest("#measures")) {
    state.charts = [...$("measures").querySelectorAll("input:checked")].map(box => box.value).join();
    save(); refresh();
  } else if (name in state) {
    if (name === "x") state.zoom = "";
    state[name] = event.target.type === "checkbox" ? (event.target.checked ? "1" : "") : event.target.value;
    save();
  }
  said(); drawCharts();
});
const said = () => { $("smoothed").textContent = state.smooth === "0" ? "off" : `${state.smooth} %`; };
$("unzoom").addEventListener("click", () => { zoomTo(null); $("charts").focus(); });
$("skip").addEventListener("click", event => { event.preventDefault(); $("charts").focus(); $("charts").scrollIntoView(); });
$("runs").addEventListener("keydown", event => {
  const boxes = [...$("runs").querySelectorAll("input")].filter(box => box.checkVisibility()), i = boxes.indexOf(event.target);
  const to = { ArrowDown: i + 1, ArrowUp: i - 1, Home: 0, End: boxes.length - 1 }[event.key];
  if (i < 0 || to === undefined) return;
  event.preventDefault();
  boxes[Math.max(0, Math.min(to, boxes.length - 1))].focus();
});
$("runs").addEventListener("focusin", event => { if (event.target.type === "checkbox") { stop = event.target; oneStop(); } });
document.addEventListener("keydown", event => {
  if (event.key === "/" && !/^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName)) { event.preventDefault(); $("filter").focus(); }
  if (event.key === "Escape") document.querySelector(".menu[open]")?.removeAttribute("open");
});
document.addEventListener("click", event => { if (!event.target.closest(".menu")) document.querySelector(".menu[open]")?.removeAttribute("open"); });
addEventListener("hashchange", () => { if (location.hash === "#charts") return; restore(); said(); drawAll(); refresh(); });
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
said();
refresh();
setInterval(() => { if (!document.hidden) refresh(); }, POLL);
