"""From a DistilBERT to a quantized student: teacher, texts, distillation.

Imports `text`, `integer` and `model`. Begin with `recipe`, the whole of `fhe-inhibitor train`, and
`hyperparameters`; of `fhe-inhibitor distill` begin with `phases`, then `alignment`.
"""
