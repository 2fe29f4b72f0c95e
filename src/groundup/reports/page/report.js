"use strict";
// Draws the report's plots. Numbers and plotly come compressed in the page itself; nothing is fetched.
(async () => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const escape = text => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  async function inflate(id) {
    const text = atob(document.getElementById(id).textContent), bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(stream).arrayBuffer();
  }

  try {
    const script = document.createElement("script");
    script.textContent = new TextDecoder().decode(await inflate("plotly"));
    document.head.append(script);
    if (!window.Plotly) throw new Error("no plotly");
  } catch (error) {
    for (const plot of document.querySelectorAll(".plot"))
      plot.textContent = "The plots need a browser of 2023 or later; the tables have their numbers.";
    throw error;
  }
  const numbers = new Float32Array(await inflate("numbers"));

  let offset = 0;
  const take = count => numbers.subarray(offset, offset += count);
  for (const study of data.studies)
    for (const curve of study.curves) {
      [curve.steps, curve.values, curve.seconds] = [take(curve.n), take(curve.n), take(curve.n)];
      // If the points are a selection, smoothing starts from bucket means.
      const means = curve.k ? [take(curve.k), take(curve.k), take(curve.k)] : null;
      curve.smoothed = means ? { steps: means[0], values: means[1], seconds: means[2] } : curve;
    }

  const MEASURES = {
    val_loss: ["validation loss", "nats per token"], train_loss: ["training loss", "nats per token"],
    val_bpb: ["validation bits per byte", "bits per byte"],
  };
  const touch = matchMedia("(pointer: coarse)").matches;
  const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
    displayModeBar: touch ? false : "hover", doubleClick: "reset" };

  function layout(more) {
    const ink = css("--ink"), line = css("--line");
    const axis = { gridcolor: line, linecolor: line, zeroline: false, tickfont: { size: 12 }, automargin: true };
    const made = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, hovermode: "closest",
      font: { color: ink, family: "system-ui, Liberation Sans, DejaVu Sans, sans-serif", size: 13 },
      margin: { l: 58, r: 14, t: 24, b: 52 }, dragmode: touch ? false : "zoom",
      hoverlabel: { bgcolor: css("--panel"), bordercolor: line, font: { color: ink } }, ...more,
    };
    made.xaxis = { ...axis, ...more.xaxis };
    made.yaxis = { ...axis, ...more.yaxis };
    return made;
  }

  // Centred moving average over a share of the curve, cut off at its ends; record/curve.py has the same.
  function smooth(values, share) {
    const count = values.length, half = Math.floor(share * count / 2);
    if (half === 0) return values;
    const sums = new Float64Array(count + 1), found = new Float64Array(count);
    for (let i = 0; i < count; i++) sums[i + 1] = sums[i] + values[i];
    for (let i = 0; i < count; i++) {
      const first = Math.max(i - half, 0), after = Math.min(i + half + 1, count);
      found[i] = (sums[after] - sums[first]) / (after - first);
    }
    return found;
  }

  const AXES = {
    steps: ["steps", curve => 1], tokens: ["tokens", curve => curve.t || NaN],
    flops: ["FLOPs", curve => (curve.t || NaN) * (curve.f || NaN)], seconds: ["wall-clock time", curve => 1],
  };

  function clock(curves) {
    const most = curves.reduce((top, curve) => Math.max(top, curve.seconds[curve.n - 1] || 0), 0);
    return most > 3 * 3600 ? ["hours", 3600] : most > 600 ? ["minutes", 60] : ["seconds", 1];
  }

  function chart(study, place) {
    const plot = document.getElementById(`curves-${place}`), form = document.getElementById(`controls-${place}`);
    const legend = document.getElementById(`legend-${place}`), field = name => form.elements[name];
    const visible = new Set(study.shown);
    if (!study.curves.length) {  // nothing was recorded
      for (const part of [plot, form, legend]) part.hidden = true;
      return () => {};
    }
    const has = measure => study.curves.some(c => c.m === measure || (measure === "val_bpb" && c.b));
    for (const measure of Object.keys(MEASURES).filter(has))
      field("measure").add(new Option(MEASURES[measure][0], measure, false, measure === study.measure));
    for (const option of field("x").options) {
      const scale = AXES[option.value][1];
      option.disabled = !study.curves.some(c => Number.isFinite(scale(c))) ||
        (option.value === "seconds" && !study.curves.some(c => c.seconds[c.n - 1] > 0));
    }
    const several = study.curves.some(c => c.s === undefined);
    if (!several) form.querySelector(".seeds").remove();
    else field("seeds").checked = study.settings.length <= 8;

    function drawn() {
      const measure = field("measure").value;
      return study.curves.filter(c => c.m === measure || (measure === "val_bpb" && c.m === "val_loss" && c.b));
    }

    function draw() {
      const measure = field("measure").value, axis = field("x").value, share = field("smooth").value / 100;
      const curves = drawn(), [unit, seconds] = clock(curves), hasMean = new Set();
      for (const curve of curves) if (curve.s === undefined) hasMean.add(curve.c);
      const ink = css("--ink"), traces = [], others = { x: [], y: [] };
      let low = Infinity, high = -Infinity;
      for (const curve of curves) {
        const seedOfSeveral = curve.s !== undefined && hasMean.has(curve.c);
        const on = visible.has(curve.c);
        if (on ? seedOfSeveral && !field("seeds").checked : seedOfSeveral || !study.rest) continue;
        const source = share > 0 ? curve.smoothed : curve, factor = curve.m === measure ? 1 : curve.b;
        const scale = AXES[axis][1](curve);
        if (!Number.isFinite(scale)) continue;
        const x = axis === "seconds" ? Array.from(source.seconds, s => s / seconds) : Array.from(source.steps, s => s * scale);
        const y = Array.from(smooth(source.values, share), value => value * factor);
        if (!on) {
          others.x.push(...x, null);
          others.y.push(...y, null);
          continue;
        }
        // The first losses, and those of runs that diverge, would fill the axis.
        const from = field("start").checked ? -Infinity : study.fit.includes(curve.c) ? 0.15 * x[x.length - 1] : Infinity;
        for (let i = 0; i < x.length; i++)
          if (x[i] >= from) { low = Math.min(low, y[i]); high = Math.max(high, y[i]); }
        const setting = study.settings[curve.c], colour = setting.colour === "ink" ? ink : setting.colour;
        const name = escape(setting.label) + (curve.s === undefined ? " (mean)" : `, seed ${curve.s}`);
        traces.push({
          x, y, type: "scatter", mode: x.length < 3 ? "markers+lines" : "lines", opacity: seedOfSeveral ? 0.38 : 1,
          line: { color: colour, dash: setting.dash, width: seedOfSeveral ? 1 : setting.colour === "ink" ? 3 : 2.2 },
          hovertemplate: `<b>${name}</b><br>${MEASURES[measure][0]} %{y:.4f}<br>${AXES[axis][0]} %{x:,.4~s}<extra></extra>`,
        });
      }
      if (others.x.length)
        traces.unshift({ ...others, type: "scatter", mode: "lines", hoverinfo: "skip", opacity: 0.35,
          line: { color: css("--soft"), width: 0.7 } });
      traces.sort((a, b) => a.opacity - b.opacity);
      const logx = field("logx").checked, logy = field("logy").checked;
      const pad = (high - low) * 0.05 || 0.05;
      let range = Number.isFinite(low) ? [low - pad, high + pad] : undefined;
      if (range && logy) range = [Math.log10(low) - 0.01, Math.log10(high) + 0.01];
      Plotly.react(plot, traces, layout({
        xaxis: { title: { text: axis === "seconds" ? `wall-clock time (${unit})` : AXES[axis][0], standoff: 10 },
          type: logx ? "log" : "linear", tickformat: axis === "seconds" ? "" : "~s", nticks: plot.clientWidth < 500 ? 5 : 10 },
        yaxis: { title: { text: `${MEASURES[measure][0]} (${MEASURES[measure][1]})`.replace(/bits per byte \(.*/, "bits per byte"),
          standoff: 8 }, type: logy ? "log" : "linear", range, nticks: 8, ...(logy ? { dtick: "D2" } : {}) },
      }), config);
      field("share").textContent = share ? `${Math.round(share * 100)} %` : "off";
    }

    const list = legend.querySelector("ul");
    const order = [...study.shown, ...study.settings.keys()].filter((index, at, all) => all.indexOf(index) === at);
    order.forEach(index => {
      const setting = study.settings[index];
      const item = document.createElement("li"), label = document.createElement("label");
      const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: visible.has(index) });
      box.dataset.setting = index;
      const dash = { solid: "", dash: "7 4", dot: "2 3", dashdot: "7 3 2 3" }[setting.dash];
      const swatch = new DOMParser().parseFromString(
        `<svg xmlns="http://www.w3.org/2000/svg" width="30" height="10" aria-hidden="true"><line x1="1" y1="5" x2="29" y2="5"
         stroke="${setting.colour === "ink" ? "currentColor" : setting.colour}" stroke-width="3" stroke-dasharray="${dash}"/></svg>`,
        "image/svg+xml").documentElement;
      const text = Object.assign(document.createElement("span"), { className: "text", textContent: setting.label });
      if (setting.ended) text.textContent += ` (${setting.ended})`;
      label.append(box, swatch, text);
      item.append(label);
      list.append(item);
    });
    list.addEventListener("change", event => {
      const index = Number(event.target.dataset.setting);
      event.target.checked ? visible.add(index) : visible.delete(index);
      draw();
    });
    legend.querySelector(".tools").addEventListener("click", event => {
      if (!event.target.name || event.target.name === "find") return;
      for (const box of list.querySelectorAll("li:not([hidden]) input")) {
        box.checked = event.target.name === "all";
        box.checked ? visible.add(Number(box.dataset.setting)) : visible.delete(Number(box.dataset.setting));
      }
      draw();
    });
    const find = legend.querySelector("[name=find]");
    find.addEventListener("input", () => {
      for (const item of list.children)
        item.hidden = !item.textContent.toLowerCase().includes(find.value.toLowerCase());
    });
    if (study.settings.length < 2) legend.hidden = true;
    if (study.settings.length <= 12) legend.querySelector(".find").hidden = true;
    form.addEventListener("input", draw);
    form.addEventListener("submit", event => event.preventDefault());
    return draw;
  }

  function summary(study, place) {
    const found = study.summary, plot = document.getElementById(`summary-${place}`);
    if (!found) return () => {};
    const along = found.kind === "axis";
    if (!along) plot.style.height = `${Math.max(170, 34 * found.points.length + 90)}px`;
    return () => {
      const ink = css("--ink"), accent = css("--accent"), bad = css("--bad");
      const short = text => along || text.length <= 30 || plot.clientWidth > 600 ? text : `${text.slice(0, 29)}…`;
      const place = point => along ? point.at : escape(short(point.at));
      const swap = (at, value) => along ? { x: at, y: value } : { x: value, y: at };
      const done = found.points.filter(p => p.mean !== null), gone = found.points.filter(p => p.diverged);
      const seeds = done.flatMap(p => p.values.map(value => [place(p), value]));
      const bottom = Math.min(...done.map(p => Math.min(...p.values, p.mean - (p.reach || 0))));
      const most = Math.max(...done.map(p => Math.max(...p.values, p.mean + (p.reach || 0))));
      const top = most + 0.1 * (most - bottom || 1);  // above all finite values
      const bars = { visible: done.some(p => p.reach), type: "data", symmetric: true, array: done.map(p => p.reach), thickness: 1.8, width: 6, color: accent };
      const traces = [
        { ...swap(seeds.map(s => s[0]), seeds.map(s => s[1])), mode: "markers", hoverinfo: "skip",
          marker: { color: "rgba(0,0,0,0)", size: 7, line: { color: ink, width: 1 } }, opacity: 0.55 },
        { ...swap(done.map(place), done.map(p => p.mean)), mode: (along ? "lines+markers" : "markers") + "+text",
          text: done.map(p => p.unstable), textposition: along ? "top left" : "top center", textfont: { color: bad, size: 12 },
          line: { color: accent, width: 1.5 }, marker: { color: done.map(p => p.unstable ? bad : accent), size: 9, symbol: done.map(p => p.best ? "diamond" : "circle") },
          [along ? "error_y" : "error_x"]: bars, customdata: done.map(p => p.text),
          hovertemplate: "<b>%{customdata}</b><extra></extra>" },
        { ...swap(gone.map(place), gone.map(() => top)), mode: "markers+text", cliponaxis: false,
          text: gone.map(p => along ? p.diverged.replace(" diverged", "<br>diverged") : p.diverged), textposition: along ? "top center" : "middle left", textfont: { color: bad, size: 12 },
          marker: { color: bad, size: 10, symbol: "x" }, hovertemplate: "%{text}<extra></extra>" },
      ];
      const span = top - bottom, range = gone.length ? [bottom - 0.08 * span, top + 0.12 * span] : undefined;
      const values = { range, title: { text: found.measure, standoff: 8 }, nticks: 8 };
      // Room at both ends, so that no mark lies on the frame.
      const ends = along && [found.points[0].at, found.points[found.points.length - 1].at].map(v => found.log ? Math.log10(v) : v);
      // Ticks that would overlap are left out.
      let free = -Infinity;
      const ticks = along ? found.ticks.filter(value => {
        const share = ((found.log ? Math.log10(value) : value) - ends[0]) / (ends[1] - ends[0]);
        const at = share * 0.86 * (plot.clientWidth - 75), half = 4 * `${Number(value.toPrecision(4))}`.length + 4;
        if (at - half < free) return false;
        free = at + half;
        return true;
      }) : [];
      const room = along && (ends[1] - ends[0]) * 0.08;
      const places = along
        ? { title: { text: escape(found.axis), standoff: 10 }, type: found.log ? "log" : "linear", tickmode: "array",
            range: [ends[0] - room, ends[1] + room], tickangle: 0, tickvals: ticks, ticktext: ticks.map(v => `${Number(v.toPrecision(4))}`) }
        : { type: "category", autorange: "reversed", categoryorder: "array",
            categoryarray: found.points.map(place), range: undefined };
      Plotly.react(plot, traces, layout(along ? { xaxis: places, yaxis: values } : { xaxis: values, yaxis: places }), config);
    };
  }

  const draws = data.studies.flatMap((study, place) => [summary(study, place), chart(study, place)]);
  for (const draw of draws) draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draws.forEach(draw => draw()));

  for (const table of document.querySelectorAll("table.sortable"))
    table.tHead.addEventListener("click", event => {
      const head = event.target.closest("th");
      if (!head) return;
      const column = [...head.parentNode.children].indexOf(head), down = head.getAttribute("aria-sort") === "ascending";
      for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = row => row.children[column].dataset.k;
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        const [p, q] = [key(a), key(b)], [m, n] = [Number(p), Number(q)];
        if (p === "" || q === "") return (p === "") - (q === "");  // what is missing comes last, either way
        return (down ? -1 : 1) * (Number.isNaN(m) || Number.isNaN(n) ? p.localeCompare(q) : m - n);
      });
      table.tBodies[0].append(...rows);
    });
  document.documentElement.dataset.ready = "true";
})();
