"""``models/model.ts`` and ``models/model.onnx`` of assembled bundles: the same bytes wherever and whenever made.

    python -m distribution.export FOLDER [FOLDER ...]

TorchScript numbers the classes of a process, so each bundle is exported by a process that exported nothing before: a fork of
one that has imported what they all need.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigWorkflow, ckpt_export, onnx_export

from custom.files import write_atomically

from .cards import ROOT, CardError
from .packing import write_zip


def export(folders: Sequence[Path]) -> None:
    """Write both exports of the bundle in each folder.

    Raises:
        CardError: an export failed; its last words.
    """
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1"}
    command = [sys.executable, "-m", "distribution.export", *(str(folder.resolve()) for folder in folders)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode:
        raise CardError(f"the bundles cannot be exported:\n{done.stdout[-2000:]}")


def _export(folder: Path) -> None:
    config, meta = folder / "configs/inference.yaml", folder / "configs/metadata.json"
    ConfigWorkflow(str(config), workflow_type="infer", logging_file=False).initialize()  # its `scripts` from here on
    arguments: dict[str, Any] = {"net_id": "network_def", "config_file": str(config), "meta_file": str(meta),
                            "ckpt_file": str(folder / "models/model.pt")}  # fmt: skip
    formats = json.loads(meta.read_text(encoding="utf-8"))["network_data_format"]["inputs"]["image"]
    shape = [1, formats["num_channels"], *formats["spatial_shape"]]
    torch.manual_seed(0)
    with torch.no_grad():
        ckpt_export(filepath=str(folder / "models/model.ts"), **arguments)
        onnx_export(filepath=str(folder / "models/model.onnx"), input_shape=shape, **arguments)
    _without_debug(folder / "models/model.ts")
    _without_traces(folder / "models/model.onnx")


def _without_debug(path: Path) -> None:
    """Drop from a TorchScript archive where its source lay (for error messages alone) and the hash over that."""
    with zipfile.ZipFile(path) as archive:
        kept = {name: archive.read(name) for name in archive.namelist()
                if not name.endswith((".debug_pkl", "/.data/serialization_id"))}  # fmt: skip
    write_atomically(path, lambda file: write_zip(file, kept))


def _without_traces(path: Path) -> None:
    """Drop from an ONNX graph the stack traces of every node, which hold paths."""
    import onnx

    model = onnx.load(path)
    graph = model.graph
    inside = [*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer]
    functions = [*model.functions, *(node for function in model.functions for node in function.node)]
    for part in (model, graph, *inside, *functions):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    content = model.SerializeToString(deterministic=True)
    write_atomically(path, lambda file: file.write(content))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m distribution.export", description=__doc__.split("\n")[0])
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="an assembled bundle")
    warnings.simplefilter("ignore")  # of the exporters, about their own insides
    for folder in parser.parse_args(arguments).folders:
        process = multiprocessing.get_context("fork").Process(target=_export, args=(folder.resolve(),))
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(f"{folder.name}: the export failed")


if __name__ == "__main__":
    main()
