"""Accuracy that was decrypted: texts classified one by one, kept in a file, told on a page.

Imports `compile.local` and `fhe_inhibitor.integer`. Begin with `records` (what the file holds),
then `run`. `analysis`, `plots` and `page` make the page from such files, and encrypt nothing.
"""
