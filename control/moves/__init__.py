"""The conductor's part of moves: choose a host, write down, send; send again; undo.

A move is a migration record, the task_state of its server, and a row in ``moves`` that holds what
the conductor needs as long as no host has taken it up. All three are written in one transaction,
and each later step first compares what they say, so that a step may be repeated by a control plane
that was killed, or by another one on the same database.
"""
