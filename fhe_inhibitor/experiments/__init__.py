"""What was tried in float, and the page that reports it: students of full depth, and small ones.

Imports `text`, `images`, `model` and `training`. Begin with `recipes` (the published ones and
ours), then `settings` and `run` (one distillation), `small_tasks` and `small` (experiments of a
minute), `lengths` (errors by length of text), `language` (causal models) and `plan` (many).
"""
