"""A damaged run directory never resumes in silence: every file a resume reads, damaged in every way (security S4)."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from onedial.analysis.logs.detect import read
from onedial.cli.main import main
from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.errors import CheckpointError, UserError
from onedial.core.manifest import check_folder
from onedial.core.run_log import append_json, read_json_lines
from onedial.core.settings import Run
from onedial.training.trainer import checkpoint
from onedial.training.trainer.evaluate import evaluate
from onedial.training.trainer.live_view import View
from onedial.training.trainer.loop import train
from onedial.training.trainer.open_run import Trainer, open_run
from onedial.training.trainer.past_rollouts import find_newest_model
from onedial.training.trainer.resume import restore
from test_train import same, weights
from train_tasks import Early

Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def finished(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with a critic: two checkpoints, and one more iteration of rollouts, as a kill leaves it."""
    run = Run(
        model=str(tiny_model), task=Early(), algorithm=ALGORITHMS["ppo"],
        out=str(tmp_path_factory.mktemp("damage") / "run"), iterations=3, prompts_per_iteration=2, group_size=2,
        max_new_tokens=4, lr=1e-3, dtype="float32", threads=1, micro_batch_tokens=2048, eval_prompts=2,
        eval_samples=1, checkpoint_every=1, keep_checkpoints=3, verifier_workers=1,
    )  # fmt: skip
    train(run)
    shutil.rmtree(checkpoint.checkpoint_path(run.directory, 3))
    return run


@pytest.fixture(scope="module")
def trainer(finished: Run) -> Iterator[Trainer]:
    """Opened once: restoring is what the tests repeat."""
    with open_run(finished, resume=True, view=View("x", 3, plain=True)) as opened:
        yield opened


def resumed(trainer: Trainer, directory: Path, **changes: Any) -> Trainer:
    """The trainer restored from a copy of the run."""
    copied = replace(trainer, run=replace(trainer.run, out=str(directory), **changes))
    restore(copied)
    return copied


@pytest.fixture
def copy(finished: Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished.directory, tmp_path / "run"))


def flip(path: Path, share: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(share * (len(content) - 1))] ^= 4
    path.write_bytes(content)


def retyped(dtype: torch.dtype) -> Damage:
    return lambda path: save_file({k: v.to(dtype) for k, v in load_file(path).items()}, path)


def changed(function: Callable[[torch.Tensor], torch.Tensor]) -> Damage:
    return lambda path: save_file({k: function(v).contiguous() for k, v in load_file(path).items()}, path)


def become_pipe(path: Path) -> None:
    """Whoever waits for its content waits for ever."""
    path.unlink()
    os.mkfifo(path)


ANY_FILE: dict[str, Damage] = {
    **{f"flip at {share:g}": lambda path, share=share: flip(path, share) for share in (0.02, 0.5, 0.98)},  # type: ignore[misc]
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"0"),
    "gone": Path.unlink,
    "a pipe": become_pipe,
}
TENSORS: dict[str, Damage] = {
    "float16": retyped(torch.float16),
    "float64": retyped(torch.float64),
    "int32": retyped(torch.int32),
    "all zero": changed(torch.zeros_like),
    "nan": changed(lambda value: value * torch.nan),
    "inf": changed(lambda value: value + torch.inf),
    "other shape": changed(lambda value: torch.cat([value.flatten(), value.flatten()])),
    "one more axis": changed(lambda value: value[None]),
    "other names": lambda path: save_file({f"x{k}": v for k, v in load_file(path).items()}, path),
    "one left out": lambda path: save_file(dict(list(load_file(path).items())[1:]), path),
}
FOLDER = "checkpoints/iteration_000002"
WEIGHTS = [f"{FOLDER}/resume/{part}{kind}.safetensors" for part in ("", "critic_") for kind in ("masters", "moments")]
FILES = [
    *WEIGHTS, f"{FOLDER}/resume/state.json", f"{FOLDER}/manifest.json", f"{FOLDER}/model.safetensors",
    f"{FOLDER}/config.json", "metrics.jsonl", "run.toml", "rollouts/000003.parquet",
]  # fmt: skip
CASES = [(name, kind) for name in FILES for kind in ANY_FILE] + [(name, kind) for name in WEIGHTS for kind in TENSORS]
# after the newest checkpoint nothing is read of metrics, and without a file of rollouts they are generated again
HARMLESS = {("rollouts/000003.parquet", "gone"), ("metrics.jsonl", "longer"), ("metrics.jsonl", "flip at 0.98")}
HARMLESS |= {("run.toml", "gone"), ("run.toml", "a pipe")}  # refused before, by the lock of the run directory


def test_there_are_cases_enough() -> None:
    assert len(CASES) >= 115 and len(set(CASES)) == len(CASES)


@pytest.mark.parametrize(("name", "kind"), [case for case in CASES if case not in HARMLESS], ids=lambda word: word)
def test_damage_is_one_clear_error(trainer: Trainer, copy: Path, name: str, kind: str) -> None:
    """Oracle: one error for people that names the file damaged, and how to go on."""
    (ANY_FILE | TENSORS)[kind](copy / name)
    with pytest.raises(UserError) as caught:
        resumed(trainer, copy)
    message = str(caught.value)
    assert name in message or FOLDER in message
    if name.startswith(FOLDER):
        assert f"newest sound checkpoint is {copy}/checkpoints/iteration_000001" in message and "--resume" in message


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("kind", sorted(set(TENSORS) - {"all zero"}))
def test_tensors_are_checked_without_hashes_too(trainer: Trainer, copy: Path, name: str, kind: str) -> None:
    """Type, shape, names and finite values, as for a run of an earlier version; moments of another shape used to end
    the interpreter. Oracle: one clear error that names the file."""
    TENSORS[kind](copy / name)
    with pytest.raises(CheckpointError, match=FOLDER):
        resumed(trainer, copy, check_files=False)


def test_files_of_two_iterations_are_not_mixed(trainer: Trainer, copy: Path) -> None:
    """Oracle: each file of one checkpoint in the place of the other's, and both folders exchanged."""
    older = copy / "checkpoints" / "iteration_000001"
    for path in sorted((older / "resume").iterdir()):
        place = copy / FOLDER / "resume" / path.name
        kept = place.read_bytes()
        shutil.copyfile(path, place)
        with pytest.raises(CheckpointError, match="not as it was written"):
            resumed(trainer, copy)
        place.write_bytes(kept)
    shutil.copytree(older, copy / FOLDER, dirs_exist_ok=True)
    for check in (True, False):
        with pytest.raises(CheckpointError, match=r"iteration 1\b"):
            resumed(trainer, copy, check_files=check)


def test_rollouts_of_another_iteration_are_refused(trainer: Trainer, copy: Path) -> None:
    """Oracle: the rollouts of iteration 2 in the place of those of iteration 3; deleting them is the remedy named."""
    shutil.copyfile(copy / "rollouts" / "000002.parquet", copy / "rollouts" / "000003.parquet")
    with pytest.raises(CheckpointError, match=r"000003\.parquet: not as the run wrote it.*Delete it"):
        resumed(trainer, copy)
    (copy / "rollouts" / "000003.parquet").unlink()
    assert resumed(trainer, copy).collector.finished_groups == {}


def test_the_remedy_works(finished: Run, copy: Path, tmp_path: Path) -> None:
    """Oracle: after deleting the damaged checkpoint, as the message says, the run ends in the same weights as one that
    was resumed undamaged."""
    sound = Path(shutil.copytree(copy, tmp_path / "sound"))
    train(replace(finished, out=str(sound)), resume=True)
    flip(copy / WEIGHTS[0], 0.5)
    damaged = replace(finished, out=str(copy))
    with pytest.raises(CheckpointError, match="delete .*iteration_000002 and run: onedial train --resume"):
        train(damaged, resume=True)
    shutil.rmtree(copy / FOLDER)
    train(damaged, resume=True)
    assert same(weights(copy), weights(sound))


@pytest.mark.parametrize("name", ["metrics.jsonl", "eval.jsonl", "probe.jsonl", "run.toml", "rollouts/000001.parquet"])
def test_no_command_waits_for_a_pipe(copy: Path, tmp_path: Path, name: str) -> None:
    """Oracle: every command that reads a run ends, with a page or with one error for people."""
    become_pipe(copy / name) if (copy / name).exists() else os.mkfifo(copy / name)
    for words in (["inspect", str(copy)], ["report", str(copy), "-o", str(tmp_path / "page.html")]):
        assert main(words) in (0, 2)


def test_a_run_without_manifests_resumes_with_a_note(
    trainer: Trainer, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs of version 0.1.0 have none. Oracle: it resumes, and says that nothing was compared; and so again, though the
    first resume has written a line about run.toml."""
    (copy / "manifest.jsonl").unlink()
    for folder in (copy / "checkpoints").iterdir():
        (folder / "manifest.json").unlink()
        state = folder / "resume" / "state.json"
        state.write_text(json.dumps({k: v for k, v in json.loads(state.read_text()).items() if k != "has_manifest"}))
    for _ in range(2):
        assert resumed(trainer, copy).iteration == 2
        assert "without hashes" in capsys.readouterr().out
    assert (copy / "manifest.jsonl").exists()


def test_every_file_of_a_checkpoint_is_in_its_manifest(finished: Run) -> None:
    """Oracle: the folder itself."""
    folder = finished.directory / FOLDER
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert set(check_folder(folder)["files"]) == names - {"manifest.json"}


def test_a_full_disk_while_metrics_are_written_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: an fsync that fails as on a full disk; the half-written line is dropped by readers."""
    append_json(tmp_path / "metrics.jsonl", {"iteration": 1})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl: .*No space left.*--resume"):
        append_json(tmp_path / "metrics.jsonl", {"iteration": 2})
    assert read_json_lines(tmp_path / "metrics.jsonl")[0] == {"iteration": 1}


def test_a_damaged_checkpoint_is_not_evaluated_or_started_from(copy: Path) -> None:
    """Oracle: one flipped bit of the weights: no accuracy of another model, and none to go on from."""
    flip(copy / FOLDER / "model.safetensors", 0.5)
    with pytest.raises(CheckpointError, match="model.safetensors: damaged"):
        evaluate(copy, "arithmetic", prompts=1, trust_config=True)
    with pytest.raises(CheckpointError, match="model.safetensors: damaged"):
        find_newest_model(copy)


def test_no_file_of_a_run_is_taken_for_a_stranger(finished: Run) -> None:
    """Oracle: the product's own run directory: its reader knows every file that the trainer writes."""
    assert not [note for note in read(finished.directory).coverage.notes if "not of this log" in note]
