"""Monitors: how they are called, by a clock of the test's own, and what the ready ones write, read back."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.polynomial.polynomial import polyval
from torch import Tensor

from polyfit.monitor import MonitorWarning, ProgressBar, Recorder, TensorBoard, View, Visdom, records
from polyfit.monitor.calling import MonitorGroup
from polyfit.training import Losses

F64 = torch.float64


class Clock:
    """Stands still but for what is added to it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Slow:
    """Takes its time."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock, self.seconds, self.epochs = clock, seconds, []
        self.losses: list[float] = []

    def __call__(self, epoch: int, loss: float, coef: Tensor) -> None:
        self.clock.now += self.seconds
        self.epochs.append(epoch)
        self.losses.append(loss)

    @property
    def spent(self) -> float:
        return self.seconds * len(self.epochs)


class Thorough(Slow):
    every_record = True


def evaluate(x: Tensor, coef: Tensor) -> Tensor:
    return sum((coef[..., k : k + 1] * x**k for k in range(coef.shape[-1])), torch.zeros_like(x))


def a_view(x: Tensor | None = None, y: Tensor | None = None, epochs: int = 100) -> View:
    x = torch.linspace(-1.0, 1.0, 50) if x is None else x
    return View(x, x.sin() if y is None else y, epochs, evaluate)


def a_run(
    monitors: MonitorGroup,
    losses: Losses,
    coef: Tensor,
    *,
    view: View | None = None,
    clock: Clock | None = None,
    seconds: float = 1e-3,
    marks_last: bool = True,
) -> None:
    """A run, of which a record takes `seconds`."""
    monitors.begin(a_view() if view is None else view)
    epochs = losses.epochs.tolist()
    for i, epoch in enumerate(epochs):
        if clock is not None:
            clock.now += seconds
        is_last = marks_last and i == len(epochs) - 1
        monitors(epoch, lambda i=i: float(losses.values[i].mean()), lambda: coef, is_last=is_last)
    monitors.end(losses, coef)


def some_losses(n_records: int, *batch: int) -> Losses:
    epochs = 10 * torch.arange(n_records)
    shares = torch.rand(n_records, *batch, dtype=F64)
    return Losses(epochs, shares + torch.exp(-0.01 * epochs.double()).view(-1, *(1 for _ in batch)))


COEF = torch.tensor([0.1, 0.9, -0.2])


# --- how they are called ---


@pytest.mark.parametrize("marks_last", [True, False])
@pytest.mark.parametrize("costs", [[1e-5], [0.01], [3.0], [0.01, 0.05], [0.01, 1e-6, 0.3]])
def test_calls_take_their_share_of_the_time(costs: list[float], marks_last: bool):
    clock = Clock()
    slow = [Slow(clock, seconds) for seconds in costs]
    losses = some_losses(5000)
    a_run(MonitorGroup(slow, share=0.04, clock=clock), losses, COEF, clock=clock, marks_last=marks_last)
    epochs = losses.epochs.tolist()
    for one in slow:
        allowed = 0.04 / len(slow) * clock.now
        assert one.spent <= allowed + 2 * one.seconds  # a call begins within the share, and the last comes anyway
        assert one.epochs == epochs or one.spent >= allowed - one.seconds - 1e-3
        assert (one.epochs[0], one.epochs[-1]) == (epochs[0], epochs[-1])
        assert one.epochs == sorted(set(one.epochs))
        assert one.losses == [float(losses.values[epoch // 10]) for epoch in one.epochs]


def test_the_share_is_of_the_time_since_the_beginning():
    clock = Clock()
    slow = Slow(clock, 0.01)
    monitors = MonitorGroup(slow, share=0.04, clock=clock)
    clock.now += 1e6
    a_run(monitors, some_losses(100), COEF, clock=clock)
    assert len(slow.epochs) == 2  # 100 ms, of which 4 % are less than a call


def test_monitors_are_given_two_percent():
    clock = Clock()
    slow = Slow(clock, 0.01)
    a_run(MonitorGroup(slow, clock=clock), some_losses(20_000), COEF, clock=clock)
    assert slow.spent == pytest.approx(0.02 * clock.now, rel=0.1)


def test_making_what_is_shown_counts_as_well():
    clock = Clock()
    light = Slow(clock, 0.0)
    monitors = MonitorGroup(light, share=0.04, clock=clock)
    monitors.begin(a_view())

    def costly() -> Tensor:
        clock.now += 0.01
        return COEF

    for epoch in range(1000):
        clock.now += 1e-3
        monitors(epoch, lambda: 1.0, costly)
    assert 0.03 * clock.now < 0.01 * len(light.epochs) < 0.05 * clock.now


def test_what_nobody_sees_is_not_made():
    clock = Clock()
    monitors = MonitorGroup(Slow(clock, 10.0), share=0.04, clock=clock)
    monitors.begin(a_view())
    monitors(0, lambda: 1.0, lambda: COEF)
    monitors(1, lambda: pytest.fail("made"), lambda: pytest.fail("made"))


def test_every_record_is_every_one_and_takes_nothing_from_others():
    clock = Clock()
    losses = some_losses(1000)
    thorough, slow = Thorough(clock, 1e-3), Slow(clock, 0.01)
    a_run(MonitorGroup([thorough, slow], share=0.04, clock=clock), losses, COEF, clock=clock)
    assert thorough.epochs == losses.epochs.tolist()
    assert 0.03 * clock.now < slow.spent < 0.05 * clock.now


def test_a_run_that_ended_at_a_skipped_record_shows_it_once():
    clock = Clock()
    slow, thorough = Slow(clock, 10.0), Thorough(clock, 0.0)
    losses = some_losses(3, 4)
    a_run(MonitorGroup([slow, thorough], share=0.04, clock=clock), losses, COEF, clock=clock, marks_last=False)
    assert slow.epochs == [0, 20]
    assert thorough.epochs == [0, 10, 20]
    assert slow.losses[1] == pytest.approx(float(losses.values[2].mean()), rel=1e-15)


def test_each_is_handed_a_copy_of_its_own():
    coef = COEF.clone().requires_grad_()
    seen = []

    def spoil(epoch: int, loss: float, coef: Tensor) -> None:
        seen.append(coef.clone())
        coef.fill_(7.0)

    class Spoiler:
        def __call__(self, epoch: int, loss: float, coef: Tensor) -> None:
            spoil(epoch, loss, coef)

        def end(self, losses: Losses, coef: Tensor) -> None:
            spoil(0, 0.0, coef)

    a_run(MonitorGroup([Spoiler(), spoil, Spoiler()]), some_losses(1), coef)
    assert len(seen) == 5
    for one in seen:
        assert torch.equal(one, COEF)
        assert not one.requires_grad
    assert torch.equal(coef, COEF)


def test_begin_and_end_tell_what_they_promise():
    told = []

    class Listener:
        def begin(self, view: View) -> None:
            told.append(view)

        def __call__(self, epoch: int, loss: float, coef: Tensor) -> None:
            told.append(epoch)

        def end(self, losses: Losses, coef: Tensor) -> None:
            told.append((losses, coef))

    view, losses = a_view(), some_losses(1)
    a_run(MonitorGroup(Listener()), losses, COEF, view=view)
    assert told[0] is view
    assert told[1] == 0
    assert told[2][0] is losses
    assert torch.equal(told[2][1], COEF)
    assert len(told) == 3


class Fails:
    """Raises when the time has come."""

    every_record = True

    def __init__(self, when: str, error: BaseException) -> None:
        self.when, self.error = when, error
        self.calls: list[str] = []

    def _at(self, name: str) -> None:
        self.calls.append(name)
        if name == self.when:
            raise self.error

    def begin(self, view: View) -> None:
        self._at("begin")

    def __call__(self, epoch: int, loss: float, coef: Tensor) -> None:
        self._at(f"record {epoch}")

    def end(self, losses: Losses, coef: Tensor) -> None:
        self._at("end")


WHEN = {"begin": 1, "record 0": 2, "record 10": 3, "record 20": 4, "end": 5}


@pytest.mark.parametrize("when", WHEN)
def test_a_monitor_that_fails_is_warned_of_once_and_the_run_goes_on(when: str):
    fails, recorder = Fails(when, OSError("disk full")), Recorder()
    monitors = MonitorGroup([fails, recorder])
    losses = some_losses(3)
    with pytest.warns(MonitorWarning) as caught:
        a_run(monitors, losses, COEF)
    assert [str(one.message) for one in caught] == [
        "the monitor Fails raised OSError('disk full'); it is not called any more, and the run continues"
    ]
    assert caught[0].filename == __file__  # the line that called
    assert fails.calls == ["begin", "record 0", "record 10", "record 20", "end"][: WHEN[when]]
    assert recorder.epochs == losses.epochs.tolist()
    assert monitors


def test_none_is_left_after_the_last_has_failed():
    monitors = MonitorGroup(lambda epoch, loss, coef: 1 / 0)
    assert monitors
    monitors.begin(a_view())
    with pytest.warns(MonitorWarning, match=r"<lambda> raised ZeroDivisionError"):
        monitors(0, lambda: 1.0, lambda: COEF)
    assert not monitors
    assert not MonitorGroup(None)
    assert not MonitorGroup([])


@pytest.mark.parametrize("when", WHEN)
def test_ctrl_c_ends_the_run(when: str):
    with pytest.raises(KeyboardInterrupt):
        a_run(MonitorGroup(Fails(when, KeyboardInterrupt())), some_losses(3), COEF)


def test_what_fails_in_the_run_is_not_laid_on_a_monitor():
    monitors = MonitorGroup(Recorder())
    monitors.begin(a_view())
    with pytest.raises(ZeroDivisionError):
        monitors(0, lambda: 1 / 0, lambda: COEF)
    assert monitors


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (3, "monitor is int; pass a function"),
        ("bar", "monitor is str; pass a function"),
        ([Recorder(), None], "monitor is NoneType; pass a function"),
        (Recorder, r"monitor is the class Recorder; pass one of its objects: Recorder\(...\)"),
    ],
)
def test_what_is_no_monitor_is_refused(wrong: Any, message: str):
    with pytest.raises(TypeError, match=message):
        MonitorGroup(wrong)


def test_recorder_keeps_all():
    recorder, losses = Recorder(), some_losses(200)
    a_run(MonitorGroup(recorder), losses, COEF)
    assert recorder.epochs == losses.epochs.tolist()
    assert recorder.losses == losses.values.tolist()
    assert len(recorder.coefs) == 200
    assert len({coef.data_ptr() for coef in recorder.coefs}) == 200


def test_the_package_imports_nothing_that_shows():
    code = (
        "import sys, polyfit, polyfit.monitor; print({'rich', 'tensorboard', 'visdom', 'matplotlib'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# --- progress bar ---


def assert_ended(threads: list[threading.Thread]) -> None:
    """What has been started since then, redrawing a bar ten times a second, has ended or is about to."""
    for thread in threading.enumerate():
        if thread not in threads:
            thread.join(5.0)
            assert not thread.is_alive()


@pytest.mark.parametrize("epochs", [None, 2000])
@pytest.mark.parametrize("as_context", [True, False])
def test_progress_bar_without_a_terminal(capsys: pytest.CaptureFixture[str], epochs: int | None, as_context: bool):
    threads = threading.enumerate()
    losses = some_losses(101)
    bar = ProgressBar(epochs, "polishing")
    if as_context:
        with bar:
            a_run(MonitorGroup(bar), losses, COEF, view=a_view(epochs=1000))
    else:
        a_run(MonitorGroup(bar), losses, COEF, view=a_view(epochs=1000))
    out = capsys.readouterr().out
    assert_ended(threads)
    assert out.count("polishing") == 1
    assert f"1000/{epochs or 1000} " in out
    assert f"loss {float(losses.values[-1]):.6g} " in out


def test_progress_bar_goes_through_one_run_after_the_other(capsys: pytest.CaptureFixture[str]):
    with ProgressBar() as bar:
        for epochs in (10, 40):
            a_run(MonitorGroup(bar), some_losses(epochs // 10 + 1), COEF, view=a_view(epochs=epochs))
    out = capsys.readouterr().out
    assert "10/10 " in out
    assert "40/40 " in out
    assert out.count("training") == 2


def test_progress_bar_in_a_run_that_fails_is_ended_by_its_context(capsys: pytest.CaptureFixture[str]):
    threads = threading.enumerate()

    def fail() -> None:
        with ProgressBar() as bar:
            bar.begin(a_view())
            bar(10, 0.5, COEF)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert_ended(threads)
    assert "10/100 loss 0.5" in capsys.readouterr().out


# --- TensorBoard ---


def read_log(folder: Path) -> Any:
    """What TensorBoard keeps of the one file in a folder, all of it."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert len(list(folder.iterdir())) == 1
    log = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    log.Reload()
    return log


@pytest.mark.parametrize("batch", [(), (3,), (2, 2)])
@pytest.mark.parametrize("seconds", [0.0, 0.05])
def test_tensorboard_holds_each_record_once_and_in_order(tmp_path: Path, seconds: float, batch: tuple[int, ...]):
    pytest.importorskip("tensorboard")
    clock = Clock()

    class Slowed(TensorBoard):
        n_calls = 0

        def __call__(self, epoch: int, loss: float, coef: Tensor) -> None:
            super().__call__(epoch, loss, coef)
            clock.now += seconds
            self.n_calls += 1

    board, losses = Slowed(tmp_path / "log"), some_losses(300, *batch)
    a_run(MonitorGroup(board, share=0.04, clock=clock), losses, COEF.expand(*batch, 3), clock=clock, seconds=0.01)
    assert (board.n_calls == 300) == (seconds == 0.0)
    log = read_log(tmp_path / "log")
    assert log.Tags()["scalars"] == ["loss"]
    events = log.Scalars("loss")
    assert [event.step for event in events] == losses.epochs.tolist()
    written = np.array([event.value for event in events])
    expected = losses.values.numpy().reshape(300, -1).mean(1).astype(np.float32)
    # a mean of several in float64 may be summed in another order, and lie on the other side of a float32's border
    np.testing.assert_allclose(written, expected, rtol=2.0**-23 if batch else 0.0, atol=0.0)
    times = [event.wall_time for event in events]
    assert times == sorted(times)


def test_tensorboard_shows_the_curve(tmp_path: Path):
    pytest.importorskip("tensorboard")
    image = pytest.importorskip("PIL.Image")
    a_run(MonitorGroup(TensorBoard(str(tmp_path))), some_losses(20), COEF)
    log = read_log(tmp_path)
    assert log.Tags()["images"] == ["fit"]
    (event,) = log.Images("fit")
    assert event.step == 190
    pixels = np.asarray(image.open(io.BytesIO(event.encoded_image_string)).convert("RGB")).astype(int)
    assert pixels.shape[0] > 300
    assert pixels.shape[1] > 2 * pixels.shape[0]
    left, right = np.split(pixels[:, : pixels.shape[1] // 2 * 2], 2, axis=1)
    is_red, is_blue = ((half[..., c] > 1.5 * half[..., 2 - c]).sum() for half, c in ((left, 0), (right, 2)))
    assert is_red > 100  # the loss
    assert is_blue > 100  # the polynomial


def test_tensorboard_of_a_run_that_became_infinite(tmp_path: Path):
    pytest.importorskip("tensorboard")
    losses = Losses(torch.tensor([0, 10, 17]), torch.tensor([1.0, 1e200, torch.inf], dtype=F64))
    board = TensorBoard(tmp_path)
    monitors = MonitorGroup(board)
    monitors.begin(a_view())
    for epoch, loss in ((0, 1.0), (10, 1e200), (20, float("nan"))):  # what is shown may be later than what is kept
        monitors(epoch, lambda loss=loss: loss, lambda: COEF * torch.nan)
    monitors.end(losses, COEF * torch.inf)
    log = read_log(tmp_path)
    assert [(event.step, event.value) for event in log.Scalars("loss")] == [(0, 1.0), (10, torch.inf), (17, torch.inf)]
    assert len(log.Images("fit")) == 1


def test_tensorboard_keeps_the_losses_where_the_picture_fails(tmp_path: Path):
    pytest.importorskip("tensorboard")
    x = torch.linspace(-1.0, 1.0, 5)

    def refuse(x: Tensor, coef: Tensor) -> Tensor:
        raise RuntimeError("no memory")

    losses = some_losses(3)
    monitors = MonitorGroup(TensorBoard(tmp_path))
    monitors.begin(View(x, x, 20, refuse))
    monitors(0, lambda: float(losses.values[0]), lambda: COEF)
    with pytest.warns(MonitorWarning, match="TensorBoard raised .*no memory"):
        monitors.end(losses, COEF)
    assert [event.step for event in read_log(tmp_path).Scalars("loss")] == [0, 10, 20]


# --- what is drawn, by both ---

DRAWN = {
    "one series": ((40,), (40,), (3,)),
    "of a batch the first": ((4, 40), (4, 40), (4, 3)),
    "of a batch of two axes": ((40,), (2, 4, 40), (2, 4, 3)),
    "x and y shared": ((40,), (40,), (4, 3)),
    "one polynomial of all": ((4, 40), (4, 40), (3,)),
    "long": ((12_001,), (12_001,), (3,)),
    "of one sample": ((1,), (1,), (3,)),
}


@pytest.mark.parametrize("case", DRAWN)
def test_what_is_drawn(case: str):
    x_shape, y_shape, coef_shape = DRAWN[case]
    x, y, coef = torch.randn(x_shape), torch.randn(y_shape), torch.randn(coef_shape)
    shown = records.data_and_fit(a_view(x, y), coef)
    x_row, y_row = np.broadcast_arrays(x.numpy(), y.numpy())
    if len(coef_shape) > 1:
        x_row, y_row = x_row.reshape(-1, x.shape[-1])[0], y_row.reshape(-1, y.shape[-1])[0]
    x_row, y_row = x_row.ravel(), y_row.ravel()
    if case == "long":
        x_row, y_row = x_row[::3], y_row[::3]
    order = np.argsort(x_row)
    fitted = polyval(x_row[order].astype(float), coef.reshape(-1, 3)[0].double().numpy())
    np.testing.assert_array_equal(shown[0], x_row[order])
    np.testing.assert_array_equal(shown[1], y_row[order])
    # degree 2 in float32: a few roundings of terms of this size
    scale = polyval(np.abs(x_row[order]).astype(float), coef.reshape(-1, 3)[0].double().abs().numpy())
    np.testing.assert_array_less(np.abs(shown[2].numpy() - fitted), 4 * 2.0**-23 * scale)
    assert all(values.dtype == F64 and len(values) <= 5000 for values in shown)


# --- Visdom ---


class Connection:
    """In place of visdom.Visdom: keeps what is sent, as JSON would, and writes into opts, as that one does."""

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
    """What a window shows after all that was sent."""
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


def test_visdom_leaves_out_what_is_not_finite_and_no_logarithm():
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


# --- what is missing ---


@pytest.mark.parametrize(
    ("module", "make", "extra"),
    [
        ("rich.progress", ProgressBar, "cli"),
        ("torch.utils.tensorboard", lambda: TensorBoard("never"), "tensorboard"),
        ("matplotlib", lambda: TensorBoard("never"), "tensorboard"),
        ("visdom", Visdom, "visdom"),
    ],
)
def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, module: str, make: Any, extra: str):
    if module == "matplotlib":
        pytest.importorskip("tensorboard")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        ImportError, match=rf"needs {module}: .*; install it with: pip install 'fused-polyfit\[{extra}\]'"
    ):
        make()
    assert not Path("never").exists()
