// What both pages need: elements without markup from strings, numbers as text, the theme, and an address that keeps the state.
// No text ever becomes markup: names of runs, samples and tokens come from outside.

export const $ = id => document.getElementById(id);
function build(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (["value", "checked", "indeterminate", "disabled", "textContent"].includes(name)) element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter(child => child !== null && child !== undefined && child !== false));
  return element;
}
export const h = (tag, attributes, ...children) => build(document.createElement(tag), attributes, children);
export const s = (tag, attributes, ...children) =>
  build(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

const missing = value => value === null || value === undefined || !Number.isFinite(value);
export const whole = value => missing(value) ? "–" : Math.round(value).toLocaleString("en-US");
export const loss = value => missing(value) ? "–" : value < 1000 ? value.toFixed(4) : short(value, 4);

// 12.3k, 4.5M, 0.0312, 1.5e-3
export function short(value, digits = 3) {
  if (missing(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e15 || (size && size < 1e-2)) return value.toExponential(digits - 1).replace(/\.?0+e/, "e").replace("e+", "e");
  for (const [scale, name] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]])
    if (size >= 0.9995 * scale) return Number((value / scale).toPrecision(digits)) + name;
  return String(Number(value.toPrecision(digits)));
}

export function time(seconds) {
  if (missing(seconds)) return "–";
  if (seconds < 99.5) return `${seconds < 9.95 ? Math.round(seconds * 10) / 10 : Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60), hours = Math.floor(minutes / 60);
  if (minutes < 60) return `${minutes} min`;
  return hours < 48 ? `${hours} h ${String(minutes % 60).padStart(2, "0")} min` : `${Math.floor(hours / 24)} days ${hours % 24} h`;
}

// Storage may be forbidden; the pages then forget, and work.
function stored(change) { try { return change(localStorage); } catch { return null; } }

// Ask the server; where it wants a key, the reader is asked for it, once for this tab.
let key = stored(() => sessionStorage.getItem("groundup-key")), asking = null;
export async function ask(path, options = {}) {
  const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  const answer = await fetch(path, { cache: "no-store", ...options, headers });
  if (answer.status !== 401) return answer;
  await (asking ||= new Promise(done => {
    const field = h("input", { type: "password", "aria-label": "Key of the server", autocomplete: "off", required: true });
    const dialog = h("dialog", { onclose: () => { stored(() => sessionStorage.setItem("groundup-key", key = field.value)); dialog.remove(); asking = null; done(); } },
      h("form", { method: "dialog", class: "tools" }, h("label", {}, "This server asks for its key: ", field), h("button", { class: "primary" }, "Go on")));
    document.body.append(dialog);
    dialog.showModal();
  }));
  return ask(path, options);
}

export function themeButton(button) {
  const names = { auto: "as the system", light: "light", dark: "dark" }, order = Object.keys(names);
  const apply = theme => {
    document.documentElement.dataset.theme = theme;
    button.textContent = { auto: "◐", light: "☀", dark: "☾" }[theme];
    button.title = `Theme: ${names[theme]}`;
    button.setAttribute("aria-label", `Theme: ${names[theme]}; change`);
  };
  let theme = stored(storage => storage.getItem("groundup-theme"));
  apply(theme = order.includes(theme) ? theme : "auto");
  button.addEventListener("click", () => {
    apply(theme = order[(order.indexOf(theme) + 1) % order.length]);
    stored(storage => storage.setItem("groundup-theme", theme));
  });
}

// The state behind the # of the address: name=value&name=value.
export function readAddress() {
  const pairs = location.hash.slice(1).split("&").filter(Boolean).map(pair => pair.split(/=(.*)/s));
  return Object.fromEntries(pairs.map(([name, value]) => [name, value || ""]));
}
export function writeAddress(state) {
  const pairs = Object.entries(state).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  history.replaceState(null, "", `#${pairs.map(([name, value]) => `${name}=${value}`).join("&")}`);
}
export const plain = value => { try { return decodeURIComponent(value); } catch { return value; } };
export function copyButton(button, text) {
  const label = button.textContent;
  button.addEventListener("click", async () => {
    try { await navigator.clipboard.writeText(text()); button.textContent = "Copied"; }
    catch { button.textContent = "The browser forbids it"; }
    setTimeout(() => { button.textContent = label; }, 1500);
  });
}
