// The playground: text of a served model as it is generated, with the probability of every token; and its tokenizer.
import { $, ask, copyButton, h, plain, readAddress, short, themeButton, writeAddress } from "./shared.js";

const SETTINGS = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens", "seed"];
const FIELDS = ["prompt", "model", ...SETTINGS, "stop_at"], ALTERNATIVES = 5, MOST_TOKENS = 3000;
const bytes = text => new TextEncoder().encode(text);
const visible = text => text.replace(/ /g, "·").replace(/\n/g, "⏎").replace(/\t/g, "→").replace(/\r/g, "␍") || "(part of a character)";
const percent = p => p >= 0.9995 ? "100 %" : p < 0.0005 ? "< 0.1 %" : `${(100 * p).toFixed(1)} %`;
let stopping = null, generated = "";
function trouble(message) {
  $("trouble").textContent = message;
  $("trouble").hidden = !message;
}

// What the server says is wrong, or the best that can be said instead.
async function problemOf(answer) {
  try {
    const { error, detail, message } = await answer.json();
    return error?.message || message || (typeof detail === "string" ? detail : "") || (typeof error === "string" ? error : `${answer.status} ${answer.statusText}`);
  } catch { return `${answer.status} ${answer.statusText}`; }
}

const post = (path, body, signal) => ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal });
function request() {
  const body = { model: $("model").value, prompt: $("prompt").value, stream: true, logprobs: ALTERNATIVES };
  for (const name of SETTINGS) if ($(name).value !== "") body[name] = Number($(name).value);
  const stops = $("stop_at").value.split("\n").filter(Boolean).map(text => text.replace(/\\n/g, "\n").replace(/\\t/g, "\t"));
  return stops.length ? { ...body, stop: stops } : body;
}

// Events of a stream, one JSON value each, until [DONE].
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split(/\r?\n\r?\n/);
    rest = parts.pop();
    for (const part of parts) {
      const text = part.split(/\r?\n/).filter(line => line.startsWith("data:")).map(line => line.slice(5).trim()).join("\n");
      if (text === "[DONE]") return;
      if (text) yield JSON.parse(text);
    }
  }
}

const token = (text, about) => {
  const p = about && Number.isFinite(about.logprob) ? Math.exp(about.logprob) : null;
  const grade = p === null ? "" : `q${[0.9, 0.5, 0.2, 0.05].filter(limit => p < limit).length}`;
  const made = h("span", { class: `tok ${grade}${/^\n+$/.test(text) ? " newline" : ""}${text ? "" : " part"}`, tabindex: "-1" }, text);
  made.about = about && { ...about, p };
  return made;
};

// The tokens of a piece of the stream. Offsets count characters, not the UTF-16 units of a string; a token that ends inside
// a character has no text.
function tokensOf({ text, logprobs }) {
  if (!logprobs?.tokens?.length) return text ? [token(text, null)] : [];
  const characters = [...text], { tokens, token_logprobs: values, top_logprobs: top, text_offset: offsets } = logprobs, base = offsets?.[0] ?? 0;
  let from = 0;
  return tokens.map((name, i) => {
    const to = i === tokens.length - 1 ? characters.length : Math.max(from, Math.min((offsets?.[i + 1] ?? base + from + [...name].length) - base, characters.length));
    const made = token(characters.slice(from, to).join(""), { name, logprob: values?.[i], top: top?.[i] || {} });
    from = to;
    return made;
  });
}

async function generate() {
  const controller = stopping = new AbortController(), body = request(), began = performance.now();
  let [first, count, reason] = [0, 0, ""];
  generated = "";
  $("text").replaceChildren(h("span", { class: "prompt" }, body.prompt));
  [$("go").disabled, $("stop").disabled] = [true, false];
  $("text").setAttribute("aria-busy", "true");
  $("speed").textContent = "waiting for the first token…";
  trouble(""); save(); hidePeek();
  const rate = () => {
    const speed = short(count / (performance.now() - began) * 1000), wait = short((first - began) / 1000);
    return first ? `${count} ${count === 1 ? "token" : "tokens"} · ${speed} tokens/s · first after ${wait} s` : "no tokens";
  };
  try {
    const answer = await post("/v1/completions", body, controller.signal);
    if (!answer.ok) throw new Error(await problemOf(answer));
    for await (const event of events(answer.body)) {
      if (event.error) throw new Error(event.error.message || String(event.error));
      const choice = event.choices?.[0];
      if (!choice) continue;
      const spans = tokensOf(choice);
      if (spans.length) first ||= performance.now();
      count += spans.length;
      generated += choice.text || "";
      reason = choice.finish_reason || reason;
      $("text").append(...spans);
      $("speed").textContent = rate();
    }
    $("speed").textContent = rate() + ({ length: " · reached max tokens", stop: " · the model ended the text", abort: " · stopped" }[reason] || "");
  } catch (error) {
    if (error.name === "AbortError") $("speed").textContent = `${rate()} · stopped`;
    else { $("speed").textContent = count ? `${rate()} · broken off` : ""; trouble(error instanceof TypeError ? "The server does not answer: it was stopped, or the connection is lost." : error.message); }
  } finally {
    stopping = null;
    [$("go").disabled, $("stop").disabled] = [false, true];
    $("text").removeAttribute("aria-busy");
    const spans = $("text").querySelectorAll(".tok");
    if (spans.length) spans[0].tabIndex = 0;
    $("scale").hidden = ![...spans].some(span => span.about);
  }
}

// Alternatives of the token under the pointer or with the focus
function peek(span) {
  const { about } = span;
  if (!about) return hidePeek();
  const tops = Object.entries(about.top).map(([name, logprob]) => [name, Math.exp(logprob)]).sort((a, b) => b[1] - a[1]);
  const rows = (tops.some(([name]) => name === about.name) || about.p === null ? tops : [...tops, [about.name, about.p]]).map(([name, p]) => {
    const bar = h("i", {});
    bar.style.width = `${Math.max(1, 100 * p)}%`;
    return h("tr", { class: name === about.name ? "near" : null }, h("th", { scope: "row" }, visible(name)), h("td", {}, percent(p)), h("td", { class: "share" }, bar));
  });
  $("peek").replaceChildren(h("p", {}, h("b", {}, visible(about.name)), about.p === null ? "" : ` ${percent(about.p)}`), h("table", { "aria-label": "Alternatives" }, h("tbody", {}, rows)));
  $("peek").hidden = false;
  document.querySelector("[aria-describedby=peek]")?.removeAttribute("aria-describedby");
  span.setAttribute("aria-describedby", "peek");
  const [box, around] = [span.getClientRects()[0] || span.getBoundingClientRect(), $("form").getBoundingClientRect()];
  $("peek").style.left = `${Math.max(0, Math.min(box.left - around.left, around.width - $("peek").offsetWidth))}px`;
  const below = box.bottom - around.top + 6, above = box.top - around.top - $("peek").offsetHeight - 6;
  $("peek").style.top = `${box.bottom + $("peek").offsetHeight + 8 > innerHeight && above > 0 ? above : below}px`;
}
function hidePeek() { $("peek").hidden = true; }

// One stop of the tab key for all tokens of a list; arrows move inside.
function moves(list, selector) {
  list.addEventListener("keydown", event => {
    const all = [...list.querySelectorAll(selector)], i = all.indexOf(event.target);
    const to = { ArrowRight: i + 1, ArrowLeft: i - 1, ArrowDown: i + 10, ArrowUp: i - 10, Home: 0, End: all.length - 1 }[event.key];
    if (i < 0 || to === undefined) return;
    event.preventDefault();
    const next = all[Math.max(0, Math.min(to, all.length - 1))];
    [event.target.tabIndex, next.tabIndex] = [-1, 0];
    next.focus();
  });
}

// Tokenizer
let turns = 0, typing;
async function split() {
  const text = $("words").value, turn = ++turns, size = bytes(text).length;
  try {
    const answer = await post("/tokenize", { model: $("model").value, prompt: text });
    if (turn !== turns) return;
    if (!answer.ok) { $("count").textContent = await problemOf(answer); $("tokens").replaceChildren(); return; }
    const { tokens, count } = await answer.json();
    $("count").textContent = `${count} ${count === 1 ? "token" : "tokens"} · ${size} bytes · ${[...text].length} characters` + (count ? ` · ${short(size / count)} bytes per token` : "");
    const cells = tokens.slice(0, MOST_TOKENS).map(({ id, text: part, bytes: data }, i) => {
      const hex = data.map(byte => byte.toString(16).padStart(2, "0")).join(" ");
      return h("li", { tabindex: i ? "-1" : "0", title: `id ${id}, bytes ${hex}` }, h("b", {}, visible(part)), h("span", {}, String(id)), h("small", {}, hex));
    });
    if (tokens.length > MOST_TOKENS) cells.push(h("li", {}, `and ${tokens.length - MOST_TOKENS} more`));
    $("tokens").replaceChildren(...cells);
  } catch { if (turn === turns) $("count").textContent = "the server does not answer"; }
}

// State and controls
function save() {
  writeAddress(Object.fromEntries(FIELDS.filter(name => $(name).value !== $(name).dataset.first).map(name => [name, encodeURIComponent($(name).value)])));
}
function restore() {
  const state = readAddress();
  for (const name of FIELDS) {
    const field = $(name);
    if (name === "model" && state.model && ![...field.options].some(option => option.value === plain(state.model))) continue;
    field.value = state[name] === undefined ? field.dataset.first : plain(state[name]);
  }
}

async function start() {
  try {
    const answer = await ask("/v1/models");
    if (!answer.ok) throw new Error(await problemOf(answer));
    const { data } = await answer.json();
    $("model").replaceChildren(...data.map(({ id }) => h("option", { value: id }, id)));
    if (!data.length) trouble("The server has no models.");
  } catch (error) { trouble(`The server does not list its models: ${error.message}`); }
  for (const name of FIELDS) $(name).dataset.first = $(name).value;
  restore();
  if (matchMedia("(max-width: 56rem)").matches) $("settings").open = false;
  await split();
  document.documentElement.dataset.ready = "";
}

themeButton($("theme")); copyButton($("link"), () => { save(); return location.href; });
copyButton($("copy"), () => $("prompt").value + generated);
copyButton($("curl"), () => `curl ${location.origin}/v1/completions -H 'Content-Type: application/json' -d '${JSON.stringify({ ...request(), stream: false }).replace(/'/g, "'\\''")}'`);
$("form").addEventListener("submit", event => { event.preventDefault(); if (!stopping) generate(); });
$("stop").addEventListener("click", () => stopping?.abort());
$("take").addEventListener("click", () => { $("prompt").value += generated; save(); $("prompt").focus(); });
$("coloured").addEventListener("change", () => $("text").classList.toggle("coloured", $("coloured").checked));
document.addEventListener("keydown", event => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); $("form").requestSubmit(); }
  if (event.key === "Escape") { hidePeek(); stopping?.abort(); }
});
for (const kind of ["pointerover", "focusin"]) $("text").addEventListener(kind, event => { if (event.target.classList.contains("tok")) peek(event.target); });
for (const kind of ["pointerleave", "focusout"]) $("text").addEventListener(kind, hidePeek);
moves($("text"), ".tok"); moves($("tokens"), "li");
document.addEventListener("change", event => { if (FIELDS.includes(event.target.id)) save(); });
$("model").addEventListener("change", split);
$("words").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(split, 200); });
addEventListener("hashchange", restore);
start();
