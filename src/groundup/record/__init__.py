"""What a run leaves behind, read without torch and without trust: a damaged line or file is named, not fatal."""

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
