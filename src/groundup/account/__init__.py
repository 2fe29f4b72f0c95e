"""What a model costs, from its config alone."""

from groundup.account.flops import forward_flops, training_flops_per_token
from groundup.account.hardware import peak_flops
from groundup.account.params import parameter_count

__all__ = ["forward_flops", "parameter_count", "peak_flops", "training_flops_per_token"]
