"""From a DistilBERT to a quantized student: teacher, texts, distillation.

Imports `text`, `integer` and `model`. Begin with `recipe`, which names every step of `fhe-inhibitor
train`; `phases` and `alignment` are those of `fhe-inhibitor distil`.
"""
