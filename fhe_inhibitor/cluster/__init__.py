"""A program's tasks on a Dask cluster: one sentence over many cores and machines.

options     which cluster, as a user says it
orders      what goes to workers and comes back: small, never keys, never ciphertexts
machines    processor features and versions, and why another machine is left out
connection  a scheduler's address, TLS, and what is refused without it
depot       gives workers keys, circuits and ciphertexts by their SHA-256
store       a worker's own copies of those
engine      the process beside a worker that loads circuits and keys
worker      what a Dask worker runs
placement   what ran where, and what had to move
executor    sends the tasks, hears of each when it is done; start here
local       workers on this machine, for what measures them

Imports `runtime` and `system`, and Dask, which the extra `cluster` brings: no other room may be
loaded with it. Workers load `worker` and what that imports, their engines `engine`: nothing that
decrypts. `docs/cluster.md` says how to start one.
"""
