"""InhibiDistilBERT in torch: an ordinary transformers model with inhibitor attention.

Imports `circuits`, `system`, `text` and `integer`. Begin with `attention` (the papers'
equations), then `modeling`; `quantized/` computes in the integers that circuits compute in.
"""
