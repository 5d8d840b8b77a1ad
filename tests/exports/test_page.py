"""The page: one file, nothing from the network, every text escaped, and all that the report holds."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from html_reader import Reader
from tokenprior.arm import ArmReport, Design
from tokenprior.comparison import Comparison, differ
from tokenprior.exports.page import comparison_page
from tokenprior.plot import round_numbers
from tokenprior.rollout import Usage
from tokenprior.statistics import bootstrap_mean

HOSTILE = "</td><script>alert('x')</script>\"'&\ud800"


def arm(name: str, values: list[float | None], *, task: str = "t", k: int = 1) -> ArmReport:
    scored = [value for value in values if value is not None]
    score = bootstrap_mean(scored, resamples=200, seed=0) if scored else None
    return ArmReport(
        arm=name,
        library_version="0123456789ab",
        prior=name,
        experiences=2,
        omitted=1,
        score=score,
        passes={1: score, k: score} if score and k > 1 else {},
        commonest=(name, 0.5),
        scored=len(scored),
        unscored=1,
        failed={"timeout": 2},
        cut_off=3,
        usage=Usage(calls=1, input_tokens=12_345, output_tokens=6),
        latency_s=1.25,
        tasks={f"{task}{i}": (value,) * k for i, value in enumerate(values)},
    )


def report(*arms: ArmReport, k: int = 1, total: int | None = None) -> dict[str, object]:
    design = Design(k=k, resamples=200, reward_range=(0.0, 1.0) if total else None)
    done = len(arms[0].tasks)
    stopped = (done, total) if total else None
    made = Comparison(
        arms=arms,
        differences=differ(arms, design, stopped_after=stopped),
        constant=("yes", 0.25),
        design=design,
        tasks_done=done,
        tasks_total=total or done,
    )
    value: dict[str, object] = json.loads(json.dumps(made.to_json()))
    return value


BASE, LEARNED = arm("no prior", [0.0] * 8), arm("learned", [1.0] * 7 + [None])


def test_the_page_says_what_the_report_says() -> None:
    made = {"name": "demo", "date": "2026-11-25 10:00 UTC", "model": "m", "temperature": 0.3, "verifier": "exact"}
    page = Reader(comparison_page(report(BASE, LEARNED) | {"made": made | {"tokenprior": "0.1.0", "python": "3.13"}}))
    assert "▲ learned helps: +1.000 [+1.000, +1.000] against no prior (7 tasks better" in page.text
    assert "Best constant answer: yes to every task would score 0.250." in page.text
    assert "8 of 8 tasks, 1 attempt for each task and arm, model m, temperature 0.3, verifier exact." in page.text
    assert "2 (2 timeout) 3 learned , 50% 2 (1 left out) 12,345 6 $0.0000 1.2 0123456789ab" in page.text
    assert "Made 2026-11-25 10:00 UTC by tokenprior 0.1.0, Python 3.13; seed 0." in page.text
    assert [attributes["class"] for tag, attributes in page.tags if tag == "li"] == ["helps"]


def test_the_page_needs_nothing_but_itself() -> None:
    page = comparison_page(report(BASE, LEARNED))
    tags = Reader(page).tags
    assert not {"script", "link", "img", "iframe", "object", "form"} & {tag for tag, _ in tags}
    assert not re.search(r"https?:|//|url\(|@import|\bon\w+=", page)
    assert not any({"src", "href", "style"} & attributes.keys() for _, attributes in tags)
    assert ("http-equiv", "Content-Security-Policy") in [pair for _, a in tags for pair in a.items()]


def test_every_text_is_escaped_and_can_be_written_to_a_file(tmp_path: Path) -> None:
    value = report(arm(HOSTILE, [0.0] * 8, task=HOSTILE), arm(HOSTILE + "2", [1.0] * 8, task=HOSTILE), k=1)
    value |= {"best_constant_answer": [HOSTILE, 0.5]}
    value |= {"made": dict.fromkeys(("name", "date", "model", "temperature", "verifier", "tokenprior"), HOSTILE)}
    text = comparison_page(value)
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    page = Reader(text)
    assert "script" not in {tag for tag, _ in page.tags}
    assert "<script" not in text
    assert page.text.count("<script>alert('x')</script>") > 10


def test_tasks_are_sorted_by_their_gain_and_those_without_one_stand_last() -> None:
    page = comparison_page(report(arm("a", [0.5, 0.0, 1.0, None]), arm("b", [0.5, 1.0, 0.0, 1.0])))
    assert re.findall(r'<th scope="row">(t\d)</th>', page) == ["t1", "t0", "t2", "t3"]
    assert "<td>–</td><td>1</td>" in page


def test_a_table_has_headers_and_a_plot_has_words() -> None:
    tags = Reader(comparison_page(report(BASE, LEARNED, arm("placebo", [0.0, 1.0] * 4), k=4))).tags
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in tags if tag == "th")
    assert sum(tag == "caption" for tag, _ in tags) == sum(tag == "table" for tag, _ in tags) == 3
    plots = [attributes for tag, attributes in tags if tag == "svg"]
    assert len(plots) == 2
    assert all(plot["role"] == "img" for plot in plots)
    assert "learned +1.000 [+1.000, +1.000]" in str(plots[1]["aria-label"])
    places = [float(str(a["cx"]).rstrip("%")) for tag, a in tags if tag == "circle"]
    assert len(places) == 5
    assert all(0 <= place <= 100 for place in places)


def test_pass_at_has_columns_where_there_is_one() -> None:
    plain = comparison_page(report(BASE, LEARNED))
    assert "pass@" not in plain
    four = comparison_page(report(arm("a", [0.0] * 8, k=4), arm("b", [1.0] * 8, k=4), k=4))
    assert re.findall(r"pass@\d", four) == ["pass@1", "pass@4"]


def test_an_early_stop_is_said() -> None:
    page = Reader(comparison_page(report(arm("a", [0.0] * 40), arm("b", [1.0] * 40), total=100)))
    assert "40 of 100 tasks, stopped early" in page.text
    assert "stopped after 40 of 100 tasks." in page.text
    assert "confidence sequences" in page.text


def test_reports_at_the_edge_are_shown_too() -> None:
    alone = Reader(comparison_page(report(BASE)))
    assert "Verdicts" not in [attributes.get("aria-label") for _, attributes in alone.tags]
    nothing = arm("nothing", [None] * 8)
    page = Reader(comparison_page(report(BASE, nothing, replace(BASE, arm="same"))))
    assert "– nothing against no prior: nothing to compare." in page.text
    assert "= same puts the same words" in page.text
    graded = Reader(comparison_page(report(arm("a", [-7.0, 1e6]), arm("b", [3.5, 12.0]))))
    assert "best constant answer" not in " ".join(str(a.get("aria-label")) for _, a in graded.tags)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.03, 0.021), (0, 0), (5, 5), (-7, 1e6), (0.2, 0.2000001)])
def test_a_scale_has_a_fewround_numbers_and_holds_everything(low: float, high: float) -> None:
    ticks = round_numbers(low, high)
    assert 2 <= len(ticks) <= 8
    assert ticks[0] <= low + 1e-6
    assert ticks[-1] >= high - 1e-6
