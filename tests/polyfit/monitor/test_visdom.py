"""`Visdom`: what it sends to a server or a file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monitor_runs import COEF, F64, Clock, a_run, a_view, evaluate, some_losses

from polyfit.monitor import Visdom
from polyfit.monitor.calling import MonitorGroup
from polyfit.training import Losses


class Connection:
    """Replaces visdom.Visdom: keeps the messages as JSON would, and changes opts as visdom does."""

    def __init__(self, **options: Any) -> None:
        self.options, self.sent = options, []

    def line(self, Y: Any, X: Any, win: str, env: str, opts: dict[str, Any], update: str | None = None) -> None:  # noqa: N803
        assert isinstance(X, np.ndarray)
        assert X.shape == Y.shape
        assert "mode" not in opts
        opts["mode"] = "lines"
        assert np.isfinite(X).all()
        assert not np.isinf(Y).any()
        self.sent.append({"x": X.tolist(), "y": Y.tolist(), "win": win, "env": env, "update": update, "opts": opts})


def the_line(sent: list[dict[str, Any]], window: str) -> list[tuple[float, float]]:
    """The points that a window shows after these messages."""
    points: list[tuple[float, float]] = []
    for one in sent:
        if one["win"] == window:
            new = list(zip(one["x"], one["y"], strict=True))
            points = points + new if one["update"] == "append" else new
    return points


@pytest.mark.parametrize("seconds", [0.0, 0.1])
def test_visdom_appends_and_then_completes(seconds: float):
    clock = Clock()

    class Slowed(Connection):
        def line(self, *args: Any, **options: Any) -> None:
            super().line(*args, **options)
            clock.now += seconds

    connection = Slowed()
    losses = some_losses(300)
    x = torch.rand(30)
    view = a_view(x)
    a_run(
        MonitorGroup(Visdom(connection, env="lab", window="sin"), share=0.04, clock=clock),
        losses, COEF, view=view, clock=clock, seconds=0.01,
    )  # fmt: skip
    assert {one["env"] for one in connection.sent} == {"lab"}
    of_loss = [one for one in connection.sent if one["win"] == "sin"]
    assert of_loss[0]["update"] is None
    assert of_loss[0]["x"] == [0]
    assert (len(of_loss) == 300) == (seconds == 0.0)
    assert all(one["update"] == "append" for one in of_loss[1 : 300 if seconds == 0.0 else -1])
    assert the_line(of_loss, "sin") == list(zip(losses.epochs.tolist(), losses.values.tolist(), strict=True))
    assert of_loss[-1]["opts"]["ytype"] == "log"
    (of_fit,) = [one for one in connection.sent if one["win"] == "sin fit"]
    in_order = x.sort().values
    columns = np.stack([in_order.sin(), evaluate(in_order, COEF)], 1)
    assert of_fit["x"] == np.stack([in_order, in_order], 1).astype(float).tolist()
    assert of_fit["y"] == columns.astype(float).tolist()
    assert of_fit["opts"]["legend"] == ["data", "polynomial"]


def test_visdom_leaves_infinities_out_and_has_no_log_axis_without_positive_losses():
    connection = Connection()
    losses = Losses(torch.tensor([0, 10, 20]), torch.tensor([-1.0, torch.inf, torch.nan], dtype=F64))
    a_run(MonitorGroup(Visdom(connection)), losses, COEF * torch.nan)
    shown = the_line(connection.sent, "training")
    assert shown[0] == (0, -1.0)
    assert np.isnan([y for _, y in shown[1:]]).all()
    assert "ytype" not in connection.sent[0]["opts"]


def test_visdom_makes_a_connection_with_the_options(monkeypatch: pytest.MonkeyPatch):
    made = []

    class Module:
        @staticmethod
        def Visdom(**options: Any) -> Connection:  # noqa: N802
            made.append(options)
            return Connection(**options)

    monkeypatch.setitem(sys.modules, "visdom", Module)
    Visdom(port=1234, env="lab")
    Visdom(raise_exceptions=False)
    assert made == [{"port": 1234, "env": "lab", "raise_exceptions": True}, {"env": "main", "raise_exceptions": False}]
    with pytest.raises(TypeError, match=r"connection is given with options of a new one \(port, server\)"):
        Visdom(Connection(), port=1234, server="there")


def test_visdom_itself_without_a_server(tmp_path: Path):
    pytest.importorskip("visdom")
    log = tmp_path / "run.log"
    losses = some_losses(300)
    a_run(MonitorGroup(Visdom(log_to_filename=str(log), offline=True)), losses, COEF)
    sent = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    assert sent[0][0] == "events"
    of_loss = [
        {
            **message,
            **{axis: message["data"][0][axis] for axis in "xy"},
            "update": "append" if kind == "update" else None,
        }
        for kind, message in sent
    ]
    assert the_line(of_loss, "training") == list(zip(losses.epochs.tolist(), losses.values.tolist(), strict=True))
    kind, message = sent[-1]
    assert (kind, message["win"]) == ("events", "training fit")
    assert [(trace["name"], trace["mode"]) for trace in message["data"]] == [
        ("data", "markers"),
        ("polynomial", "lines"),
    ]
