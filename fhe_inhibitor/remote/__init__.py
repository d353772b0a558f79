"""Classify on a server elsewhere: only ciphertexts and evaluation keys leave this machine.

Imports `system`, `runtime` and `integer`, never `service`. Begin with `client` and `async_client`,
the same calls with and without an event loop; `connection` speaks HTTP.
"""
