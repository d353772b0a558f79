"""Layer by layer, bottom up: the student's attention output against the teacher's.

Layer l of the student reads the *student's* hidden states, after the layers below were aligned. Its
target is the attention output of the teacher's layer l, which reads the *teacher's* hidden states.
So each layer learns to make up for what those below it miss, from the inputs that it will have in
use. Everything else is frozen meanwhile. So inputs and targets are computed once and kept in
bfloat16, and a training step costs one layer's attention instead of two networks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fhe_inhibitor.model.modeling import InhibiDistilBertForSequenceClassification
from fhe_inhibitor.system.processor import autocast
from fhe_inhibitor.system.tensors import read_tensors, write_tensors
from fhe_inhibitor.text.batches import length_batches, padded_batches
from fhe_inhibitor.training.losses import layer_losses
from fhe_inhibitor.training.phases import (
    ALIGNED,
    THRESHOLDS,
    Journal,
    Phase,
    TrainingSettings,
    run_trainer,
)
from fhe_inhibitor.training.rows import TokenRow

BATCH_TOKENS = 4096
PROBE_TEXTS = 128


class LayerRow(NamedTuple):
    """What one layer reads of a text, and the target of its attention: bfloat16 `[n, dim]`."""

    x: Tensor
    target: Tensor


class AttentionAlone(nn.Module):
    """One layer's attention, trainable by itself."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        return self.attention(x, attention_mask)


class _States:
    """The hidden states of both models before the current layer, of every text."""

    def __init__(self, student: Any, teacher: Any, rows: Sequence[TokenRow]) -> None:
        self.student, self.teacher, self.rows = student, teacher, rows
        self.own: list[Tensor] = [torch.empty(0)] * len(rows)
        self.theirs = list(self.own)
        for chosen, ids, mask in self._batches():
            self._keep(self.own, chosen, mask, student.distilbert.embeddings(ids))
            self._keep(self.theirs, chosen, mask, teacher.distilbert.embeddings(ids))

    @torch.no_grad()
    def targets(self, index: int) -> list[LayerRow]:
        """Return the current layer's rows, and move the teacher's states past it."""
        block = self.teacher.distilbert.transformer.layer[index]
        targets = list(self.theirs)
        for chosen, _, mask in self._batches():
            x = self._padded(self.theirs, chosen, mask)
            with autocast(x.device.type):
                attended = block.attention(x, mask)
                self._keep(self.theirs, chosen, mask, block.finish(x, attended))
            self._keep(targets, chosen, mask, attended)
        return [LayerRow(x, target) for x, target in zip(self.own, targets, strict=True)]

    @torch.no_grad()
    def advance(self, index: int) -> None:
        """Move the student's states past a layer that has been aligned."""
        block = self.student.distilbert.transformer.layer[index]
        for chosen, _, mask in self._batches():
            x = self._padded(self.own, chosen, mask)
            with autocast(x.device.type):
                self._keep(self.own, chosen, mask, block.finish(x, block.attention(x, mask)))

    @torch.no_grad()
    def _batches(self) -> Any:
        ids, device = [row.ids for row in self.rows], self.student.device
        for chosen, *padded in padded_batches(ids, BATCH_TOKENS, self.student.config.pad_token_id):
            yield chosen, *(tensor.to(device) for tensor in padded)

    def _padded(self, states: list[Tensor], chosen: Any, mask: Tensor) -> Tensor:
        rows = [states[index] for index in chosen]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True).float().to(mask.device)

    def _keep(self, states: list[Tensor], chosen: Any, mask: Tensor, x: Tensor) -> None:
        for index, row, length in zip(chosen, x.detach(), mask.sum(dim=1).tolist(), strict=True):
            states[index] = row[:length].bfloat16().cpu().clone()


def align_layers(
    student: InhibiDistilBertForSequenceClassification,
    teacher: InhibiDistilBertForSequenceClassification,
    phase: Phase,
    settings: TrainingSettings,
    rows: Sequence[TokenRow],
    folder: Path,
    make_journal: Callable[[int], Journal],
    learn_thresholds: bool = True,
) -> None:
    """Train each layer's Q, K, V, gamma, eta and delta in turn, in place.

    teacher: the teacher's weights with dot-product attention. folder: holds the layers that are
    done; when an interrupted call is repeated, it goes on after them. The last texts, an eighth
    but at most 128, are not trained on: the journal's "held_out" is the error on them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    student.eval()
    states = _States(student, teacher, rows)
    n_trained = len(rows) - min(PROBE_TEXTS, len(rows) // 8)
    for index, block in enumerate(student.distilbert.transformer.layer):
        done = folder / f"layer-{index}.safetensors"
        layer_rows = states.targets(index)
        if done.exists():
            block.attention.load_state_dict(read_tensors(done))
        else:
            alone = AttentionAlone(block.attention)
            _choose_trained(alone, learn_thresholds)
            journal = make_journal(index)
            journal.probe = partial(_probe, alone, layer_rows[n_trained:])
            run_trainer(
                alone,
                phase,
                settings,
                folder / f"layer-{index}",
                journal,
                losses=_losses,
                rows=layer_rows[:n_trained],
                lengths=[len(row.x) for row in layer_rows[:n_trained]],
                collator=_collate,
            )
            write_tensors(done, block.attention.state_dict())
        states.advance(index)


def _choose_trained(alone: nn.Module, learn_thresholds: bool) -> None:
    for name, weight in alone.named_parameters():
        part = name.removeprefix("attention.").split(".")[0]
        is_threshold = part in THRESHOLDS
        weight.requires_grad_(part in ALIGNED and (learn_thresholds or not is_threshold))


def _collate(rows: Sequence[LayerRow]) -> dict[str, Tensor]:
    pad = partial(nn.utils.rnn.pad_sequence, batch_first=True)
    mask = pad([torch.ones(len(row.x), dtype=torch.int64) for row in rows])
    return {
        "x": pad([row.x for row in rows]).float(),
        "target": pad([row.target for row in rows]).float(),
        "attention_mask": mask,
    }


def _losses(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    mask = batch["attention_mask"]
    output = model(batch["x"], mask)
    return {"loss": layer_losses([output], [batch["target"]], mask)[0]}


@torch.no_grad()
def _probe(model: AttentionAlone, rows: Sequence[LayerRow]) -> dict[str, float]:
    """The error on texts that the layer isn't trained on."""
    if not rows:
        return {}
    device = model.attention.out_lin.weight.device
    error = read = 0.0
    for chosen in length_batches([len(row.x) for row in rows], BATCH_TOKENS):
        batch = {k: t.to(device) for k, t in _collate([rows[index] for index in chosen]).items()}
        n_read = float(batch["attention_mask"].sum())
        error += n_read * float(_losses(model, batch)["loss"])
        read += n_read
    return {"held_out": error / read}
