"""Texts: files, data sets of the hub, GLUE's tasks and metrics, batches of token ids.

Imports `system` alone. Begin with `data`, then `tasks`.
"""
