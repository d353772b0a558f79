"""What was tried at full depth in float, and the page that reports it.

Imports `text`, `model` and `training`. Begin with `recipes` (the published ones and ours), then
`settings` and `run` (one experiment) and `plan` (many).
"""
