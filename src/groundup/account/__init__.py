"""Parameters, FLOPs, memory and time of a run, from its config alone. Counting loads torch; importing does not."""

from groundup.account.flops import forward_flops, training_flops_per_token
from groundup.account.hardware import peak_flops
from groundup.account.params import parameter_count

__all__ = ["forward_flops", "parameter_count", "peak_flops", "training_flops_per_token"]
