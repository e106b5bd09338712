"""Every example of README.md and docs/: each page is run from top to bottom in an empty folder, outputs included.

- A ``python`` block that begins with ``>>>`` is a doctest; numbers must agree to the digits that the page shows.
- A ``csv`` block is written to the file that the text before it names last.
- A ``sh`` block is run; a ``text`` block is what the ``sh`` block before it prints.
- ``<!-- skip: next -->`` leaves out a block that installs something or runs for minutes.
"""

import contextlib
import doctest
import functools
import io
import os
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from sybil import Document, Example
from sybil.evaluators.doctest import NUMBER, OutputChecker
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

from polyfit.__main__ import main

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | NUMBER


def write_file(example: Example) -> None:
    named = re.findall(r"`([\w.]+\.csv)`", example.document.text[: example.region.start])
    Path(named[-1]).write_text(example.parsed, encoding="utf-8")


def run_shell(example: Example) -> None:
    """Commands of polyfit run in this process, which has imported torch already; all others in a shell."""
    lines = example.parsed.replace("\\\n", " ").splitlines()
    is_ours = all(line.startswith("python -m polyfit ") and not set(line) & set("|;&<>") for line in lines)
    example.namespace["printed"] = "".join(map(run_polyfit, lines)) if is_ours else run_in_shell(example.parsed)


def run_polyfit(line: str) -> str:
    printed, status = io.StringIO(), None
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
    ):
        patch.setattr(sys, "argv", ["polyfit", *shlex.split(line, comments=True)[3:]])
        try:
            main()
        except SystemExit as ended:
            status = ended.code
    assert status == 0, f"{line}\n{printed.getvalue()}status {status}"
    return printed.getvalue()


def run_in_shell(script: str) -> str:
    this_python_first = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    this_polyfit = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    done = subprocess.run(
        ["bash", "-eu", "-c", script],
        env={**os.environ, "PATH": this_python_first, "PYTHONPATH": this_polyfit},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}status {done.returncode}"
    return done.stdout


def check_printed(example: Example) -> str | None:
    """What is wrong with the output that the page shows; None if nothing is."""
    shown, printed = example.parsed, example.namespace["printed"]
    if OutputChecker().check_output(shown, printed, OPTIONS):
        return None
    return OutputChecker().output_difference(doctest.Example("", shown), printed, OPTIONS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_run_and_print_what_the_page_shows(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")  # rich breaks lines there
    # Inductor takes 10 to 40 s for a graph. Here the graph is only traced, which shows that the example is right;
    # tests/polyfit/test_transforms.py runs compiled code.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    # The name under which sybil runs examples. torch 2.11 reads the globals of a compiled function from its module.
    module = types.ModuleType("__test__")
    monkeypatch.setitem(sys.modules, "__test__", module)
    parsers = (
        PythonCodeBlockParser(doctest_optionflags=OPTIONS),
        CodeBlockParser("csv", write_file),
        CodeBlockParser("sh", run_shell),
        CodeBlockParser("text", check_printed),
        SkipParser(),
    )
    for example in Document.parse(str(page), *parsers):
        module.__dict__.update(example.namespace)
        example.evaluate()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_of_the_project(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8"))
    for link in links:
        if not re.match(r"https?://", link):
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), link
            if anchor:
                headings = re.findall(r"^#+ (.+)$", target.read_text("utf-8"), re.MULTILINE)
                assert anchor in {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}, link
