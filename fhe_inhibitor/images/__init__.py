"""Images: where they come from, and how one becomes a row of tokens.

Imports `system`, and `text` for the hub. Begin with `patches`, then `data` (digits and MNIST) and
`words` (images of words, with what is written on them).
"""
