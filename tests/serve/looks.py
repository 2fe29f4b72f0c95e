"""Checks of a page that any of the two must pass: it fits, has names for all controls, and its texts can be read."""

from __future__ import annotations

from typing import Any

TOO_WIDE = """() => [...document.querySelectorAll('h1, h2, h3, p, label, select, button, summary, input, textarea, figure')]
  .filter(e => e.checkVisibility() && !e.closest('.scroll') && !e.matches('.skip, .unseen, .unseen *'))
  .filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"""
NAMELESS = """() => [...document.querySelectorAll('button, input, select, textarea, a, [tabindex="0"], summary')]
  .filter(e => e.checkVisibility())
  .filter(e => !(e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.labels?.length
    || e.textContent.trim() || e.title)).map(e => e.outerHTML.slice(0, 80))"""
# WCAG's contrast of each text with the nearest background behind it: at least 4.5, or 3 if it is large.
PALE = """() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgba = colour => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = ([r, g, b]) => { const f = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b); };
  const ground = e => { for (; e; e = e.parentElement) { const c = rgba(getComputedStyle(e).backgroundColor); if (c[3] > 250) return c; }
    return rgba(getComputedStyle(document.body).backgroundColor); };
  const found = [];
  for (const e of document.querySelectorAll('body *')) {
    if (!e.checkVisibility() || e.matches('.unseen, .unseen *, .skip, :disabled, option')) continue;
    if (![...e.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())) continue;
    const style = getComputedStyle(e), text = rgba(e.namespaceURI.includes('svg') ? style.fill : style.color);
    const [a, b] = [light(text), light(ground(e))], ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < (parseFloat(style.fontSize) >= 24 ? 3 : 4.5)) found.push([e.outerHTML.slice(0, 80), Math.round(ratio * 100) / 100]);
  }
  return found;
}"""
# Lines and marks of charts: at least 3 against the background.
PALE_LINES = """() => [0, 1, 2, 3, 4, 5].map(i => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const probe = document.body.appendChild(document.createElement('span'));
  probe.className = 'c' + i; probe.style.color = 'var(--c)';
  const pixel = colour => { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = ([r, g, b]) => { const f = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b); };
  const [a, b] = [light(pixel(getComputedStyle(probe).color)), light(pixel(getComputedStyle(document.body).backgroundColor))];
  probe.remove();
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
})"""


def check_looks(page: Any) -> None:
    """Assert that nothing is wider than the window, every control has a name, and every text has contrast, light and dark."""
    for scheme, ground in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 23, 27)")):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == ground
        assert page.evaluate(PALE) == []
        assert min(page.evaluate(PALE_LINES)) >= 3
    width, inner = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert width <= inner
    assert page.evaluate(TOO_WIDE) == []
    assert page.evaluate(NAMELESS) == []
    assert len(page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")) == page.evaluate(
        "new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size"
    )


def focused(page: Any) -> str:
    """What has the focus: its id, or its text."""
    return str(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))


def has_visible_focus(page: Any) -> bool:
    """Whether what has the focus shows it."""
    outline = page.evaluate(
        "(s => [s.outlineStyle, parseFloat(s.outlineWidth)])(getComputedStyle(document.activeElement))"
    )
    return outline[0] != "none" and outline[1] >= 1
