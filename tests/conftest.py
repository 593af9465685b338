"""What several tests share: tiny cohorts, and a trainer that fits into a second."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import importlib
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

ROOT = Path(__file__).resolve().parents[1]
BUNDLES = sorted(path.parent.parent for path in ROOT.glob("bundles/*/configs/train.yaml"))
DIFFERENT = ("mean_teacher", "contrastive_mutual", "coarse_refined")
"""Three of the bundles: the plain one, the one with a network for each modality, and the one with a cascade."""

sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "tests"))

pytest_plugins = [
    "annotation_fixtures",
    "download_fixtures",
    "mlflow_fixtures",
    "page_fixtures",
    "report_fixtures",
]  # no conftest.py in tests/annotate or tests/study: this one is imported by its name

torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


def each_bundle(*quick: str) -> pytest.MarkDecorator:
    """A test of every bundle. Name those that ``make test`` needs: the test is slow for all others.

    Without names it runs for every bundle always: for checks of a second or two, as a new bundle adds one of each.
    """
    assert {*quick} <= {bundle.name for bundle in BUNDLES}, (
        quick
    )  # a bundle that is renamed does not make its test slow
    return pytest.mark.parametrize(
        "bundle",
        [
            pytest.param(bundle, id=bundle.name, marks=() if not quick or bundle.name in quick else pytest.mark.slow)
            for bundle in BUNDLES
        ],
    )


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``dataset_dir`` that holds the form of the phantom that each task names, with a handful of patients each.

    Workers share the drawing, each has a copy of its own: runs leave their record of the scans beside the list.
    """
    from custom import phantom

    folder, shared = tmp_path_factory.mktemp("phantoms"), tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    patients = {"labelled": 2, "unlabelled": 3, "validation": 2, "test": 3}
    forms = [form for form in phantom.FORMS if (ROOT / f"custom/tasks/phantom_{form}.yaml").exists()]
    for wait in (fcntl.LOCK_NB, 0):  # first what no other worker is drawing, the costliest form before the others
        for form in reversed(forms):
            name = f"phantom_{form}"
            with (shared / f"{name}.lock").open("w") as lock, contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | wait)
                if not (shared / name / "list.json").exists():
                    phantom.draw(form, shared / name, patients=patients)
    for form in forms:
        shutil.copytree(shared / f"phantom_{form}", folder / f"phantom_{form}")
    return folder


def enter_bundle(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what ``cd bundles/x && python -m ...`` does: the bundle's ``scripts`` are those that are imported."""
    for name in [m for m in sys.modules if m == "scripts" or m.startswith("scripts.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()


@pytest.fixture
def bundle_cwd(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """:func:`enter_bundle` until the end of the test."""
    return functools.partial(enter_bundle, monkeypatch=monkeypatch)


TINY = {"steps": 4, "epoch_steps": 2, "val_interval": 1, "labelled_batch": 2, "unlabelled_batch": 2, "patch": [32, 32],
        "widths": [4, 8], "dropout": [0.0, 0.1], "workers": 0, "amp": "off"}  # fmt: skip


def tiny(bundle: Path) -> dict[str, Any]:
    """Overrides that make a run of a bundle take a second or two, on its default form of the phantom."""
    return {**known(bundle, TINY), "patch": [16, 16, 16] if default_task(bundle).stem == "phantom_3d" else [32, 32]}


def known(bundle: Path, overrides: dict[str, Any]) -> dict[str, Any]:
    """Overrides without those of ``TINY`` that name nothing in this bundle."""
    ids = yaml.safe_load((bundle / "configs/train.yaml").read_text())
    return {name: value for name, value in overrides.items() if name not in TINY or name in ids}


def default_task(bundle: Path) -> Path:
    """The task file whose numbers stand in the bundle's train.yaml."""
    form = yaml.safe_load((bundle / "configs/train.yaml").read_text())["data_list"].removeprefix("phantom:")
    return ROOT / f"custom/tasks/phantom_{form}.yaml"


@pytest.fixture
def run_bundle(bundle_cwd: Callable[[Path], None], phantoms: Path, tmp_path: Path) -> Callable[..., Path]:
    """``run_bundle(folder, "training", files, **overrides)`` in this process; returns ``output_dir``.

    Figures are half of a short run's time: they are drawn with ``drawn=True`` alone, otherwise matplotlib is missing.
    """

    def go(folder: Path, *where: Any, drawn: bool = False, **overrides: Any) -> Path:
        bundle_cwd(folder)
        settings = {"dataset_dir": str(phantoms), "output_dir": str(tmp_path / "out"), **known(folder, overrides)}
        return run_here(*where, drawn=drawn, **settings)

    return go


def run_here(run_id: str = "training", files: Any = "configs/train.yaml", drawn: bool = False, **settings: Any) -> Path:
    from monai.bundle import run

    with warnings.catch_warnings(), contextlib.nullcontext() if drawn else without_figures():
        warnings.filterwarnings("ignore", message="parsing config_file")
        run(run_id=run_id, config_file=files, logging_file=False, **settings)
    return Path(settings["output_dir"])


@pytest.fixture(scope="session")
def finished(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Path], Path]:
    """``finished("mean_teacher", folder)``: a copy in ``folder`` of what a run of that bundle with ``TINY`` leaves.

    It is trained once, for all tests that only look at the end of a run or go on from there.
    """

    @functools.cache
    def train(name: str) -> Path:
        bundle = ROOT / "bundles" / name
        with pytest.MonkeyPatch.context() as patch:
            enter_bundle(bundle, patch)
            out = str(tmp_path_factory.mktemp(name) / "out")
            return run_here(dataset_dir=str(phantoms), output_dir=out, **known(bundle, TINY))

    return lambda name, folder: Path(shutil.copytree(train(name), folder))


@contextlib.contextmanager
def without_figures() -> Iterator[None]:
    """Behave as if matplotlib were missing: a run and an evaluation end without pictures and pages."""

    def missing(*_: Any, **__: Any) -> None:
        raise ImportError("no matplotlib")

    importlib.import_module("matplotlib.pyplot")  # makes a class of it: not while it is missing
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matplotlib.figure.Figure", missing)
        yield


@pytest.fixture
def good(tmp_path: Path) -> Any:
    """A cohort without a fault, to spoil: see tests/cohort_files.py."""
    from cohort_files import Cohort

    return Cohort(tmp_path)


@pytest.fixture(autouse=True)
def _quiet() -> None:
    os.environ.setdefault("TQDM_DISABLE", "1")
    logging.getLogger("ignite").setLevel(logging.CRITICAL)


# two workers (make test)

LONGEST = (
    *(
        "test_server",
        "test_architecture",
        "test_release",
        "test_bundle_runs",
        "test_bundles",
        "test_ablations",
        "test_distributed",
    ),
    *("test_limits", "test_readme", "test_holes", "test_resume", "test_test_part", "test_round_trip"),
)
"""Files of minutes: they come first, so that the workers end together."""

BY_BUNDLE = ("test_bundles", "test_bundle_runs", "test_limits", "test_ablations")
"""Files without a costly fixture of their own: a worker takes one bundle's tests. Other files stay whole."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say which tests belong on one worker: those that share what a file's fixtures make."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))
    for item in items:
        group = item.path.stem
        if group in BY_BUNDLE and "bundle" in getattr(getattr(item, "callspec", None), "params", {}):
            group += f" {item.callspec.params['bundle'].name}"
        if "annotate_python" in getattr(item, "fixturenames", ()):
            group = "annotation servers"  # one environment, two servers for all files
        item.add_marker(pytest.mark.xdist_group(group))


# the table of faults at the end of `make faults`

FAULTS = {
    "1": "kill -9 while a checkpoint is written",
    "2": "kill -9 in an epoch, then resume",
    "2b": "newest checkpoint unreadable",
    "2c": "resumed with another config or data list",
    "3": "disk full",
    "4": "NaN or Inf in a term",
    "4b": "NaN validation metric",
    "5a": "truncated image",
    "5b": "flipped bit",
    "5c": "affine singular or not finite, odd spacing",
    "5d": "label grid differs from image grid",
    "5e": "zero size, or a header that promises too much",
    "5f": "NaN voxels",
    "5g": "label values that no class has",
    "5h": "empty label",
    "5i": "DICOM whose frames differ",
    "5j": "two answers in one NIfTI header",
    "5k": "other units than mm, a resampling that does not fit",
    "5o": "another orientation, slices across another axis",
    "6a": "no labelled or unlabelled scans, fewer than a batch",
    "6b": "one scan in two parts",
    "6c": "labels of unlabelled scans leak in",
    "7": "missing modality, wrong number of channels",
    "8a": "a link or a pointer in place of a scan",
    "8b": "odd names of files and folders",
    "9": "weights tampered with, half downloaded, no hash",
    "10": "malicious pickle",
    "11": "archive that writes elsewhere, bomb, truncated",
    "12": "expressions in a data list, misspelt names",
    "13": "MLflow down at the start or in the middle",
    "14": "worker process killed",
    "15": "out of memory",
    "16": "leak over a long run",
    "17": "two runs, one output folder",
    "18": "output not writable",
    "19": "MONAI Label with bad requests",
    "20": "stale cache",
    "30": "label values that the usual number format does not hold",
    "31": "a picture that says how it is to be turned",
    "32": "intensities unlike those of training",
    "33": "a mask in stairs where an image was shrunk",
    "34": "an annotator's numbers of segments and the values of label files",
    "35": "scans and cohorts as they come: the tables of tests/oddities",
    "36": "the Python of another environment",
    "37": "a scan of two axes stored in another orientation",
    "38": "DICOM slices of opposite greys, and pixels without a size",
    "39": "NRRD and MetaImage in another unit than mm",
    "40": "a result that does not fit in memory on the scan's own grid",
    "41": "a header that says nothing of its orientation",
    "42": "values that are rounded, or read otherwise than they are stored",
    "43": "modalities of one scan that are on one grid except by their headers",
    "44": "preprocessed scans on disk that are damaged, gone or of other files",
    "45": "kill -9 in an inference, then the same command",
    "46": "a scan whose logits do not fit in the memory that is allowed",
}

_done: dict[str, dict[str, None]] = {row: {} for row in FAULTS}  # what was done to a row, in order
_survived: dict[str, dict[str, bool]] = {row: {} for row in FAULTS}  # by test


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault-table", action="store_true", help="end with a table of the faults and who survived")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Send the marks of a test with its report: it may have run in a worker."""
    report = yield
    report.user_properties += [("fault", mark.args) for mark in item.iter_markers("fault")]
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count a marked test by its call, or by a set-up or tear-down that did not pass."""
    for row, what in [value for name, value in report.user_properties if name == "fault"]:
        _done[row][what] = None
        if report.when == "call" or not report.passed:
            _survived[row][report.nodeid] = report.passed and _survived[row].get(report.nodeid, True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not config.getoption("--fault-table"):
        return
    table = [("row", "fault", "survived", "what was done to it")]
    for row, fault in FAULTS.items():
        passed = list(_survived[row].values())
        table.append(
            (row, fault, f"{sum(passed)} of {len(passed)} tests" if passed else "no test", "; ".join(_done[row]))
        )
    widths = [max(len(cells[column]) for cells in table) for column in range(3)] + [0]  # the last one runs free
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) + " |" for cells in table]
    lines.insert(1, f"|{'|'.join('-' * max(width + 2, 3) for width in widths)}|")
    terminalreporter.write_line("\n" + "\n".join(lines))
