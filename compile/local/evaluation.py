"""Accuracy of encrypted classification, and its agreement with the integer model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compile.local.session import Session
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.evaluation import Accuracy, Agreement, accuracy, agreement
from fhe_inhibitor.text.data import LabelledText


@dataclass(frozen=True)
class EncryptedEvaluation:
    """What encryption changes over the same texts.

    accuracy, integer_accuracy: encrypted, and of the integer model with exact rounding.
    seconds_per_text, max_seconds: from encryption to the decrypted label.
    """

    accuracy: Accuracy
    integer_accuracy: Accuracy
    agreement: Agreement
    seconds_per_text: float
    max_seconds: float


def evaluate_encrypted(
    session: Session, rows: Sequence[LabelledText], max_tokens: int | None = None
) -> EncryptedEvaluation:
    """Classify labelled texts in a session whose mode is `simulate` or `execute`.

    Raises InputError for no texts, and for a session that encrypts nothing.
    """
    if session.mode == "disable" or not rows:
        raise InputError(
            f"{len(rows)} texts in mode {session.mode!r}; wanted 1 or more, 'simulate' or 'execute'"
        )
    results = session.classify_many([row.text for row in rows], max_tokens)
    encrypted = np.array([result.logits for result in results])
    clear = np.array([result.clear_logits for result in results])
    seconds = [result.seconds for result in results]
    return EncryptedEvaluation(
        accuracy([encrypted], rows),
        accuracy([clear], rows),
        agreement(clear, encrypted),
        sum(seconds) / len(seconds),
        max(seconds),
    )
