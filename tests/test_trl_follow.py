"""The log of a real TRL trainer, followed from inside it. Oracles: the rewards that it was given."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

trl = pytest.importorskip("trl", reason="TRL is not installed; pip install -c constraints.txt -e '.[trl]'")

from onedial.analysis.follower import News  # noqa: E402
from onedial.core.errors import ConfigError  # noqa: E402
from onedial.integrations.trl_follow import FollowLog, describe_news  # noqa: E402


def make_trainer(model: Path, folder: Path, rewards: list[list[float]], callback: FollowLog, **settings: Any) -> Any:
    """A trainer of two groups of four a step, whose rewards in step i are `rewards[i]`, the last ones for ever."""
    from datasets import Dataset

    steps = iter(range(1000))

    def reward(completions: list[str], **_: Any) -> list[float]:
        return rewards[min(next(steps), len(rewards) - 1)]

    args = trl.GRPOConfig(**{
        "output_dir": str(folder), "num_generations": 4, "per_device_train_batch_size": 8, "max_completion_length": 3,
        "report_to": [], "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "max_steps": 6,
        "save_strategy": "no", "logging_steps": 1, "log_completions": True, "num_completions_to_print": 0,
        "disable_tqdm": True, **settings,
    })  # fmt: skip
    data = Dataset.from_dict({"prompt": ["1 + 1 =", "2 + 2 =", "3 + 3 =", "4 + 4 ="]})
    return trl.GRPOTrainer(model=str(model), args=args, train_dataset=data, reward_funcs=reward, callbacks=[callback])


MIXED, SILENT = [1.0, 0, 0, 1, 0, 0, 0, 0], [0.0] * 8


def test_news_come_while_training_and_no_signal_ends_it(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two steps with a mixed group, then none: it ends three silent, complete steps later."""
    seen: list[News] = []
    callback = FollowLog(every=1, stop_after=3, report=seen.append)
    trainer = make_trainer(tiny_model, tmp_path, [MIXED, MIXED, SILENT], callback, max_steps=20)
    trainer.train()
    told = [each for news in seen for each in news.iterations]
    assert [each.iteration for each in told] == list(range(1, len(told) + 1))
    assert [each.kinds["mixed"] for each in told] == [1, 1] + [0] * (len(told) - 2)
    assert all(each.groups == 2 for each in told)
    assert len(told) == trainer.state.global_step == 7  # the newest step counts once the next one is logged
    assert "no mixed group in the last 3 logged steps; training ends (stop_after=3)" in capsys.readouterr().err
    last = list(describe_news(News(seen[-1].iterations, (), 0, True)))[-1]
    assert last == "step 7: 2 groups: 0% mixed, 0% all correct, 100% all wrong, 0% equal otherwise; mean reward 0.000"


def test_mistakes_are_one_message(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"FollowLog\(every=0\): must be at least 1"):
        FollowLog(every=0)
    with pytest.raises(ConfigError, match="set log_completions=True"):
        FollowLog().on_train_begin(SimpleNamespace(log_completions=False), None, None)


def test_a_log_that_cannot_be_read_stops_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "completions").mkdir()
    (tmp_path / "completions" / "completions_00001.parquet").write_bytes(b"no parquet")
    args, state = SimpleNamespace(output_dir=str(tmp_path)), SimpleNamespace(is_world_process_zero=True, global_step=10)
    callback = FollowLog()
    callback.on_step_end(args, state, None)
    callback.on_train_end(args, state, None)
    assert "onedial: the log of completions cannot be read: " in capsys.readouterr().err
