"""How the embedded model is served: what was measured is kept, and holds for the machine it was measured on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tokenprior.errors import EmbeddedModelError
from tokenprior.models.tune import Measured, best
from tokenprior.models.tuning import FILE, Tuning, keep_tuning, kept_tuning
from tokenprior.rollout import Usage


def test_what_is_kept_is_found_again_by_model(tmp_path: Path) -> None:
    keep_tuning("large", Tuning(slots=2, threads=1, batch=128), tmp_path)
    keep_tuning("small", Tuning(slots=8), tmp_path)
    assert kept_tuning("large", tmp_path) == Tuning(slots=2, threads=1, batch=128)
    assert kept_tuning("small", tmp_path) == Tuning(slots=8)
    assert kept_tuning("another", tmp_path) is None


def test_what_was_measured_on_other_cores_does_not_hold_here(tmp_path: Path) -> None:
    file = keep_tuning("large", Tuning(slots=2), tmp_path)
    kept = json.loads(file.read_text())
    kept["large"]["made_on"]["cores"] = -1
    file.write_text(json.dumps(kept))
    assert kept_tuning("large", tmp_path) is None


@pytest.mark.parametrize("text", ["", "[]", '{"large": 1}', '{"large": {"tuning": {"slots": 2}}}', "no JSON"])
def test_a_file_that_is_none_of_ours_is_as_if_nobody_had_measured(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    assert kept_tuning("large", tmp_path) is None


def test_a_folder_that_cannot_be_written_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedModelError, match="cannot be written"):
        keep_tuning("large", Tuning(), tmp_path / "file")


def test_a_setting_has_to_be_faster_by_more_than_noise() -> None:
    made = [
        Measured(tuning=Tuning(slots=slots), attempts_per_minute=speed, usage=Usage())
        for slots, speed in ((4, 100.0), (8, 102.0), (2, 110.0), (1, 111.0))
    ]
    assert best(made).tuning.slots == 2
