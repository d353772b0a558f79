"""What a researcher could do instead of the inhibitor on SST-2: `docs/neighbours.md`.

    python -m demos.neighbours --data FOLDER --out docs

Five neighbours: the inhibitor student, the dot-product student of its size, a bag of words, and a
public sentence encoder that the client runs in the clear, with a linear or a small head encrypted.
Begin with `__main__`; then `heads` and `students` (what is measured), `results` and `page`.
"""
