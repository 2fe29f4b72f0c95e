"""Questions about training, and the runs that answer them.

A plan (:mod:`.plan`) expands to cells (:mod:`.cells`); a sweep (:mod:`.sweep`) brings each of them to its end, on an
executor (:mod:`.executor`, :mod:`.pool`, :mod:`.ray_executor`), and records what came of it (:mod:`.sweep_directory`).
"""
