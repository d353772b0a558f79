"""Labelled and unlabelled text: files, data sets of the hub, GLUE's tasks and metrics.

Imports `system` alone. Begin with `data`, then `tasks`.
"""
