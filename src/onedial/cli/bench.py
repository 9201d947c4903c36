"""`onedial bench`: our speed and memory compared with other libraries and with the limit of the machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from onedial.core.errors import ConfigError

if TYPE_CHECKING:
    from onedial.evidence.bench.workload import Conditions

T = TypeVar("T")

HELP = """
Both sides do the same work: the same model, prompts, group size, lengths and
type. They are measured in turn, so that a slow moment of the machine meets both.
A ratio above 1 means that ours is better; shares of the ceiling are in per cent.
Example: onedial bench generate --repeats 3
"""

MOST = 100_000  # of repeats, threads and rows

PARTS = {
    "generate": "generation and its decode step",
    "update": "forward, backward and optimizer",
    "busy": "generation beside another process that keeps a core busy",
    "step": "a whole training step against TRL",
    "memory": "peak memory of a step against TRL",
    "all": "everything",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `onedial bench`."""
    texts = "; ".join(f"{name}: {text}" for name, text in PARTS.items())
    parser.add_argument("what", choices=tuple(PARTS), help=texts)
    parser.add_argument("--model", default="smollm2", help="'smollm2' (default), a folder or a Hugging Face name")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="measurements of each side (5)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads; 0 (default): one per core")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda")
    parser.add_argument("--dtype", choices=("auto", "bfloat16", "float32"), default="auto", help="default: auto")
    parser.add_argument("--figures", default="", metavar="NAME,…", help="only these figures")
    parser.add_argument(
        "--peer-rows", type=int, default=64, metavar="N", help="rows in one pass of TRL's (64); long ones are fewer"
    )
    parser.add_argument("--curves", action="store_true", help="also how our cost per token scales")
    parser.add_argument("--quick", action="store_true", help="short curves, a small matrix product, few decode steps")
    parser.add_argument("--json", action="store_true", help="print a list of JSON objects")
    parser.add_argument(
        "--write", metavar="FILE", help="also write a page; with all and no --figures, its curves are measured too"
    )


def run(args: argparse.Namespace) -> int:
    """Measures and prints each figure as soon as it is known, so that an interruption loses none."""
    check_arguments(args)
    from onedial.evidence.bench.figure import Figure, Point
    from onedial.evidence.bench.machine import describe_conditions
    from onedial.evidence.bench.measure import measure, select_figures
    from onedial.evidence.bench.result_page import format_page, json_lines, text_lines
    from onedial.evidence.bench.scaling import select_curves

    names = select_figures(args.what, args.figures)
    conditions = _settings(args)
    known = describe_conditions(conditions, args.model)
    with_curves = args.curves or (args.what == "all" and bool(args.write) and not args.figures)
    figures: list[Figure] = []
    points: list[Point] = []
    whole = False
    try:
        lines = (json_lines if args.json else text_lines)(
            _kept(measure(conditions, names, _note), figures),
            _kept(select_curves(conditions, args.what, quick=args.quick, note=_note) if with_curves else (), points),
            known,
        )
        for line in lines:
            print(line, flush=True)
        whole = True
    finally:
        if args.write and (figures or points):
            Path(args.write).write_text(format_page(figures, points, known, whole=whole), encoding="utf-8")
    return 0


def _kept(items: Iterable[T], into: list[T]) -> Iterator[T]:
    """The items, each also put into a list."""
    for item in items:
        into.append(item)
        yield item


def _settings(args: argparse.Namespace) -> Conditions:
    """The checked conditions; the model is downloaded first if necessary, so that no download is timed."""
    import torch

    from onedial.core.system import available_cores
    from onedial.evidence.bench.workload import Conditions
    from onedial.training.models import load_config, resolve
    from onedial.training.trainer.device import pick_device, pick_dtype

    threads = args.threads or available_cores()
    torch.set_num_threads(threads)
    device = pick_device(args.device)
    path = str(resolve(args.model))
    context = getattr(load_config(path), "max_position_embeddings", None)
    return Conditions(
        model=path,
        device=str(device),
        dtype=str(pick_dtype(args.dtype, device)).removeprefix("torch."),
        threads=threads,
        context=int(context or 1 << 20),
        repeats=args.repeats,
        gemm_size=512 if args.quick else 4096,
        decode_steps=4 if args.quick else 32,
        peer_rows=args.peer_rows,
    )


def check_arguments(args: argparse.Namespace) -> None:
    """Raises a UserError for mistakes in the arguments alone, before anything slow is imported."""
    from onedial.training.models import check_hub_name

    for name, least in (("repeats", 1), ("threads", 0), ("peer_rows", 1)):
        if not least <= getattr(args, name) <= MOST:
            flag = name.replace("_", "-")
            raise ConfigError(f"--{flag} {getattr(args, name)}: must be from {least} to {MOST:,}")
    if args.write:
        _check_writable(Path(args.write))
    check_hub_name(args.model)


def _check_writable(path: Path) -> None:
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f"--write {path}: {'is a folder' if path.is_dir() else f'no folder {path.parent}'}")


def _note(text: str) -> None:
    print(f"measuring {text} …", file=sys.stderr, flush=True)
