"""Checks of a page that any of the two must pass: it fits, has names for all controls, and its texts can be read."""

from __future__ import annotations

from typing import Any

TOO_WIDE = """() => [...document.querySelectorAll(
    'h1, h2, h3, p, label, select, button, summary, input, textarea, figure')]
  .filter(e => e.checkVisibility() && !e.closest('.scroll') && !e.matches('.skip, .unseen, .unseen *'))
  .filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"""
NAMELESS = """() => [...document.querySelectorAll('button, input, select, textarea, a, [tabindex="0"], summary')]
  .filter(e => e.checkVisibility())
  .filter(e => !(e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.labels?.length
    || e.textContent.trim() || e.title)).map(e => e.outerHTML.slice(0, 80))"""
# WCAG's contrast of two colours as CSS writes them.
CONTRAST = """
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgba = colour => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const linear = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = colour => (([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b))(rgba(colour));
  const ratioOf = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const contrast = (one, other) => ratioOf(light(one), light(other));
  const page = getComputedStyle(document.body).backgroundColor;
"""
# Texts below a contrast of 4.5 with the nearest background behind them, or 3 if they are large.
PALE = f"""() => {{ {CONTRAST}
  const ground = e => {{
    for (; e; e = e.parentElement) {{
      const colour = getComputedStyle(e).backgroundColor;
      if (rgba(colour)[3] > 250) return colour;
    }}
    return page;
  }};
  const found = [];
  for (const e of document.querySelectorAll('body *')) {{
    if (!e.checkVisibility() || e.matches('.unseen, .unseen *, .skip, :disabled, option')) continue;
    if (![...e.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())) continue;
    const style = getComputedStyle(e), colour = e.namespaceURI.includes('svg') ? style.fill : style.color;
    const ratio = contrast(colour, ground(e));
    if (ratio < (parseFloat(style.fontSize) >= 24 ? 3 : 4.5)) found.push([e.outerHTML.slice(0, 80), ratio]);
  }}
  return found;
}}"""
# Contrast of the lines of charts with the page.
LINES = f"""() => {{ {CONTRAST}
  const names = [0, 1, 2, 3, 4, 5].map(i => '--c' + i);
  const probe = document.body.appendChild(document.createElement('span'));
  const colour = name => {{ probe.style.color = `var(${{name}})`; return getComputedStyle(probe).color; }};
  const found = names.map(name => contrast(colour(name), page));
  probe.remove();
  return found;
}}"""


def check_looks(page: Any) -> None:
    """Assert that nothing is wider than the window, controls have names, and texts have contrast, light and dark."""
    for scheme, ground in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 23, 27)")):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == ground
        assert page.evaluate(PALE) == []
        assert min(page.evaluate(LINES)) >= 3
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
