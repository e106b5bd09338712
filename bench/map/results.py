"""The recorded results of the map: JSON lines, appended as they come. The last line of a point and setting counts."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.map.points import NOISE, Point, required

FOLDER = Path(__file__).parents[1] / "results"
AFTER, BEFORE = "map.jsonl", "map-before.jsonl"


@dataclass(frozen=True)
class Setting:
    """How a process measures.

    Args:
        threads: of torch.
        busy: whether another process keeps each core busy.
    """

    threads: int
    busy: bool = False

    def __str__(self) -> str:
        """In words."""
        return f"{self.threads} thread{'s' * (self.threads != 1)}, {'busy' if self.busy else 'quiet'}"


@dataclass(frozen=True)
class Result:
    """One measured point.

    Attributes:
        point: what was measured.
        setting: threads and neighbours.
        facts: the line: machine, seconds, peer_seconds, and peak and peer_peak in bytes where memory was counted.
    """

    point: Point
    setting: Setting
    facts: dict[str, Any]

    @property
    def ratio(self) -> float:
        """The time of the peer divided by ours: above 1, polyfit is faster."""
        return self.facts["peer_seconds"] / self.facts["seconds"]

    @property
    def required(self) -> float:
        """The ratio that is wanted."""
        return required(self.point, self.setting.busy)

    @property
    def is_met(self) -> bool:
        """Whether the ratio is what is wanted, but for noise, and the results are right."""
        return self.facts["is_right"] and self.ratio >= self.required * (1.0 - NOISE)

    @property
    def shortfall(self) -> float:
        """The ratio divided by the one that is wanted: the smaller, the worse."""
        return self.ratio / self.required

    @property
    def holds_more(self) -> bool:
        """Whether the call holds more memory beyond operands and results than that of the peer."""
        return "peak" in self.facts and self.facts["peak"] > self.facts["peer_peak"]


Map = dict[tuple[Point, Setting], Result]


def read(path: Path) -> Map:
    """All results of a file; none where there is no file. Text that is no result, such as half a line, is left out."""
    found: Map = {}
    if not path.exists():
        return found
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(json.JSONDecodeError, KeyError, TypeError):
            facts = json.loads(text)
            point, setting = Point(**facts["point"]), Setting(facts["threads"], facts["busy"])
            if min(facts["seconds"], facts["peer_seconds"]) > 0 and "is_right" in facts:
                found[point, setting] = Result(point, setting, facts)
    return found


def worst(results: Iterable[Result], count: int) -> list[Result]:
    """The results that are farthest below what is wanted."""
    return sorted(results, key=lambda result: result.shortfall)[:count]
