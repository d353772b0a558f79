"""Fine-tuning a teacher on a labelled train set, where its model is, in minutes, resumable.

All random numbers follow from the seed and the training step, so that an interrupted run ends with
the same weights as one that was not.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.files import claim
from fhe_inhibitor.system.processor import autocast, flush_denormals
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.system.tensors import fingerprint, read_tensors, write_tensors
from fhe_inhibitor.text.batches import pad, shuffled_batches
from fhe_inhibitor.text.data import LabelledText
from fhe_inhibitor.training.teacher import Teacher, encode

CLAIM_FILE = "finetuning.json"  # what a fine-tuned teacher is made of


@flush_denormals()
def finetune(
    teacher: Teacher,
    train: Sequence[LabelledText],
    *,
    epochs: float,
    out_dir: str | Path,
    seed: int = 0,
    learning_rate: float = 1e-4,
    batch_size: int = 32,
    warmup: float = 0.06,
    checkpoint_every: int = 500,
    observer: Observer | None = None,
) -> Teacher:
    """Fine-tune a teacher's layers and classifier, and save model and tokenizer in `out_dir`.

    It uses AdamW (weight decay 0.01), a linear warm-up over the first `warmup` of all steps, then
    a linear decay, gradients clipped to norm 1, and batches of texts of similar length. The
    embeddings stay frozen, so that words which the train set lacks keep their place among the rest.
    The teacher is changed in place and returned. observer: hears of each training step.

    Same seed, same result on a processor; on a GPU sums may differ in their last bits. Until the
    end all files lie in `<out_dir>.partial`; a call that was interrupted goes on from its last
    checkpoint when it is repeated, on either. What the teacher is made of lies beside it
    (`CLAIM_FILE`).

    Raises InputError if `out_dir` exists, or has the checkpoint of a call with other settings,
    texts or another base.
    """
    out_dir = Path(out_dir)
    if out_dir.exists():
        raise InputError(f"{out_dir} exists already; load it, remove it, or name another folder")
    if not train or epochs <= 0 or batch_size <= 0:
        raise InputError(
            f"nothing to train: {len(train)} texts, {epochs} epochs, batches of {batch_size}"
        )
    n_steps = max(1, round(epochs * -(-len(train) // batch_size)))
    made_of = origin(teacher, train, epochs, seed)
    run = [epochs, seed, learning_rate, batch_size, warmup, made_of["train"]]
    checkpoint = _Checkpoint(_partial(out_dir) / "checkpoint.safetensors", json.dumps(run))
    for name, weight in teacher.model.named_parameters():
        weight.requires_grad_("embeddings." not in name)
    weights = {name: w for name, w in teacher.model.named_parameters() if w.requires_grad}
    optimizer = torch.optim.AdamW(weights.values(), learning_rate, weight_decay=0.01, fused=True)
    first = checkpoint.load(weights, optimizer)
    made_of_file = checkpoint.path.with_name(CLAIM_FILE)
    if not first:  # nothing was kept, so there is nothing to go on with
        made_of_file.unlink(missing_ok=True)
    claim(made_of_file, made_of, "a teacher", "--work")
    texts = [row.text for row in train]
    ids = encode(teacher, texts)
    labels = torch.tensor([row.label for row in train])
    teacher.model.train()
    observer = observer or Observer()
    observer.begin("fine-tune the teacher")
    observer.plan(n_steps - first, "steps")
    lengths = [len(row) for row in ids]
    for step, batch in enumerate(shuffled_batches(lengths, batch_size, seed, n_steps)):
        if step < first:
            continue
        torch.manual_seed((seed << 32) + step)  # so that a resumed run drops out the same
        rate = min((step + 1) / (warmup * n_steps + 1), (n_steps - step) / n_steps)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * rate
        _step(teacher, [ids[i] for i in batch], labels[batch], optimizer)
        observer.finish(1)
        if (step + 1) % checkpoint_every == 0 and step + 1 < n_steps:
            checkpoint.save(step + 1, weights, optimizer)
    teacher.model.eval()
    teacher.model.save_pretrained(checkpoint.path.parent)
    teacher.tokenizer.save_pretrained(checkpoint.path.parent)
    checkpoint.path.unlink(missing_ok=True)
    checkpoint.path.parent.rename(out_dir)
    return teacher


def origin(
    teacher: Teacher, train: Sequence[LabelledText], epochs: float, seed: int
) -> dict[str, Any]:
    """Return what a fine-tuned teacher is made of; teacher: as it is before."""
    base = fingerprint(teacher.model.state_dict().values())
    return {"base": base, "train": _checksum(train), "epochs": epochs, "seed": seed}


class _Checkpoint:
    """Weights and Adam's moments of a fine-tuning run, in one file that is replaced whole."""

    def __init__(self, path: Path, run: str) -> None:
        self.path, self.run = path, run
        path.parent.mkdir(parents=True, exist_ok=True)

    def save(self, step: int, weights: Mapping[str, Tensor], optimizer: torch.optim.AdamW) -> None:
        tensors = {f"weight/{name}": weight.detach() for name, weight in weights.items()}
        for name, weight in weights.items():
            for key, value in optimizer.state[weight].items():
                tensors[f"{key}/{name}"] = value
        write_tensors(self.path, tensors | {"step": torch.tensor(step)}, self.run)

    def load(self, weights: Mapping[str, Tensor], optimizer: torch.optim.AdamW) -> int:
        if not self.path.exists():
            return 0
        tensors = read_tensors(self.path, self.run)
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(tensors[f"weight/{name}"])
                keys = ("step", "exp_avg", "exp_avg_sq")
                state = {key: tensors[f"{key}/{name}"].to(weight.device) for key in keys}
                optimizer.state[weight] = state
        return int(tensors["step"])


def _step(
    teacher: Teacher, rows: list[list[int]], labels: Tensor, optimizer: torch.optim.AdamW
) -> None:
    device = teacher.model.device
    tokens, mask = (x.to(device) for x in pad(rows, teacher.tokenizer.pad_token_id))
    with autocast(device.type):
        logits = teacher.model(input_ids=tokens, attention_mask=mask).logits
    loss = torch.nn.functional.cross_entropy(logits.float(), labels.to(device))
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
    optimizer.step()


def _checksum(train: Sequence[LabelledText]) -> int:
    return zlib.crc32("\n".join(f"{row.label}\t{row.text}" for row in train).encode())


def _partial(out_dir: Path) -> Path:
    return out_dir.with_name(out_dir.name + ".partial")
