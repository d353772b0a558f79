"""The teacher, read through the student's vocabulary: a target for each token in each layer.

A student that reads a text as a few phrases learns little from logits alone; it learns more from
the teacher's hidden states. But the teacher reads word pieces, and the whole text. So here the
teacher reads only the pieces of those phrases that the student reads, between [CLS] and [SEP]. The
target of a phrase in a layer is the mean over the teacher's states of its pieces. [CLS] is a token
to both; [SEP] is one to the teacher alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.model.from_distilbert import from_distilbert
from fhe_inhibitor.system.processor import autocast
from fhe_inhibitor.text.batches import pad
from fhe_inhibitor.training.losses import Observed
from fhe_inhibitor.training.teacher import Teacher, as_distilbert
from fhe_inhibitor.training.vocabulary import entry_pieces

GROUP = 16  # texts that the teacher reads at once


class PhraseTeacher:
    """A DistilBERT or BERT classifier that reads ids of the student's vocabulary.

    teacher: the same classifier, which reads word pieces. pieces: the teacher's ids of each entry
    of the vocabulary. Raises InputError for another teacher, and for one whose tokenizer lacks
    [CLS], [SEP] or [UNK].
    """

    def __init__(self, teacher: Teacher, student_tokenizer: Tokenizer) -> None:
        self.teacher = as_distilbert(teacher)
        self.model = from_distilbert(self.teacher.model).requires_grad_(False)
        self.model.to(teacher.model.device)
        vocabulary = teacher.tokenizer.get_vocab()
        if missing := [name for name in ("[CLS]", "[SEP]", "[UNK]") if name not in vocabulary]:
            raise InputError(
                f"the teacher's tokenizer lacks {', '.join(missing)}; wanted one like DistilBERT's"
            )
        self.pieces = entry_pieces(student_tokenizer, teacher.tokenizer)
        self.separator = vocabulary["[SEP]"]

    @torch.no_grad()
    def __call__(self, ids: Tensor, mask: Tensor) -> Observed:
        """Return logits, and the embeddings and each layer's states `[B, n, dim]` of each token.

        ids, mask: the student's, int64 `[B, n]`, [CLS] first, padding on the right. States are in
        the order of the student's `hidden_states`; those of padding are 0. All are where `ids` are,
        wherever the teacher is.
        """
        device = self.model.device
        tokens, attention_mask, share = (x.to(device) for x in self._read(ids, mask))
        lengths = attention_mask.sum(dim=1)
        order = lengths.argsort()
        logits, states = [], []
        for rows in order.split(GROUP):  # of like length: half of a batch would be padding
            longest = int(lengths[rows].max())
            with autocast(device.type):
                output = self.model(
                    tokens[rows, :longest],
                    attention_mask[rows, :longest],
                    output_hidden_states=True,
                )
            own = share[rows, :, :longest]
            logits.append(output.logits.float())
            states.append([own @ state.float() for state in output.hidden_states])
        back = order.argsort()
        layers = [torch.cat(x)[back].to(ids.device) for x in zip(*states, strict=True)]
        return Observed(torch.cat(logits)[back].to(ids.device), states=layers)

    def _read(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the teacher's ids and mask, `[B, m]`, and each piece's share in each token.

        The shares are `[B, n, m]`: 1 / (number of the token's pieces) at its pieces, else 0.
        """
        rows, owners, n = [], [], ids.shape[1]
        for row, read in zip(ids.tolist(), mask.tolist(), strict=True):
            pieces = [self.pieces[token] for token in row[: sum(read)]]
            rows.append([*(i for token in pieces for i in token), self.separator])
            owners.append([i for i, token in enumerate(pieces) for _ in token])
        tokens, attention_mask = pad(rows, self.model.config.pad_token_id)
        owner, _ = pad([[*row, n] for row in owners], n)
        share = nn.functional.one_hot(owner, n + 1)[..., :n].transpose(1, 2).float()
        return tokens, attention_mask, share / share.sum(dim=2, keepdim=True).clamp(min=1)


@torch.no_grad()
def phrase_embeddings(
    teacher: PhraseTeacher, rows: Sequence[Sequence[int]], n_tokens: int
) -> tuple[Tensor, Tensor]:
    """Return the teacher's embeddings as the student sums them: `[vocab, dim]`, `[n_tokens, dim]`.

    The teacher computes LayerNorm(word + position); a student that can be compiled computes
    word + position. So a word's row is the teacher's embedding of the word at the mean position.
    A phrase's row is the mean over its pieces, and that of [CLS] is its embedding at position 0.
    A position's row is how far that position moves the words of `rows` (the teacher's ids of some
    texts) on average from the mean position; it is 0 at position 0.
    """
    embeddings = teacher.model.distilbert.embeddings
    words, norm = embeddings.word_embeddings.weight, embeddings.LayerNorm
    positions = embeddings.position_embeddings.weight[:n_tokens]
    middle = positions[1:].mean(dim=0)
    device = words.device
    lengths = torch.tensor([len(pieces) for pieces in teacher.pieces], device=device)
    flat = torch.tensor([i for pieces in teacher.pieces for i in pieces], device=device)
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=device), lengths)
    table = words.new_zeros(len(lengths), words.shape[1])
    table.index_add_(0, owner, norm(words[flat] + middle))
    table /= lengths[:, None]
    first = rows[0][0]  # [CLS]
    table[teacher.pieces.index([first])] = norm(words[first] + positions[0])
    seen = words[sorted({i for row in rows for i in row[1:-1]})]
    shifts = [(norm(seen + position) - norm(seen + middle)).mean(dim=0) for position in positions]
    shifts[0] = torch.zeros_like(middle)
    return table.cpu(), torch.stack(shifts).cpu()
