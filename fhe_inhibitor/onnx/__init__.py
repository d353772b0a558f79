"""ONNX graphs of a model, float or integer, and the integers back from a graph.

Imports `circuits`, `text`, `integer` and `model`. Begin with `export`, then `float_graph` and
`integer_graph`.
"""
