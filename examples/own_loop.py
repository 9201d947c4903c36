"""onedial's loss in a training loop of one's own: plain PyTorch, a Hugging Face model, its `generate`.

    python examples/own_loop.py

onedial brings groups, advantages and the loss; model, sampling and optimizer are the loop's. `Counts` of the whole step
come before the first backward pass, so any split into micro-batches gives the same gradient.
"""

from __future__ import annotations

import argparse
from random import Random
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import onedial
from onedial.training.models import resolve

ROW = onedial.ALGORITHMS["mixed_grpo"]
GROUP_SIZE, NEW_TOKENS = 8, 8


def sample_group(model: Any, tokenizer: Any, rng: Random, position: int) -> onedial.Group:
    """One prompt, GROUP_SIZE completions of it, each with its verdict."""
    a, b = rng.randint(0, 9), rng.randint(0, 9)
    message = {"role": "user", "content": f"What is {a} + {b}? Answer with the number only."}
    prompt = onedial.Prompt(messages=(message,), answer=str(a + b))
    tokens = tokenizer.apply_chat_template([message], add_generation_prompt=True, return_dict=False)
    read = torch.tensor([tokens]).expand(GROUP_SIZE, -1)
    out = model.generate(
        read,
        attention_mask=torch.ones_like(read),
        do_sample=True,
        top_k=0,
        max_new_tokens=NEW_TOKENS,
        return_dict_in_generate=True,
        output_logits=True,
    )
    written = out.sequences[:, len(tokens) :]
    logps = torch.stack(out.logits, dim=1).float().log_softmax(-1).gather(2, written[..., None])[..., 0]
    rollouts = []
    for index, (row, row_logps) in enumerate(zip(written.tolist(), logps.tolist(), strict=True)):
        stopped = tokenizer.eos_token_id in row
        length = row.index(tokenizer.eos_token_id) + 1 if stopped else len(row)
        text = tokenizer.decode(row[:length], skip_special_tokens=True)
        completion = onedial.Completion(
            tuple(row[:length]), tuple(row_logps[:length]), "stop" if stopped else "length", text=text
        )
        right = text.strip() == prompt.answer
        rollouts.append(onedial.Rollout(index, completion, onedial.Verdict(float(right), correct=right)))
    return onedial.Group(prompt, tuple(rollouts), position=position, prompt_tokens=tuple(tokens))


def completion_logps(model: Any, batch: onedial.Batch) -> torch.Tensor:
    """(T,) log-probabilities of the batch's completion tokens, one forward pass per rollout."""
    logps = []
    for rollout in range(batch.num_rollouts):
        group = int(batch.group[rollout])
        prompt = batch.prompt_tokens[batch.prompt_offsets[group] : batch.prompt_offsets[group + 1]]
        tokens = batch.tokens[batch.offsets[rollout] : batch.offsets[rollout + 1]]
        logits = model(torch.cat([prompt, tokens])[None]).logits[0, len(prompt) - 1 : -1]
        logps.append(logits.float().log_softmax(-1).gather(1, tokens[:, None])[:, 0])
    return torch.cat(logps)


def backward(model: Any, batch: onedial.Batch, micro_batches: int) -> float:
    """Adds the step's gradient, in any number of micro-batches, and returns its loss."""
    counts = onedial.Counts.of(batch)
    total = 0.0
    for part in batch.split(micro_batches):
        loss = onedial.policy_loss(ROW, part.annotate(logp=completion_logps(model, part)), counts).loss
        loss.backward()
        total += float(loss.detach())
    return total


def main() -> None:
    """Trains for a few steps."""
    parser = argparse.ArgumentParser(description="onedial's loss in a plain loop")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--iterations", type=int, default=10)
    args = parser.parse_args()
    place = resolve(args.model)
    tokenizer = AutoTokenizer.from_pretrained(place)
    model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.99), weight_decay=0.0)
    torch.manual_seed(0)
    rng, position = Random(0), 0
    for iteration in range(1, args.iterations + 1):
        groups = [sample_group(model, tokenizer, rng, position + i) for i in range(8)]
        position += len(groups)
        mixed = [group for group in groups if group.mixed]
        reward = sum(sum(group.rewards) for group in groups) / (len(groups) * GROUP_SIZE)
        loss = 0.0
        if mixed:  # groups whose rewards are all equal teach nothing
            batch = onedial.add_advantages(ROW, onedial.pack(mixed), max_new_tokens=NEW_TOKENS)
            loss = backward(model, batch, micro_batches=4)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        print(f"iteration {iteration}: mean reward {reward:.3f}, {len(mixed)} mixed groups, loss {loss:+.4f}")


if __name__ == "__main__":
    main()
