"""Sweeps: training runs declared by a plan.

A plan (:mod:`.plan`) is a TOML file that says which options vary. Each combination is a *setting*; a setting with a
seed is a *trial*, which is one run (:mod:`.trials`). A sweep (:mod:`.sweep`) runs all trials on an executor
(:mod:`.executors`) and appends their results to the sweep's directory (:mod:`groundup.record.sweep`).
"""
