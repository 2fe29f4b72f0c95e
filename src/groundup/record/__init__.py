"""The record of runs and sweeps, read without torch: damaged lines and files are reported, not fatal."""

from groundup.record.json import parse_json, read_object
from groundup.record.metrics import Record, json_values, read_jsonl, read_metrics, read_objects, read_samples

__all__ = [
    "Record",
    "json_values",
    "parse_json",
    "read_jsonl",
    "read_metrics",
    "read_object",
    "read_objects",
    "read_samples",
]
