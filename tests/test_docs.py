"""The pages of the documentation run: each page's Python blocks in order, in one namespace; `>>>` lines must print what follows."""

from __future__ import annotations

import doctest
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tracegrad.ir.config import config

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md"])
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture
def flags_restored() -> Iterator[None]:
    """A page may set flags for what follows on it; the next page starts as a reader does."""
    before = config.values
    yield
    for name, value in before.items():
        config.update(name, value)


@pytest.mark.usefixtures("flags_restored")
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_the_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": f"docs_{page.stem}"}
    text = page.read_text()
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    with np.errstate(all="ignore"):
        for match in BLOCK.finditer(text):
            code, line = match.group(1), text.count("\n", 0, match.start(1))
            if ">>>" in code:
                test = doctest.DocTestParser().get_doctest(code, namespace, page.name, str(page), line)
                report: list[str] = []
                runner.run(test, out=report.append, clear_globs=False)
                namespace.update(test.globs)
                assert runner.summarize(verbose=False).failed == 0, "".join(report)
            else:
                exec(compile("\n" * line + code, str(page), "exec"), namespace)


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", prose):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}, which does not exist"


def test_every_flag_is_documented_as_it_is() -> None:
    from tracegrad.ir.config import FLAGS

    page = (ROOT / "docs" / "flags.md").read_text()
    for flag in FLAGS.values():
        assert f"| `{flag.name}` | `{flag.default!r}` | `TRACEGRAD_{flag.name.upper()}` | {flag.help} |" in page


def test_ci_runs_the_test_command_of_the_readme() -> None:
    commands = re.findall(r"^```sh\n(.*?)\n```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(commands) == 2
    assert commands[1] in (ROOT / ".ci" / "run").read_text().splitlines()
