"""What client and server are and share: keys, ciphertexts, what they say to each other.

Imports `system` and `circuits.blocks`, and no torch; a server's process never loads `client` or
`keyring`. Begin with `client` and `server`, then `manifest` (what was compiled) and `protocol`
(over HTTP).
"""
