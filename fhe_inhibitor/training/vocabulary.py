"""The student's vocabulary, and what the public knows about each of its entries.

Three things are made once and published with a student:

- a tokenizer for which a word is one token wherever possible, since each token costs lookups;
- features of each entry: how the teacher sees the word alone. The student's embedding rows are
  learned from them, so that words which it never met have useful rows too;
- the importance of each entry, by which a client chooses the words that it sends.

None of them depends on a client's text, so a server learns nothing from them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordPiece
from transformers import PreTrainedTokenizerFast

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.processor import autocast
from fhe_inhibitor.text.batches import padded_batches
from fhe_inhibitor.training.teacher import Teacher, predict_logits

N_COMPONENTS = 64
CONTINUATION = "##"  # before a piece that continues a word, in a WordPiece vocabulary
SPACE = "\u2581"  # before a word, in a Unigram vocabulary

# Contractions are words of their own, as in the Penn Treebank (and SST-2): does | n't, it | 's.
# Without this WordPiece makes three pieces of a negation.
WORD_BREAKS = r"n't(?!\w)|'(?:s|re|ve|ll|d|m)(?!\w)|\p{P}|[$+<=>^`|~]"


def extend_wordpiece(
    tokenizer: PreTrainedTokenizerFast, texts: Iterable[str], min_count: int = 3
) -> Tokenizer:
    """Return a WordPiece tokenizer that also knows the frequent words of the texts whole.

    The teacher's entries keep their ids. Words that occur `min_count` times or more, and that its
    WordPiece would split, follow them, the most frequent first; then WordPiece's longest match
    finds them whole. Text is normalized as the teacher's, so an uncased teacher's is lower-cased,
    and cut at white space, at punctuation and before a contraction. There is no post-processor: no
    [CLS], no [SEP].

    Raises InputError for a tokenizer that is not a WordPiece with [PAD] as its entry 0, an [UNK],
    and ## before a piece that continues a word.
    """
    backend = tokenizer.backend_tokenizer
    model = backend.model
    if not isinstance(model, WordPiece) or backend.token_to_id("[PAD]") != 0:
        raise InputError(
            f"the teacher's tokenizer is a {type(model).__name__} whose [PAD] is entry "
            f"{backend.token_to_id('[PAD]')}; wanted a WordPiece with [PAD] as entry 0, as those "
            "of BERT and DistilBERT are, cased or uncased"
        )
    if model.continuing_subword_prefix != CONTINUATION or backend.token_to_id("[UNK]") is None:
        raise InputError(
            f"the teacher's tokenizer continues words with {model.continuing_subword_prefix!r} and "
            f"has [UNK] as entry {backend.token_to_id('[UNK]')}; wanted a WordPiece with "
            f"{CONTINUATION!r} and an [UNK], as those of BERT and DistilBERT are"
        )
    vocabulary = dict(backend.get_vocab(with_added_tokens=True))
    student = _wordpiece(vocabulary, backend.normalizer)
    counts: Counter[str] = Counter()
    for text in texts:
        normal = student.normalizer.normalize_str(text)
        counts.update(word for word, _ in student.pre_tokenizer.pre_tokenize_str(normal))
    frequent = sorted(
        (word for word, count in counts.items() if count >= min_count and word not in vocabulary),
        key=lambda word: (-counts[word], word),
    )
    for word in frequent:
        vocabulary[word] = len(vocabulary)
    return _wordpiece(vocabulary, backend.normalizer)


def tokenize(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return (ids int32 [tokens], offsets int64 [n + 1]) of texts."""
    rows = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    return np.fromiter((i for row in rows for i in row), np.int32, int(offsets[-1])), offsets


def token_features(teacher: Teacher, student_tokenizer: Tokenizer) -> np.ndarray:
    """Return how the teacher sees each vocabulary entry as a text of its own: float32 [vocab, F].

    F = 64 + 64 + (n_labels - 1), each column with mean 0 and deviation 1 over the entries:

    - whitened principal components of the hidden states of "[CLS] word [SEP]": the last two
      layers' mean over the word's pieces, and the last layer's [CLS];
    - whitened principal components of the word's mean input embedding;
    - the teacher's logits, less that of label 0.

    A continuation piece (##ing) is read as its bare string, a phrase as its words. Special and
    unused entries are zero.
    """
    entries = entry_names(student_tokenizer)
    words = [i for i, entry in enumerate(entries) if not is_special(entry)]
    texts = [entries[i].removeprefix(CONTINUATION).replace(SPACE, " ").strip() for i in words]
    hidden, embedded, logits = _read_alone(teacher, texts)
    columns = [_principal_components(hidden), _principal_components(embedded), logits]
    values = np.concatenate(columns, axis=1)
    values = (values - values.mean(0)) / (values.std(0) + 1e-6)
    features = np.zeros((len(entries), values.shape[1]), np.float32)
    features[words] = values
    return features


def token_importance(
    teacher: Teacher,
    student_tokenizer: Tokenizer,
    texts: Sequence[str],
    features: np.ndarray,
    prior_count: float = 4.0,
) -> np.ndarray:
    """Return how much each vocabulary entry matters to the teacher: float32 [vocab], >= 0.

    The change of an entry in a text is |logit differences with it - without it|, averaged over
    labels. Its importance is the mean of that over all its occurrences in `texts`, shrunk towards
    what a ridge regression on the entry's features expects,

        importance = (sum of changes + prior_count * expected) / (count + prior_count),

    so an entry that no text has gets the expected importance. The teacher reads each text once
    for each of its tokens, so use full sentences. Special and unused entries have 0.

    Raises InputError if no text has two tokens or more.
    """
    changes, ids = leave_one_out(teacher, student_tokenizer, texts)
    if not len(ids):
        raise InputError(f"none of the {len(texts)} texts has two words; pass full sentences")
    counts = np.bincount(ids, minlength=len(features)).astype(np.float64)
    sums = np.bincount(ids, changes, minlength=len(features))
    expected = _expected_importance(features, sums, counts, teacher.n_labels - 1)
    importance = (sums + prior_count * expected) / (counts + prior_count)
    special = [is_special(entry) for entry in entry_names(student_tokenizer)]
    return np.where(special, 0.0, importance).astype(np.float32)


def leave_one_out(
    teacher: Teacher, student_tokenizer: Tokenizer, texts: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the change of the teacher's output by each token of each text, and the token's id.

    Texts of a single token have nothing left without it and are skipped.
    """
    encodings = student_tokenizer.encode_batch(list(texts))
    variants, ids, owners = [], [], []
    for owner, (text, encoding) in enumerate(zip(texts, encodings, strict=True)):
        if len(encoding.ids) < 2:
            continue
        for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            variants.append(f"{text[:start]} {text[end:]}")
            ids.append(token)
            owners.append(owner)
    whole = logit_differences(predict_logits(teacher, texts))[owners]
    without = logit_differences(predict_logits(teacher, variants))
    return np.abs(whole - without).mean(1), np.array(ids, np.int64)


def logit_differences(logits: np.ndarray) -> np.ndarray:
    """Return the logits less that of label 0: [n, n_labels - 1]."""
    return logits[:, 1:] - logits[:, :1]


def _wordpiece(vocabulary: dict[str, int], normalizer: normalizers.Normalizer | None) -> Tokenizer:
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizer or normalizers.BertNormalizer(lowercase=False),
            normalizers.Replace("\u2019", "'"),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(WORD_BREAKS), "isolated")]
    )
    return tokenizer


def entry_names(tokenizer: Tokenizer) -> list[str]:
    """Return the vocabulary in the order of its ids."""
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    return sorted(vocabulary, key=vocabulary.__getitem__)


def entry_pieces(
    student_tokenizer: Tokenizer, teacher_tokenizer: PreTrainedTokenizerFast
) -> list[list[int]]:
    """Return the teacher's ids of each entry of a vocabulary with phrases, one or more.

    They are the ids that the teacher reads where the entry stands in a text: several for a phrase,
    or for a word that the teacher splits; that of ##ing for the continuation "ing"; the same
    special entry for a special one.
    """
    vocabulary = teacher_tokenizer.get_vocab()
    pieces: list[list[int]] = []
    entries = entry_names(student_tokenizer)
    texts = [entry.replace(SPACE, " ").strip() for entry in entries]
    whole = teacher_tokenizer(texts, add_special_tokens=False)["input_ids"]
    for entry, text, ids in zip(entries, texts, whole, strict=True):
        if is_special(entry):
            ids = [vocabulary.get(entry, vocabulary["[UNK]"])]
        elif not entry.startswith(SPACE) and CONTINUATION + text in vocabulary:
            ids = [vocabulary[CONTINUATION + text]]
        pieces.append(ids or [vocabulary["[UNK]"]])
    return pieces


def is_special(entry: str) -> bool:
    """Return whether an entry stands for no text: [PAD], [unused7]."""
    return len(entry) > 2 and entry[0] == "[" and entry[-1] == "]"


def _read_alone(
    teacher: Teacher, texts: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hidden states [n, 3 dim], mean input embedding [n, dim] and logit differences of texts."""
    ids = teacher.tokenizer(list(texts))["input_ids"]
    table, device = teacher.word_embeddings, teacher.model.device
    dim = table.shape[1]
    hidden = np.zeros((len(texts), 3 * dim), np.float32)
    embedded = np.zeros((len(texts), dim), np.float32)
    logits = np.zeros((len(texts), teacher.n_labels), np.float32)
    with torch.inference_mode(), autocast(device.type):
        for batch, *padded in padded_batches(ids, 1024, teacher.tokenizer.pad_token_id):
            tokens, mask = (x.to(device) for x in padded)
            output = teacher.model(input_ids=tokens, attention_mask=mask, output_hidden_states=True)
            pieces = mask.float()
            pieces[:, 0] = 0  # [CLS]
            pieces[torch.arange(len(batch), device=device), mask.sum(1) - 1] = 0  # [SEP]
            pieces = (pieces / pieces.sum(1, keepdim=True).clamp(min=1)).unsqueeze(2)
            last, before = (output.hidden_states[i].float() for i in (-1, -2))
            views = [(last * pieces).sum(1), (before * pieces).sum(1), last[:, 0]]
            hidden[batch] = torch.cat(views, 1).cpu().numpy()
            embedded[batch] = (table[tokens] * pieces).sum(1).cpu().numpy()
            logits[batch] = output.logits.float().cpu().numpy()
    return hidden, embedded, logit_differences(logits)


def _principal_components(rows: np.ndarray) -> np.ndarray:
    """The first 64 whitened principal components of rows: [n, 64]."""
    centred = rows - rows.mean(0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    projected = centred @ vectors[:, ::-1][:, :N_COMPONENTS]
    # The sign of an eigenvector is arbitrary: fix it, so that features do not depend on LAPACK's.
    flip = np.sign(projected[np.abs(projected).argmax(0), np.arange(projected.shape[1])])
    return projected * flip / (projected.std(0) + 1e-6)


def _expected_importance(
    features: np.ndarray,
    sums: np.ndarray,
    counts: np.ndarray,
    n_logits: int,
    strength: float = 100.0,
) -> np.ndarray:
    """Ridge regression of the mean change on features, their squares and absolute logits.

    n_logits: how many of the features, the last ones, are logits.
    """
    logits = np.abs(features[:, -n_logits:])
    columns = [np.ones((len(features), 1)), features, features**2, logits]
    inputs = np.concatenate(columns, axis=1)
    seen = counts > 0
    weights = np.minimum(counts[seen], 20.0)[:, None]
    penalty = strength * np.eye(inputs.shape[1])
    penalty[0, 0] = 0.0
    mean = (sums[seen] / counts[seen])[:, None]
    gram = inputs[seen].T @ (weights * inputs[seen]) + penalty
    solution = np.linalg.solve(gram, inputs[seen].T @ (weights * mean))
    return np.maximum(inputs @ solution, 0.0)[:, 0]
