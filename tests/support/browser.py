"""A page in a real browser: headless Chromium lays it out at several widths, and a script looks at the DOM."""

from __future__ import annotations

import html
import json
import re
import subprocess
from pathlib import Path
from typing import Any

from tests.support.tools import require

WIDTHS = (360, 768, 1280)
TIMEOUT_S = 120

# The page is given as it is, with its own policy, in frames of the same origin; what looks at it stands outside.
_MEASURE = """
const channel = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const light = c => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
const rgb = text => text.match(/[\\d.]+/g).map(Number);
function behind(element, view) {
  for (let e = element; e; e = e.parentElement) {
    const c = rgb(view.getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c;
  }
  return [255, 255, 255];
}
function measure(frame) {
  const d = frame.contentDocument, view = frame.contentWindow, root = d.documentElement;
  const faint = [], shown = [];
  for (const e of d.body.querySelectorAll('*')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.getClientRects().length || e.closest('svg')) continue;
    shown.push(e.textContent);
    const [a, b] = [light(rgb(view.getComputedStyle(e).color)), light(behind(e, view))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) faint.push(e.className + ' ' + e.textContent.slice(0, 40) + ' ' + contrast.toFixed(2));
  }
  const outside = [...d.querySelectorAll('.card, .banner, dl.tiles > div, svg.heat')]
    .filter(e => e.getBoundingClientRect().right > root.clientWidth + 1 || e.getBoundingClientRect().left < -1).length;
  return {width: root.clientWidth, height: root.scrollHeight,
    overflow: root.scrollWidth - root.clientWidth, outside, faint, shown,
    title: d.title, scripts: d.scripts.length, images: d.images.length, handlers: [...d.querySelectorAll('*')]
    .filter(e => [...e.attributes].some(a => a.name.startsWith('on'))).length,
    cells: d.querySelectorAll('svg.heat g').length, cards: d.querySelectorAll('.card').length,
    heat: [...d.querySelectorAll('svg.heat')].map(e => e.getBoundingClientRect().width),
    scrolling: [...d.querySelectorAll('.wide')].filter(e => e.scrollWidth > e.clientWidth + 1).length,
    verdict: (d.querySelector('.banner strong') || {}).textContent,
    backdrop: rgb(view.getComputedStyle(d.body).backgroundColor)};
}
window.onload = () => {
  const found = [...document.querySelectorAll('iframe')].map(measure);
  document.getElementById('measured').textContent = JSON.stringify(found);
};
"""


def laid_out(page: str, directory: Path, *, dark: bool = False) -> list[dict[str, Any]]:
    """What a browser makes of a page at each of WIDTHS: sizes, colours, texts that are seen."""
    browser = require("chromium", "chromium-browser", "google-chrome")
    frames = "".join(f'<iframe width="{width}" height="900" srcdoc="{html.escape(page)}"></iframe>' for width in WIDTHS)
    harness = directory / "harness.html"
    harness.write_text(
        '<!doctype html><html><head><meta charset="utf-8"><title>harness</title><style>iframe { border: 0 }</style>'
        f'</head><body>{frames}<pre id="measured"></pre><script>{_MEASURE}</script></body></html>',
        encoding="utf-8",
    )
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--user-data-dir={directory / 'profile'}", "--no-first-run", "--disable-background-networking"]
    command += [f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--window-size=1400,1000", "--dump-dom"]
    done = subprocess.run(
        [*command, harness.as_uri()], capture_output=True, text=True, timeout=TIMEOUT_S, check=True, cwd=directory
    )
    (measured,) = re.findall(r'<pre id="measured">(.*?)</pre>', done.stdout, re.DOTALL)
    parsed: list[dict[str, Any]] = json.loads(html.unescape(measured))
    return parsed
