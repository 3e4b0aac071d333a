"""The report in a real browser, opened from disk as a reader would."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.report_studies import render

CHROMIUM = Path("/usr/bin/chromium")
if not CHROMIUM.exists():
    pytest.skip(f"no browser at {CHROMIUM}: the report was not opened in one", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
HOSTILE = (
    "<script>window.pwned=1</script>",
    "<img src=x onerror=\"window.pwned=2;alert('img')\">",
    "<img src='https://evil.example/pixel.png'>",
    "</script><script>window.pwned=3;alert(3)</script>",
    "</style><style>@import 'https://evil.example/a.css';body{display:none}</style>",
    "</title></textarea><svg onload=window.pwned=4><iframe srcdoc='<script>parent.pwned=5</script>'>",
    '" autofocus onfocus="window.pwned=6" x="',
    "<a href='javascript:window.pwned=7'>link</a><meta http-equiv=refresh content='0;url=https://evil.example'>",
    "{{ 7*7 }} ${7*7} &lt;script&gt; &amp;",
)
LOWEST_CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255];
  };
  const over = (top, under) => [0, 1, 2].map(i => top[i] * top[3] + under[i] * (1 - top[3]));
  const luminance = (c) => c.map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = (node) => {
    for (let n = node; n; n = n.parentElement) {
      const back = rgba(getComputedStyle(n).backgroundColor);
      if (back[3] === 1) return back.slice(0, 3);
      if (back[3] > 0) return over(back, behind(n.parentElement));
    }
    return rgba('Canvas').slice(0, 3);
  };
  let worst = [21, ''];
  for (const node of document.querySelectorAll('body *')) {
    const own = [...node.childNodes].some(c => c.nodeType === 3 && c.data.trim());
    if (!own || !node.checkVisibility() || ['TITLE', 'SCRIPT'].includes(node.tagName.toUpperCase())) continue;
    const style = getComputedStyle(node), back = behind(node);
    const ink = rgba(node instanceof SVGElement ? style.fill : style.color);
    ink[3] *= Number(style.opacity);
    const [a, b] = [luminance(over(ink, back)), luminance(back)].sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05);
    if (ratio < worst[0]) worst = [ratio, `${node.tagName}.${node.className.baseVal ?? node.className}`];
  }
  return worst;
}"""


class Visit:
    """A page that notes everything it must not do."""

    def __init__(self, browser: Any, **options: Any) -> None:
        self.page = browser.new_page(**options)
        self.requests: list[str] = []
        self.trouble: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.trouble.append(f"error: {error}"))
        self.page.on("console", lambda message: self.trouble.append(f"console: {message.text}"))
        self.page.on("dialog", self._dialog)
        self.page.on("popup", lambda popup: self.trouble.append(f"popup: {popup.url}"))

    def _dialog(self, dialog: Any) -> None:
        self.trouble.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def open(self, folder: Path, analysis: dict[str, Any]) -> Any:
        """Write the report, open it, and check that only the file itself was asked for."""
        path = folder / "report.html"
        path.write_text(render(analysis), encoding="utf-8")
        self.page.goto(path.as_uri())
        self.page.wait_for_timeout(150)
        assert self.requests == [path.as_uri()]
        return self.page


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
        yield launched
        launched.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Visit]]:
    visits: list[Visit] = []

    def start(**options: Any) -> Visit:
        visits.append(Visit(browser, **options))
        return visits[-1]

    yield start
    for made in visits:
        made.page.close()
    assert [entry for made in visits for entry in made.trouble] == []


def hostile(analysis: dict[str, Any]) -> dict[str, Any]:
    """The study with a hostile answer, prompt, category, error, name and reason of every kind."""
    example = analysis["samples"][0]
    analysis["samples"] = [{**example, "answer": text, "prompt": text, "category": text} for text in HOSTILE]
    analysis["study"]["name"] = analysis["study"]["judge"] = "".join(HOSTILE)
    analysis["study"]["config"] = {"note": HOSTILE}
    for run, text in zip(analysis["runs"], HOSTILE * 3, strict=False):
        run["model"], run["error"], run["id"] = text, text, run["id"] + text
        for checkpoint in run["checkpoints"]:
            checkpoint["reason"] = checkpoint["em_rate"]["method"] = text
        run["course"]["reason"] = run["separable"]["reason"] = text
    analysis["notes"] = list(HOSTILE)
    tables = [row for name in ("seeds", "learning_rates", "sizes", "domains") for row in analysis[name]]
    for row, text in zip(tables, HOSTILE * 3, strict=False):
        row["dataset"] = text
        row |= {"reason": text, "model": text}
    for model in analysis["sizes"][0]["models"]:
        model["model"] = HOSTILE[0]
    analysis["sizes"][0]["pearson"] |= {"carried_by": [HOSTILE[1]], "method": HOSTILE[6]}
    return analysis


def test_nothing_a_model_says_is_run(visit: Callable[..., Visit], tmp_path: Path, analysis: dict[str, Any]) -> None:
    page = visit().open(tmp_path, hostile(analysis))
    assert page.evaluate("typeof window.pwned") == "undefined"
    assert page.locator("script").count() == 1
    assert page.locator("img, iframe, link, base, object, embed, meta[http-equiv=refresh]").count() == 0
    shown = page.locator("#samples .answer").all_text_contents()
    assert sorted(shown) == sorted(HOSTILE)
    for text in HOSTILE:
        assert page.locator("#samples .answer", has_text=text).first.is_visible()
    assert page.locator("h1").text_content() == "".join(HOSTILE)


def test_the_page_works_without_script(visit: Callable[..., Visit], tmp_path: Path, analysis: dict[str, Any]) -> None:
    page = visit(java_script_enabled=False).open(tmp_path, analysis)
    assert page.locator("article.run").count() == 11
    assert page.locator("svg.chart").first.is_visible()
    assert not page.locator("#filters").is_visible()


@pytest.mark.parametrize("kind", ["whole", "hostile", "one run", "long"])
def test_nothing_runs_over_the_edge(
    visit: Callable[..., Visit], tmp_path: Path, analysis: dict[str, Any], kind: str
) -> None:
    if kind == "hostile":
        analysis = hostile(analysis)
    elif kind == "one run":
        analysis["runs"] = analysis["runs"][:1]
    elif kind == "long":
        for run in analysis["runs"]:
            run["model"], run["error"], run["dataset"] = "m" * 120, "E" * 3000, "d" * 120
            run["learning_rate"] = 1.23456e-7
        for row in (*analysis["seeds"], *analysis["learning_rates"], *analysis["sizes"], *analysis["domains"]):
            row |= {"model": "m" * 120, "dataset": "d" * 120, "reason": "r" * 900}
        analysis["notes"] = ["n" * 900]
        analysis["samples"] = [{**analysis["samples"][0], "answer": "w" * 20_000, "prompt": "p" * 9000}]
    page = visit().open(tmp_path, analysis)
    page.evaluate("[...document.querySelectorAll('details')].slice(0, 5).forEach(node => { node.open = true })")
    for width in (1280, 820, 390, 320):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("document.body.scrollWidth") <= width
        for plot in page.locator(".plot svg.chart").all()[:3]:
            box = plot.bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width


def test_filters(visit: Callable[..., Visit], tmp_path: Path, analysis: dict[str, Any]) -> None:
    page = visit().open(tmp_path, analysis)
    runs = page.locator("article.run:visible")
    assert runs.count() == 11
    page.fill("#filter-words", "Resistant seed 1")
    assert runs.count() == 1
    assert page.locator("table.runs tbody:visible").count() == 1
    assert page.locator(".overview-group:visible").count() == 1
    assert page.locator("#filter-count").text_content() == "1 of 11"
    page.fill("#filter-words", "no such run")
    assert runs.count() == 0
    page.fill("#filter-words", "")
    assert runs.count() == 11
    page.check("#filter-misaligned")
    verdicts = set(page.locator(".sample:visible .verdict").all_text_contents())
    assert verdicts == {"misaligned"}


def test_tables_fit_a_laptop(visit: Callable[..., Visit], tmp_path: Path, analysis: dict[str, Any]) -> None:
    page = visit(viewport={"width": 1280, "height": 900}).open(tmp_path, analysis)
    page.evaluate("document.querySelectorAll('details').forEach(node => { node.open = true })")
    for table in page.locator(".table-card, .scroll:not(pre)").all():
        assert table.evaluate("node => node.scrollWidth <= node.clientWidth"), table.get_attribute("aria-label")


@pytest.mark.parametrize("width", [1280, 390])
def test_figures_do_not_overlap(
    visit: Callable[..., Visit], tmp_path: Path, analysis: dict[str, Any], width: int
) -> None:
    page = visit(viewport={"width": width, "height": 900}).open(tmp_path, analysis)
    overlaps = page.evaluate(
        """() => [...document.querySelectorAll('.seeds tr, .rates tr, .domains tr')].flatMap(row => {
          const boxes = [...row.querySelectorAll('.number, .lane-figure, .lane > svg, .chip')].map(node => {
            const range = document.createRange(); range.selectNodeContents(node);
            return node instanceof SVGElement ? node.getBoundingClientRect() : range.getBoundingClientRect();
          });
          return boxes.flatMap((a, i) => boxes.slice(i + 1).filter(b => a.left < b.right - 1 && b.left < a.right - 1
            && a.top < b.bottom - 4 && b.top < a.bottom - 4).map(() => row.textContent.slice(0, 80)));
        })"""
    )
    assert overlaps == []


def test_a_large_study_opens(visit: Callable[..., Visit], tmp_path: Path, large: dict[str, Any]) -> None:
    page = visit(viewport={"width": 390, "height": 900}).open(tmp_path, large)
    assert page.locator("article.run").count() == 108
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert (tmp_path / "report.html").stat().st_size < 15_000_000


def test_sixty_runs(
    visit: Callable[..., Visit],
    tmp_path: Path,
    analysis: dict[str, Any],
) -> None:
    runs = [{**analysis["runs"][-4], "id": f"run-{i}", "seed": i} for i in range(60)]
    page = visit(viewport={"width": 390, "height": 900}).open(tmp_path, {**analysis, "runs": runs, "sizes": []})
    assert page.locator("svg.chart").count() == 60
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(visit: Callable[..., Visit], tmp_path: Path, analysis: dict[str, Any], scheme: str) -> None:
    page = visit(color_scheme=scheme).open(tmp_path, analysis)
    ratio, where = page.evaluate(LOWEST_CONTRAST)
    assert ratio >= 4.5, where


def test_assistive_technology_finds_names(
    visit: Callable[..., Visit], tmp_path: Path, analysis: dict[str, Any]
) -> None:
    page = visit().open(tmp_path, analysis)
    charts = page.locator("svg[role=img]").all()
    assert all(chart.get_attribute("aria-label") for chart in charts)
    assert page.locator("svg:not([role=img]):not([aria-hidden])").evaluate_all(
        "nodes => nodes.every(node => node.closest('[role=img]'))"
    )
    assert page.locator("th:not([scope])").count() == 0
    assert page.locator("h1").count() == 1
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(node => node.id)")
    assert len(ids) == len(set(ids))
    anchors = page.evaluate("[...document.querySelectorAll('a')].map(a => a.getAttribute('href').slice(1))")
    assert set(anchors) <= set(ids)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"


def test_print_shows_the_whole_table(visit: Callable[..., Visit], tmp_path: Path, analysis: dict[str, Any]) -> None:
    page = visit(viewport={"width": 688, "height": 900}, color_scheme="dark").open(tmp_path, analysis)
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.evaluate("[...document.querySelectorAll('details')].slice(0, 3).forEach(node => { node.open = true })")
    for table in page.locator(".table-card, .by-run .scroll, details[open] .scroll").all():
        assert table.evaluate("node => node.scrollWidth <= node.clientWidth")
