"""Files, processes, machine, progress: what any program needs; nothing here knows of models.

Imports nothing of the project but `errors`. Begin with `files` (written whole or not at all) and
`progress` (how every library reports what it does).
"""
