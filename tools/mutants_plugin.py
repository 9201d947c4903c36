"""A pytest plugin of mutants.py: records which test reaches which line, or runs chosen tests in a chosen order.

The environment says which: MUTANTS_RECORD names the file to write, MUTANTS_SOURCES the source files to follow (a JSON
list); MUTANTS_TESTS names a JSON file of [node id, seconds until it counts as hanging], in the order of the run.
"""

from __future__ import annotations

import faulthandler
import json
import os
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path

import pytest


class Recorder:
    """Follows the sources from before their first import, under the name of the test that runs."""

    def __init__(self, out: Path, sources: list[str]) -> None:
        import coverage

        self.out, self.sources = out, sources
        self.seconds: dict[str, float] = defaultdict(float)
        self.failed: set[str] = set()
        self.fixtures: dict[str, list[str]] = {}
        self.measured = coverage.Coverage(data_file=None, include=sources, messages=False)
        self.measured.start()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, None, None]:
        wide = [d for all_of in item._fixtureinfo.name2fixturedefs.values() for d in all_of if d.scope != "function"]
        self.fixtures[item.nodeid] = sorted(f"{d.baseid}::{d.argname}" for d in wide if d.baseid.startswith("tests"))
        self.measured.switch_context(f"{item.nodeid}\tset-up")
        yield

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, None, None]:
        self.measured.switch_context(f"{item.nodeid}\tcall")
        yield

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] += report.duration
        if report.failed:
            self.failed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        self.measured.stop()
        data = self.measured.get_data()
        reached = {source: data.contexts_by_lineno(source) for source in self.sources}
        record = {
            "seconds": self.seconds, "failed": sorted(self.failed), "fixtures": self.fixtures, "reached": reached
        }  # fmt: skip
        self.out.write_text(json.dumps(record), encoding="utf-8")


class Chooser:
    """Runs the chosen tests only; one that hangs ends the process, with a traceback that begins with `Timeout`."""

    def __init__(self, chosen: dict[str, float]) -> None:
        self.chosen = chosen
        self.rank = {name: number for number, name in enumerate(chosen)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        kept = [item for item in items if item.nodeid in self.rank]
        items[:] = sorted(kept, key=lambda item: self.rank[item.nodeid])

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        faulthandler.dump_traceback_later(self.chosen[item.nodeid], exit=True, file=STDERR)
        try:
            return (yield)
        finally:
            faulthandler.cancel_dump_traceback_later()


# Both before pytest captures the output and before conftest.py: no line of the sources runs earlier.
STDERR = os.dup(2)
RECORD, TESTS = os.environ.pop("MUTANTS_RECORD", ""), os.environ.pop("MUTANTS_TESTS", "")
RECORDER = Recorder(Path(RECORD), json.loads(os.environ.pop("MUTANTS_SOURCES"))) if RECORD else None


def pytest_configure(config: pytest.Config) -> None:
    """Registers what the environment asked for."""
    if RECORDER:
        config.pluginmanager.register(RECORDER)
    if TESTS:
        config.pluginmanager.register(Chooser(dict(json.loads(Path(TESTS).read_text(encoding="utf-8")))))
