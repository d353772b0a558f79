"""The service: encrypted requests over HTTP, run by worker processes, nothing lost when one dies.

protocol    what client and server say to each other; start here
settings    what an operator can choose
models      a folder of circuits as clients see it
database    what is known of keys and jobs, in SQLite
storage     their bytes, as files beside it
access      bearer tokens and rates
uploads     evaluation keys, received piece by piece
jobs        requests, from the queue to the result
worker      a process that runs tasks; the only one that loads circuits
supervisor  starts workers, replaces those that die, ends those that hang
watchers    tasks that run as long as the server, whatever fails in them
status      what its page `/` shows, `status.html`
web         the HTTP application
connections deadlines for what a connection says
process     the process that serves it
"""
