"""The bridge: a network of integer parameters becomes one composed Concrete module.

Imports `circuits` and `fhe_inhibitor.runtime`. Begin with `module`, which names the steps, then
`verifier` (what is proved before anything is compiled) and `functions` (what is traced).
"""
